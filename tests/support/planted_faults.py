"""Faults of a start, each planted into one random weight of a model, and taken out again."""

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

import keras_fanwise as kf
from keras_fanwise.seam.record import weight_initializers
from keras_fanwise.seam.weights import OwnedWeight, owned_weights

from support.models import values_of

RANDOM = keras.initializers


class Planted(NamedTuple):
    """A fault in a model.

    Attributes:
        path: of the weight.
        others: paths of weights that can be named just as well: those with equal values.
        layer: the path of the layer that has the weight.
    """

    path: str
    layer: str
    others: tuple[str, ...] = ()


class Fault(NamedTuple):
    """A kind of fault.

    Attributes:
        fits: whether it would be a fault of a weight.
        initializer: makes one that draws it, for a weight; or `None`.
        spoil: what becomes of the values of a weight; or `None`.
        seen_by: `"audit"`, or `"signal"` if the weights by themselves are in order.
    """

    fits: Callable[[OwnedWeight], bool]
    initializer: Callable[[random.Random, OwnedWeight], Any] | None = None
    spoil: Callable[[random.Random, np.ndarray], np.ndarray] | None = None
    seen_by: str = "audit"


def _is_kernel(owned: OwnedWeight) -> bool:
    return owned.variable.name.endswith("kernel") and len(owned.variable.shape) > 1


def _is_random(owned: OwnedWeight) -> bool:
    return _is_kernel(owned) or owned.variable.name == "embeddings"


def _counts_as_keras(owned: OwnedWeight) -> bool:
    """Whether Keras's fans are the layer's, so that what it draws is as large as it says."""
    return (
        type(owned.layer) in (keras.layers.Dense, keras.layers.Conv2D)
        and getattr(owned.layer, "groups", 1) == 1
        and set(getattr(owned.layer, "strides", (1,))) == {1}
    )


def _is_dense(owned: OwnedWeight) -> bool:
    """Of a kernel that joins channels: orthogonal ones are smaller where it does not."""
    depthwise = (keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
    return _is_kernel(owned) and not isinstance(owned.layer, depthwise)


def _before_relu(owned: OwnedWeight) -> bool:
    return (
        owned.variable.name == "bias"
        and getattr(owned.layer, "activation", None) is keras.activations.relu
    )


def _has_two_units(owned: OwnedWeight) -> bool:
    return _is_random(owned) and owned.variable.shape[-1] > 1


def _seed(rng: random.Random) -> int:
    return rng.randrange(2**31)


def _normal_of_10(rng: random.Random, _: OwnedWeight) -> Any:
    return RANDOM.RandomNormal(stddev=10.0, seed=_seed(rng))


def _uniform_from_0(rng: random.Random, _: OwnedWeight) -> Any:
    return RANDOM.RandomUniform(0.0, 1.0, seed=_seed(rng))


def _mean_of_a_half(rng: random.Random, _: OwnedWeight) -> Any:
    return RANDOM.RandomNormal(mean=0.5, seed=_seed(rng))


def _orthogonal_of_10(rng: random.Random, _: OwnedWeight) -> Any:
    return RANDOM.Orthogonal(gain=10.0, seed=_seed(rng))


def _scale_of_100(rng: random.Random, owned: OwnedWeight) -> Any:
    ours = not _counts_as_keras(owned) or rng.random() < 0.5
    cls = kf.FanwiseVarianceScaling if ours else RANDOM.VarianceScaling
    return cls(scale=100.0, seed=_seed(rng))


def _function(rng: random.Random, owned: OwnedWeight) -> Any:
    """One that draws what another fault does, and tells nobody."""
    drawn = rng.choice([_normal_of_10, _uniform_from_0, _mean_of_a_half, _scale_of_100])
    inner = drawn(rng, owned)
    if isinstance(inner, kf.FanwiseVarianceScaling):
        inner = RANDOM.RandomNormal(stddev=10.0, seed=_seed(rng))

    def draw(shape: Sequence[int], dtype: Any = None) -> Any:
        return inner(shape, dtype=dtype)

    return draw


def _equal_units(rng: random.Random, values: np.ndarray) -> np.ndarray:
    one, other = rng.sample(range(values.shape[-1]), 2)
    values[..., one] = values[..., other]
    return values


def _not_a_number(rng: random.Random, values: np.ndarray) -> np.ndarray:
    values.reshape(-1)[rng.randrange(values.size)] = np.nan
    return values


# The copied kernel is planted by `plant`, as it takes two.
COPIED = "a copied kernel"

FAULTS: dict[str, Fault] = {
    "RandomNormal(stddev=10)": Fault(_is_random, _normal_of_10),
    "RandomUniform(0, 1)": Fault(_is_random, _uniform_from_0),
    "RandomNormal(mean=0.5)": Fault(_is_random, _mean_of_a_half),
    "Orthogonal(gain=10)": Fault(_is_dense, _orthogonal_of_10),
    "VarianceScaling(100)": Fault(_is_random, _scale_of_100),
    "a function that draws such": Fault(_is_random, _function),
    "a scale of 1/10,000": Fault(
        _is_kernel,
        lambda rng, _: kf.FanwiseVarianceScaling(scale=1e-4, seed=_seed(rng)),
    ),
    "a constant kernel": Fault(_is_kernel, lambda rng, _: RANDOM.Constant(0.05)),
    "two equal units": Fault(_has_two_units, spoil=_equal_units),
    COPIED: Fault(_is_random),
    "a NaN": Fault(lambda _: True, spoil=_not_a_number),
    "a bias of -1,000,000": Fault(
        lambda w: w.variable.name in ("bias", "beta"),
        lambda rng, _: RANDOM.Constant(-1e6),
    ),
    "a dead layer, bias -9": Fault(
        _before_relu, lambda rng, _: RANDOM.Constant(-9.0), seen_by="signal"
    ),
}


@contextlib.contextmanager
def planted(model: keras.Model, name: str, seed: int) -> Iterator[Planted | None]:
    """A model with one fault, by an initializer that draws it or in place of its values.

    `None` if no weight of the model can have it. Afterwards the model is as before.
    """
    rng = random.Random(f"{name} {seed}")
    fault = FAULTS[name]
    weights = [w for w in owned_weights(model) if "float" in w.variable.dtype]
    fitting = [owned for owned in weights if fault.fits(owned)]
    if name == COPIED:
        with _copied(rng, fitting) as copy:
            yield copy
        return
    if not fitting:
        yield None
        return
    owned = rng.choice(fitting)
    variable = owned.variable
    [before], values = weight_initializers([owned]), values_of(variable)
    try:
        if fault.initializer is not None:
            kf.initialize(model, {variable.path: fault.initializer(rng, owned)}, seed=seed)
            if rng.random() < 0.5:  # its layer does not know
                spoiled = values_of(variable)
                _give_back(model, owned, before)
                variable.assign(spoiled)
        else:
            variable.assign(fault.spoil(rng, values.copy()))
        yield Planted(variable.path, owned.layer.path)
    finally:
        _give_back(model, owned, before)
        variable.assign(values)


def _give_back(model: keras.Model, owned: OwnedWeight, initializer: Any) -> None:
    kf.initialize(model, {owned.variable.path: initializer}, seed=0)


@contextlib.contextmanager
def _copied(rng: random.Random, weights: Sequence[OwnedWeight]) -> Iterator[Planted | None]:
    pairs = [
        (one, other)
        for place, one in enumerate(weights)
        for other in weights[:place]
        if one.variable.shape == other.variable.shape
    ]
    if not pairs:
        yield None
        return
    one, other = rng.choice(pairs)
    values = values_of(one.variable)
    try:
        one.variable.assign(other.variable)
        yield Planted(one.variable.path, one.layer.path, (other.variable.path,))
    finally:
        one.variable.assign(values)


def outcome(model: keras.Model, name: str, seed: int) -> str | None:
    """What a fault is found as: a level of `audit`'s findings, or by `"signal"`.

    `""` if it is not found, or another weight is blamed; `None` if no weight can have it.
    `signal` is asked only about faults that weights by themselves do not show.
    """
    with planted(model, name, seed) as fault:
        if fault is None:
            return None
        found = _named_by_audit(kf.audit(model), fault)
        if found or FAULTS[name].seen_by == "audit":
            return found
        return "signal" if _named_by_signal(kf.signal(model), fault) else ""


def _named_by_audit(report: Any, fault: Planted) -> str:
    """That values depart from their initializer says nothing of a fault: it is left out."""
    named = [f for f in report.findings if f.condition.label != "initializer"]
    right = {fault.path, *fault.others}
    if any(f.severity == "error" and f.path not in right for f in named):
        return ""
    severities = {f.severity for f in named if f.path in right}
    return next((one for one in ("error", "warning", "note") if one in severities), "")


def _named_by_signal(report: Any, fault: Planted) -> bool:
    return any(f.path.split(" (")[0] == fault.layer for f in report.findings)
