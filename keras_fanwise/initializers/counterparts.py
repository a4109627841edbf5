"""Keras's own random initializers, as initializers of this package."""

import math
from collections.abc import Callable
from typing import Any, Literal

import keras
import numpy as np

from keras_fanwise.arguments import fail
from keras_fanwise.backends.sharding import Part
from keras_fanwise.initializers import variance_scaling
from keras_fanwise.initializers.base import RandomInitializer
from keras_fanwise.initializers.scaling import Parameters
from keras_fanwise.initializers.variance_scaling import FanwiseVarianceScaling, Seed
from keras_fanwise.sampling.sampler import DTYPES, aligned_empty

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


def counterpart(initializer: Any) -> FanwiseVarianceScaling | None:
    """Ours of equal scale, mode, distribution and seed, which counts fans by the layer.

    `None` for all but Keras's own variance-scaling initializers.
    """
    return _of_family(initializer, "layer")


def portable(initializer: Any) -> RandomInitializer | None:
    """One that draws from the distribution that a random initializer of Keras draws from.

    It counts fans as Keras does, but the same seed gives the same values on every
    backend. `None` for initializers that are not random or not Keras's.
    """
    known = _OTHERS.get(type(initializer))
    return known(initializer) if known else _of_family(initializer, "shape")


def given_seed(initializer: Any) -> Seed:
    """The seed that an initializer of Keras was made with, generators themselves."""
    if initializer.get_config().get("seed") is None:
        return None
    return initializer.seed


def _of_family(
    initializer: Any, fans: Literal["layer", "shape"]
) -> FanwiseVarianceScaling | None:
    cls = _FAMILY.get(type(initializer))
    if cls is None:
        return None
    config = initializer.get_config()
    own = ("scale", "mode", "distribution") if cls is FanwiseVarianceScaling else ()
    arguments = {name: config[name] for name in own}
    # Keras has them from 3.15 on, and heeds them only if there are both.
    axes = {name: config.get(name) for name in ("input_axes", "output_axes")}
    if None not in axes.values():
        arguments |= axes
    return cls(seed=given_seed(initializer), fans=fans, **arguments)


class _Drawn(RandomInitializer):
    """Draws with parameters that do not depend on the shape."""

    def __init__(self, drawn: Parameters, seed: Seed) -> None:
        super().__init__(seed, "portable")
        self._drawn = drawn

    def _parameters(self, shape: tuple[int, ...]) -> Parameters:
        return self._drawn


class _Orthogonal(RandomInitializer):
    """Rows or columns, whichever are fewer, orthogonal and of length `gain`.

    Reference: Saxe et al. 2014, <https://arxiv.org/abs/1312.6120>, by the QR
    decomposition of a normal matrix with the signs of Mezzadri 2007,
    <https://arxiv.org/abs/math-ph/0609050>, section 5.
    """

    def __init__(self, gain: float, seed: Seed) -> None:
        super().__init__(seed, "portable")
        self._gain = gain

    def _parameters(self, shape: tuple[int, ...]) -> Parameters:
        if len(shape) < 2:
            raise fail(ValueError, "shape", "of two axes or more", shape)
        longest = max(math.prod(shape[:-1]), shape[-1])
        return Parameters("untruncated_normal", self._gain / math.sqrt(longest))

    def _parts(self, shape: tuple[int, ...], dtype: str, drawn: Parameters) -> Part:
        rows, columns = math.prod(shape[:-1]), shape[-1]
        tall = max(rows, columns), min(rows, columns)
        # In float64, so that on a machine all backends round the same numbers.
        normals = super()._parts(tall, "float64", drawn._replace(spread=1.0))(None)
        q, r = np.linalg.qr(normals)
        q *= np.copysign(self._gain, np.diag(r))
        values = aligned_empty(q.size, DTYPES[dtype]).reshape(rows, columns)
        values[:] = q if rows >= columns else q.T
        whole = values.reshape(shape)
        return lambda index: whole if index is None else whole[tuple(index)].copy()


_OTHERS: dict[type, Callable[[Any], RandomInitializer]] = {
    keras.initializers.RandomNormal: lambda own: _Drawn(
        Parameters("untruncated_normal", own.stddev, own.mean), given_seed(own)
    ),
    keras.initializers.TruncatedNormal: lambda own: _Drawn(
        Parameters("truncated_normal", own.stddev, own.mean), given_seed(own)
    ),
    keras.initializers.RandomUniform: lambda own: _Drawn(
        Parameters("uniform", (own.maxval - own.minval) / 2, (own.maxval + own.minval) / 2),
        given_seed(own),
    ),
    keras.initializers.Orthogonal: lambda own: _Orthogonal(own.gain, given_seed(own)),
}
