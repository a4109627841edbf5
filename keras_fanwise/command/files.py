"""Writes files whole or not at all, and several of them together or none."""

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from keras_fanwise.command.terminal import BadInputError


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
