"""Gives a model new weights: plans them whole, then writes all of them, or none."""

import contextlib
import functools
import math
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    is_of_keras,
    positive,
    printable,
)
from keras_fanwise.backends.arrays import (
    dtype_name,
    layout_of,
    local_parts,
    moments,
    pooled,
    snapshot,
)
from keras_fanwise.backends.private_keras import new_optimizer_state, random_numbers_from
from keras_fanwise.initializers import counterparts
from keras_fanwise.initializers.base import (
    Distribution,
    FanwiseInitializer,
    Site,
    checked_shape_and_dtype,
    fresh_seed,
    random_state_kept,
)
from keras_fanwise.models.recipes import (
    RESIDUAL,
    Rule,
    Subject,
    resolved,
    rules_of,
    zero_rule,
)
from keras_fanwise.reports.tables import group_by
from keras_fanwise.reports.weights import StartReport, WeightStart
from keras_fanwise.sampling.sampler import stream_key
from keras_fanwise.seam import record
from keras_fanwise.seam.binding import model_keys
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
    """The seed of a call, and whether the initializers' own seeds go before it."""

    seed: int
    own_ones_count: bool

    def before(self, initializer: FanwiseInitializer) -> int | None:
        """`None` where the state of the initializer's own generator advances."""
        own = counterparts.own_seed_of(initializer) if self.own_ones_count else None
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
        seed = stream_key(self.seed, key) % 2**31  # which initializers of others take
        try:
            return type(initializer).from_config({**config, "seed": seed})
        except Exception as error:
            allowed = f"one that can be made again from its config ({error})"
            raise fail(ValueError, "initializer", allowed, initializer) from error


class _Plan(NamedTuple):
    """What is to become of a weight."""

    owned: OwnedWeight
    initializer: Any  # `None` where it stays as it is
    row: WeightStart
    fill: Callable[[], Any] | None = None  # gives the values


@random_state_kept()
def _plans(
    weights: Sequence[OwnedWeight],
    initializers: Sequence[Any],
    reasons: Sequence[str],
    seeds: _Seeds,
) -> list[_Plan]:
    """For weights that have an initializer, a reason to be kept, or both."""
    keys = model_keys(weights)
    return [
        _planned(*each, seeds)
        for each in zip(weights, initializers, reasons, keys, strict=True)
    ]


def _planned(
    owned: OwnedWeight, initializer: Any, reason: str, key: str, seeds: _Seeds
) -> _Plan:
    """What can be known to go wrong goes wrong here, before a weight is written."""
    variable = owned.variable
    site = Site.of(owned.layer, variable.name, variable.shape, key)
    site = site._replace(path=variable.path)
    expected: Distribution | None = None
    fill: Callable[[], Any] | None = None
    try:
        ours = counterparts.portable(initializer)
        if ours is not None:
            expected = ours.expected(site.shape, site)
            checked_shape_and_dtype(site.shape, variable.dtype)
            fill = functools.partial(
                ours.draw,
                site.shape,
                variable.dtype,
                layout_of(variable.value),
                site=site,
                seed=seeds.before(ours),
                distribution=expected,
            )
        elif initializer is not None:
            fill = functools.partial(_values_of_others, initializer, site, variable, seeds)
    except (TypeError, ValueError) as error:
        raise in_weight(error, site.path, site.shape) from error
    row = WeightStart(
        site.path,
        type(owned.layer).__name__,
        site.shape,
        site.fans,
        "" if initializer is None else _label(initializer),
        std_asked=expected.std if expected and math.isfinite(expected.std) else None,
        status="kept" if reason else "set",
        reason=reason,
        role=role(owned),
    )
    return _Plan(owned, initializer, row, fill)


def _label(initializer: Any) -> str:
    """With what is random inside it."""
    if isinstance(initializer, FanwiseInitializer):
        return repr(initializer)
    inside = dict.fromkeys(map(_label, counterparts.random_inside(initializer)))
    name = record.initializer_name(initializer)
    return f"{name}({', '.join(inside)})" if inside else name


# Why weights are kept: their values are computed, and not drawn, or nobody knows.
_ASSIGNED = "its layer gave it these values when it was built"
_PERHAPS = "its layer may have given it these values when it was built"
_ALIKE = "its initializer gives the same values with every seed"
_UNKNOWN = "its initializer is unknown"


@random_state_kept()
def _computed(weights: Sequence[OwnedWeight], initializers: Sequence[Any]) -> list[str]:
    """Why no seed gives weights other values, and `""` of the others."""
    assigned = record.assigned_when_built(weights)
    return list(map(_why_computed, weights, initializers, assigned))


def _why_computed(owned: OwnedWeight, initializer: Any, assigned: bool | None) -> str:
    if assigned:
        return _ASSIGNED
    if initializer is None:
        return _UNKNOWN
    # Those of Keras and of this package do so by design: the identity, the bias of an LSTM.
    kind = type(initializer)
    module = getattr(initializer, "__module__", kind.__module__).partition(".")[0]
    is_own = (
        kind is keras.initializers.Constant or module not in ("keras", "keras_fanwise")
    ) and counterparts.portable(initializer) is None
    is_table = assigned is None and role(owned) == Role.STATE
    if not (is_own or is_table):
        return ""
    variable = owned.variable
    site = Site.of(owned.layer, variable.name, variable.shape)
    values = (
        _values_of_others(initializer, site, variable, _Seeds(n, False)) for n in (0, 1)
    )
    one, two = map(keras.ops.convert_to_numpy, values)
    if not np.array_equal(one, two):
        return ""
    if is_table and not np.array_equal(one, keras.ops.convert_to_numpy(variable)):
        return _PERHAPS
    return _ALIKE if is_own and one.size and one.min() < one.max() else ""


def _values_of_others(
    initializer: Any, site: Site, variable: keras.Variable, seeds: _Seeds
) -> Any:
    """What is random in an initializer of others draws by the seed, as it would alone."""
    outer = seeds.planted(initializer, site.key)
    places: dict[int, int] = {}

    def replacement(value: Any) -> Any:
        ours = counterparts.portable(value)
        if ours is None and not isinstance(value, keras.initializers.Initializer):
            return value
        key = f"{site.key} inside {places.setdefault(id(value), len(places))}"
        if ours is None:
            return seeds.planted(value, key)
        return counterparts.drawing_for(site, value, ours, key, seeds.before(ours))

    try:
        # Functions draw as they like; of names inside it makes initializers now.
        with random_numbers_from(stream_key(seeds.seed, site.key)):
            fill = counterparts.replaced_inside(outer, replacement)
            values = fill(site.shape, dtype=variable.dtype)
        return _checked_values(values, site.shape, variable.dtype)
    except (TypeError, ValueError) as error:
        raise in_weight(error, site.path, site.shape) from error


def _checked_values(values: Any, shape: tuple[int, ...], dtype: str) -> Any:
    try:
        if not keras.ops.is_tensor(values):
            values = np.asarray(values)
        if dtype_name(values).startswith(("complex", "string")):
            raise TypeError(dtype_name(values))
        tensor = keras.ops.convert_to_tensor(values)
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
    """Draws the weights of a built model by a recipe or by rules.

    Every weight is filled by the first rule that it meets; a weight that meets none is
    kept. The values depend on the seed, on the weight's name without the numbers that Keras
    adds, and among weights of equal names on their order: they are the same on every
    backend, and inserting a named layer leaves the other layers' values as they were.

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
        residual: how residual branches begin, whose last weights `residual_ends` gives.
            `"zero"`: these are 0, so that the network begins as the identity (Goyal et al.
            2017, <https://arxiv.org/abs/1706.02677>, section 5.1; Zhang et al. 2019,
            <https://arxiv.org/abs/1901.09321>). `"depth"`: they are divided by the square
            root of the number of branches, so that these add up to as much at any depth
            (Radford et al. 2019, GPT-2, section 2.3). There is a warning for branches that
            cannot start at 0, and for layers that may hide some.
        dry_run: whether only to return the plan.
        reset_optimizer: whether the optimizer of a compiled model gets the state of a new
            one, except for the learning rate.

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
    plans, subject = _asked(model, recipe, seed, residual)
    for note in subject.notes:
        warnings.warn(note, stacklevel=2)
    report = _start(model, plans, seed, dry_run, reset_optimizer)
    report.remarks = [*subject.notes, *subject.remarks]
    return report


def start_values(
    model: keras.Layer, recipe: Any, seed: int, residual: str | None = None
) -> Iterator[tuple[keras.Variable, Any, Any]]:
    """The weights that `initialize` would write, their initializers, and their values."""
    for plan in _asked(model, recipe, seed, residual)[0]:
        if plan.fill is not None:
            yield plan.owned.variable, plan.initializer, plan.fill()


@random_state_kept()
def _asked(
    model: keras.Layer, recipe: Any, seed: int, residual: str | None
) -> tuple[list[_Plan], Subject]:
    """The plans for the weights of a model, and what rules had to tell of it."""
    if residual not in (None, *RESIDUAL):
        allowed = f"None or one of {', '.join(map(repr, RESIDUAL))}"
        raise fail(ValueError, "residual", allowed, residual)
    subject = Subject(model)
    weights = subject.weights
    rules = [zero_rule(subject)] if residual == "zero" else []
    for rule in rules_of(recipe):
        rules += [rule] if isinstance(rule, Rule) else rule(subject)
    met = [[rule for rule in rules if rule.matches(owned, subject)] for owned in weights]
    for rule in rules:
        if not rule.optional and not any(rule in several for several in met):
            paths = ", ".join(printable(owned.variable.path) for owned in weights[:5])
            more = f" and {len(weights) - 5} more" if len(weights) > 5 else ""
            raise ValueError(
                f"{rule} meets none of the weights of the model: {paths}{more}"
            )
    factor = 1 / math.sqrt(len(subject.known_branches())) if residual == "depth" else None
    reasons = [""] * len(weights)
    if not isinstance(recipe, (Rule, Mapping, list, tuple)):  # whose author knows better
        reasons = _computed(weights, record.weight_initializers(weights))
    initializers: list[Any] = []
    for place, (owned, several) in enumerate(zip(weights, met, strict=True)):
        given = several[0].initializer if several else None
        if several and given is None:
            reasons[place] = "a rule keeps it"
        elif given is None:
            unknown = ": not recognized as a kernel" if role(owned) is Role.MATRIX else ""
            reasons[place] = f"no rule for it{unknown}"
        # That of a layer of Keras's the user chose; one's own may be for good.
        elif reasons[place] == _ASSIGNED or (
            reasons[place] in (_PERHAPS, _ALIKE) and not is_of_keras(owned.layer)
        ):
            given = None
        else:
            given, reasons[place] = resolved(given), ""
            if factor is not None and id(owned.variable) in subject.ends:
                given = counterparts.scaled(given, factor, "residual")
        initializers.append(given)
    seeds = _Seeds(seed, own_ones_count=True)
    return _plans(weights, initializers, reasons, seeds), subject


def reinitialize(
    model: keras.Layer,
    seed: int | None = None,
    *,
    only: str | Sequence[str] | None = None,
    learning_rate: float | None = None,
    dry_run: bool = False,
    reset_optimizer: bool = True,
) -> StartReport:
    """Gives a built model fresh weights, drawn by the initializers of its layers.

    Random initializers draw new values, whatever seed they have (called by hand, they would
    give the old ones); the others give the same ones as before: biases, moving statistics
    and the like are as in a new model.

    Keras's own random initializers draw from their own distributions, with the fans as
    Keras counts them, by this package's sampler: equal seeds give equal models, on every
    backend. Frozen layers are redrawn too, and a weight that layers share is drawn once.

    Kept, and listed in the report, are layers that were adapted to data (`Normalization`
    and the like) and quantized ones; weights to which their layer assigned values when it
    was built, such as positions or a bank of filters; and weights that were not made by
    `add_weight`, so that their initializer is not known. An initializer that gives the same
    values with every seed, such as a `Constant` of an array, gives them again. There is a
    warning for trainable weights that are the same with every seed.

    Args:
        model: a built model, or a built layer.
        seed: see `initialize`. Different seeds give different models.
        only: a glob on the paths of the weights to redraw, or a list of them, such as
            `"head/*"`; see `Rule`. By default all.
        learning_rate: for the optimizer of a compiled model. By default it stays, also
            where a callback has lowered it, and the report says so; a schedule begins
            again at its first step.
        dry_run: whether only to return the plan.
        reset_optimizer: see `initialize`.

    Returns:
        A `StartReport` of every weight: print it, or read its `rows`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the model is not built, a glob meets no weight, or there is no
            optimizer whose rate can be set. After any of these no weight is changed.

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
    if learning_rate is not None:
        learning_rate = positive("learning_rate", learning_rate)
        if _learning_rate(model) is None:
            allowed = "None without a compiled optimizer whose rate is a number"
            raise fail(ValueError, "learning_rate", allowed, learning_rate)
    left = left_out(only, [owned.variable.path for owned in weights])
    initializers = record.weight_initializers(weights)
    reasons = [
        reason or untouchable(owned.layer) or computed
        for owned, reason, computed in zip(
            weights, left, _computed(weights, initializers), strict=True
        )
    ]
    for place, reason in enumerate(reasons):
        if reason not in ("", _ALIKE):
            initializers[place] = None
    plans = _plans(weights, initializers, reasons, _Seeds(seed, own_ones_count=False))
    said = [
        plan.row
        for plan in plans
        if plan.row.reason in (_UNKNOWN, _PERHAPS)
        or (plan.row.reason in (_ASSIGNED, _ALIKE) and plan.row.role != Role.STATE)
    ]
    for same in group_by([] if dry_run else said, operator.attrgetter("reason")):
        names = ", ".join(printable(row.path) for row in same)
        warnings.warn(f"kept, as {same[0].reason}: {names}", stacklevel=2)
    return _start(model, plans, seed, dry_run, reset_optimizer, learning_rate)


def left_out(only: Any, paths: Sequence[str]) -> list[str]:
    """Why the weights that no glob of `only` meets are kept, and `""` of the others."""
    globs = globs_of("only", "*" if only is None else only, paths)
    return [
        "" if any(glob_matches(glob, path) for glob in globs) else "not in `only`"
        for path in paths
    ]


def untouchable(layer: keras.Layer) -> str:
    """Why the weights of a layer are neither drawn again nor scaled; or `""`."""
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
    plans: Sequence[_Plan],
    seed: int,
    dry_run: bool,
    reset_optimizer: bool,
    learning_rate: float | None = None,
) -> StartReport:
    """Fills the weights, and makes of the rest of the model that of a new one."""
    lost: dict[str, str] = {}
    if dry_run:
        # Other people's initializers are tried, one at a time.
        for plan in plans:
            if plan.fill is not None and plan.row.std_asked is None:
                plan.fill()
        rows = [plan.row for plan in plans]
    else:
        weights = [plan.owned for plan in plans]
        optimizer = getattr(model, "optimizer", None) if reset_optimizer else None
        _new_state(optimizer)  # an error goes before everything

        def finish() -> None:
            new = [None if plan.row.reason else plan.initializer for plan in plans]
            record.replace(weights, new)
            # What these remember was of other weights.
            for layer in {holder for p in plans if p.fill for holder in p.owned.holders}:
                if isinstance(layer, keras.layers.RNN) and layer.stateful:
                    for state in keras.tree.flatten(layer.states or []):
                        state.assign(keras.ops.zeros(state.shape, state.dtype))
            for variable, value in _new_state(optimizer):
                variable.assign(value())
            if learning_rate is not None:
                model.optimizer.learning_rate = learning_rate

        rows = _carried_out(plans)
        try:
            finish()
        except BaseException:  # an interrupt: nothing here fails twice
            finish()
            raise
        lost = record.unsaved(weights)
    kept_rate = _learning_rate(model) if learning_rate is None else None
    return StartReport(rows, seed, lost, name=model.name, kept_learning_rate=kept_rate)


def _learning_rate(model: keras.Layer) -> float | None:
    """That of the optimizer of a compiled model; `None` without one, or for a schedule."""
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
    if optimizer is None or hasattr(optimizer, "optimizers"):  # a MultiOptimizer has many
        return None
    rate = optimizer.get_config().get("learning_rate")
    return float(rate) if isinstance(rate, (int, float)) else None


def _carried_out(plans: Sequence[_Plan]) -> list[WeightStart]:
    """Writes and measures all weights, or, after any exception, leaves all as they were."""
    total = sum(math.prod(plan.row.shape) for plan in plans)
    rows = []
    with (
        all_or_none() as write,
        Progress(
            console=Console(stderr=True), transient=True, disable=total < _LONG
        ) as progress,
    ):
        task = progress.add_task("weights", total=total)
        for owned, _, row, fill in plans:
            if fill is not None:
                write(owned.variable, fill())
            std = pooled(map(moments, local_parts(owned.variable.value))).std
            rows.append(row._replace(std=std))
            progress.advance(task, math.prod(row.shape))
    return rows


def _new_state(optimizer: Any) -> list[tuple[keras.Variable, Callable[[], Any]]]:
    """The variables of an optimizer, each with what gives its value in a new one."""
    if optimizer is None or not optimizer.built:
        return []
    try:
        return new_optimizer_state(optimizer)
    except Exception as error:
        allowed = (
            "False for an optimizer that cannot be made again from its config "
            f"({type(optimizer).__name__}: {error})"
        )
        raise fail(ValueError, "reset_optimizer", allowed, True) from error
