"""Gives a model new weights: plans them whole, then writes all of them, or none."""

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
from keras_fanwise.models.rules import (
    RESIDUAL,
    Rule,
    Subject,
    resolved,
    with_depth,
    zero_rule,
)
from keras_fanwise.reports.weights import StartReport, WeightStart
from keras_fanwise.sampling.sampler import stream_key
from keras_fanwise.seam.keys import model_keys
from keras_fanwise.seam.record import (
    initializer_name,
    replace,
    unsaved,
    weight_initializers,
)
from keras_fanwise.seam.weights import OwnedWeight, Role, owned_weights, role


@contextlib.contextmanager
def all_or_none() -> Iterator[Callable[[keras.Variable, Any], None]]:
    """Gives what writes a value; an exception in the block brings the old ones back."""
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


class _Seeds(NamedTuple):
    """The seed of a call, and whether those of the initializers go before it."""

    seed: int
    own_ones_count: bool

    def before(self, initializer: FanwiseInitializer) -> int | None:
        """`None` where the state of the initializer's own generator advances."""
        own = own_seed_of(initializer) if self.own_ones_count else None
        if own is None:
            return self.seed
        return own if isinstance(own, int) else None

    def planted(self, initializer: Any, key: str) -> Any:
        """An initializer of others, with a seed where it takes one and has none."""
        if not isinstance(initializer, keras.initializers.Initializer):
            return initializer
        config = initializer.get_config()
        if "seed" not in config or (self.own_ones_count and config["seed"] is not None):
            return initializer
        seed = stream_key(self.seed, key) % 2**31  # which those of others take
        try:
            return type(initializer).from_config({**config, "seed": seed})
        except Exception as error:
            allowed = f"one that its own config makes again ({error})"
            raise fail(ValueError, "initializer", allowed, initializer) from error


def _ours(initializer: Any) -> FanwiseInitializer | None:
    """What draws as the initializer does: itself if it is of this package."""
    if isinstance(initializer, FanwiseInitializer):
        return initializer
    return portable(initializer)


class _Plan(NamedTuple):
    """What is to be reported of a weight, and what gives its values, if it is not kept."""

    variable: keras.Variable
    row: WeightStart
    fill: Callable[[], Any] | None = None


def _planned(
    owned: OwnedWeight, initializer: Any, reason: str, key: str, seeds: _Seeds
) -> _Plan:
    """What can be known to go wrong goes wrong here, before a weight is written."""
    variable = owned.variable
    site = Site.of(owned.layer, variable.name, variable.shape, key)
    site = site._replace(path=variable.path)
    row = WeightStart(site.path, type(owned.layer).__name__, site.shape, site.fans)
    row = row._replace(reason=reason, role=role(owned))
    if initializer is None:
        return _Plan(variable, row)
    row = row._replace(status="set", initializer=_label(initializer))
    try:
        ours = _ours(initializer)
        if ours is None:
            outer = seeds.planted(initializer, key)
            fill = functools.partial(_values_of_others, outer, site, variable, seeds)
            return _Plan(variable, row, fill)
        expected = ours.expected(site.shape, site)
        if math.isfinite(expected.std):
            row = row._replace(std_asked=expected.std)
        checked_shape_and_dtype(site.shape, variable.dtype)
        draw = functools.partial(
            ours.draw,
            site.shape,
            variable.dtype,
            layout_of(variable.value),
            site=site,
            seed=seeds.before(ours),
            distribution=expected,
        )
        return _Plan(variable, row, draw)
    except (TypeError, ValueError) as error:
        raise in_weight(error, site.path, site.shape) from error


def _label(initializer: Any) -> str:
    """With what is random inside it."""
    if isinstance(initializer, FanwiseInitializer):
        return repr(initializer)
    inside = dict.fromkeys(map(_label, random_inside(initializer)))
    name = initializer_name(initializer)
    return f"{name}({', '.join(inside)})" if inside else name


def _values_of_others(
    outer: Any, site: Site, variable: keras.Variable, seeds: _Seeds
) -> Any:
    """Those inside an initializer of others draw by the seed, as they would alone."""
    places: dict[int, int] = {}

    def replacement(value: Any) -> Any:
        ours = _ours(value)
        if ours is None and not isinstance(value, keras.initializers.Initializer):
            return value
        key = f"{site.key} inside {places.setdefault(id(value), len(places))}"
        if ours is None:
            return seeds.planted(value, key)
        return drawing_for(site, value, ours, key, seeds.before(ours))

    # Of names inside it makes initializers now, which take their seeds from here.
    random.seed(stream_key(seeds.seed, site.key))
    try:
        values = replaced_inside(outer, replacement)(site.shape, dtype=variable.dtype)
        return _checked_values(values, site.shape, variable.dtype)
    except (TypeError, ValueError) as error:
        raise in_weight(error, site.path, site.shape) from error


def _checked_values(values: Any, shape: tuple[int, ...], dtype: str) -> Any:
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
    if tuple(tensor.shape) != shape:
        allowed = f"one that gives the shape {shape}, not {tuple(tensor.shape)}"
        raise fail(ValueError, "initializer", allowed, values)
    return keras.ops.cast(tensor, dtype)


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
                paths = ", ".join(printable(owned.variable.path) for owned in weights[:5])
                more = f" and {len(weights) - 5} more" if len(weights) > 5 else ""
                raise ValueError(
                    f"{rule} meets none of the weights of the model: {paths}{more}"
                )
        firsts = [several[0] if several else Rule(None) for several in met]
        initializers = [
            None if rule.initializer is None else resolved(rule.initializer)
            for rule in firsts
        ]
        if residual == "depth":
            initializers = with_depth(subject, initializers)
    for note in subject.notes:
        warnings.warn(note, stacklevel=2)
    reasons = [
        _why_kept(owned, several) if initializer is None else ""
        for owned, several, initializer in zip(weights, met, initializers, strict=True)
    ]
    seeds = _Seeds(seed, own_ones_count=True)
    return _start(model, weights, initializers, reasons, seeds, dry_run, reset_optimizer)


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
    with random_state_kept():
        initializers = weight_initializers(weights)
    reasons = left_out(only, paths)
    for place, owned in enumerate(weights):
        reasons[place] = reasons[place] or untouchable(owned.layer)
        if reasons[place]:
            initializers[place] = None
        elif initializers[place] is None:
            reasons[place] = _UNKNOWN
    unknown = [p for p, reason in zip(paths, reasons, strict=True) if reason == _UNKNOWN]
    if unknown and not dry_run:
        names = ", ".join(map(printable, unknown))
        warnings.warn(f"keeps weights whose initializer is unknown: {names}", stacklevel=2)
    seeds = _Seeds(seed, own_ones_count=False)
    return _start(model, weights, initializers, reasons, seeds, dry_run, reset_optimizer)


_UNKNOWN = "its initializer is unknown"


def _why_kept(owned: OwnedWeight, met: Sequence[Rule]) -> str:
    if met:
        return "a rule keeps it"
    if role(owned) is Role.MATRIX:
        return "no rule for it: not recognized as a kernel"
    return "no rule for it"


def left_out(only: Any, paths: Sequence[str]) -> list[str]:
    """Why the weights that no glob of `only` meets are kept, and `""` of the others."""
    globs = globs_of("only", "*" if only is None else only, paths)
    return [
        "" if any(glob_matches(glob, path) for glob in globs) else "not in `only`"
        for path in paths
    ]


def untouchable(layer: keras.Layer) -> str:
    """Why the weights of a layer are neither drawn anew nor scaled; or `""`."""
    if hasattr(layer, "adapt"):
        return "adapted to data"
    return "quantized" if getattr(layer, "quantization_mode", None) else ""


def _checked_seed(seed: Any, dry_run: bool) -> int:
    """That of a call; one that is taken from Python's `random` in a plan stays there."""
    if seed is not None:
        return integer("seed", seed, 0, 2**64)
    with random_state_kept() if dry_run else contextlib.nullcontext():
        return fresh_seed()


@random_state_kept()
def _start(
    model: keras.Layer,
    weights: list[OwnedWeight],
    initializers: list[Any],
    reasons: list[str],
    seeds: _Seeds,
    dry_run: bool,
    reset_optimizer: bool,
) -> StartReport:
    """Fills the weights that have an initializer; the others have a reason to be kept."""
    plans = [
        _planned(*each, seeds)
        for each in zip(weights, initializers, reasons, model_keys(weights), strict=True)
    ]
    if dry_run:
        # Other people's initializers are tried, one at a time.
        for plan in plans:
            if plan.fill is not None and plan.row.std_asked is None:
                plan.fill()
        return StartReport([plan.row for plan in plans], seeds.seed, name=model.name)
    layers = dict.fromkeys(
        holder
        for owned, plan in zip(weights, plans, strict=True)
        if plan.fill is not None
        for holder in owned.holders
        if isinstance(holder, keras.layers.RNN) and holder.stateful
    )
    # What these remember was of other weights. `reset_state` fails on JAX in Keras 3.8.
    states = [state for layer in layers for state in keras.tree.flatten(layer.states or [])]
    optimizer = getattr(model, "optimizer", None) if reset_optimizer else None
    _new_state(optimizer)  # an error goes before everything

    def finish() -> list[OwnedWeight]:
        changed = replace(weights, initializers)
        for state in states:
            state.assign(keras.ops.zeros(state.shape, state.dtype))
        for variable, value in _new_state(optimizer):
            variable.assign(value())
        return changed

    rows = _carried_out(plans)
    try:
        changed = finish()
    except BaseException:  # an interrupt: nothing here fails twice
        finish()
        raise
    lost = itertools.compress(changed, unsaved(changed))
    paths = [owned.variable.path for owned in lost]
    return StartReport(rows, seeds.seed, paths, name=model.name)


def _carried_out(plans: Sequence[_Plan]) -> list[WeightStart]:
    """Writes and measures all weights, or, after any exception, leaves all as they were."""
    elements = [math.prod(plan.row.shape) for plan in plans]
    rows = []
    console = Console(stderr=True)
    with (
        all_or_none() as write,
        Progress(
            console=console, transient=True, disable=sum(elements) < _LONG
        ) as progress,
    ):
        task = progress.add_task("weights", total=sum(elements))
        for (variable, row, fill), advance in zip(plans, elements, strict=True):
            if fill is not None:
                write(variable, fill())
            std = pooled(map(moments, local_parts(variable.value))).std
            rows.append(row._replace(std=std))
            progress.advance(task, advance)
    return rows


def _new_state(optimizer: Any) -> list[tuple[keras.Variable, Callable[[], Any]]]:
    """The variables of an optimizer, each with what gives its value in a new one."""
    if optimizer is None or not optimizer.built:
        return []
    try:
        return new_optimizer_state(optimizer)
    except Exception as error:
        allowed = (
            "False for an optimizer that its own config does not make again "
            f"({type(optimizer).__name__}: {error})"
        )
        raise fail(ValueError, "reset_optimizer", allowed, True) from error
