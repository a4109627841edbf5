"""What runs on which backend, and Python in processes of their own."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import keras
import pytest

# The pass that does what need not be done on every backend, and compares them.
COMPARING = "jax"
OTHERS = ("tensorflow", "torch")
# That of the default run, which must not take long.
DEFAULT = "tensorflow"
TESTS = Path(__file__).parents[1]


def run_python(code: str, *arguments: str, backend: str | None = None) -> str:
    """The standard output of `code`, run on `backend` (by default on this one)."""
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    if backend is not None:
        environment["KERAS_BACKEND"] = backend
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def once_on(backend: str) -> pytest.MarkDecorator:
    """For what takes long, above all processes that import a backend of their own."""
    return pytest.mark.skipif(
        keras.backend.backend() != backend,
        reason=f"runs once, when KERAS_BACKEND is {backend}",
    )


ONCE = once_on(COMPARING)
# What asks no backend for anything: on the one whose pass takes the least.
NUMPY_ALONE = once_on("torch")
# What takes long, and is covered in short where it does not run.
NOT_BY_DEFAULT = pytest.mark.skipif(
    keras.backend.backend() == DEFAULT,
    reason="takes long: runs when KERAS_BACKEND is jax or torch",
)


def fewer_by_default(cases: Iterable[object], *by_default: object) -> list[object]:
    """Parameters of a test: in the default run these of the cases, elsewhere all."""
    cases = list(cases)
    assert set(by_default) <= set(cases)
    return [
        case if case in by_default else pytest.param(case, marks=NOT_BY_DEFAULT)
        for case in cases
    ]


def skip_if_missing(backend: str) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: it is compared with no other backend")
