"""What runs where, and Python in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import keras
import pytest
from hypothesis import settings

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


def needs(backend: str) -> pytest.MarkDecorator:
    """For what is about one backend's own machinery."""
    return pytest.mark.skipif(
        keras.backend.backend() != backend, reason=f"about KERAS_BACKEND={backend}"
    )


def on_others() -> list[object]:
    """Parameters of a test: the backends that this run is compared with."""
    return [
        pytest.param(backend, marks=pytest.mark.multi_backend(backend))
        for backend in BACKENDS
        if backend != keras.backend.backend()
    ]


def fuzz_examples(few: int) -> int:
    """How many inputs a fuzz test tries: few, or what `--hypothesis-profile=fuzz` says."""
    is_asked_for = settings().max_examples > settings.get_profile("repeatable").max_examples
    return settings().max_examples if is_asked_for else few


def fewer_by_default(cases: Iterable[object], *by_default: object) -> list[object]:
    """Parameters of a test: these of the cases by default, the others as slow."""
    cases = list(cases)
    assert set(by_default) <= set(cases)
    return [
        case if case in by_default else pytest.param(case, marks=pytest.mark.slow)
        for case in cases
    ]
