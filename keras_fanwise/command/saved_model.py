"""Loads saved models, and says in one line why one cannot be loaded."""

import json
import re
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras

from keras_fanwise.command.terminal import BadInputError

_SUFFIXES = (".keras", ".h5")
_LAMBDA = "it holds a Lambda layer, which could run any code"
# What Keras says of one, in its versions: the second is of 3.8.
_REFUSED = re.compile(
    r"Requested the deserialization of a `?lambda|`Lambda` layer is a Python lambda",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(r"(?:Could not locate|Unknown) ([\w ]+):? '([^']*)'")
_LONGEST = 300
# Behind all values of the batch.
_SHAPES = re.compile(r"Expected shape (\(.*?\)), but input has .*?shape \D*([\d, ]+)")
_BOLD = re.compile(r"\x1b\[[01]m")  # as Keras prints some messages


def check_suffix(argument: str, path: Path) -> None:
    """Raises a `BadInputError` for a file that can be no model, by its name."""
    if path.suffix not in _SUFFIXES:
        raise BadInputError(f"the {argument} must be a .keras or .h5 file: {path}")


def load_model(path: Path, *, compile: bool = False) -> keras.Model:  # noqa: A002 (Keras's name)
    """Loads a model, in Keras's safe mode.

    Args:
        path: of a .keras or .h5 file.
        compile: whether the model is compiled as it was.

    Raises:
        BadInputError: there is no file, or it holds no model that can be loaded.
    """
    check_suffix("model", path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise BadInputError(f"no such file: {path}") from error
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}") from error
    # A pipe would keep its reader waiting, a device might never end.
    if not stat.S_ISREG(mode):
        raise BadInputError(f"not a file: {path}")
    try:
        path.open("rb").close()  # what follows hides why it cannot be read
        if path.suffix == ".keras" and not zipfile.is_zipfile(path):
            raise BadInputError(f"{path} is not a .keras file, or only a part of one")
        if path.suffix == ".h5":
            _refuse_lambda(path)
        model = keras.saving.load_model(path, compile=compile)
    except BadInputError:
        raise
    except Exception as error:
        raise BadInputError(f"{path} cannot be loaded: {cause(error)}") from error
    if not isinstance(model, keras.Model):
        raise BadInputError(f"{path} holds no model but a {type(model).__name__}")
    return model


def cause(error: Exception) -> str:
    """What led to an error, in one line: Keras puts it below pages of configuration."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):
        key = str(next(iter(error.args), ""))
        return key if " " in key else f"{key!r} is missing in it"
    text = _BOLD.sub("", str(error)).rpartition("Exception encountered: ")[2]
    if _REFUSED.search(text):
        return _LAMBDA
    unknown = _UNKNOWN.search(text)
    if unknown:
        return f"it holds a {unknown[1]} that is not known here, {unknown[2]}"
    shapes = _SHAPES.search(text)
    if shapes:
        return f"it takes inputs of shape {shapes[1]}, not ({shapes[2]})"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("Exception encountered when calling"):
        lines = lines[1:]
    # What ends in a colon, such as "Example error message for ...", is no cause yet.
    count = next((i for i, line in enumerate(lines, 1) if not line.endswith(":")), None)
    return " ".join(lines[:count])[:_LONGEST] or type(error).__name__


def _refuse_lambda(path: Path) -> None:
    # Keras 3.8 loads them from .h5 files in safe mode, too.
    with h5py.File(path) as file:
        config = file.attrs.get("model_config", "null")
    if "Lambda" in _values_of("class_name", json.loads(config)):
        raise BadInputError(f"{path} cannot be loaded: {_LAMBDA}")


def _values_of(name: str, content: Any) -> Iterator[Any]:
    """What stands under a name, at any depth of what JSON holds."""
    if isinstance(content, dict):
        if name in content:
            yield content[name]
        content = list(content.values())
    if isinstance(content, list):
        for item in content:
            yield from _values_of(name, item)
