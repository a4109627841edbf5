"""The command line: what the package tells about a saved model, and does to it."""

import argparse
import contextlib
import importlib.util
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import h5py
import keras
from rich.console import Console

import keras_fanwise
from keras_fanwise.reports.report import Report

CLEAN, FINDINGS, BAD_INPUT = 0, 1, 2
_FIGURES = (".pdf", ".png", ".svg")


class _BadInputError(Exception):
    """What is wrong with an argument or a file, in one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: those of the command line, by default of this process.

    Returns:
        The exit code: 0, or 1 if `audit` or `signal` has findings, or 2 for bad input.
    """
    options = _parser().parse_args(arguments)
    try:
        _check_figure(options.plot)
        return options.run(options)
    except _BadInputError as error:
        print(f"keras-fanwise: {error}", file=sys.stderr)
        return BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keras-fanwise",
        description="Initializers that count the fans of the weight they fill: what they "
        "would change in a saved model, whether it starts well, and a new start.",
        epilog="Exit codes: 0 clean, 1 findings, 2 bad input. Models are loaded in Keras's "
        "safe mode.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("fans", _fans, "the fans of every weight, and Keras's"),
        ("audit", _audit, "whether the model meets the conditions of a good start"),
        ("signal", _signal, "whether a signal survives the depth of the model"),
        ("init", _init, "write the model with new weights to a new file"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        command.add_argument("model", type=Path, help="a .keras or .h5 file")
        command.add_argument("--json", action="store_true", help="print JSON")
        command.add_argument("--plot", type=Path, metavar="FILE", help="draw a figure")
        if name == "init":
            command.add_argument("output", type=Path, help="the file to write")
            command.add_argument(
                "--recipe",
                help="a recipe, or an initializer for all kernels; by default every weight "
                "is drawn anew by the initializer that its layer was given",
            )
            command.add_argument("--seed", type=int, help="an integer, 0 or more")
            command.add_argument(
                "--overwrite", action="store_true", help="the output may exist already"
            )
    return parser


def _fans(options: argparse.Namespace) -> int:
    _show(keras_fanwise.fans_table(_built(_loaded(options.model))), options)
    return CLEAN


def _audit(options: argparse.Namespace) -> int:
    report = keras_fanwise.audit(_built(_loaded(options.model)))
    _show(report, options)
    return FINDINGS if report.findings else CLEAN


def _signal(options: argparse.Namespace) -> int:
    model = _built(_loaded(options.model))
    with _complaints("no signal can be sent: "):
        report = keras_fanwise.signal(model)
    _show(report, options)
    return FINDINGS if report.findings else CLEAN


def _init(options: argparse.Namespace) -> int:
    output = options.output
    _check_kind("output", output)
    _check_folder(output)
    if output.exists() and not options.overwrite:
        raise _BadInputError(f"{output} exists; --overwrite replaces it")
    model = _built(_loaded(options.model, compile=True))
    with _complaints():
        if options.recipe is None:
            report = keras_fanwise.reinitialize(model, options.seed)
        else:
            report = keras_fanwise.initialize(model, options.recipe, options.seed)
    _write(output, lambda whole: model.save(whole))
    _show(report, options)
    return CLEAN


def _loaded(path: Path, compile: bool = False) -> keras.Model:  # noqa: A002 (Keras's name)
    if not path.exists():
        raise _BadInputError(f"no such file: {path}")
    if not path.is_file():
        raise _BadInputError(f"not a file: {path}")
    _check_kind("model", path)
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise _BadInputError(f"{path} is not a .keras file, or only a part of one")
    if path.suffix == ".h5":
        _refuse_lambda(path)
    with _complaints(f"{path} cannot be loaded: "), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return keras.saving.load_model(path, compile=compile)


def _check_kind(argument: str, path: Path) -> None:
    if path.suffix not in (".keras", ".h5"):
        raise _BadInputError(f"the {argument} must be a .keras or .h5 file: {path}")


def _refuse_lambda(path: Path) -> None:
    # Keras 3.8 loads them from .h5 files in safe mode, too.
    with _complaints(f"{path} cannot be loaded: "), h5py.File(path) as file:
        if '"Lambda"' in str(file.attrs.get("model_config", "")):
            raise ValueError("Lambda")


def _built(model: keras.Model) -> keras.Model:
    if not model.weights:
        raise _BadInputError("the model has no weights")
    return model


@contextlib.contextmanager
def _complaints(prefix: str = "") -> Iterator[None]:
    """Makes any error bad input, in one line: what Keras says of a file takes pages."""
    try:
        yield
    except Exception as error:
        raise _BadInputError(prefix + _one_line(error)) from error


def _one_line(error: Exception) -> str:
    text = str(error)
    if "Lambda" in text:
        return "it holds a Lambda layer, which could run any code"
    _, _, after = text.partition("Could not locate class '")
    if after:
        return f"it holds a class that is not known here, {after.partition(chr(39))[0]}"
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return first[:300] or type(error).__name__


def _check_figure(path: Path | None) -> None:
    if path is None:
        return
    if importlib.util.find_spec("matplotlib") is None:
        raise _BadInputError('--plot needs matplotlib: pip install "keras_fanwise[plot]"')
    if path.suffix not in _FIGURES:
        raise _BadInputError(f"the figure must be a {', '.join(_FIGURES)} file: {path}")
    _check_folder(path)


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise _BadInputError(f"no such folder: {path.parent}")


def _write(output: Path, save: Callable[[Path], object]) -> None:
    """All of the file or nothing: it is written beside its place, then moved there."""
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".keras-fanwise-") as folder:
        whole = Path(folder) / output.name
        with _complaints(f"{output} cannot be written: "), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that .h5 is the older format
            save(whole)
            whole.replace(output)


def _show(report: Report, options: argparse.Namespace) -> None:
    if options.plot:
        _write(options.plot, lambda whole: report.plot().savefig(whole))
    if options.json:
        print(report.to_json())
    elif sys.stdout.isatty():
        Console().print(report)
    else:
        print(report)
