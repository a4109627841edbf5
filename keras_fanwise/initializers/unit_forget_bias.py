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
