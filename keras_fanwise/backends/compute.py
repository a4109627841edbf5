"""Arithmetic where the backend computes, each operation rounded on its own.

A compiler may fuse a product with the sum that it feeds, which rounds once in place of
twice, and reorder sums with constants. It cannot do so past an integer operation on the
bits with a number that it does not know: `guard` XORs them with a zero that is an argument
of the compiled function. PyTorch runs one operation after the other, and needs no guard.

All integers are signed: PyTorch and TensorFlow's devices lack operations on unsigned ones.
"""

import functools
import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_fanwise.backends.arrays import dtype_of_tensor, platform, wide
from keras_fanwise.sampling.sampler import DTYPES

Function = Callable[..., Any]

_backend: Any = importlib.import_module(keras.backend.backend())  # of equal name


def _joined(parts: Sequence[Any], shape: tuple[int, ...]) -> Any:
    whole = parts[0] if len(parts) == 1 else keras.ops.concatenate(parts)
    return keras.ops.reshape(whole[: math.prod(shape)], shape)


if keras.backend.backend() == "jax":
    import jax.core
    import jax.extend.core

    # Moved from one to the other.
    has_it = hasattr(jax.extend.core, "get_opaque_trace_state")
    _trace_state: Any = (jax.extend.core if has_it else jax.core).get_opaque_trace_state
    _joined = _backend.jit(_joined, static_argnums=1)


class JaxCompute:
    """On JAX, inside `wide`, with an int64 zero that the compiler does not know to be one.

    The other classes have the same methods.
    """

    # How many values one call of a function makes; and on a GPU, where many are left.
    block, gpu_block = 1 << 20, 1 << 24
    # Whether by a compiled function, which makes exactly so many.
    is_compiled = True
    # JAX 0.4 cannot lower 64-bit numbers inside somebody's function.
    can_be_traced = keras.backend.backend() != "jax" or hasattr(_backend, "enable_x64")

    dtype_of_tensor, platform = staticmethod(dtype_of_tensor), staticmethod(platform)
    wide, loop = staticmethod(wide), staticmethod(keras.ops.fori_loop)
    cast, reshape = staticmethod(keras.ops.cast), staticmethod(keras.ops.reshape)
    clip, where = staticmethod(keras.ops.clip), staticmethod(keras.ops.where)
    sqrt, stack = staticmethod(keras.ops.sqrt), staticmethod(keras.ops.stack)
    # Of vectors, which begin with what a tensor of a shape holds.
    joined = staticmethod(_joined)
    arange = staticmethod(functools.partial(keras.ops.arange, dtype="int64"))

    def __init__(self, zero: Any) -> None:
        self.zero = zero

    def guard(self, values: Any) -> Any:
        """The values, for certain rounded here."""
        name = keras.backend.standardize_dtype(values.dtype)
        integer = f"int{8 * DTYPES[name].itemsize}"
        zero = self.cast(self.zero, integer)
        return self.bitcast(self.bitcast(values, integer) ^ zero, name)

    def divide(self, x: Any, y: Any) -> Any:
        """The float64 quotient, of arrays or by a number."""
        if isinstance(y, float):
            # One for each element: XLA multiplies by the reciprocal of one for all.
            bits = int(np.float64(y).view(np.int64))
            y = self.bitcast(self.bitcast(x, "int64") & self.zero | bits, "float64")
        return self.guard(x / y)

    def multiply_add(self, x: Any, y: Any, factor: int) -> Any:
        """x + factor * y, of integers."""
        return x + y * factor

    def choose(self, where: Any, function: Function, x: Any, rest: Any) -> Any:
        """function(x) where that is true, `rest` elsewhere."""
        return self.where(where, function(x), rest)

    def shift(self, x: Any, bits: int) -> Any:
        """To the right, with the sign."""
        return x >> bits

    def bitcast(self, values: Any, dtype: str) -> Any:
        """The same bits, as another type; two of half the size in an axis of their own."""
        return _backend.lax.bitcast_convert_type(values, DTYPES.get(dtype, np.dtype(dtype)))

    @staticmethod
    def compiled(function: Function, *, alone: bool = True) -> Function:
        """The function, compiled if the backend does so; `alone`: not inside others."""
        compiled: Function = _backend.jit(function)
        return compiled

    @staticmethod
    def on_device(values: np.ndarray, device: Any = None) -> Any:
        """A tensor of a few numbers, on the device of JAX or the default one."""
        return _backend.device_put(values, device)

    @staticmethod
    def is_traced() -> bool:
        """Whether a function is being traced that is compiled, or transformed, later."""
        here = _trace_state(None)  # JAX 0.4 wants an argument, which it does not use
        with jax.core.eval_context():
            return bool(here != _trace_state(None))


class TensorFlowCompute(JaxCompute):
    """On TensorFlow."""

    def shift(self, x: Any, bits: int) -> Any:
        return _backend.bitwise.right_shift(x, _backend.constant(bits, x.dtype))

    def bitcast(self, values: Any, dtype: str) -> Any:
        return _backend.bitcast(values, dtype)

    @staticmethod
    def compiled(function: Function, *, alone: bool = True) -> Function:
        if not alone:
            return function
        compiled: Function = _backend.function(function, jit_compile=True, autograph=False)
        return compiled

    @staticmethod
    def on_device(values: np.ndarray, device: Any = None) -> Any:
        return keras.ops.convert_to_tensor(values)

    @staticmethod
    def is_traced() -> bool:
        return not _backend.executing_eagerly()


class TorchCompute(JaxCompute):
    """On PyTorch, where each operation is a call that reads and writes memory."""

    block, is_compiled = 1 << 24, False

    def guard(self, values: Any) -> Any:
        return values

    def divide(self, x: Any, y: Any) -> Any:
        # CUDA multiplies by the reciprocal of a number of the host.
        return x / (x.new_tensor(y) if isinstance(y, float) else y)

    def multiply_add(self, x: Any, y: Any, factor: int) -> Any:
        return x.add(y, alpha=factor)

    def choose(self, where: Any, function: Function, x: Any, rest: Any) -> Any:
        places = where.nonzero(as_tuple=True)
        return rest.index_put_(places, function(x[places]))

    def bitcast(self, values: Any, dtype: str) -> Any:
        return values.view(getattr(_backend, dtype))

    @staticmethod
    def sqrt(values: Any) -> Any:
        # On a CPU it can be Intel's, which in one of a hundred gives the neighbour.
        if values.device.type != "cpu":
            return keras.ops.sqrt(values)
        return keras.ops.convert_to_tensor(np.sqrt(values.numpy()))

    @staticmethod
    def compiled(function: Function, *, alone: bool = True) -> Function:
        return function

    @staticmethod
    def on_device(values: np.ndarray, device: Any = None) -> Any:
        tensor = _backend.from_numpy(values)
        # Philox takes single integers of the host, which spares it calls on the device;
        # PyTorch's `clip` takes none.
        return tensor if values.dtype == np.int64 else keras.ops.convert_to_tensor(tensor)

    @staticmethod
    def is_traced() -> bool:
        return False


def compute() -> type[JaxCompute]:
    """That of the backend."""
    classes = {"jax": JaxCompute, "tensorflow": TensorFlowCompute, "torch": TorchCompute}
    return classes[keras.backend.backend()]
