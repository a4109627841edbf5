"""Normal initializers whose standard deviation is given, not counted."""

from collections.abc import Sequence
from typing import Any

from keras_fanwise.arguments import positive, real
from keras_fanwise.initializers.base import Distribution, FanwiseInitializer, Seed, Site


class FanwiseNormal(FanwiseInitializer):
    """Draws from a normal distribution, not truncated.

    Args:
        mean: a number.
        stddev: a number above 0. The default is DCGAN's.
        seed: an integer, for the same values in every run; `None`, for new ones; or a
            `keras.random.SeedGenerator`, whose state advances with every draw.
        sampler: `"portable"`, the same bits on every backend, or `"backend"`,
            which calls `keras.random`.

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
    features start at slightly different scales instead of all at one.

    Args:
        mean: a number.
        stddev: a number above 0.
        seed: an integer, for the same values in every run; `None`, for new ones; or a
            `keras.random.SeedGenerator`, whose state advances with every draw.
        sampler: `"portable"` or `"backend"`; see `FanwiseNormal`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range or unknown.

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
