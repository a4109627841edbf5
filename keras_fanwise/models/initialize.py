"""One line for a whole model: a good start, or a new one."""

import warnings
from collections.abc import Sequence
from typing import Any

import keras

from keras_fanwise.arguments import fail, integer, printable
from keras_fanwise.backends.private_keras import new_optimizer_state
from keras_fanwise.initializers.base import fresh_seed
from keras_fanwise.models.plan import Chosen, Plan
from keras_fanwise.models.rules import Rule, glob_matches, resolved, rules_of
from keras_fanwise.reports.start_report import StartReport
from keras_fanwise.seam.binding import give
from keras_fanwise.seam.given import given_initializers
from keras_fanwise.seam.owners import OwnedWeight, owned_weights


def initialize(
    model: keras.Layer,
    recipe: Any,
    seed: int | None = None,
    *,
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
            new; a `Rule`, or a list of rules.
        seed: an integer from 0 to 2**64 - 1, for everything random that has no seed of
            its own; or `None`, for one taken from Python's `random` module, which
            `keras.utils.set_random_seed` seeds.
        dry_run: whether only to return the plan.
        reset_optimizer: whether the state of a compiled model's optimizer is made that
            of a new optimizer, but for the learning rate.

    Returns:
        A `StartReport` of every weight: print it, or read its `rows`.

    Raises:
        TypeError: an argument is of the wrong type, or an initializer cannot fill a
            weight.
        ValueError: the model is not built, a rule meets no weight, a name is unknown, or
            an initializer cannot fill a weight. After any of these no weight is changed.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="head")])
    >>> report = initialize(model, "kaiming", seed=0)
    >>> [(row.path.split("/")[-1], row.initializer) for row in report.rows]
    [('kernel', 'FanwiseHeNormal()'), ('bias', 'Zeros')]
    """
    weights = owned_weights(model)
    rules = rules_of(recipe)
    for rule in rules:
        if not rule.optional and not any(rule.matches(owned) for owned in weights):
            raise ValueError(_unmet(rule, weights))
    chosen = [_first(rules, owned) for owned in weights]
    choices = [
        Chosen(resolved(rule.initializer)) if rule else Chosen(reason="no rule for it")
        for rule in chosen
    ]
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
    weights = owned_weights(model)
    globs = _globs(only)
    paths = [owned.variable.path for owned in weights]
    for glob in globs or ():
        if not any(glob_matches(glob, path) for path in paths):
            allowed = f"globs that meet a weight, and {glob!r} meets none"
            raise fail(ValueError, "only", allowed, only)
    given = given_initializers(weights)
    choices = [
        _anew(owned, initializer, globs)
        for owned, initializer in zip(weights, given, strict=True)
    ]
    unknown = [
        path
        for path, chosen in zip(paths, choices, strict=True)
        if chosen.reason == _UNKNOWN
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


def _globs(only: Any) -> list[str] | None:
    if only is None:
        return None
    globs = [only] if isinstance(only, str) else only
    if (
        not isinstance(globs, (list, tuple))
        or not globs
        or not all(isinstance(glob, str) for glob in globs)
    ):
        raise fail(TypeError, "only", "a glob or a list of globs, such as 'head/*'", only)
    return list(globs)


def _anew(owned: OwnedWeight, given: Any, globs: list[str] | None) -> Chosen:
    if globs and not any(glob_matches(glob, owned.variable.path) for glob in globs):
        return Chosen(reason="not in `only`")
    if hasattr(owned.layer, "adapt"):
        return Chosen(reason="adapted to data")
    if getattr(owned.layer, "quantization_mode", None):
        return Chosen(reason="quantized")
    if given is None:
        return Chosen(reason=_UNKNOWN)
    return Chosen(given, own_seed=False)


def _carried_out(
    model: keras.Layer,
    weights: list[OwnedWeight],
    choices: list[Chosen],
    seed: Any,
    dry_run: bool,
    reset_optimizer: bool,
) -> StartReport:
    seed = fresh_seed() if seed is None else integer("seed", seed, 0, 2**64)
    plan = Plan(zip(weights, choices, strict=True), seed)
    if dry_run:
        return plan.report()
    optimizer = getattr(model, "optimizer", None)
    state = []
    if reset_optimizer and optimizer is not None and optimizer.built:
        state = new_optimizer_state(optimizer)
    report = plan.carry_out()
    for variable, new in state:
        variable.assign(new)
    for owned, chosen in zip(weights, choices, strict=True):
        if chosen.initializer is not None:
            give(owned.layer, owned.variable, chosen.initializer)
    return report
