"""Keras's own random initializers, as initializers of this package."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import numpy as np

from keras_fanwise.arguments import fail
from keras_fanwise.initializers import variance_scaling
from keras_fanwise.initializers.base import FanwiseInitializer, Seed
from keras_fanwise.initializers.scaling import Distribution
from keras_fanwise.initializers.site import Site
from keras_fanwise.initializers.variance_scaling import FanwiseVarianceScaling
from keras_fanwise.sampling.sampler import Stream

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


class _Orthogonal(FanwiseInitializer):
    """Rows or columns, whichever are fewer, orthogonal and of length `gain`.

    Reference: Saxe et al. 2014, <https://arxiv.org/abs/1312.6120>, by the QR
    decomposition of a normal matrix with the signs of Mezzadri 2007,
    <https://arxiv.org/abs/math-ph/0609050>, section 5.
    """

    def __init__(self, gain: float, seed: Seed) -> None:
        super().__init__(seed)
        self._gain = gain

    def expected(self, shape: Sequence[int], site: Site | None = None) -> Distribution:
        if len(shape) < 2:
            raise fail(ValueError, "shape", "of two axes or more", shape)
        longest = max(math.prod(shape[:-1]), shape[-1])
        return Distribution("orthogonal", self._gain / math.sqrt(longest))

    def sample(
        self,
        stream: Stream,
        distribution: Distribution,
        shape: tuple[int, ...],
        dtype: str,
        index: Sequence[slice] | None = None,
        site: Site | None = None,
    ) -> np.ndarray:
        rows, columns = math.prod(shape[:-1]), shape[-1]
        tall = max(rows, columns), min(rows, columns)
        # In float64, so that on a machine all backends round the same numbers.
        q, r = np.linalg.qr(stream.draw("untruncated_normal", tall, "float64"))
        q *= np.copysign(self._gain, np.diag(r))
        values = (q if rows >= columns else q.T).reshape(shape)
        return values if index is None else values[tuple(index)]


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
