"""Arrays and tensors: from one to the other without a copy, over devices, and moments."""

import contextlib
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import keras
import numpy as np

from keras_fanwise.arguments import fail
from keras_fanwise.sampling.sampler import DTYPES, aligned

_Function = TypeVar("_Function", bound=Callable[..., Any])


def on_host(function: _Function) -> _Function:
    """The function, which `torch.compile` leaves to Python wherever it is called."""
    if keras.backend.backend() != "torch":  # the others let NumPy compute while they trace
        return function
    import torch

    disabled: _Function = torch.compiler.disable(function)
    return disabled


def keras_seed(seed: int) -> int:
    """An integer seed of 32 bits, as `keras.random` takes it: on PyTorch it is signed."""
    signed = keras.backend.backend() == "torch" and seed >= 2**31
    return seed - 2**32 if signed else seed


def to_tensor(values: np.ndarray) -> Any:
    """A backend tensor that takes over, on a CPU, the memory of an `owned` array."""
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        if values.dtype == DTYPES["bfloat16"]:  # which torch does not take from NumPy
            tensor = torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
        else:
            tensor = torch.from_numpy(values)
        return keras.ops.convert_to_tensor(tensor)
    if backend == "jax":
        import jax

        # `jax.numpy.asarray` would compile a copy for every new shape, in milliseconds.
        return jax.device_put(values)
    if backend == "tensorflow" and is_concrete():
        return _tensorflow(values)
    return keras.ops.convert_to_tensor(values)


def is_concrete(tensor: Any = None) -> bool:
    """Whether a tensor has values by now: not where code is being compiled."""
    if keras.backend.backend() == "jax":
        import jax

        return not isinstance(tensor, jax.core.Tracer)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return bool(tf.executing_eagerly())
    return True


def unfilled(shape: Sequence[int], dtype: str) -> Any:
    """A backend tensor of zeros; on a CPU they take no memory before they are written."""
    # A graph of TensorFlow would hold the zeros of an array.
    if not is_concrete() or platform() != "cpu":
        return keras.ops.zeros(shape, dtype=dtype)
    return to_tensor(unfilled_array(shape, dtype))


def platform(sharding: Any = None) -> str:
    """Of the devices of a sharding, or where new tensors are: "cpu", "gpu", "tpu", ..."""
    if sharding is not None:
        return str(next(iter(sharding.device_set)).platform)
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        device = jax.config.jax_default_device
        return str(getattr(device, "platform", device) or jax.default_backend())
    if backend == "torch":
        kind = str(keras.ops.zeros(()).device.type)
        return "gpu" if kind == "cuda" else kind
    import tensorflow as tf

    with tf.init_scope():
        device = tf.zeros(()).device
    return str(tf.DeviceSpec.from_string(device).device_type).lower()


def unfilled_array(shape: Sequence[int], dtype: str) -> np.ndarray:
    """Zeros that a backend can take over, in memory that nobody has touched."""
    # The system maps zeros when they are first read or written.
    return aligned(math.prod(shape), DTYPES[dtype], allocate=np.zeros).reshape(tuple(shape))


def dtype_of_tensor(dtype: str) -> str:
    """The type that a tensor of `dtype` has: in JAX, float64 is float32 by default."""
    if keras.backend.backend() == "jax" and dtype == "float64":
        import jax

        wide: bool = jax.config.read("jax_enable_x64")
        return "float64" if wide else "float32"
    return dtype


def snapshot(variable: keras.Variable) -> Any:
    """The values of a variable as they are now, whatever is assigned to it later."""
    if keras.backend.backend() == "jax":
        return variable.value  # which nothing changes
    if platform() != "cpu":
        return keras.ops.copy(keras.ops.stop_gradient(variable.value))
    return np.array(keras.ops.convert_to_numpy(variable.value))


def float64(values: Any) -> np.ndarray:
    """What a variable, a tensor or an array holds, on the host and in float64."""
    if keras.backend.backend() == "jax":
        # Keras would copy first, which takes longer than all the rest of a small array.
        return np.asarray(getattr(values, "value", values), np.float64)
    return np.asarray(keras.ops.convert_to_numpy(values), np.float64)


def in_float64(function: Callable[..., Any], values: np.ndarray) -> np.ndarray:
    """What a function of a backend tensor gives for float64 values, on the host."""
    with wide():
        return float64(function(keras.ops.convert_to_tensor(values)))


def wide() -> contextlib.AbstractContextManager[Any]:
    """Inside it JAX has 64-bit numbers too, as the other backends always have."""
    if keras.backend.backend() != "jax":
        return contextlib.nullcontext()
    import jax.experimental

    module: Any = jax if hasattr(jax, "enable_x64") else jax.experimental  # of JAX 0.4
    scope: contextlib.AbstractContextManager[Any] = module.enable_x64(True)
    return scope


def _tensorflow(values: np.ndarray) -> Any:
    import tensorflow as tf

    if values.dtype == DTYPES["bfloat16"]:  # a type that NumPy does not export
        return tf.bitcast(_tensorflow(values.view(np.uint16)), tf.bfloat16)
    # The identity is free on a CPU; elsewhere it moves the tensor to the device.
    return tf.identity(tf.experimental.dlpack.from_dlpack(values.__dlpack__()))


def dtype_name(tensor: Any) -> str:
    """Such as "float32", on every backend."""
    name: str = keras.backend.standardize_dtype(tensor.dtype)
    return name


def placed(
    shape: Sequence[int], sharding: Any, part: Callable[..., Any], *, there: bool = False
) -> Any:
    """A JAX array whose shards this process makes, each by a function of its index.

    Those that several devices hold are made once; or `there`, on each of the devices.
    """
    import jax

    devices: dict[tuple[tuple[int, int], ...], list[Any]] = {}
    places = sharding.addressable_devices_indices_map(tuple(shape))
    for device, index in places.items():
        bounds = tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
        devices.setdefault(bounds, []).append(device)
    arrays = []
    for bounds, holders in devices.items():
        index = tuple(slice(start, stop) for start, stop in bounds)
        if there:
            arrays += [part(index=index, device=device) for device in holders]
            continue
        shard = part(index)
        copies = [jax.device_put(shard, device) for device in holders]
        # On an accelerator the copies may still be on their way from the host's memory.
        arrays += [copy.block_until_ready() for copy in copies]
        del shard  # before the next is drawn
    return jax.make_array_from_single_device_arrays(tuple(shape), sharding, arrays)


def distribute(values: Any, sharding: Any) -> Any:
    if sharding is None:
        return values
    import jax

    return jax.device_put(values, sharding)


@contextlib.contextmanager
def sharding_of(layout: Any) -> Iterator[Any]:
    """The `jax.sharding.Sharding` that a layout, or its `sharding`, means; `None` of none.

    Keras calls an initializer that takes a layout under a mesh whose axes are explicit,
    where JAX demands a sharding for the result of every operation. The state of a
    `SeedGenerator` has none, and could not be read there. Inside this context manager
    the axes are automatic again, and JAX demands nothing.
    """
    backend = keras.backend.backend()
    if layout is None:
        yield None
        return
    if backend != "jax":
        raise fail(ValueError, "layout", f"None on the {backend} backend", layout)
    import jax

    sharding = layout
    if isinstance(layout, keras.distribution.TensorLayout):
        sharding = getattr(layout, "backend_layout", layout)  # not there in Keras 3.8
    sharding = getattr(sharding, "sharding", sharding)
    if not isinstance(sharding, jax.sharding.Sharding):
        allowed = "None, a keras.distribution.TensorLayout or a jax.sharding.Sharding"
        raise fail(TypeError, "layout", allowed, layout)
    mesh = getattr(sharding, "mesh", None)
    if type(mesh).__name__ != "AbstractMesh":  # which JAX 0.4 does not export
        yield sharding
        return
    # It means the current one.
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        allowed = "over devices, or over a current mesh, and there is none"
        raise fail(ValueError, "layout", allowed, layout)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        yield jax.sharding.NamedSharding(mesh, sharding.spec)


def layout_of(value: Any) -> Any:
    """The layout of a tensor that is sharded over devices, `None` for any other."""
    sharding = getattr(value, "sharding", None)
    return sharding if len(getattr(sharding, "device_set", ())) > 1 else None


def local_parts(value: Any) -> Iterator[np.ndarray]:
    """All values of a tensor that this process holds, each once, as arrays."""
    if layout_of(value) is None:
        yield keras.ops.convert_to_numpy(value)
        return
    seen = set()
    for shard in value.addressable_shards:
        bounds = str(shard.index)
        if bounds not in seen:
            seen.add(bounds)
            yield np.asarray(shard.data)


# Values that are turned into float64 at a time: on a host, as many as its cache holds.
_BLOCK, _DEVICE_BLOCK = 2**16, 2**24
# Sizes of values between which float64 holds their squares.
_SQUARES = (1e-140, 1e140)


class Moments(NamedTuple):
    """Of the values of a tensor; not a number where there are none."""

    size: int = 0  # how many values there are
    mean: float = math.nan  # not finite if a value is not
    std: float = math.nan  # likewise
    smallest: float = math.nan
    largest: float = math.nan
    positive: float = math.nan  # the share of positive values, zeros counted half
    dead: float = 0.0  # the share of the units that are 0 throughout


def moments(tensor: Any, unit_axis: int | None = None) -> Moments:
    """In float64, where the values are; a tensor without another axis is one unit."""
    tensor = _where_it_is(tensor)
    flat = tensor.reshape(-1) if _on_host(tensor) else keras.ops.reshape(tensor, (-1,))
    size = _BLOCK if _on_host(tensor) else _DEVICE_BLOCK
    count = math.prod(tensor.shape)
    parts = [flat[start : start + size] for start in range(0, count, size)]
    found = pooled(map(_block_moments, parts))
    extreme = max(-found.smallest, found.largest)
    if 0 < extreme < math.inf and not _SQUARES[0] < extreme < _SQUARES[1]:
        found = pooled(_block_moments(part, extreme) for part in parts)
    if unit_axis is not None and count:
        dead, units = _dead(tensor, unit_axis)
        found = found._replace(dead=int(dead) / units)
    return found


def traced_moments(tensor: Any, unit_axis: int | None = None) -> Any:
    """Mean, variance and share of dead units, in code that is being compiled."""
    with wide():
        values = keras.ops.reshape(keras.ops.cast(tensor, "float64"), (-1,))
        dead, units = (0, 1) if unit_axis is None else _dead(tensor, unit_axis)
        share = keras.ops.cast(dead, "float64") / units
        return keras.ops.stack([*_mean_and_variance(keras.ops, values), share])


def pooled(parts: Iterable[Moments]) -> Moments:
    """The moments of several tensors together (Chan, Golub and LeVeque 1979)."""
    parts = [part for part in parts if part.size]
    if len(parts) < 2:
        return parts[0] if parts else Moments()
    size = sum(part.size for part in parts)
    weights = [part.size / size for part in parts]

    def average(values: Iterable[float]) -> float:
        return sum(map(operator.mul, weights, values), 0.0)

    mean = average(part.mean for part in parts)
    deviations = [math.hypot(part.std, part.mean - mean) for part in parts]
    # Of the largest, as the square of it may be too large.
    std = largest = max(deviations)
    if 0 < largest < math.inf:
        squares = average((deviation / largest) ** 2 for deviation in deviations)
        std = largest * math.sqrt(squares)
    return Moments(
        size,
        mean,
        std,
        # Of NumPy, to which NaN is the smallest and the largest.
        float(np.min([part.smallest for part in parts])),
        float(np.max([part.largest for part in parts])),
        average(part.positive for part in parts),
        average(part.dead for part in parts),
    )


def spaced(tensor: Any, most: int) -> np.ndarray:
    """A copy, on the host and in float64, of at most so many values, evenly spaced."""
    tensor = _where_it_is(tensor)
    flat = tensor.reshape(-1) if _on_host(tensor) else keras.ops.reshape(tensor, (-1,))
    # An odd step meets every column of a matrix, whose sizes are often powers of two.
    step = math.ceil(math.prod(tensor.shape) / most) | 1
    values = flat[::step]
    values = values if _on_host(values) else keras.ops.convert_to_numpy(values)
    return np.array(values, np.float64)


def _where_it_is(tensor: Any) -> Any:
    """An array, where that needs no copy; or else the tensor."""
    backend = keras.backend.backend()
    if _on_host(tensor):
        return tensor
    if backend == "torch" and tensor.device.type == "cpu":
        return keras.ops.convert_to_numpy(tensor)
    # On an accelerator JAX would compile operations for every shape of small ones.
    is_far = math.prod(tensor.shape) >= 1 << 20 and platform() != "cpu"
    is_jax = backend == "jax" and not is_far
    if is_jax or (backend == "tensorflow" and "CPU" in tensor.device):
        return np.asarray(tensor)  # which Keras would copy
    return tensor


def _on_host(tensor: Any) -> bool:
    return isinstance(tensor, np.ndarray)


def _block_moments(block: Any, scale: float = 1.0) -> Moments:
    """Of some values, which are divided by `scale` before they are squared."""
    if _on_host(block):
        with np.errstate(all="ignore"):  # infinite values have no deviation
            numbers = _numbers(np, block.astype(np.float64), scale)
    else:
        with wide():
            values = keras.ops.cast(block, "float64")
            numbers = [
                keras.ops.cast(number, "float64")
                for number in _numbers(keras.ops, values, scale)
            ]
            numbers = keras.ops.convert_to_numpy(keras.ops.stack(numbers))  # all at once
    mean, square, smallest, largest, above, below = map(float, numbers)
    return Moments(
        block.shape[0],
        scale * mean,
        scale * math.sqrt(square),
        scale * smallest,
        scale * largest,
        0.5 + (above - below) / block.shape[0] / 2,
    )


def _numbers(arrays: Any, block: Any, scale: float) -> list[Any]:
    block = block if scale == 1 else block / scale
    extremes = arrays.min(block), arrays.max(block)
    count = np.count_nonzero if arrays is np else arrays.sum
    signs = count(block > 0), count(block < 0)
    return [*_mean_and_variance(arrays, block), *extremes, *signs]


def _mean_and_variance(arrays: Any, values: Any) -> tuple[Any, Any]:
    # Keras's mean of float64 is that of float32 on PyTorch, and a product of vectors wakes
    # a thread of BLAS on every core.
    size = values.shape[0]
    mean = arrays.sum(values) / size
    return mean, arrays.sum(arrays.square(values - mean)) / size


def _dead(tensor: Any, unit_axis: int) -> tuple[Any, int]:
    """How many units are 0 throughout, and how many there are."""
    arrays: Any = np if _on_host(tensor) else keras.ops
    rank = len(tensor.shape)
    units = tensor.shape[unit_axis] if rank > 1 else 1
    last = arrays.moveaxis(tensor, unit_axis, -1) if rank > 1 else tensor
    # By one axis: of several, Keras 3.13 and older take others on PyTorch.
    alive = arrays.any(arrays.not_equal(arrays.reshape(last, (-1, units)), 0), axis=0)
    return units - arrays.sum(alive), units
