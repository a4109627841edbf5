"""A batch for a model, drawn from what the model says of its inputs."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_fanwise.backends.arrays import to_tensor
from keras_fanwise.backends.calls import replaced_call
from keras_fanwise.backends.gradients import has_values
from keras_fanwise.backends.private_keras import all_layers
from keras_fanwise.sampling.sampler import DTYPES, draw
from keras_fanwise.sampling.streams import stream_key

_SAMPLES = 32
# Of a model for large images fewer samples, such that the batch has so many values.
_MOST_VALUES = 2**20
# Where the model leaves a dimension open.
_SIZE = 32
# All draws are the same in every call.
_SEED = 0


@contextlib.contextmanager
def batch_for(model: keras.Layer) -> Iterator[Any]:
    """A batch of standard normal values, and of integers where the model takes them.

    Integers are below the smallest `input_dim` or `num_tokens` of the model's layers. As
    models may take indices as floats, and may not tell, in the context of the batch every
    `Embedding` that is given something else gets random indices of that shape.

    Raises:
        ValueError: the model does not say what it takes.
    """
    specifications = _specifications(model)
    limits = [
        number
        for layer in all_layers(model)
        for number in (getattr(layer, name, None) for name in ("input_dim", "num_tokens"))
        if isinstance(number, int)
    ]
    samples = _samples(model, keras.tree.flatten(specifications))
    with contextlib.ExitStack() as stack:
        for number, layer in enumerate(all_layers(model)):
            if isinstance(layer, keras.layers.Embedding):
                stack.enter_context(replaced_call(layer, _with_indices(layer, number)))
        tensors = keras.tree.flatten(specifications)
        smallest = min(limits, default=2)
        drawn = [_values(*each, samples, smallest) for each in enumerate(tensors)]
        yield keras.tree.pack_sequence_as(specifications, drawn)


def normal_values(shape: Sequence[int], dtype: str, name: str) -> Any:
    """A tensor of standard normal values, the same at every call."""
    key = stream_key(_SEED, name)
    drawn_as = dtype if dtype in DTYPES else "float32"
    values = to_tensor(draw(key, "untruncated_normal", shape, drawn_as))
    return keras.ops.cast(values, dtype)


def _specifications(model: keras.Layer) -> Any:
    """A `KerasTensor` for each input, in the structure that the model takes."""
    if isinstance(model, keras.Sequential) and model.inputs:
        return model.inputs[0]
    if getattr(model, "inputs", None):
        return model.input
    shapes = (model.get_build_config() or {}).get("input_shape")
    if shapes is None:
        raise ValueError(
            f"`x` must be given for {model.name!r}, which does not say what it takes. "
            "Received: x=None"
        )
    return keras.tree.map_shape_structure(
        lambda shape: keras.KerasTensor(shape, model.compute_dtype), shapes
    )


def _samples(model: keras.Layer, tensors: Sequence[Any]) -> int:
    first: int | None = tensors[0].shape[0] if tensors[0].shape else None
    if first and any(getattr(layer, "stateful", False) for layer in all_layers(model)):
        return first  # the states are of that size
    values = sum(math.prod(_sizes(tensor)) for tensor in tensors)
    return max(2, min(_SAMPLES, _MOST_VALUES // max(1, values)))


def _sizes(tensor: Any) -> list[int]:
    """Those of a sample."""
    return [size or _SIZE for size in tensor.shape[1:]]


def _values(number: int, tensor: Any, samples: int, limit: int) -> Any:
    shape = (samples, *_sizes(tensor))
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if "float" in dtype:
        return normal_values(shape, dtype, f"input {number}")
    if dtype == "string":
        raise ValueError("`x` must be given: the model takes strings. Received: x=None")
    drawn = _integers(shape, min(limit, 2) if dtype == "bool" else limit, f"input {number}")
    return keras.ops.cast(keras.ops.convert_to_tensor(drawn), dtype)


def _integers(shape: Sequence[int], limit: int, name: str) -> np.ndarray:
    generator = np.random.Generator(np.random.Philox(key=stream_key(_SEED, name)))
    return generator.integers(limit, size=shape, dtype=np.int32)


def _with_indices(layer: keras.layers.Embedding, number: int) -> Any:
    call = layer.call

    def called(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if has_values(inputs) and not _are_indices(inputs, layer.input_dim):
            drawn = _integers(inputs.shape, layer.input_dim, f"embedding {number}")
            inputs = keras.ops.convert_to_tensor(drawn)
        return call(inputs, *args, **kwargs)

    return called


def _are_indices(tensor: Any, limit: int) -> bool:
    values = keras.ops.convert_to_numpy(tensor)
    return bool(np.all((values >= 0) & (values < limit) & (values == np.floor(values))))
