"""A batch for a model, drawn from what the model says of its inputs."""

import contextlib
import functools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_fanwise.arguments import fail
from keras_fanwise.backends.arrays import dtype_name, is_concrete, to_tensor
from keras_fanwise.backends.private_keras import (
    all_layers,
    has_compiled_loss,
    symbolic_inputs,
)
from keras_fanwise.backends.tap import LayerCall, kept_state, tapped
from keras_fanwise.graph.graph import (
    LARGE_SIZE,
    SIZE,
    Arguments,
    arguments_of,
    filled,
    largest_size,
)
from keras_fanwise.sampling.sampler import DTYPES, Stream, stream_key

_SAMPLES = 32
# Of a model for large images fewer samples, such that the batch has so many values.
_MOST_VALUES = 2**20
# All draws are the same in every call.
_SEED = 0


def sizes(model: keras.Layer) -> tuple[int, ...]:
    """What dimensions that the model leaves open may be, the one to try first at first."""
    tensors = keras.tree.flatten(tuple(arguments_of(model)))
    # Images of that size would take long, and 32 pixels suit what takes any size.
    if any(None in tensor.shape[1:] and len(tensor.shape) < 4 for tensor in tensors):
        return SIZE, LARGE_SIZE
    return (SIZE,)


@contextlib.contextmanager
def batch_for(model: keras.Layer, size: int = SIZE) -> Iterator[Arguments]:
    """A batch of standard normal values, and of integers where the model takes them.

    Open sizes are `size`, or what the shortest position embedding holds, if less. Masks
    let all pass. Models may take indices as floats: in the context of the batch every
    `Embedding` that is given something else gets random indices of that shape.
    """
    arguments = arguments_of(model)
    tensors = keras.tree.flatten(tuple(arguments))
    size = largest_size(model, size)
    samples = _samples(model, tensors, size)
    limits = _index_limits(model, tensors, size)
    with contextlib.ExitStack() as stack:
        for number, layer in enumerate(all_layers(model)):
            if isinstance(layer, keras.layers.Embedding):
                tap = functools.partial(_with_indices, number)
                stack.enter_context(tapped([layer], tap))
        drawn = [
            _values(number, tensor, filled(tensor, samples, size), limit)
            for number, (tensor, limit) in enumerate(zip(tensors, limits, strict=True))
        ]
        yield Arguments(*keras.tree.pack_sequence_as(tuple(arguments), drawn))


def first_batch(model: keras.Layer, x: Any, y: Any = None) -> tuple[Any, Any]:
    """Of a dataset the first batch, with targets if the model has a loss; or x and y."""
    is_batch = x is None or hasattr(x, "__array__") or keras.ops.is_tensor(x)
    if is_batch or isinstance(x, (list, tuple, dict)):
        return x, y
    if isinstance(x, (str, bytes)) or not isinstance(x, (Iterable, keras.utils.PyDataset)):
        raise fail(TypeError, "x", "a batch, a dataset of batches, or None", x)
    if y is not None:
        raise fail(ValueError, "y", "None beside a dataset, which has its own targets", y)
    with kept_state(model):  # which the order of a dataset may come from
        if isinstance(x, keras.utils.PyDataset):  # iterating would also shuffle it
            batch = x[0] if len(x) else None
        else:
            batch = next(iter(x), None)
    if batch is None:
        raise fail(ValueError, "x", "a dataset of one batch or more", x)
    x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
    has_loss = isinstance(model, keras.Model) and has_compiled_loss(model)
    x = keras.tree.map_structure(_of_backend, x)
    return x, keras.tree.map_structure(_of_backend, y if has_loss else None)


def _of_backend(values: Any) -> Any:
    """A dataset may give the tensors of another backend."""
    return values if values is None or keras.ops.is_tensor(values) else np.asarray(values)


def given(model: keras.Layer, x: Any) -> Any:
    """The tensors of a batch that somebody gave for a model, if it can measure anything."""
    tensors = tensors_for(model, x)
    flat = [tensor for tensor in keras.tree.flatten(tensors) if tensor is not None]
    floats = [tensor for tensor in flat if "float" in dtype_name(tensor)]
    if not all(bool(keras.ops.all(keras.ops.isfinite(tensor))) for tensor in floats):
        raise _refusal(x, "be of finite numbers, without infinities and NaN")
    # Zeros of integers are indices.
    if len(floats) == len(flat) and not any(bool(keras.ops.any(t)) for t in floats):
        raise _refusal(x, "hold other numbers than 0")
    return tensors


def tensors_for(model: keras.Layer, x: Any) -> Any:
    """The tensors of a batch, of the shapes that a model takes, whatever their values."""
    leaves = keras.tree.flatten(x)
    # Nested lists of numbers are one array, and lists of arrays several.
    is_array = isinstance(x, (list, tuple)) and {*map(type, leaves)} <= {int, float, bool}
    try:
        tensors = _tensor(x) if is_array else keras.tree.map_structure(_tensor, x)
    except Exception as error:  # each backend has its own
        allowed = "be of numbers, as arrays, tensors or nested lists"
        raise _refusal(x, allowed, error) from error
    places = keras.tree.flatten(tensors)
    wanted = [one for one in getattr(model, "inputs", None) or () if hasattr(one, "shape")]
    if isinstance(tensors, dict) and wanted:
        if {one.name for one in wanted} <= set(tensors):
            places = [tensors[one.name] for one in wanted]
        elif isinstance(model, keras.Sequential):
            places = []
    flat = [tensor for tensor in places if tensor is not None]  # which may be optional
    if any("complex" in dtype_name(tensor) for tensor in flat):
        raise _refusal(x, "be of real numbers")
    if any(0 in tensor.shape for tensor in flat) or not leaves:
        raise _refusal(x, "hold a sample or more")
    fits = len(places) == len(wanted) and all(map(_is_batch_for, places, wanted))
    if any(not tensor.shape for tensor in flat) or (wanted and not fits):
        shapes = " and ".join(str(tuple(one.shape)) for one in wanted)
        raise _refusal(x, f"be a batch of shape {shapes}" if shapes else "be a batch")
    return tensors


def _refusal(x: Any, allowed: str, error: Exception | None = None) -> Exception:
    kind = TypeError if isinstance(error, TypeError) else ValueError
    received = str(keras.tree.map_structure(_summary, x)).replace("'", "")
    return kind(f"`x` must {allowed}. Received: x={received[:200]}")


def _tensor(values: Any) -> Any:
    """Of an array, a tensor, nested lists, or what pandas and its like hold."""
    if values is None:
        return None
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
        values = values[:, None] if values.ndim == 1 else values
    return keras.ops.convert_to_tensor(values)


def _summary(values: Any) -> str:
    shape = getattr(values, "shape", None)
    name = type(values).__name__
    return repr(values) if shape is None else f"{name}{tuple(shape)}"


def _is_batch_for(tensor: Any, wanted: Any) -> bool:
    """Whether it has the shape, but for the number of samples, and a last axis of 1."""
    if tensor is None:
        return bool(getattr(wanted, "optional", True))
    shape, sizes = tuple(tensor.shape), tuple(wanted.shape)
    shape += (1,) if len(shape) == len(sizes) - 1 else ()
    sizes += (1,) if len(sizes) == len(shape) - 1 else ()
    return len(shape) == len(sizes) and all(
        size in (None, number) for number, size in zip(shape[1:], sizes[1:], strict=True)
    )


def normal_values(shape: Sequence[int], dtype: str, name: str) -> Any:
    """A tensor of standard normal values, the same at every call."""
    stream = Stream(stream_key(_SEED, name))
    drawn_as = dtype if dtype in DTYPES else "float32"
    values = to_tensor(stream.draw("untruncated_normal", shape, drawn_as))
    return keras.ops.cast(values, dtype)


def _samples(model: keras.Layer, tensors: Sequence[Any], size: int) -> int:
    fixed: list[int] = [t.shape[0] for t in tensors if t.shape and t.shape[0]]
    # A model that was built by a call tells the size of that batch, and takes any, but
    # for states, which are of that size.
    stateful = any(getattr(layer, "stateful", False) for layer in all_layers(model))
    if fixed and (stateful or getattr(model, "inputs", None)):
        return fixed[0]
    values = sum(math.prod(filled(tensor, 1, size)[1:]) for tensor in tensors)
    return max(2, min(_SAMPLES, _MOST_VALUES // max(1, values)))


def _index_limits(model: keras.Layer, tensors: Sequence[Any], size: int) -> list[int]:
    """Below what indices are: what the embeddings that take them hold, or all."""

    def held(layer: keras.Layer) -> list[int]:
        names = ("input_dim", "num_tokens")
        numbers = (getattr(one, name, None) for one in all_layers(layer) for name in names)
        return [number for number in numbers if isinstance(number, int)]

    limits: dict[int, list[int]] = defaultdict(list)
    for layer in all_layers(model)[1:]:
        for tensor in symbolic_inputs(layer):
            limits[id(tensor)] += held(layer)
    others = [size, *held(model)]
    return [min(limits[id(tensor)] or others) for tensor in tensors]


def _values(number: int, tensor: Any, shape: Sequence[int], limit: int) -> Any:
    dtype = dtype_name(tensor)
    if "float" in dtype:
        return normal_values(shape, dtype, f"input {number}")
    if dtype == "string":
        raise ValueError("`x` must be given: the model takes strings. Received: x=None")
    if "mask" in tensor.name:
        return keras.ops.ones(shape, dtype)
    limit = 2 if dtype == "bool" else limit
    return keras.ops.cast(_integers(shape, limit, f"input {number}"), dtype)


def _integers(shape: Sequence[int], limit: int, name: str) -> Any:
    generator = np.random.Generator(np.random.Philox(key=stream_key(_SEED, name)))
    drawn = generator.integers(limit, size=shape, dtype=np.int32)
    return keras.ops.convert_to_tensor(drawn)


def _with_indices(number: int, call: LayerCall) -> Any:
    """What the call of an embedding gives, for random indices if it is given none."""
    inputs, *others = call.args
    limit = call.layer.input_dim
    if is_concrete(inputs):
        values = keras.ops.convert_to_numpy(inputs)
        if not np.all((values >= 0) & (values < limit) & (values == np.floor(values))):
            drawn = _integers(inputs.shape, limit, f"embedding {number}")
            call = call._replace(args=(drawn, *others))
    return call.output()
