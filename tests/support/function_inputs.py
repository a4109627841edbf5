"""Generated models and calls of the public functions, and what must hold for every call."""

import contextlib
import inspect
import json
import math
import os
import random
import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from hypothesis import strategies as st
from hypothesis.errors import UnsatisfiedAssumption

import keras_fanwise as kf

layers = keras.layers
THREADS = "KERAS_FANWISE_THREADS"


class Call(NamedTuple):
    """A call of a public function.

    Attributes:
        text: the call, for a person.
        function: of a model.
        reads: whether it may change neither the weights nor Python's random numbers.
        threads: the number of threads that is set, if one is.
    """

    text: str
    function: Callable[[Any], Any]
    reads: bool
    threads: str | None


class Outcome(NamedTuple):
    """What became of a call.

    Attributes:
        kind: `"returned"`, or `"refused"`: an error in words for the caller; or
            `"traceback"`.
        faults: what is wrong, in words; empty if all is well.
    """

    kind: str
    faults: list[str]


# Models

_ODD = [
    None,
    True,
    "",
    "x",
    "[",
    b"a",
    -1,
    1.5,
    math.nan,
    math.inf,
    2**70,
    [],
    {},
    (1,),
    1j,
]
_SEEDS = [0, 7, 2**64 - 1, np.int64(3), np.uint8(1), None]
_GLOBS = ["*", "*kernel", "*bias", "[ab]*", "branch*", "*[a]*", "none/*", "?", "", "\x1b"]
_NAMES = ["dense_1", "layer_1", "branch[a]", "[/b]", "red\x1b[31m", "層 ×", "two\nlines"]
_POLICIES = ["float32"] * 5 + ["float16", "bfloat16", "float64", "mixed_bfloat16"]
_STRINGS = [
    "fanwise_he_normal",
    "fanwise_glorot_uniform",
    "fanwise_normal",
    "he_normal",
    "orthogonal",
    "zeros",
]


def _ones(shape: Any, dtype: Any = None) -> Any:
    return np.ones(shape, "float32")


def _initializers() -> st.SearchStrategy:
    return st.sampled_from(_STRINGS) | st.sampled_from(
        [
            lambda: kf.FanwiseHeNormal(seed=1),
            lambda: kf.FanwiseNormal(stddev=2.0, seed=keras.random.SeedGenerator(1)),
            lambda: kf.FanwiseLecunUniform(sampler="backend"),
            lambda: kf.FanwiseVarianceScaling(fans=(3, 4), mode="fan_geo_avg"),
            lambda: keras.initializers.HeNormal(seed=1),
            lambda: _ones,
        ]
    ).map(lambda make: make())


@st.composite
def _layer(draw: Any, rank: int) -> keras.Layer:
    """One that gives what it takes: rows of 4, sequences of 4×3 or images of 4×4×3."""
    given: dict[str, Any] = {"name": draw(st.none() | st.sampled_from(_NAMES))}
    initializer = draw(_initializers())
    if rank == 1:
        kinds = {"Dense": {"units": 4}, "BatchNormalization": {}, "PReLU": {}}
    elif rank == 2:
        kinds = {
            "Conv1D": {"filters": 3, "kernel_size": 2, "padding": "same"},
            "SeparableConv1D": {"filters": 3, "kernel_size": 2, "padding": "same"},
            "LSTM": {"units": 3, "return_sequences": True},
            "GRU": {"units": 3, "return_sequences": True},
            "MultiHeadAttention": {"num_heads": 2, "key_dim": 2},
            "EinsumDense": {"equation": "abc,cd->abd", "output_shape": (4, 3)},
            "LayerNormalization": {},
        }
    else:
        kinds = {
            "Conv2D": {"filters": 3, "kernel_size": 3, "padding": "same"},
            "DepthwiseConv2D": {"kernel_size": 2, "padding": "same"},
            "Conv2DTranspose": {"filters": 3, "kernel_size": 2, "padding": "same"},
            "BatchNormalization": {},
        }
    kind = draw(st.sampled_from(sorted(kinds)))
    given |= kinds[kind]
    if kind == "DepthwiseConv2D":
        given["depthwise_initializer"] = initializer
    elif kind == "SeparableConv1D":
        given["pointwise_initializer"] = initializer
    elif "Normalization" not in kind and kind != "PReLU":
        given["kernel_initializer"] = initializer
    made: keras.Layer = getattr(layers, kind)(**given)
    return made


class Stack(keras.Model):
    """Layers one after the other, in a class of the user's own."""

    def __init__(self, inner: list[keras.Layer]) -> None:
        super().__init__()
        self.inner = inner

    def call(self, x: Any) -> Any:
        for layer in self.inner:
            x = _applied(layer, x)
        return x


def _applied(layer: keras.Layer, x: Any) -> Any:
    return layer(x, x) if isinstance(layer, layers.MultiHeadAttention) else layer(x)


@st.composite
def models(draw: Any) -> keras.Model:
    """A model of layers of many kinds, built by Keras."""
    shape = draw(st.sampled_from([(4,), (4, 3), (4, 4, 3)]))
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(draw(st.sampled_from(_POLICIES)))
    try:
        drawn = draw(st.lists(_layer(len(shape)), min_size=1, max_size=3))
        inner = list({layer.name: layer for layer in drawn}.values())
        if len(inner) < len(drawn):
            inner += inner[:1]  # a shared layer
        return _built(shape, inner, draw(st.sampled_from(["functional", "own", "nested"])))
    except Exception as error:  # of Keras: not every layer has every type
        keras.backend.clear_session(
            free_memory=False
        )  # which forgets the weights of what is half built
        raise UnsatisfiedAssumption from error
    finally:
        keras.config.set_dtype_policy(policy)


def _built(shape: tuple[int, ...], inner: list[keras.Layer], way: str) -> keras.Model:
    if way == "own":
        model = Stack(inner)
        model(np.zeros((2, *shape), "float32"))
        return model
    x = inputs = keras.Input(shape)
    for layer in inner:
        x = _applied(layer, x)
    model = keras.Model(inputs, x)
    if way == "nested":
        outer = keras.Input(shape)
        model = keras.Model(outer, model(outer))
    return model


# Calls

_odd = st.sampled_from(_ODD)
_seeds = st.sampled_from(_SEEDS * 2) | _odd
_globs = st.sampled_from(_GLOBS) | st.lists(st.sampled_from(_GLOBS), max_size=2) | _odd
_switches = st.sampled_from([False] * 4 + [True]) | _odd
_threads = st.sampled_from([None] * 12 + ["1", "2", "0", "x", "", "-1", "9" * 30])


@st.composite
def _rule(draw: Any) -> Callable[[Any], kf.Rule]:
    conditions = {
        "path": st.sampled_from(_GLOBS) | _odd,
        "layer": st.sampled_from([layers.Dense, (layers.Conv2D, keras.Layer), int]) | _odd,
        "weight": st.sampled_from(["*kernel", "bias", "*"]) | _odd,
        "optional": st.booleans() | _odd,
    }
    chosen = draw(st.lists(st.sampled_from(sorted(conditions)), unique=True))
    given = {name: draw(conditions[name]) for name in chosen}
    initializer = draw(_initializers() | _odd)
    return lambda model: kf.Rule(initializer, **given)


@st.composite
def _recipe(draw: Any) -> Callable[[Any], Any]:
    """What makes one for a model."""
    kind = draw(st.sampled_from(["name", "initializer", "rules", "paths", "odd"]))
    if kind == "name":
        name = draw(st.sampled_from([*kf.recipes(), "kamming", "", *_STRINGS]))
        return lambda model: name
    if kind == "initializer":
        initializer = draw(_initializers())
        return lambda model: initializer
    if kind == "rules":
        rules = draw(st.lists(_rule(), max_size=3))
        return lambda model: [rule(model) for rule in rules]
    if kind == "paths":
        place, initializer = draw(st.integers(0, 99)), draw(_initializers() | _odd)
        return lambda model: {model.weights[place % len(model.weights)].path: initializer}
    odd = draw(_odd)
    return lambda model: odd


_CLASSES = [
    "FanwiseVarianceScaling",
    "FanwiseHeNormal",
    "FanwiseGlorotUniform",
    "FanwiseNormal",
    "FanwiseGammaNoise",
]
_numbers = st.floats() | st.sampled_from([1e-300, 1e300, 0, 2, np.float32(2)]) | _odd
_ARGUMENTS = {
    "seed": _seeds,
    "sampler": st.sampled_from(["portable", "backend", "numpy"]) | _odd,
    "scale": _numbers,
    "stddev": _numbers,
    "mean": _numbers,
    "negative_slope": _numbers,
    "mode": st.sampled_from(["fan_in", "fan_geo_avg", "fan"]) | _odd,
    "distribution": st.sampled_from(["uniform", "normal", "untruncated_normal"]) | _odd,
    "fans": st.sampled_from(["layer", "shape", (2, 3), (0, 1), (math.nan, 1)]) | _odd,
    "input_axes": st.lists(st.integers(-3, 3), max_size=3) | _odd,
    "output_axes": st.lists(st.integers(-3, 3), max_size=3) | _odd,
}
_shapes = st.lists(st.integers(0, 4), max_size=4) | st.sampled_from(
    [(2, None), (-1,), 5, "23", (2, 1.5), (np.int64(2), 3)]
)
_dtypes = st.sampled_from([None, "float16", "bfloat16", "float32", "float64", "int8", 3])


@st.composite
def _drawn(draw: Any) -> Callable[[Any], Any]:
    """An initializer that is made and called by hand."""
    cls = draw(st.sampled_from(_CLASSES))
    allowed = sorted(set(_ARGUMENTS) & set(_parameters(getattr(kf, cls))))
    chosen = draw(st.lists(st.sampled_from(allowed), unique=True, max_size=2))
    given = {name: draw(_ARGUMENTS[name]) for name in chosen}
    shape, dtype = draw(_shapes), draw(_dtypes)

    def function(model: Any) -> Any:
        values = getattr(kf, cls)(**given)(shape, dtype)
        numbers = np.asarray(keras.ops.convert_to_numpy(values), "float64")
        assert np.isfinite(numbers).all(), f"drew infinities: {given}"

    return function


def _parameters(cls: type) -> list[str]:
    return list(inspect.signature(cls).parameters)


@st.composite
def calls(draw: Any, kind: str) -> Call:
    """A `Call` of one of `KINDS`; most of its arguments are those of a careful user."""
    threads = draw(_threads)
    if kind in ("fans_table", "signal"):
        return Call(kind, getattr(kf, kind), True, threads)
    if kind == "audit":
        ignore = draw(st.none() | _globs)
        return Call(
            f"audit(ignore={ignore!r})",
            lambda model: kf.audit(model, ignore=ignore),
            True,
            threads,
        )
    if kind == "by hand":
        return Call(kind, draw(_drawn()), False, threads)
    if kind == "layer_fans":
        place, name, shape = (
            draw(st.integers(0, 9)),
            draw(st.sampled_from(["kernel", "bias", "x", ""]) | _odd),
            draw(_shapes),
        )
        return Call(
            f"layer_fans({name!r}, {shape!r})",
            lambda model: kf.layer_fans(
                model.layers[place % len(model.layers)], name, shape
            ),
            True,
            threads,
        )
    if kind == "gain":
        activation = draw(st.sampled_from(["gelu", "tanh", "relo", np.abs, len]) | _odd)
        return Call(
            f"gain({activation!r})", lambda model: kf.gain(activation), True, threads
        )
    if kind == "skip_init":
        return Call(kind, _cloned, False, threads)
    seed, dry, reset = draw(_seeds), draw(_switches), draw(_switches)
    options = {"seed": seed, "dry_run": dry, "reset_optimizer": reset}
    if kind == "reinitialize":
        only = draw(st.none() | _globs)
        return Call(
            f"reinitialize({options}, only={only!r})",
            lambda model: kf.reinitialize(model, only=only, **options),
            dry is True,
            threads,
        )
    recipe = draw(_recipe())
    return Call(
        f"initialize({options})",
        lambda model: kf.initialize(model, recipe(model), **options),
        dry is True,
        threads,
    )


def _cloned(model: keras.Model) -> None:
    if isinstance(model, Stack):
        return
    with kf.skip_init() as skipped:
        clone = keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
    assert not skipped.drawn, skipped.drawn
    assert all(map(_equal, clone.get_weights(), model.get_weights())), "not as loaded"


KINDS = (
    "initialize",
    "reinitialize",
    "audit",
    "fans_table",
    "signal",
    "by hand",
    "layer_fans",
    "gain",
    "skip_init",
)

# What must hold

# As `arguments.fail` ends, and what says that a rule does not fit the model.
_WORDS = re.compile(r"Received: |meets none of the weights")


def outcome(model: keras.Model, call: Call) -> Outcome:
    """Calls, and looks at what came of it."""
    before, state = _seen(model), random.getstate()
    try:
        with _with_threads(call.threads), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = call.function(model)
    except (TypeError, ValueError) as error:
        kind, faults = "refused", []
        if not _WORDS.search(str(error)):
            kind, faults = "traceback", [traceback.format_exc()]
        if not str(error).replace("\n", "").isprintable():
            faults.append(f"control characters: {error!s:.200}")
        if _seen(model) != before:
            faults.append("an error left the model changed")
        return Outcome(kind, faults)
    except BaseException:
        return Outcome("traceback", [traceback.format_exc()])
    faults = []
    if call.reads and _seen(model) != before:
        faults.append("reading changed the model")
    if call.reads and random.getstate() != state:
        faults.append("reading took random numbers")
    if hasattr(result, "to_json"):
        faults += _faults_of_report(result)
    return Outcome("returned", faults)


def _faults_of_report(report: Any) -> list[str]:
    faults: list[str] = []
    json.loads(report.to_json(), parse_constant=lambda name: faults.append(name))
    if not str(report).replace("\n", "").isprintable():
        faults.append("control characters in the report")
    return faults


def _seen(model: keras.Model) -> list[Any]:
    """The weights to the bit, and the initializers that the layers hold."""
    weights = [(each.dtype, each.tobytes()) for each in model.get_weights()]
    held = [
        (name, id(value))
        for layer in model.layers
        for name, value in sorted(vars(layer).items())
        if name.endswith("initializer")
    ]
    return [weights, held]


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return one.tobytes() == other.tobytes()


@contextlib.contextmanager
def _with_threads(number: str | None) -> Iterator[None]:
    before = os.environ.pop(THREADS, None)
    if number is not None:
        os.environ[THREADS] = number
    try:
        yield
    finally:
        os.environ.pop(THREADS, None)
        if before is not None:
            os.environ[THREADS] = before
