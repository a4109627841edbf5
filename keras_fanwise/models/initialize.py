"""Writes weights: all of them, or none."""

import contextlib
import functools
import itertools
import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from rich.console import Console
from rich.progress import Progress

from keras_fanwise.arguments import (
    fail,
    glob_matches,
    globs_of,
    in_weight,
    integer,
    printable,
)
from keras_fanwise.backends.arrays import moments, pooled, snapshot
from keras_fanwise.backends.private_keras import new_optimizer_state
from keras_fanwise.backends.sharding import layout_of, local_parts
from keras_fanwise.initializers.base import (
    FanwiseInitializer,
    Site,
    checked_shape_and_dtype,
    fresh_seed,
    random_state_kept,
)
from keras_fanwise.initializers.counterparts import (
    drawing_for,
    own_seed_of,
    portable,
    random_inside,
    replaced_inside,
)
from keras_fanwise.models.recipes import rules_of
from keras_fanwise.models.residual import RESIDUAL, with_depth, zero_rule
from keras_fanwise.models.rules import Rule, Subject, resolved
from keras_fanwise.reports.weights import StartReport, WeightStart
from keras_fanwise.sampling.sampler import stream_key
from keras_fanwise.seam.keys import model_keys
from keras_fanwise.seam.record import (
    initializer_name,
    replace,
    unsaved,
    weight_initializers,
)
from keras_fanwise.seam.weights import OwnedWeight, owned_weights, role


@contextlib.contextmanager
def all_or_none() -> Iterator[Callable[[keras.Variable, Any], None]]:
    """Gives what writes a value; after any exception in the block the old ones stand again.

    The old values are kept until the block ends: on JAX where they are, elsewhere in the
    memory of the host.
    """
    before: list[tuple[keras.Variable, Any]] = []

    def write(variable: keras.Variable, values: Any) -> None:
        before.append((variable, snapshot(variable)))
        variable.assign(values)

    try:
        yield write
    except BaseException:
        for variable, old in before:
            variable.assign(old)
        raise


# From about so many elements on the user waits: some tenths of a second.
_LONG = 50_000_000
# What initializers of others take as a seed.
_SEEDS = 2**31


class Choice(NamedTuple):
    """What becomes of a weight.

    Attributes:
        initializer: that fills it, `None` to keep it.
        reason: why it is kept.
        own_seed: whether the initializer's own seed, if it has one, counts.
    """

    initializer: Any = None
    reason: str = ""
    own_seed: bool = True


class _Step(NamedTuple):
    variable: keras.Variable
    row: WeightStart
    fill: Callable[[], Any] | None


class Plan:
    """What will be done to each weight of a model.

    What can be known to go wrong goes wrong here, before a weight is written.

    Args:
        weights: all weights of a model.
        choices: what becomes of each.
        seed: of all that is random and has no seed that counts.
        name: of the model.

    Raises:
        TypeError: an initializer cannot fill its weight.
        ValueError: likewise.
    """

    def __init__(
        self,
        weights: Sequence[OwnedWeight],
        choices: Sequence[Choice],
        seed: int,
        name: str = "",
    ) -> None:
        self._seed = seed
        self._name = name
        keys = model_keys(weights)
        self._steps = [
            _planned(owned, choice, seed, key)
            for owned, choice, key in zip(weights, choices, keys, strict=True)
        ]

    def report(self) -> StartReport:
        """The plan, as it is, once other people's initializers have been tried.

        Their values are not kept: there is room for one weight at a time.
        """
        for step in self._steps:
            if step.fill is not None and step.row.std_asked is None:
                step.fill()
        return StartReport([step.row for step in self._steps], self._seed, name=self._name)

    def carry_out(self, finish: Sequence[Callable[[], Any]] = ()) -> StartReport:
        """Writes all weights, and measures them; or, after any exception, none.

        Args:
            finish: what is to follow when all are written, and cannot fail. All of it is
                done, also where an interrupt comes in between.
        """
        elements = [math.prod(step.row.shape) for step in self._steps]
        rows = []
        console = Console(stderr=True)
        with (
            all_or_none() as write,
            Progress(
                console=console, transient=True, disable=sum(elements) < _LONG
            ) as progress,
        ):
            task = progress.add_task("weights", total=sum(elements))
            for step, advance in zip(self._steps, elements, strict=True):
                if step.fill is not None:
                    write(step.variable, step.fill())
                std = pooled(map(moments, local_parts(step.variable.value))).std
                rows.append(step.row._replace(std=std))
                progress.advance(task, advance)
        try:
            for done in finish:
                done()
        except BaseException:
            for done in finish:
                done()
            raise
        return StartReport(rows, self._seed, name=self._name)


def _planned(owned: OwnedWeight, choice: Choice, seed: int, key: str) -> _Step:
    variable = owned.variable
    site = Site.of(owned.layer, variable.name, variable.shape, key)
    site = site._replace(path=variable.path)
    shape = site.shape
    row = WeightStart(variable.path, type(owned.layer).__name__, shape, site.fans)
    row = row._replace(role=role(owned))
    if choice.initializer is None:
        return _Step(variable, row._replace(reason=choice.reason), None)
    initializer = choice.initializer
    row = row._replace(status="set", initializer=_label(initializer))
    try:
        ours = initializer
        if not isinstance(initializer, FanwiseInitializer):
            ours = portable(initializer)
        if ours is None:
            return _Step(variable, row, _called(choice, site, variable, seed))
        expected = ours.expected(shape, site)
        if math.isfinite(expected.std):
            row = row._replace(std_asked=expected.std)
        checked_shape_and_dtype(shape, variable.dtype)
        draw = functools.partial(
            ours.draw,
            shape,
            variable.dtype,
            layout_of(variable.value),
            site=site,
            seed=_seed(ours, choice, seed),
            distribution=expected,
        )
        return _Step(variable, row, draw)
    except (TypeError, ValueError) as error:
        raise in_weight(error, variable.path, shape) from error


def _seed(initializer: FanwiseInitializer, choice: Choice, seed: int) -> int | None:
    """That of the draw; `None` where the state of the initializer's generator advances."""
    own = own_seed_of(initializer) if choice.own_seed else None
    if own is None:
        return seed
    return own if isinstance(own, int) else None


def _label(initializer: Any) -> str:
    """With what is random inside it."""
    if isinstance(initializer, FanwiseInitializer):
        return repr(initializer)
    inside = dict.fromkeys(map(_label, random_inside(initializer)))
    name = initializer_name(initializer)
    return f"{name}({', '.join(inside)})" if inside else name


def _called(
    choice: Choice, site: Site, variable: keras.Variable, seed: int
) -> Callable[[], Any]:
    """Calls an initializer that is neither ours nor random and Keras's.

    Those that are inside it draw by the seed, as they would alone.
    """
    outer = _reseeded(choice.initializer, choice, stream_key(seed, site.key))
    places: dict[int, int] = {}

    def reseeded(value: Any) -> Any:
        ours = value if isinstance(value, FanwiseInitializer) else portable(value)
        if ours is None and not isinstance(value, keras.initializers.Initializer):
            return value
        key = f"{site.key} inside {places.setdefault(id(value), len(places))}"
        if ours is None:
            return _reseeded(value, choice, stream_key(seed, key))
        return drawing_for(site, value, ours, key, _seed(ours, choice, seed))

    def values() -> Any:
        # Of names inside it makes initializers now, which take their seeds from here.
        random.seed(stream_key(seed, site.key))
        try:
            initializer = replaced_inside(outer, reseeded)
            return _tensor(initializer(site.shape, dtype=variable.dtype), site, variable)
        except (TypeError, ValueError) as error:
            raise in_weight(error, site.path, site.shape) from error

    return values


def _reseeded(initializer: Any, choice: Choice, seed: int) -> Any:
    """The initializer, with a seed where it takes one and has none that counts."""
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    config = initializer.get_config()
    if "seed" not in config or (choice.own_seed and config["seed"] is not None):
        return initializer
    try:
        return type(initializer).from_config({**config, "seed": seed % _SEEDS})
    except Exception as error:
        allowed = f"one that its own config makes again ({error})"
        raise fail(ValueError, "initializer", allowed, initializer) from error


def _tensor(values: Any, site: Site, variable: keras.Variable) -> Any:
    """What an initializer gave, if it can be assigned to the weight."""
    try:
        if not keras.ops.is_tensor(values):
            values = np.asarray(values)
            if values.dtype.kind not in "biuf" and values.dtype.name != "bfloat16":
                raise TypeError(values.dtype)
        tensor = keras.ops.convert_to_tensor(values)
        if "complex" in keras.backend.standardize_dtype(tensor.dtype):
            raise TypeError("complex numbers")
    except (TypeError, ValueError) as error:
        allowed = f"one that gives real numbers ({error})"
        raise fail(TypeError, "initializer", allowed, values) from error
    if tuple(tensor.shape) != site.shape:
        allowed = f"one that gives the shape {site.shape}, not {tuple(tensor.shape)}"
        raise fail(ValueError, "initializer", allowed, values)
    return keras.ops.cast(tensor, variable.dtype)


def initialize(
    model: keras.Layer,
    recipe: Any,
    seed: int | None = None,
    *,
    residual: str | None = None,
    dry_run: bool = False,
    reset_optimizer: bool = True,
) -> StartReport:
    """Gives the weights of a built model a start, by a recipe or by rules.

    Every weight is filled by the first rule that it meets; what meets none is kept. The
    values depend on the seed, on the weight's name without the numbers that Keras adds,
    and among weights of equal names on their order: they are the same on every backend,
    and inserting a named layer leaves those of the others as they were.

    The layers are given those initializers: `reinitialize` draws by them, and the model
    saves with them.

    Args:
        model: a built model, or a built layer.
        recipe: the name of a recipe (see `recipes`); an initializer, by name, class or
            instance, for all kernels, with biases and β 0, γ 1 and moving statistics as
            new; a `Rule`, or a list of rules; or a mapping of paths of weights to
            initializers, such as `audit(model).remedies()`.
        seed: an integer from 0 to 2**64 - 1, for everything random that has no seed of
            its own; or `None`, for one taken from Python's `random` module, which
            `keras.utils.set_random_seed` seeds.
        residual: how the branches of residual networks begin, whose last weights
            `residual_ends` gives. `"zero"`: these are 0, so that the network begins as
            the identity (Goyal et al. 2017, <https://arxiv.org/abs/1706.02677>, section
            5.1; Zhang et al. 2019, <https://arxiv.org/abs/1901.09321>). `"depth"`: they
            are divided by the square root of the number of branches, so that these add up
            to as much at any depth (Radford et al. 2019, GPT-2, section 2.3). `None`: as
            other weights. There is a warning for branches that cannot start at 0, and for
            layers that may hide some.
        dry_run: whether only to return the plan.
        reset_optimizer: whether the state of a compiled model's optimizer is made that
            of a new optimizer, but for the learning rate.

    Returns:
        A `StartReport` of every weight: print it, or read its `rows`.

    Raises:
        TypeError: an argument is of the wrong type, or an initializer cannot fill a
            weight.
        ValueError: the model is not built, a rule meets no weight, a name is unknown, an
            initializer cannot fill a weight, or there is no residual branch for
            `residual`. After any of these no weight is changed.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="head")])
    >>> report = initialize(model, "kaiming", seed=0)
    >>> [(row.path.split("/")[-1], row.initializer) for row in report.rows]
    [('kernel', 'FanwiseHeNormal()'), ('bias', 'Zeros')]
    """
    seed = _checked_seed(seed, dry_run)
    if residual not in (None, *RESIDUAL):
        allowed = f"None or one of {', '.join(map(repr, RESIDUAL))}"
        raise fail(ValueError, "residual", allowed, residual)
    subject = Subject(model)
    weights = subject.weights
    with random_state_kept():
        rules = [zero_rule(subject)] if residual == "zero" else []
        for rule in rules_of(recipe):
            rules += [rule] if isinstance(rule, Rule) else rule(subject)
        met = [
            [rule for rule in rules if rule.matches(owned, subject)] for owned in weights
        ]
        for rule in rules:
            if not rule.optional and not any(rule in several for several in met):
                raise ValueError(_unmet(rule, weights))
        matches = [several[0] if several else None for several in met]
        initializers = [rule and resolved(rule.initializer) for rule in matches]
        if residual == "depth":
            initializers = with_depth(subject, initializers)
        choices = [
            Choice(initializer) if rule else Choice(reason="no rule for it")
            for rule, initializer in zip(matches, initializers, strict=True)
        ]
    for note in subject.notes:
        warnings.warn(note, stacklevel=2)
    return _carried_out(model, weights, choices, seed, dry_run, reset_optimizer)


def reinitialize(
    model: keras.Layer,
    seed: int | None = None,
    *,
    only: str | Sequence[str] | None = None,
    dry_run: bool = False,
    reset_optimizer: bool = True,
) -> StartReport:
    """Gives every weight of a built model a new value, by the initializer it was given.

    Random initializers draw anew, whatever seed they were given; the others give what
    they gave: biases, moving statistics and the like start as in a new model. Calling
    the initializers of the layers, as is often advised, would restore the old values:
    in Keras 3 an initializer gives the same ones at every call.

    Keras's own random initializers draw from their own distributions, with the fans as
    Keras counts them, by this package's sampler: equal seeds give equal models, on every
    backend. Frozen layers are redrawn too, and a weight that layers share is drawn once.
    Layers that were adapted to data (`Normalization` and the like) and quantized layers
    are kept, and so are weights of which nobody knows the initializer: those that were
    not made by `add_weight`. For these there is a warning.

    Args:
        model: a built model, or a built layer.
        seed: see `initialize`. Different seeds give different models.
        only: a glob on the paths of the weights to redraw, or a list of them, such as
            `"head/*"`; see `Rule`. By default all.
        dry_run: whether only to return the plan.
        reset_optimizer: see `initialize`.

    Returns:
        A `StartReport` of every weight: print it, or read its `rows`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the model is not built, or a glob meets no weight. After any of these
            no weight is changed.

    Example: five models from one.

    >>> import keras
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> ensemble = []
    >>> for seed in range(5):
    ...     _ = reinitialize(model, seed=seed)
    ...     ensemble.append(model.get_weights())
    """
    seed = _checked_seed(seed, dry_run)
    weights = owned_weights(model)
    paths = [owned.variable.path for owned in weights]
    globs = None if only is None else globs_of("only", only, paths)
    with random_state_kept():
        initializers = weight_initializers(weights)
    choices = [
        _anew(owned, initializer, globs)
        for owned, initializer in zip(weights, initializers, strict=True)
    ]
    unknown = [
        path
        for path, choice in zip(paths, choices, strict=True)
        if choice.reason == _UNKNOWN
    ]
    if unknown and not dry_run:
        warnings.warn(
            "keeps weights whose initializer is unknown: "
            + ", ".join(map(printable, unknown)),
            stacklevel=2,
        )
    return _carried_out(model, weights, choices, seed, dry_run, reset_optimizer)


_UNKNOWN = "its initializer is unknown"


def _unmet(rule: Rule, weights: list[OwnedWeight]) -> str:
    paths = ", ".join(printable(owned.variable.path) for owned in weights[:5])
    more = f" and {len(weights) - 5} more" if len(weights) > 5 else ""
    return f"{rule} meets none of the weights of the model: {paths}{more}"


def _anew(owned: OwnedWeight, initializer: Any, globs: list[str] | None) -> Choice:
    if globs and not any(glob_matches(glob, owned.variable.path) for glob in globs):
        return Choice(reason="not in `only`")
    if hasattr(owned.layer, "adapt"):
        return Choice(reason="adapted to data")
    if getattr(owned.layer, "quantization_mode", None):
        return Choice(reason="quantized")
    if initializer is None:
        return Choice(reason=_UNKNOWN)
    return Choice(initializer, own_seed=False)


def _checked_seed(seed: Any, dry_run: bool) -> int:
    """That of a call; one that is taken from Python's `random` in a plan stays there."""
    if seed is not None:
        return integer("seed", seed, 0, 2**64)
    with random_state_kept() if dry_run else contextlib.nullcontext():
        return fresh_seed()


@random_state_kept()
def _carried_out(
    model: keras.Layer,
    weights: list[OwnedWeight],
    choices: list[Choice],
    seed: int,
    dry_run: bool,
    reset_optimizer: bool,
) -> StartReport:
    plan = Plan(weights, choices, seed, model.name)
    if dry_run:
        return plan.report()
    changed: list[OwnedWeight] = []

    def take_over() -> None:
        changed[:] = replace(weights, [choice.initializer for choice in choices])

    finish = [take_over, *_resets_of_states(weights, choices)]
    if reset_optimizer:
        finish += _resets_of_optimizer(getattr(model, "optimizer", None))
    report = plan.carry_out(finish)
    lost = itertools.compress(changed, unsaved(changed))
    paths = [owned.variable.path for owned in lost]
    return StartReport(report.rows, seed, paths, name=model.name)


def _resets_of_optimizer(optimizer: Any) -> list[Callable[[], Any]]:
    if optimizer is None or not optimizer.built:
        return []
    try:
        state = new_optimizer_state(optimizer)
    except Exception as error:
        allowed = (
            "False for an optimizer that its own config does not make again "
            f"({type(optimizer).__name__}: {error})"
        )
        raise fail(ValueError, "reset_optimizer", allowed, True) from error
    # The values of the new one are drawn one at a time.
    return [functools.partial(_copy_value, old, new) for old, new in state]


def _set_to_zero(variable: keras.Variable) -> None:
    variable.assign(keras.ops.zeros(variable.shape, variable.dtype))


def _copy_value(variable: keras.Variable, source: keras.Variable) -> None:
    variable.assign(source.value)


def _resets_of_states(
    weights: Sequence[OwnedWeight], choices: Sequence[Choice]
) -> list[Callable[[], Any]]:
    """Of stateful recurrent layers: what they remember was of other weights."""
    layers = dict.fromkeys(
        holder
        for owned, choice in zip(weights, choices, strict=True)
        if choice.initializer is not None
        for holder in owned.holders
        if isinstance(holder, keras.layers.RNN) and holder.stateful
    )
    states = [state for layer in layers for state in keras.tree.flatten(layer.states or [])]
    # Not by `reset_state`, which fails on JAX in Keras 3.8.
    return [functools.partial(_set_to_zero, state) for state in states]
