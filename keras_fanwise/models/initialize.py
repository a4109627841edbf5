"""One line for a whole model: a good start, or a new one."""

import contextlib
import functools
import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_fanwise.arguments import (
    fail,
    glob_matches,
    globs_of,
    integer,
    printable,
)
from keras_fanwise.backends.private_keras import new_optimizer_state
from keras_fanwise.initializers.randomness import fresh_seed, random_state_kept
from keras_fanwise.models.plan import Choice, Plan
from keras_fanwise.models.recipes import rules_of
from keras_fanwise.models.residual_rules import RESIDUAL, with_depth, zero_rule
from keras_fanwise.models.rules import Rule, Subject, resolved
from keras_fanwise.reports.start_report import StartReport
from keras_fanwise.seam.owners import OwnedWeight, owned_weights
from keras_fanwise.seam.record import replace, unsaved, weight_initializers


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
    seed = _seed(seed, dry_run)
    if residual not in (None, *RESIDUAL):
        allowed = f"None or one of {', '.join(map(repr, RESIDUAL))}"
        raise fail(ValueError, "residual", allowed, residual)
    subject = Subject(model)
    weights = subject.weights
    with random_state_kept():
        rules = [zero_rule(subject)] if residual == "zero" else []
        for rule in rules_of(recipe):
            rules += rule.for_subject(subject)
        for rule in rules:
            if not rule.optional and not any(rule.matches(owned) for owned in weights):
                raise ValueError(_unmet(rule, weights))
        matches = [_first(rules, owned) for owned in weights]
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
    seed = _seed(seed, dry_run)
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


def _first(rules: list[Rule], owned: OwnedWeight) -> Rule | None:
    return next((rule for rule in rules if rule.matches(owned)), None)


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


def _seed(seed: Any, dry_run: bool) -> int:
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
