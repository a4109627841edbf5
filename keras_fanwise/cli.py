"""What a command has to do with its surroundings: output, warnings and signals."""

import argparse
import codecs
import contextlib
import importlib
import importlib.util
import io
import json
import logging
import os
import re
import signal
import stat
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import h5py
import keras
import numpy as np

import keras_fanwise
from keras_fanwise.arguments import integer, positive, printable
from keras_fanwise.models.recipes import rules_of
from keras_fanwise.reports.report import Report
from keras_fanwise_command import parse

# What an output shows that has no such characters; of others, their numbers.
_PLAIN = {"×": "x", "·": "*"}
_SIGNALS = ("SIGHUP", "SIGINT", "SIGTERM")


class BadInputError(Exception):
    """What is wrong with an argument or a file, in words for the command's user."""


def complain(message: str) -> None:
    """Writes a line to the standard error, if there is one."""
    # None if the caller has closed it: print would then write among the output.
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(f"keras-fanwise: {printable(message)}", file=sys.stderr, flush=True)


def write_output(text: str) -> None:
    """Writes a text to the standard output, all of it or as much as the reader wants.

    Raises:
        BadInputError: it cannot be written.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        _drop_output()
        if not isinstance(error, BrokenPipeError):
            message = f"the output cannot be written: {error.strerror}"
            raise BadInputError(message) from error


def _drop_output() -> None:
    """What is left in the buffer would fail once more when the process ends."""
    with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


@contextlib.contextmanager
def readable_output() -> Iterator[None]:
    """Any character can be written, and a warning is one line."""
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.showwarning = _complain_of
        stream = sys.stdout
        if isinstance(stream, io.TextIOWrapper):
            stack.callback(stream.reconfigure, errors=stream.errors)
            stream.reconfigure(errors=_replaced.__name__)
        yield


def _complain_of(message: Warning | str, *_place: Any, **_more: Any) -> None:
    complain(f"warning: {message}")


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """Writes characters that an output does not have, such as × in ASCII, by others."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(_PLAIN.get(one) or ascii(one)[1:-1] for one in characters), error.end


codecs.register_error(_replaced.__name__, _replaced)


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
def clean_stop() -> Iterator[None]:
    """Signals that stop the process let it leave its contexts first.

    The exit code is that of a shell for them, 128 and the number of the signal. Signals
    that the caller ignores or handles are left alone.
    """
    handlers: dict[int, Any] = {}
    try:
        for name in _SIGNALS:
            number = getattr(signal, name, None)  # SIGHUP is not known to all systems
            if number is not None and signal.getsignal(number) in _DEFAULTS:
                handlers[number] = signal.signal(number, _stop)
    except ValueError:
        pass  # only the main thread may
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)


def _stop(number: int, _frame: FrameType | None) -> None:
    # A second one would stop the cleaning.
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


@contextlib.contextmanager
def new_files(*paths: Path | None, overwrite: bool) -> Iterator[list[Path | None]]:
    """Where to write files that take their places together, when the block has ended well.

    Whatever the block raises, its files are gone and those at `paths` are as they were.
    A file that exists keeps its mode, and a link goes on to point to it.

    Args:
        paths: of the files; `None` for a file that is not asked for.
        overwrite: whether there may be files at `paths` already.

    Yields:
        A path for each of `paths`, in a new folder beside it.

    Raises:
        BadInputError: before the block, if a file cannot be written; after it, if one
            cannot be moved to its place.
    """
    with contextlib.ExitStack() as stack:
        places = {path: _Place(path, overwrite, stack) for path in paths if path}
        yield [places[path].whole if path else None for path in paths]
        _move(list(places.values()))


class _Place:
    """The place of a file, and the folder beside it in which the file is written."""

    def __init__(self, path: Path, overwrite: bool, stack: contextlib.ExitStack) -> None:
        with _naming(path):
            # Not the link, but what it points to, is replaced.
            self.end = Path(os.path.realpath(path))
            self.mode = _mode(path)
            if not self.end.parent.is_dir():
                raise BadInputError(f"no such folder: {path.parent}")
            if self.mode is not None and not overwrite:
                raise BadInputError(f"{path} exists; --overwrite replaces it")
            folder = tempfile.TemporaryDirectory(
                dir=self.end.parent, prefix=".keras-fanwise-"
            )
        self.path = path
        self.whole = Path(stack.enter_context(folder)) / f"new{path.suffix}"
        self.before = self.whole.with_name("before")

    def move(self) -> None:
        with _naming(self.path):
            if self.mode is not None:
                self.whole.chmod(self.mode)
                # Some file systems have no links: there it cannot be moved back.
                with contextlib.suppress(OSError):
                    os.link(self.end, self.before)
            self.whole.replace(self.end)

    def move_back(self) -> None:
        if self.before.exists():
            self.before.replace(self.end)
        elif self.mode is None:
            self.end.unlink(missing_ok=True)


def _move(places: list[_Place]) -> None:
    with contextlib.ExitStack() as way_back:
        for place in places:
            place.move()
            way_back.callback(place.move_back)
        way_back.pop_all()


def _mode(path: Path) -> int | None:
    """The permissions of the file at a path, or `None` if there is none."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        raise BadInputError(f"not a file: {path}")
    return stat.S_IMODE(mode)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of the system name paths that nobody asked for: this one in their place."""
    try:
        yield
    except OSError as error:
        raise BadInputError(f"{path} cannot be written: {error.strerror}") from error


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


_DATA_SUFFIXES = (".npy", ".npz")


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
    if path.suffix not in _DATA_SUFFIXES:
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


CLEAN, FINDINGS, BAD_INPUT = 0, 1, 2
_FIGURES = (".pdf", ".png", ".svg")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: those of the command line, by default of this process.

    Returns:
        The exit code: 0, or 1 if `audit` has errors (with `--strict`, or notes) or
        `signal` findings, or 2 for bad input.

    Raises:
        SystemExit: the arguments are wrong (2) or ask for help (0), or a signal came
            (128 and its number).
    """
    with clean_stop(), readable_output():
        try:
            with _complaints():
                return _run(arguments)
        except BadInputError as error:
            complain(str(error))
            return BAD_INPUT


def _run(arguments: Sequence[str] | None) -> int:
    try:
        options = parse(arguments)
    finally:
        write_output("")  # the help, which may wait in the buffer
    _check_figure(options)
    for name in options.modules:
        _import(name)
    runs = {
        "fans": _fans,
        "audit": _audit,
        "signal": _signal,
        "init": _init,
        "calibrate": _calibrate,
    }
    return runs[options.command](options)


def _import(name: str) -> None:
    """As `python -m` finds modules, also where the command does not look by itself."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    with _complaints(f"{name} cannot be imported: "):
        importlib.import_module(name)


def _fans(options: argparse.Namespace) -> int:
    with new_files(options.plot, overwrite=options.overwrite) as [figure]:
        _show(keras_fanwise.fans_table(_loaded(options)), options, figure)
    return CLEAN


def _audit(options: argparse.Namespace) -> int:
    with new_files(options.plot, overwrite=options.overwrite) as [figure]:
        model = _loaded(options)
        with _complaints():
            report = keras_fanwise.audit(model, ignore=options.ignore)
        _show(report, options, figure)
    counted = report.findings if options.strict else report.errors
    return FINDINGS if counted else CLEAN


def _signal(options: argparse.Namespace) -> int:
    data = options.data and load_data(options.data)
    with new_files(options.plot, overwrite=options.overwrite) as [figure]:
        model = _loaded(options, compile=bool(data and data.has_targets))
        x, y = batch_of(data, model) if data else (None, None)
        with _complaints("no signal can be sent: "), quiet():
            report = keras_fanwise.signal(model, x, y)
        _show(report, options, figure)
    return FINDINGS if report.findings else CLEAN


def _init(options: argparse.Namespace) -> int:
    output, plot, recipe, seed = options.output, options.plot, options.recipe, options.seed
    check_suffix("output", output)
    if seed is not None:
        integer("seed", seed, 0, 2**64)
    if recipe is not None:
        rules_of(recipe)
    with new_files(output, plot, overwrite=options.overwrite) as [whole, figure]:
        model = _loaded(options, compile=True)
        if recipe is None:
            report = keras_fanwise.reinitialize(model, seed)
        else:
            report = keras_fanwise.initialize(model, recipe, seed)
        _save(model, whole, output)
        _show(report, options, figure)
    return CLEAN


def _calibrate(options: argparse.Namespace) -> int:
    output, plot, std = options.output, options.plot, options.std
    check_suffix("output", output)
    positive("std", std)
    data = options.data and load_data(options.data)
    with new_files(output, plot, overwrite=options.overwrite) as [whole, figure]:
        model = _loaded(options, compile=True)
        x = batch_of(data, model)[0] if data else None
        with _complaints("the model cannot be calibrated: "), quiet():
            report = keras_fanwise.calibrate(
                model, x, std=std, by=options.by, only=options.only
            )
        _save(model, whole, output)
        _show(report, options, figure)
    return CLEAN


def _save(model: keras.Model, whole: Path | None, output: Path) -> None:
    with _complaints(f"{output} cannot be written: "), quiet():
        model.save(whole)


def _loaded(options: argparse.Namespace, compile: bool = False) -> keras.Model:  # noqa: A002
    with quiet():
        model = load_model(options.model, compile=compile)
    if not model.weights:
        raise BadInputError("the model has no weights")
    return model


@contextlib.contextmanager
def _complaints(prefix: str = "") -> Iterator[None]:
    """Makes any error bad input, in one line: what Keras says of a file takes pages."""
    try:
        yield
    except BadInputError:
        raise
    except Exception as error:
        raise BadInputError(prefix + cause(error)) from error


def _check_figure(options: argparse.Namespace) -> None:
    path = options.plot
    if path is None:
        return
    if importlib.util.find_spec("matplotlib") is None:
        raise BadInputError('--plot needs matplotlib: pip install "keras_fanwise[plot]"')
    if path.suffix not in _FIGURES:
        raise BadInputError(f"the figure must be a {', '.join(_FIGURES)} file: {path}")
    for other in (options.model, getattr(options, "output", None)):
        if other is not None and os.path.realpath(other) == os.path.realpath(path):
            raise BadInputError(f"the figure would replace the model: {path}")


def _show(report: Report[Any], options: argparse.Namespace, figure: Path | None) -> None:
    if figure is not None:
        with _complaints(f"{options.plot} cannot be written: "), quiet():
            report.plot().savefig(figure)
    write_output(_text(report, options))


def _text(report: Report[Any], options: argparse.Namespace) -> str:
    if options.json:
        return report.to_json() + "\n"
    return report.text(options.verbose) + "\n"
