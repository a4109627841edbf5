"""A weight, measured, with what it should come from."""

import math
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_fanwise.diagnostics.evidence import Evidence, evidence
from keras_fanwise.fans.counting import Fans
from keras_fanwise.initializers.base import FanwiseInitializer
from keras_fanwise.initializers.counterparts import counterpart, portable
from keras_fanwise.initializers.scaling import DISTRIBUTIONS, Distribution
from keras_fanwise.initializers.site import Site
from keras_fanwise.initializers.variance_scaling import FanwiseVarianceScaling
from keras_fanwise.seam.owners import FIXED_KERNELS, OwnedWeight

# Scales that fit an activation: He's is 2, and the gain of a sigmoid 1.85, its square 3.4.
FAIR_SCALES = (0.25, 4.0)


class MeasuredWeight(NamedTuple):
    """A weight with what is known of it.

    Attributes:
        owned: the weight and its layer.
        values: its values.
        fans: as `layer_fans` counts them.
        initializer: that fills it; `None` if nobody knows.
        drawn: the distribution that its initializer draws from, with the fans that it
            counts; `None` if it is not random or not known.
        asked: the distribution that its initializer would draw from with the fans of the
            layer.
        scale: the variance times the fan, of initializers that know fans.
        evidence: how far the values are from `drawn`.
    """

    owned: OwnedWeight
    values: np.ndarray
    fans: Fans
    initializer: Any
    drawn: Distribution | None
    asked: Distribution | None
    scale: float | None
    evidence: Evidence

    @classmethod
    def of(cls, owned: OwnedWeight, initializer: Any) -> "MeasuredWeight":
        """Measures a weight that an initializer filled."""
        variable = owned.variable
        values = keras.ops.convert_to_numpy(variable.value)
        site = Site.of(owned.layer, variable.name, variable.shape)
        draws: FanwiseInitializer | None
        counts: FanwiseInitializer | None
        if isinstance(initializer, FanwiseInitializer):
            draws = counts = initializer
        else:
            draws = portable(initializer)
            counts = counterpart(initializer, axes=False) or draws
        drawn, asked = _expected(draws, site), _expected(counts, site)
        scale = counts.scale if isinstance(counts, FanwiseVarianceScaling) else None
        mean, std = (drawn.mean, drawn.std) if drawn else (0.0, 0.0)
        found = evidence(values, mean, std)
        return cls(owned, values, site.fans, initializer, drawn, asked, scale, found)

    @property
    def name(self) -> str:
        return str(self.owned.variable.name)

    @property
    def is_kernel(self) -> bool:
        return self.owned.is_kernel

    @property
    def is_lookup(self) -> bool:
        return self.name.endswith("embeddings")

    @property
    def is_bias(self) -> bool:
        return self.name.endswith(("bias", "beta"))

    @property
    def is_gamma(self) -> bool:
        return self.name.endswith("gamma")

    @property
    def is_dense(self) -> bool:
        """Whether none of its values are meant to be 0; initializers of others may."""
        return self.drawn is None or self.drawn.family in DISTRIBUTIONS

    @property
    def support(self) -> np.ndarray:
        """Its values without what is 0 all along an axis, where they are not dense.

        Of a delta-orthogonal kernel the central taps.
        """
        if self.is_dense or not np.any(self.values):
            return self.values
        axes = range(self.values.ndim)
        others = [tuple(other for other in axes if other != axis) for axis in axes]
        return self.values[np.ix_(*(np.any(self.values, axis=each) for each in others))]

    @property
    def is_random(self) -> bool:
        """Whether its values should look like draws: not those of, say, `identity`.

        Those of `zeros` should, too, if they are no zeros any more.
        """
        if self.drawn is not None or not self.is_kernel:
            return self.drawn is not None
        return self.initializer is None or isinstance(
            self.initializer, keras.initializers.Zeros
        )

    @property
    def is_fixed(self) -> bool:
        """Whether its values are made to be as they are."""
        return isinstance(self.initializer, keras.initializers.Identity) or isinstance(
            self.owned.layer, FIXED_KERNELS
        )

    @property
    def positive_fans(self) -> tuple[float, float]:
        """Both fans, of which a variance is divided by none below 1."""
        return max(1.0, self.fans.fan_in), max(1.0, self.fans.fan_out)

    @property
    def miscount(self) -> float:
        """The deviation that is drawn, by the one that the fans of the layer ask for."""
        if self.drawn and self.asked and self.drawn.std and self.asked.std:
            return self.drawn.std / self.asked.std
        return 1.0

    @property
    def has_fair_scale(self) -> bool:
        """Whether its initializer knows fans, and its scale fits an activation."""
        return self.scale is not None and FAIR_SCALES[0] <= self.scale <= FAIR_SCALES[1]

    @property
    def factor(self) -> float | None:
        """The deviation that is measured, by the one that the fans of the layer ask for.

        That of Glorot's initializer, where the weight's own knows no fans, or an unfair
        scale.
        """
        if self.has_fair_scale and self.asked and self.asked.std:
            return self.evidence.std / self.asked.std
        if self.is_kernel:
            return self.evidence.std * math.sqrt(sum(self.positive_fans) / 2)
        return None


def _expected(initializer: FanwiseInitializer | None, site: Site) -> Distribution | None:
    if initializer is None:
        return None
    expected = initializer.expected(site.shape, site)
    return expected if math.isfinite(expected.std) else None
