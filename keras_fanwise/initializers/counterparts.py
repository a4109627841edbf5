"""An initializer whose values are those of another, times a factor."""

import types
from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import numpy as np

from keras_fanwise.arguments import fail
from keras_fanwise.fans.layers import Matrices
from keras_fanwise.initializers import variance_scaling
from keras_fanwise.initializers.base import (
    Distribution,
    FanwiseInitializer,
    Seed,
    Site,
    checked_shape_and_dtype,
)
from keras_fanwise.initializers.orthogonal import FanwiseOrthogonal
from keras_fanwise.initializers.variance_scaling import FanwiseVarianceScaling

# Arguments, of Keras's initializers and ours, that the values are proportional to.
_PROPORTIONAL = ("gain", "maxval", "mean", "minval", "stddev", "value")


def scaled(initializer: Any, factor: float, argument: str) -> Any:
    """An initializer of Keras or of this package, times a factor.

    Args:
        initializer: an instance.
        factor: that the values are multiplied by.
        argument: what to call it in an error.

    Raises:
        ValueError: it is of somebody else.

    Example:

    >>> scaled(FanwiseVarianceScaling(2.0), 0.5, "recipe")
    FanwiseVarianceScaling(scale=0.5)
    """
    if isinstance(initializer, keras.initializers.Zeros):
        return initializer
    if isinstance(initializer, keras.initializers.Ones):
        return keras.initializers.Constant(factor)
    ours = portable(initializer) or initializer
    if isinstance(ours, FanwiseVarianceScaling):
        # The named ones of the family have no scale among their arguments.
        config = FanwiseVarianceScaling.get_config(ours)
        return FanwiseVarianceScaling.from_config(
            {**config, "scale": ours.scale * factor**2}
        )
    is_known = isinstance(initializer, FanwiseInitializer) or (
        getattr(keras.initializers, type(initializer).__name__, None) is type(initializer)
    )
    config = initializer.get_config() if is_known else {}
    changed = {name: config[name] * factor for name in _PROPORTIONAL if name in config}
    if not changed:
        allowed = "None with an initializer that is neither Keras's nor this package's"
        raise fail(ValueError, argument, allowed, initializer)
    return type(initializer).from_config({**config, **changed})


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


class UnitForgetBias(FanwiseInitializer):
    """1 for the forget gate, the second of four, and what another draws for the rest.

    Args:
        initializer: of the rest; of this package, or a random one of Keras's.
        rest: the one of this package that draws what `initializer` does, or the same.

    Reference: Jozefowicz et al. 2015, <https://proceedings.mlr.press/v37/jozefowicz15.html>.
    """

    def __init__(self, initializer: Any, rest: FanwiseInitializer) -> None:
        super().__init__(rest.seed, sampler=rest.sampler)
        self.initializer = initializer
        self._rest = rest

    def expected(self, shape: Sequence[int], site: Site | None = None) -> Distribution:
        """A mixture, of which no standard deviation is expected."""
        return Distribution("unit_forget_bias", np.inf)

    def draw(
        self,
        shape: Sequence[int],
        dtype: Any = None,
        layout: Any = None,
        *,
        site: Site | None = None,
        seed: int | None = None,
        distribution: Distribution | None = None,
    ) -> Any:
        """As `FanwiseInitializer.draw`."""
        rest = self._rest.draw(shape, dtype, layout, site=site, seed=seed)
        (size,), dtype = checked_shape_and_dtype(shape, dtype)
        is_forget = np.arange(size) // (size // 4) == 1
        return keras.ops.where(is_forget, keras.ops.ones((), dtype), rest)

    def weight_seed(self) -> int | None:
        """That of the initializer of the rest."""
        return self._rest.weight_seed()

    def get_config(self) -> dict[str, Any]:
        """The arguments, JSON-serializable."""
        return {
            "initializer": keras.initializers.serialize(self.initializer),
            "seed": self._rest.get_config()["seed"],
        }

    def __repr__(self) -> str:
        rest = self.initializer
        shown = rest if isinstance(rest, FanwiseInitializer) else type(rest).__name__
        return f"{type(self).__name__}({shown})"


def unit_forget_bias(layer: keras.Layer, initializer: Any) -> UnitForgetBias | None:
    """What a function that fills the bias of an LSTM does, if it draws random numbers.

    With `unit_forget_bias=True` a cell wraps its `bias_initializer` into a function, which
    calls it without a word of the weight, and always with the same result.
    """
    if not isinstance(initializer, types.FunctionType) or not (
        getattr(layer, "unit_forget_bias", False)
        and initializer.__qualname__.endswith(".build.<locals>.bias_initializer")
    ):
        return None
    own = layer.bias_initializer
    rest = own if isinstance(own, FanwiseInitializer) else portable(own)
    return UnitForgetBias(own, rest) if rest is not None else None
