"""The command line: what the package tells about a saved model, and does to it."""

import argparse
import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import keras

import keras_fanwise
from keras_fanwise.arguments import integer, printable
from keras_fanwise.command.files import new_files
from keras_fanwise.command.saved_model import cause, check_suffix, load_model
from keras_fanwise.command.terminal import (
    BadInputError,
    clean_stop,
    complain,
    quiet,
    readable_output,
    write_output,
)
from keras_fanwise.models.recipes import rules_of
from keras_fanwise.reports.report import Report

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
        options = _parser().parse_args(arguments)
    finally:
        write_output("")  # the help, which may wait in the buffer
    _check_figure(options)
    run: Callable[[argparse.Namespace], int] = options.run
    return run(options)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
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
        command.add_argument("model", type=_path, help="a .keras or .h5 file")
        command.add_argument("--json", action="store_true", help="print JSON")
        command.add_argument("--plot", type=_path, metavar="FILE", help="draw a figure")
        command.add_argument(
            "--overwrite", action="store_true", help="files that are written may exist"
        )
        command.add_argument(
            "--verbose", action="store_true", help="show every weight or layer"
        )
        if name == "audit":
            command.add_argument(
                "--ignore",
                action="append",
                metavar="GLOB",
                help="accept the findings of these weights, such as 'head/*'",
            )
            command.add_argument(
                "--strict", action="store_true", help="exit code 1 for notes too"
            )
        if name == "init":
            command.add_argument("output", type=_path, help="the file to write")
            command.add_argument(
                "--recipe",
                help="a recipe, or an initializer for all kernels; by default every weight "
                "is drawn anew by the initializer that its layer was given",
            )
            command.add_argument("--seed", type=int, help="an integer, 0 or more")
    return parser


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("a name of a file is empty")
    return Path(text)


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
    with new_files(options.plot, overwrite=options.overwrite) as [figure]:
        model = _loaded(options)
        with _complaints("no signal can be sent: "):
            report = keras_fanwise.signal(model)
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
        with _complaints(f"{output} cannot be written: "), quiet():
            model.save(whole)
        _show(report, options, figure)
    return CLEAN


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
