"""What a model keeps outside its variables, kept as it is."""

import contextlib
from collections.abc import Iterator

import keras

from keras_fanwise.backends.private_keras import all_layers, kept_losses


@contextlib.contextmanager
def kept_state(model: keras.Layer) -> Iterator[None]:
    """In the end the model's losses are as before, and so are PyTorch's own modules.

    These stand in a `TorchModuleWrapper`: their buffers, such as the statistics of a
    batch normalization, are no variables of Keras, and calling them sets whether they
    are in training.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(kept_losses(model))
        if keras.backend.backend() == "torch":
            stack.enter_context(_kept_modules(model))
        yield


@contextlib.contextmanager
def _kept_modules(model: keras.Layer) -> Iterator[None]:
    import torch

    modules = {
        id(module): module for layer in all_layers(model) for module in layer.modules()
    }.values()
    modes = [(module, module.training) for module in modules]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in modules
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for module, name, buffer, values in buffers:
            if not torch.equal(buffer, values):
                with torch.no_grad():
                    buffer.copy_(values)
            if getattr(module, name) is not buffer:
                setattr(module, name, buffer)
