"""What a command has to do with its surroundings: output, warnings and signals."""

import codecs
import contextlib
import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any

from keras_fanwise.arguments import printable

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
