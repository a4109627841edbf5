"""Runs the code of the README and of the site, and renews the output under it.

    python tools/pages.py --write docs/seeds.md
    python tools/pages.py --write

The blocks of a page run in one namespace and one folder, from its top to its end, as
somebody would who copies them: those in `python`, whose output stands in a block of `text`
below, and those in `console`, whose lines that begin with `$` are commands. Without
`--write` it prints where an output differs, and its exit code is then 1. With it, the page
gets the output, and `docs/figures/` the figures that the page saves and shows.

A test does the same.
"""

import argparse
import contextlib
import io
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FIGURES = ROOT / "docs" / "figures"

_BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?"
    r"|^```console\n(?P<session>.*?)^```\n",
    re.S | re.M,
)


class Block(NamedTuple):
    """Code of a page.

    Attributes:
        code: in Python; of a console, the commands and what they print.
        output: what stands under it; of a console, what `code` is.
        is_console: which of the two it is.
        span: where in the page the output stands.
        line: where in the page the block begins.
    """

    code: str
    output: str
    is_console: bool
    span: tuple[int, int]
    line: int


def blocks(text: str) -> list[Block]:
    """The blocks of a page, in their order."""
    found = []
    for match in _BLOCK.finditer(text):
        is_console = match["code"] is None
        code = match["session"] if is_console else match["code"]
        output = code if is_console else match["output"] or ""
        part = "session" if is_console else "output"
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(code, output, is_console, match.span(part), line))
    return found


def run(page: Path) -> Iterator[tuple[Block, str]]:
    """Runs the blocks of a page in the working folder: each with what it prints."""
    namespace: dict[str, Any] = {"__name__": "page"}
    # A file or a pipe has no width of its own.
    with mock.patch.dict(os.environ, COLUMNS="80"):
        for block in blocks(page.read_text()):
            if block.is_console:
                yield block, _console(block.code)
                continue
            # So that a traceback tells the line of the page.
            code = "\n" * block.line + block.code
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(code, str(page), "exec"), namespace)
            yield block, printed.getvalue()


def _console(session: str) -> str:
    """A session with what its commands print now."""
    import keras_fanwise_command

    result, code = "", 0
    for line in session.splitlines():
        if not line.startswith("$ "):
            continue
        program, *arguments = shlex.split(line[2:])
        printed = io.StringIO()
        file = arguments.pop() if ">" in arguments else None
        if (program, arguments) == ("echo", ["$?"]):
            print(code, file=printed)
        elif program == "keras-fanwise":
            arguments = [argument for argument in arguments if argument != ">"]
            with contextlib.redirect_stdout(printed):
                code = keras_fanwise_command.main(arguments)
        else:
            raise ValueError(f"a page cannot run {line!r}")
        if file:
            Path(file).write_text(printed.getvalue())
        result += f"{line}\n{'' if file else printed.getvalue()}"
    return result


@contextlib.contextmanager
def _working_in(folder: str) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the code of the documentation.")
    parser.add_argument("pages", type=Path, nargs="*", default=PAGES)
    parser.add_argument("--write", action="store_true", help="renew outputs and figures")
    arguments = parser.parse_args()
    differ = False
    for page in map(Path.resolve, arguments.pages):
        text = page.read_text()
        with tempfile.TemporaryDirectory() as folder, _working_in(folder):
            # From the last, so that the places of the others stay.
            for block, printed in reversed(list(run(page))):
                if printed == block.output:
                    continue
                differ = True
                print(f"{page.name}:{block.line} prints\n{printed}")
                if block.span != (-1, -1):
                    start, end = block.span
                    text = text[:start] + printed + text[end:]
            for figure in Path(folder).glob("*.png"):
                if arguments.write and f"figures/{figure.name}" in text:
                    FIGURES.mkdir(exist_ok=True)
                    shutil.copy(figure, FIGURES)
        if arguments.write:
            page.write_text(text)
    return 0 if arguments.write else int(differ)


if __name__ == "__main__":
    sys.exit(main())
