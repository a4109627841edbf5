"""Runs Python in processes of their own, one backend each."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

# The pass that does what need not be done on every backend, and compares them.
COMPARING = "jax"
OTHERS = ("tensorflow", "torch")
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


def skip_if_missing(backend: str) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: it is compared with no other backend")
