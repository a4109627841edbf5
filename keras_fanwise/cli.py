"""The command line, from parsed options to the exit code: files and output."""

import argparse
import contextlib
import importlib
import importlib.util
import json
import logging
import os
import re
import stat
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

import keras_fanwise
from keras_fanwise.arguments import integer, positive, printable
from keras_fanwise.models.recipes import rules_of
from keras_fanwise.reports.report import Report

CLEAN, FINDINGS, BAD_INPUT = 0, 1, 2
Arrays = dict[str, np.ndarray]
# Of each option that names a file, what it names and how that may end.
_FILES = {
    "plot": ("figure", ".pdf, .png, .svg"),
    "output": ("output", ".keras or .h5"),
    "data": ("data", ".npy or .npz"),
    "model": ("model", ".keras or .h5"),
}
# What stands for characters that an output lacks; for others, their numbers.
_PLAIN = {"×": "x", "·": "*"}


class BadInputError(Exception):
    """What is wrong with an argument or a file, in words for the command's user."""


def complain(message: str) -> None:
    print(f"keras-fanwise: {printable(message)}", file=sys.stderr, flush=True)


def write_output(text: str) -> None:
    """Writes a text to the standard output, all of it or as much as the reader wants."""
    with complaints("the output cannot be written: "):
        try:
            sys.stdout.write(_encodable(text, sys.stdout.encoding or "utf-8"))
            sys.stdout.flush()
        except OSError as error:
            # What is left in the buffer would fail once more when the process ends.
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
            if not isinstance(error, BrokenPipeError):
                raise


def _encodable(text: str, encoding: str) -> str:
    """The text with others for characters that an encoding lacks, such as × in ASCII."""
    for character, plain in _PLAIN.items():
        if not character.encode(encoding, "ignore"):
            text = text.replace(character, plain)
    return text.encode(encoding, "backslashreplace").decode(encoding)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of Keras, which logs some of them."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)


@contextlib.contextmanager
def new_file(path: Path | None, *, overwrite: bool) -> Iterator[Path | None]:
    """Where to write a file that takes its place, by its mode, if the block ends well."""
    if path is None:
        yield None
        return
    with complaints(f"{path} cannot be written: "):
        end = Path(os.path.realpath(path))
        mode = _mode(path)
        if not end.parent.is_dir():
            raise BadInputError(f"no such folder: {path.parent}")
        if mode is not None and not overwrite:
            raise BadInputError(f"{path} exists; --overwrite replaces it")
        beside = tempfile.TemporaryDirectory(dir=end.parent, prefix=".keras-fanwise-")
    with beside as folder:
        whole = Path(folder, f"new{path.suffix}")
        yield whole
        with complaints(f"{path} cannot be written: "):
            if mode is not None:
                whole.chmod(mode)
            os.replace(whole, end)


def _mode(path: Path) -> int | None:
    """The permissions of the file at a path, or `None` if there is none."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    # A pipe would keep its reader waiting, a device might never end.
    if not stat.S_ISREG(mode):
        raise BadInputError(f"not a file: {path}")
    return stat.S_IMODE(mode)


def _check_readable(path: Path) -> None:
    """What reads it later hides why it cannot be read."""
    with complaints(f"{path} cannot be read: "):
        if _mode(path) is None:
            raise BadInputError(f"no such file: {path}")
        path.open("rb").close()


_LAMBDA = "it holds a Lambda layer, which could run any code"
# What Keras says of one, in its versions: the second is of 3.8.
_REFUSED = re.compile(
    r"Requested the deserialization of a `?lambda|`Lambda` layer is a Python lambda",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(r"(?:Could not locate|Unknown) ([\w ]+):? '([^']*)'")
_LONGEST = 300
_BOLD = re.compile(r"\x1b\[[01]m")  # as Keras prints some messages


def load_model(path: Path, *, compile: bool = False) -> keras.Model:  # noqa: A002 (Keras's name)
    """The model in a .keras or .h5 file, loaded in Keras's safe mode."""
    _check_readable(path)
    with complaints(f"{path} cannot be loaded: "), quiet():
        if path.suffix == ".keras" and not zipfile.is_zipfile(path):
            raise BadInputError(f"{path} is not a .keras file, or only a part of one")
        if path.suffix == ".h5":
            _refuse_lambda(path)
        model = keras.saving.load_model(path, compile=compile)
    if not isinstance(model, keras.Model):
        raise BadInputError(f"{path} holds a {type(model).__name__}, not a model")
    if not model.weights:
        raise BadInputError("the model has no weights")
    return model


@contextlib.contextmanager
def complaints(prefix: str = "") -> Iterator[None]:
    """Makes any error bad input, in one line: what Keras says of a file takes pages."""
    try:
        yield
    except BadInputError:
        raise
    except Exception as error:
        raise BadInputError(prefix + cause(error)) from error


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
        return (
            f"it holds a {unknown[1]} that is not known here, {unknown[2]}; --import takes "
            "the module that registers it"
        )
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
    classes: list[Any] = []
    json.loads(config, object_hook=lambda part: classes.append(part.get("class_name")))
    if "Lambda" in classes:
        raise BadInputError(f"{path} cannot be loaded: {_LAMBDA}")


def load_data(path: Path) -> Arrays:
    """The arrays of a .npz file by name, or the one of a .npy file as x."""
    _check_readable(path)
    with complaints(f"{path} cannot be read: "):
        content = np.load(path, allow_pickle=False)
        arrays = {"x": content} if path.suffix == ".npy" else dict(content)
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            raise BadInputError(f"{path} must hold numbers: {name}")
        if not array.size:
            raise BadInputError(f"{path} holds an empty array: {name}")
    return arrays


def batch_of(arrays: Arrays, model: keras.Model, path: Path) -> tuple[Any, Any]:
    """What the model takes, and what its results are compared with or `None`."""
    inputs = getattr(model, "inputs", None) or []
    names = [tensor.name for tensor in inputs]
    x = dict(arrays)
    y = None if "y" in names else x.pop("y", None)
    if names and set(x) == set(names):
        structure = inputs[0] if isinstance(model, keras.Sequential) else model.input
        return keras.tree.map_structure(lambda tensor: x[tensor.name], structure), y
    if set(x) != {"x"} or len(names) > 1:
        wanted = " and ".join(names) if len(names) > 1 else "x"
        held = ", ".join(arrays) or "nothing"
        raise BadInputError(f"{path} must hold {wanted}, and y if wanted; it holds {held}")
    return x["x"], y


def run(options: argparse.Namespace) -> int:
    """The exit code: 0, 1 for errors and warnings (with `--strict`, notes too), or 2."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: complain(f"warning: {message}")
        try:
            with complaints():
                return _run(options)
        except BadInputError as error:
            complain(str(error))
            return BAD_INPUT


def _run(options: argparse.Namespace) -> int:
    for name in options.modules:
        _import(name)
    _check(options)
    output, figure, data = options.output, options.plot, options.data
    arrays = load_data(data) if data else {}
    with (
        new_file(output, overwrite=options.overwrite) as new_model,
        new_file(figure, overwrite=options.overwrite) as new_figure,
    ):
        model = load_model(options.model, compile=output is not None or "y" in arrays)
        batch = batch_of(arrays, model, data) if data else (None, None)
        report = _report(model, options, *batch)
        if new_model is not None:
            with complaints(f"{output} cannot be written: "), quiet():
                model.save(new_model)
        if new_figure is not None:
            with complaints(f"{figure} cannot be written: "), quiet():
                report.plot().savefig(new_figure)
        text = report.to_json() if options.json else report.text(options.verbose)
        write_output(f"{text}\n")
    fails = report.findings if options.strict else [*report.errors, *report.warnings]
    return FINDINGS if fails else CLEAN


def _check(options: argparse.Namespace) -> None:
    """What can be known to be wrong before the model is loaded."""
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        raise BadInputError('--plot needs matplotlib: pip install "keras_fanwise[plot]"')
    for name, (file, allowed) in _FILES.items():
        path = getattr(options, name)
        if path and path.suffix not in re.findall(r"\.\w+", allowed):
            raise BadInputError(f"the {file} must be a {allowed} file: {path}")
    if options.seed is not None:
        integer("seed", options.seed, 0, 2**64)
    if options.recipe is not None:
        rules_of(options.recipe)
    if options.command == "calibrate":
        positive("std", options.std)


def _import(name: str) -> None:
    """As `python -m` finds modules, also where the command does not look by itself."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    with complaints(f"{name} cannot be imported: "):
        importlib.import_module(name)


def _report(
    model: keras.Model, options: argparse.Namespace, x: Any, y: Any
) -> Report[Any, Any]:
    command = options.command
    if command == "fans":
        return keras_fanwise.fans_table(model)
    if command == "audit":
        return keras_fanwise.audit(model, ignore=options.ignore)
    if command == "signal":
        with complaints("no signal can be sent: "), quiet():
            return keras_fanwise.signal(model, x, y)
    if command == "diagnose":
        with complaints("the model cannot be diagnosed: "), quiet():
            return keras_fanwise.diagnose(
                model, x, y, ignore=options.ignore, steps=options.steps
            )
    if command == "calibrate":
        with complaints("the model cannot be calibrated: "), quiet():
            return keras_fanwise.calibrate(
                model, x, std=options.std, by=options.by, only=options.only
            )
    if options.recipe is None:
        return keras_fanwise.reinitialize(model, options.seed)
    return keras_fanwise.initialize(model, options.recipe, options.seed)
