"""What `draws.py` compares: keras_fanwise, Keras, torch.nn.init and a NumPy fill."""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from harness import cores, finished

Shape = tuple[int, ...]
Draw = Callable[[], Any]

OURS, HOST, KERAS, TORCH, NUMPY = "ours", "host", "Keras", "torch", "fill"

# As in keras_fanwise: by the root of the size, since threads take turns to be started.
_ELEMENTS_PER_START = 2**16


def initializers(distribution: str, shape: Shape) -> dict[str, Draw]:
    """He initialization of one tensor on the backend of this process, by contender."""
    import keras

    import keras_fanwise

    keras_fanwise.register()
    ours = keras.initializers.get(f"fanwise_he_{distribution}")
    theirs = keras.initializers.get(f"he_{distribution}")
    calls: dict[str, Draw] = {
        OURS: lambda: finished(ours(shape)),
        KERAS: lambda: finished(theirs(shape)),
    }
    if keras.backend.backend() == "torch":
        calls[TORCH] = _torch_init(distribution, shape)
    return calls


def on_host(distribution: str, shape: Shape) -> Draw:
    """Ours drawn on the host, from which it travels to the device."""
    draw = initializers(distribution, shape)[OURS]

    def draw_there() -> Any:
        os.environ["KERAS_FANWISE_DRAW"] = "host"
        try:
            return draw()
        finally:
            del os.environ["KERAS_FANWISE_DRAW"]

    return draw_there


def _torch_init(distribution: str, shape: Shape) -> Draw:
    import keras
    import torch

    device = keras.ops.zeros(()).device
    if distribution == "uniform":
        return lambda: finished(
            torch.nn.init.kaiming_uniform_(
                torch.empty(shape, device=device), nonlinearity="relu"
            )
        )
    # torch.nn.init has no truncated He normal; this is its nearest.
    std = math.sqrt(2 / shape[0])
    return lambda: finished(
        torch.nn.init.trunc_normal_(
            torch.empty(shape, device=device), std=std, a=-2 * std, b=2 * std
        )
    )


def numpy_fill(shape: Shape) -> np.ndarray:
    """The floor for a counter-based generator: a new array of uniforms from Philox.

    With as many threads as keras_fanwise uses.
    """
    values = np.empty(math.prod(shape), np.float32)
    threads = max(1, min(cores(), math.isqrt(values.size // _ELEMENTS_PER_START)))
    if threads == 1:
        return _fill(0, values)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(_fill, range(threads), np.array_split(values, threads)))
    return values


def _fill(key: int, out: np.ndarray) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=key)).random(out=out, dtype=np.float32)
