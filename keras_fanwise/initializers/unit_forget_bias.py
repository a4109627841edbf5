"""The bias of an LSTM, which Keras fills by a function of its own."""

import types
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_fanwise.initializers.base import FanwiseInitializer
from keras_fanwise.initializers.checks import checked_shape_and_dtype
from keras_fanwise.initializers.counterparts import portable
from keras_fanwise.initializers.scaling import Distribution
from keras_fanwise.initializers.site import Site


class UnitForgetBias(FanwiseInitializer):
    """1 for the forget gate, the second of four, and what another draws for the rest.

    Args:
        initializer: of the rest.

    Reference: Jozefowicz et al. 2015, <https://proceedings.mlr.press/v37/jozefowicz15.html>.
    """

    def __init__(self, initializer: FanwiseInitializer) -> None:
        super().__init__(initializer.seed, sampler=initializer.sampler)
        self.initializer = initializer

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
        rest = self.initializer.draw(shape, dtype, layout, site=site, seed=seed)
        (size,), dtype = checked_shape_and_dtype(shape, dtype)
        is_forget = np.arange(size) // (size // 4) == 1
        return keras.ops.where(is_forget, keras.ops.ones((), dtype), rest)

    def weight_seed(self) -> int | None:
        """That of the initializer of the rest."""
        return self.initializer.weight_seed()

    def get_config(self) -> dict[str, Any]:
        """The arguments, JSON-serializable."""
        rest = self.initializer
        return {
            "initializer": keras.initializers.serialize(rest),
            "seed": rest.get_config()["seed"],
        }


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
    rest = layer.bias_initializer
    if not isinstance(rest, FanwiseInitializer):
        rest = portable(rest)
    return UnitForgetBias(rest) if rest is not None else None
