"""The command line: what the package tells about a saved model, and does to it."""

import argparse
import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras

import keras_fanwise
from keras_fanwise.arguments import integer, positive
from keras_fanwise.command.data import batch_of, load_data
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
from keras_fanwise_command import parse

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
