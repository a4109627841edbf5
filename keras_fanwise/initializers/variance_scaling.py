"""Independent values: of the variance-scaling family, and of a deviation that is given."""

import copy
import inspect
import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from keras_fanwise.arguments import choice, fail, flag, positive, real, snake_case
from keras_fanwise.fans.counting import Fans, axes_fans, shape_fans, validated_axes
from keras_fanwise.initializers.base import (
    DISTRIBUTIONS,
    TRUNCATED_STD,
    Distribution,
    FanwiseInitializer,
    Seed,
    Site,
)

MODES = ("fan_in", "fan_out", "fan_avg", "fan_geo_avg")
_RECIPE = ("scale", "mode", "distribution")  # what the name of a member of the family says
FansArgument: TypeAlias = Literal["layer", "shape"] | Sequence[float]


def effective_fan(fans: Fans, mode: str) -> float:
    """The number that the variance is divided by; below 1 it counts as 1, as in Keras."""
    fan = {
        "fan_in": fans.fan_in,
        "fan_out": fans.fan_out,
        "fan_avg": (fans.fan_in + fans.fan_out) / 2.0,  # Glorot and Bengio 2010, eq. 12
        "fan_geo_avg": math.sqrt(fans.fan_in * fans.fan_out),
    }[mode]
    return max(1.0, fan)


class FanwiseVarianceScaling(FanwiseInitializer):
    """Draws weights of mean 0 whose variance is `scale / fan`.

    Args:
        scale: a number above 0.
        mode: which fan: `"fan_in"`, `"fan_out"`, `"fan_avg"` (their mean) or
            `"fan_geo_avg"` (the square root of their product). Below 1 it counts as 1.
        distribution: `"truncated_normal"` (or `"normal"`, as in Keras), truncated at two
            standard deviations, and corrected so that what comes out has the variance;
            `"untruncated_normal"`; or `"uniform"` in `(-limit, limit)`, where `limit` is
            `sqrt(3 * scale / fan)`.
        seed: an integer, for the same values in every run; `None`, for new ones; or a
            `keras.random.SeedGenerator`, whose state advances with every draw.
        fans: `"layer"` counts the fans by the layer that is being built, and by the shape
            outside a layer; `"shape"` by the shape everywhere, as Keras does; a pair
            `(fan_in, fan_out)` is taken as given.
        input_axes: list of the axes whose dimensions multiply to fan_in. Goes with
            `output_axes`; together they win over `fans`.
        output_axes: list of the axes whose dimensions multiply to fan_out.
        sampler: as of `FanwiseInitializer`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range or unknown.

    Reference: He et al. 2015, <https://arxiv.org/abs/1502.01852>, equations 10 and
    14; Glorot and Bengio 2010, <https://proceedings.mlr.press/v9/glorot10a.html>,
    equation 12.

    Example:

    >>> import keras
    >>> initializer = FanwiseVarianceScaling(2.0, "fan_out", "uniform", seed=1)
    >>> initializer((3, 3, 16, 32)).shape == (3, 3, 16, 32)
    True
    >>> layer = keras.layers.Dense(8, kernel_initializer=initializer)
    """

    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: Seed = None,
        *,
        fans: FansArgument = "layer",
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
        sampler: str = "portable",
    ) -> None:
        super().__init__(seed, sampler=sampler)
        self.scale = positive("scale", scale)
        self.mode = choice("mode", mode, MODES)
        if isinstance(distribution, str) and distribution.lower() == "normal":
            distribution = "truncated_normal"
        self.distribution = choice("distribution", distribution, DISTRIBUTIONS)
        self.fans = _validated_fans(fans)
        self.input_axes, self.output_axes = validated_axes(input_axes, output_axes)

    def expected(self, shape: Sequence[int], site: Site | None = None) -> Distribution:
        """Of mean 0 and variance `scale / fan`; a ValueError if the axes do not fit."""
        if self.input_axes is not None and self.output_axes is not None:
            fans = axes_fans(shape, self.input_axes, self.output_axes)
        elif not isinstance(self.fans, str):
            fans = Fans(*self.fans)
        else:
            fans = site.fans if site and self.fans == "layer" else shape_fans(shape)
        # The order of the operations is Keras's, for the same bits.
        variance = self.scale / effective_fan(fans, self.mode)
        spread = math.sqrt(3.0 * variance if self.distribution == "uniform" else variance)
        if self.distribution == "truncated_normal":
            spread /= TRUNCATED_STD
        return Distribution(self.distribution, spread)

    def get_config(self) -> dict[str, Any]:
        names = *_RECIPE, "fans", "input_axes", "output_axes"
        # A copy, so that a changed config changes no initializer.
        own = {name: copy.copy(getattr(self, name)) for name in names}
        return own | super().get_config()


def _validated_fans(fans: Any) -> str | list[float]:
    if isinstance(fans, str) and fans in ("layer", "shape"):
        return fans
    kind = ValueError if isinstance(fans, (str, list, tuple)) else TypeError
    if isinstance(fans, (list, tuple)) and len(fans) == 2:
        try:
            return [positive("fans", fan) for fan in fans]
        except (TypeError, ValueError) as error:
            kind = type(error)
    allowed = "'layer', 'shape' or a pair of numbers above 0, (fan_in, fan_out)"
    raise fail(kind, "fans", allowed, fans)


class _Named(FanwiseVarianceScaling):
    """A member of the family: scale, mode and distribution are the class's own."""

    _recipe: tuple[float, str, str]

    def __init__(
        self,
        seed: Seed = None,
        *,
        fans: FansArgument = "layer",
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
        sampler: str = "portable",
    ) -> None:
        super().__init__(
            *self._recipe,
            seed,
            fans=fans,
            input_axes=input_axes,
            output_axes=output_axes,
            sampler=sampler,
        )

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {name: config[name] for name in config if name not in _RECIPE}


class _He(_Named):
    """Scale `2 / (1 + negative_slope**2)`: what a (leaky) ReLU takes away, put back."""

    def __init__(
        self,
        seed: Seed = None,
        *,
        negative_slope: float = 0.0,
        fans: FansArgument = "layer",
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
        sampler: str = "portable",
    ) -> None:
        super().__init__(
            seed, fans=fans, input_axes=input_axes, output_axes=output_axes, sampler=sampler
        )
        self.negative_slope = real("negative_slope", negative_slope)
        self.scale = 2.0 / (1.0 + self.negative_slope * self.negative_slope)
        if self.scale == 0.0:
            raise fail(ValueError, "negative_slope", "below 1e154", negative_slope)

    def get_config(self) -> dict[str, Any]:
        return {"negative_slope": self.negative_slope, **super().get_config()}


def _member(cls: type[_Named]) -> type[_Named]:
    """The class, whose text goes on like the family's, from the argument `seed` on."""
    shared = (inspect.getdoc(FanwiseVarianceScaling) or "").partition("Args:\n")[2]
    arguments = shared[shared.find("    seed:") : shared.find("\n\nReference")]
    if issubclass(cls, _He):
        slope = "    negative_slope: `a`, the activation's slope left of 0; 0 by default."
        arguments = f"{slope}\n{arguments}"
    cls.__doc__ = f"""{inspect.getdoc(cls)}

Args:
{arguments}

Example:

>>> import keras
>>> layer = keras.layers.Dense(8, kernel_initializer="{snake_case(cls.__name__)}")
>>> values = {cls.__name__}(seed=1)((64, 64))
"""
    return cls


@_member
class FanwiseGlorotNormal(_Named):
    """Glorot's (Xavier's) normal initializer: `stddev = sqrt(2 / (fan_in + fan_out))`.

    Truncated at two standard deviations. A compromise between a signal that keeps its
    variance on the way forward and gradients that keep theirs on the way back, for layers
    that are linear around 0, such as tanh.

    Reference: Glorot and Bengio 2010, <https://proceedings.mlr.press/v9/glorot10a.html>,
    equation 12.
    """

    _recipe = (1.0, "fan_avg", "truncated_normal")


@_member
class FanwiseGlorotUniform(_Named):
    """Glorot's (Xavier's) uniform initializer: `limit = sqrt(6 / (fan_in + fan_out))`.

    Uniform in `(-limit, limit)`, for layers that are linear around 0, such as tanh.

    Reference: Glorot and Bengio 2010, <https://proceedings.mlr.press/v9/glorot10a.html>,
    equation 16.
    """

    _recipe = (1.0, "fan_avg", "uniform")


@_member
class FanwiseLecunNormal(_Named):
    """LeCun's normal initializer: `stddev = sqrt(1 / fan_in)`.

    Truncated at two standard deviations. A linear layer gives out the variance that it
    takes in. The one for selu.

    Reference: LeCun et al. 1998, Efficient BackProp, section 4.6, equation 16;
    Klambauer et al. 2017, <https://arxiv.org/abs/1706.02515>.
    """

    _recipe = (1.0, "fan_in", "truncated_normal")


@_member
class FanwiseLecunUniform(_Named):
    """LeCun's uniform initializer: `limit = sqrt(3 / fan_in)`.

    Uniform in `(-limit, limit)`, with the variance of `FanwiseLecunNormal`.

    Reference: LeCun et al. 1998, Efficient BackProp, section 4.6, equation 16.
    """

    _recipe = (1.0, "fan_in", "uniform")


@_member
class FanwiseHeNormal(_He):
    """He's (Kaiming's) normal initializer: `stddev = sqrt(2 / ((1 + a**2) fan_in))`.

    Truncated at two standard deviations. The signal keeps its variance through a layer
    and the ReLU (`a = 0`) or leaky ReLU of negative slope `a` that follows it.

    Reference: He et al. 2015, <https://arxiv.org/abs/1502.01852>, equations 10 and 15.
    """

    _recipe = (2.0, "fan_in", "truncated_normal")


@_member
class FanwiseHeUniform(_He):
    """He's (Kaiming's) uniform initializer: `limit = sqrt(6 / ((1 + a**2) fan_in))`.

    Uniform in `(-limit, limit)`, with the variance of `FanwiseHeNormal`.

    Reference: He et al. 2015, <https://arxiv.org/abs/1502.01852>, equations 10 and 15.
    """

    _recipe = (2.0, "fan_in", "uniform")


class FanwiseSiren(FanwiseInitializer):
    """The weights of an implicit network whose activation is `sin(omega * x)`.

    Uniform within `sqrt(6 / fan_in) / omega`, so that each sine gets a standard normal,
    however deep it is; of the first layer, which gets coordinates from -1 to 1, uniform
    within `1 / fan_in`, so that its sines span some `omega` radians.

    Args:
        omega: the frequency by which the layers multiply: a number above 0.
        first: whether it is for the first layer.
        seed: as of `FanwiseInitializer`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: `omega` or `seed` is out of range.

    Reference: Sitzmann et al. 2020, <https://arxiv.org/abs/2006.09661>, section 3.2 and
    the supplement's 1.5.

    Example:

    >>> import keras
    >>> first = keras.layers.Dense(64, kernel_initializer=FanwiseSiren(first=True))
    >>> hidden = keras.layers.Dense(64, kernel_initializer="fanwise_siren")
    >>> sine = keras.layers.Lambda(lambda x: keras.ops.sin(30.0 * x))
    """

    def __init__(self, omega: float = 30.0, first: bool = False, seed: Seed = None) -> None:
        super().__init__(seed)
        self.omega = positive("omega", omega)
        self.first = flag("first", first)

    def expected(self, shape: Sequence[int], site: Site | None = None) -> Distribution:
        """Uniform, by the fan_in of the weight; outside a layer, by its shape."""
        fan_in = effective_fan(site.fans if site else shape_fans(shape), "fan_in")
        limit = 1.0 / fan_in if self.first else math.sqrt(6.0 / fan_in) / self.omega
        return Distribution("uniform", limit)

    def get_config(self) -> dict[str, Any]:
        seed = super().get_config()["seed"]
        return {"omega": self.omega, "first": self.first, "seed": seed}


class FanwiseNormal(FanwiseInitializer):
    """Draws from a normal distribution, not truncated.

    Args:
        mean: a number.
        stddev: a number above 0. The default is DCGAN's.
        seed, sampler: as of `FanwiseInitializer`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range or unknown.

    Reference: Radford et al. 2016, <https://arxiv.org/abs/1511.06434>, section 4.

    Example:

    >>> import keras
    >>> layer = keras.layers.Conv2D(8, 4, kernel_initializer="fanwise_normal")
    >>> values = FanwiseNormal(stddev=0.1, seed=1)((64, 64))
    """

    def __init__(
        self,
        mean: float = 0.0,
        stddev: float = 0.02,
        seed: Seed = None,
        *,
        sampler: str = "portable",
    ) -> None:
        super().__init__(seed, sampler=sampler)
        self.mean = real("mean", mean)
        self.stddev = positive("stddev", stddev)

    def expected(self, shape: Sequence[int], site: Site | None = None) -> Distribution:
        """What is drawn, whatever the shape."""
        return Distribution("untruncated_normal", self.stddev, self.mean)

    def get_config(self) -> dict[str, Any]:
        return {"mean": self.mean, "stddev": self.stddev, **super().get_config()}


class FanwiseGammaNoise(FanwiseNormal):
    """Draws BatchNormalization's γ from a normal around 1.

    γ ~ N(1, 0.02²) is how DCGAN implementations start normalization layers: the
    features start at slightly different scales instead of all at one. It is a
    `FanwiseNormal` whose `mean` is 1 by default.

    Reference: the reference code of Radford et al. 2016,
    <https://arxiv.org/abs/1511.06434>; the paper's section 4 gives the 0.02.

    Example:

    >>> import keras
    >>> layer = keras.layers.BatchNormalization(gamma_initializer="fanwise_gamma_noise")
    >>> layer.build((None, 64))
    >>> gamma = keras.ops.convert_to_numpy(layer.gamma)
    >>> bool(0.9 < gamma.min() < 1 < gamma.max() < 1.1)
    True
    """

    def __init__(
        self,
        mean: float = 1.0,
        stddev: float = 0.02,
        seed: Seed = None,
        *,
        sampler: str = "portable",
    ) -> None:
        super().__init__(mean, stddev, seed, sampler=sampler)
