"""Reads the batch that a signal is sent of."""

from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_fanwise.command.terminal import BadInputError

_SUFFIXES = (".npy", ".npz")


class Data(NamedTuple):
    """Arrays by name; of a .npy file, one that is named x."""

    path: Path
    arrays: dict[str, np.ndarray]

    @property
    def has_targets(self) -> bool:
        """Whether there may be something to compare results with."""
        return "y" in self.arrays


def load_data(path: Path) -> Data:
    """Reads a .npy or .npz file; nothing in it is run.

    Raises:
        BadInputError: there is no file, or it holds no arrays of numbers.
    """
    if path.suffix not in _SUFFIXES:
        raise BadInputError(f"the data must be a .npy or .npz file: {path}")
    try:
        if path.suffix == ".npy":
            arrays = {"x": np.load(path, allow_pickle=False)}
        else:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
    except FileNotFoundError as error:
        raise BadInputError(f"no such file: {path}") from error
    except Exception as error:  # NumPy's are of many kinds
        raise BadInputError(f"{path} cannot be read: {error}") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            raise BadInputError(f"{path} must hold numbers: {name}")
        if not array.size:
            raise BadInputError(f"{path} holds an empty array: {name}")
    return Data(path, arrays)


def batch_of(data: Data, model: keras.Model) -> tuple[Any, Any]:
    """What the model takes, and what its results are compared with or `None`.

    Raises:
        BadInputError: the names of the arrays are not those of the model's inputs.
    """
    inputs = getattr(model, "inputs", None) or []
    names = [tensor.name for tensor in inputs]
    arrays = dict(data.arrays)
    y = None if "y" in names else arrays.pop("y", None)
    if names and set(arrays) == set(names):
        structure = inputs[0] if isinstance(model, keras.Sequential) else model.input
        return keras.tree.map_structure(lambda tensor: arrays[tensor.name], structure), y
    if set(arrays) != {"x"} or len(names) > 1:
        wanted = " and ".join(names) if len(names) > 1 else "x"
        held = ", ".join(data.arrays) or "nothing"
        raise BadInputError(
            f"{data.path} must hold {wanted}, and y if wanted; it holds {held}"
        )
    return arrays["x"], y
