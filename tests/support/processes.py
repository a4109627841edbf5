"""Runs Python in processes of their own, one backend each."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

BACKENDS = ("tensorflow", "jax", "torch")
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


def skip_if_missing(backend: str) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: its half of the comparison did not run")
