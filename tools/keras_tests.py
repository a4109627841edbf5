"""Runs Keras's own tests plain, with keras_fanwise imported, and inside `retrofit()`.

    python tools/keras_tests.py                          # those of the installed Keras
    python tools/keras_tests.py ../keras                 # those of a checkout
    python tools/keras_tests.py --parts layers/core initializers

On the backend that `KERAS_BACKEND` names. Prints how many tests ended how, and those that
ended otherwise than plain, also when run once more; the exit code is 1 if the import made
any do so. Inside `retrofit()` a test may rightly differ: one that asks for Keras's classes
by name.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

PARTS = ("layers", "initializers", "models", "saving")
PLAIN, IMPORTED, RETROFIT = WAYS = ("plain", "imported", "retrofit")

# Tells the plugin, which is this file too, what to do and where to note the outcomes.
_WAY, _NOTES = "KERAS_TESTS_WAY", "KERAS_TESTS_NOTES"
# pytest's exit codes for a run to its end: all passed, some failed.
_ENDED = (0, 1)

Outcomes = dict[str, str]


# The plugin


def pytest_sessionstart() -> None:
    """What is tested, done before any test is collected."""
    if not Path("conftest.py").exists():
        sys.modules["conftest"] = _conftest()
    way = os.environ[_WAY]
    if way == PLAIN:
        return
    import keras_fanwise

    if way == RETROFIT:
        keras_fanwise.retrofit().__enter__()


def _conftest() -> ModuleType:
    """For what tests import from the one of a checkout, which an installed Keras lacks."""
    import keras
    import pytest

    def skip_if_backend(backend: str, reason: str) -> pytest.MarkDecorator:
        return pytest.mark.skipif(keras.backend.backend() == backend, reason=reason)

    module = ModuleType("conftest")
    vars(module)["skip_if_backend"] = skip_if_backend
    return module


def pytest_runtest_logreport(report: Any) -> None:
    """Notes how a test ended; a failure before or after it is an error."""
    if report.when == "call" or report.outcome != "passed":
        failed_around = report.failed and report.when != "call"
        _note(report.nodeid, "error" if failed_around else report.outcome)


def pytest_collectreport(report: Any) -> None:
    """Notes a file that could not be read."""
    if report.failed:
        _note(report.nodeid, "error")


def _note(test: str, outcome: str) -> None:
    # Line by line: a crash of the process leaves what was noted before.
    with Path(os.environ[_NOTES]).open("a") as file:
        file.write(json.dumps([test, outcome]) + "\n")


# The program


def outcomes(root: Path, tests: Sequence[str], way: str) -> Outcomes:
    """How each test ended, run one way.

    Args:
        root: the folder that holds the package `keras`.
        tests: folders, files or single tests, from `root`.
        way: one of `WAYS`.
    """
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "notes"
        notes.touch()
        # The settings of the checkout; and none at all, not those of a folder above it.
        settings = root / "pyproject.toml"
        if not settings.exists():
            settings = Path(folder) / "pytest.ini"
            settings.write_text("[pytest]\n")
        paths = [str(Path(__file__).parent), str(root), os.environ.get("PYTHONPATH", "")]
        environment = {_WAY: way, _NOTES: str(notes), "PYTHONPATH": os.pathsep.join(paths)}
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--tb=no",
            "-p",
            "no:cacheprovider",
        ]
        command += ["-p", "keras_tests", "--continue-on-collection-errors"]
        ended = subprocess.run(
            [*command, "-c", settings, "--rootdir", root, *tests],
            cwd=root,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if ended.returncode not in _ENDED:
            raise SystemExit(f"{way}: no run to the end\n{ended.stdout[-4000:]}")
        return dict(json.loads(line) for line in notes.read_text().splitlines())


def differing(by_way: dict[str, Outcomes]) -> list[str]:
    """The tests that ended otherwise in some way than plain."""
    names = sorted(set().union(*by_way.values()))
    return [name for name in names if len({by_way[way].get(name) for way in by_way}) > 1]


def run(root: Path, tests: Sequence[str]) -> dict[str, Outcomes]:
    """All ways, one after the other."""
    by_way = {}
    for way in WAYS:
        print(f"{way} …", file=sys.stderr, flush=True)
        by_way[way] = outcomes(root, tests, way)
    return by_way


def print_table(by_way: dict[str, Outcomes]) -> None:
    """A row for each way, a column for each outcome."""
    counts = {way: Counter(by_way[way].values()) for way in WAYS}
    columns = sorted(set().union(*counts.values()))
    print("".join(f"{text:>10}" for text in ("", *columns)))
    for way in WAYS:
        print("".join(f"{text:>10}" for text in (way, *(counts[way][c] for c in columns))))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "checkout",
        nargs="?",
        type=Path,
        help="the folder that holds the package keras (default: that of the installed one)",
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        default=PARTS,
        metavar="PART",
        help=f"folders or files of keras/src (default: {' '.join(PARTS)})",
    )
    arguments = parser.parse_args()
    root = arguments.checkout
    if root is None:
        found = importlib.util.find_spec("keras")
        if found is None or found.origin is None:
            parser.error("Keras is not installed")
        root = Path(found.origin).parents[1]
    root = root.resolve()
    tests = [f"keras/src/{part}" for part in arguments.parts]
    missing = [test for test in tests if not (root / test).exists()]
    if missing:
        parser.error(f"{root} has no {', '.join(missing)}")

    by_way = run(root, tests)
    first = differing(by_way)
    if first:
        print(f"{len(first)} differ; once more", file=sys.stderr)
        for way, again in run(root, first).items():
            by_way[way].update(again)
    print_table(by_way)
    for name in differing(by_way):
        ended = (f"{way}: {by_way[way].get(name, 'absent')}" for way in WAYS)
        print(name, *ended, sep="\n  ")
    return by_way[IMPORTED] != by_way[PLAIN]


if __name__ == "__main__":
    sys.exit(main())
