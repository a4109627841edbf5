"""An initializer, tied to the weight that it fills."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_fanwise.initializers.base import FanwiseInitializer
from keras_fanwise.initializers.site import Site


def is_ours(initializer: Any) -> bool:
    """Whether an initializer, or a class of them, has this package's protocol.

    By a method, not by its class: the seam may meet the classes of a later import of the
    package.
    """
    return hasattr(initializer, "weight_seed")


class Bound(keras.initializers.Initializer):
    """What Keras is handed for one weight; the layer keeps the initializer itself.

    Args:
        initializer: one of this package. It is shared, not copied.
        site: the weight that is filled.
    """

    def __init__(self, initializer: FanwiseInitializer, site: Site) -> None:
        self._initializer = initializer
        self._site = site
        self._seed = initializer.weight_seed()

    def __call__(self, shape: Sequence[int], dtype: Any = None, layout: Any = None) -> Any:
        """Draws the weight, the same values at every call but for a `SeedGenerator`."""
        return self._initializer.draw(
            shape, dtype, layout, site=self._site, seed=self._seed
        )

    def get_config(self) -> dict[str, Any]:
        """That of the initializer."""
        return self._initializer.get_config()
