"""Keras's own random initializers, as initializers of this package."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras

from keras_fanwise.fans.maps import Matrices
from keras_fanwise.initializers import variance_scaling
from keras_fanwise.initializers.base import FanwiseInitializer, Seed
from keras_fanwise.initializers.orthogonal import FanwiseOrthogonal
from keras_fanwise.initializers.scaling import Distribution
from keras_fanwise.initializers.site import Site
from keras_fanwise.initializers.variance_scaling import FanwiseVarianceScaling

_FAMILY: dict[type, type[FanwiseVarianceScaling]] = {
    getattr(keras.initializers, name): getattr(variance_scaling, f"Fanwise{name}")
    for name in (
        "GlorotNormal",
        "GlorotUniform",
        "HeNormal",
        "HeUniform",
        "LecunNormal",
        "LecunUniform",
        "VarianceScaling",
    )
}


def counterpart(initializer: Any, axes: bool = True) -> FanwiseVarianceScaling | None:
    """Ours of equal scale, mode, distribution and seed, which counts fans by the layer.

    `None` for all but Keras's own variance-scaling initializers.

    Args:
        initializer: of Keras, perhaps.
        axes: whether axes that it has go before the layer. They do not where `EinsumDense`
            set them, from Keras 3.15 on: it counts its batch labels.
    """
    return _of_family(initializer, "layer", axes)


def orthogonal_counterpart(initializer: Any) -> FanwiseOrthogonal | None:
    """Ours of equal gain and seed, over the axes that the layer's linear map has.

    `None` for all but Keras's own `Orthogonal` of a positive gain.
    """
    if type(initializer) is not keras.initializers.Orthogonal or initializer.gain <= 0:
        return None
    return FanwiseOrthogonal(initializer.gain, own_seed_of(initializer))


def portable(initializer: Any) -> FanwiseInitializer | None:
    """One that draws from the distribution that a random initializer of Keras draws from.

    It counts fans as Keras does, but the same seed gives the same values on every
    backend. `None` for initializers that are not random or not Keras's.
    """
    known = _OTHERS.get(type(initializer))
    return known(initializer) if known else _of_family(initializer, "shape", True)


def is_random(initializer: Any) -> bool:
    """Whether it is one of Keras's own that `portable` knows; no instance of a subclass."""
    return type(initializer) in _OTHERS or type(initializer) in _FAMILY


def own_seed_of(initializer: Any) -> Seed:
    """The seed that an initializer was made with, generators themselves."""
    if initializer.get_config().get("seed") is None:
        return None
    return initializer.seed


def _of_family(
    initializer: Any, fans: Literal["layer", "shape"], axes: bool
) -> FanwiseVarianceScaling | None:
    cls = _FAMILY.get(type(initializer))
    if cls is None:
        return None
    config = initializer.get_config()
    own = ("scale", "mode", "distribution") if cls is FanwiseVarianceScaling else ()
    arguments = {name: config[name] for name in own}
    # Keras has them from 3.15 on, and heeds them only if there are both.
    both = {name: config.get(name) for name in ("input_axes", "output_axes")}
    if axes and None not in both.values():
        arguments |= both
    return cls(seed=own_seed_of(initializer), fans=fans, **arguments)


class _OfDistribution(FanwiseInitializer):
    """Draws from one distribution, whatever the shape."""

    def __init__(self, distribution: Distribution, seed: Seed) -> None:
        super().__init__(seed)
        self._distribution = distribution

    def expected(self, shape: Sequence[int], site: Site | None = None) -> Distribution:
        return self._distribution


class _Orthogonal(FanwiseOrthogonal):
    """By Keras's rule: rows or columns, whichever are fewer, of the flattened weight."""

    def __init__(self, gain: float, seed: Seed) -> None:
        super().__init__(seed=seed)
        self.gain = gain  # of Keras, which takes any number

    def whole(self, shape: Sequence[int], site: Site | None = None) -> Matrices:
        return super().whole(shape)


_OTHERS: dict[type, Callable[[Any], FanwiseInitializer]] = {
    keras.initializers.RandomNormal: lambda own: _OfDistribution(
        Distribution("untruncated_normal", own.stddev, own.mean), own_seed_of(own)
    ),
    keras.initializers.TruncatedNormal: lambda own: _OfDistribution(
        Distribution("truncated_normal", own.stddev, own.mean), own_seed_of(own)
    ),
    keras.initializers.RandomUniform: lambda own: _OfDistribution(
        Distribution(
            "uniform", (own.maxval - own.minval) / 2, (own.maxval + own.minval) / 2
        ),
        own_seed_of(own),
    ),
    keras.initializers.Orthogonal: lambda own: _Orthogonal(own.gain, own_seed_of(own)),
}
