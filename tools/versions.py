"""Runs the tests with another Keras, in a virtual environment of its own.

    python tools/versions.py 3.11.3 torch            # all tests
    python tools/versions.py nightly jax --core      # the newest keras-nightly, the core
    python tools/versions.py 3.8.0 jax -- -x -k seam # what follows goes to pytest

The environment stands in `.venv-VERSION-BACKEND` and is used again if it is there; only a
nightly is brought up to date. The last line tells how many tests ended how; the exit code
is that of pytest. The core are the tests of what a new Keras may break: names, round trips,
fans, the seam and whole models.
"""

import argparse
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
CORE = (
    "tests/test_next_keras.py",
    "tests/test_names.py",
    "tests/initializers/test_config.py",
    "tests/fans",
    "tests/seam",
    "tests/models/test_saving.py",
    "tests/models/test_initialize.py",
)
BACKENDS = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch==2.13.0"}
# Keras 3.8 does not train on a newer JAX.
OLD = {("3.8.0", "jax"): "jax==0.4.38"}
NIGHTLY = "nightly"
# Up to 3.13 an `EinsumDense` keeps the batch size that it was built with, so that
# attention which a layer builds in its call cannot be opened; 3.8's `image.resize` asks for
# torchvision, and the nightly's `JaxLayer` for TensorFlow.
_OPENED = "tests/test_state.py::test_no_function_leaves_anything_behind[initialize]"
LEFT_OUT = {
    ("3.8.0", "torch"): (
        _OPENED,
        "keras_fanwise/__init__.py::keras_fanwise.FanwiseUpsampling",
    ),
    ("3.9.2", "torch"): (_OPENED,),
    ("3.11.3", "torch"): (_OPENED,),
    ("3.13.2", "torch"): (_OPENED,),
    (NIGHTLY, "jax"): (
        "tests/models/test_reinitialize.py::test_the_values_of_a_jax_layer_are_told_of",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line, makes the environment and runs the tests in it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("version", help="of Keras, as in 3.11.3, or 'nightly'")
    parser.add_argument("backend", choices=BACKENDS)
    parser.add_argument("--core", action="store_true", help="only what Keras may break")
    given = list(sys.argv[1:] if arguments is None else arguments)
    mine = given.index("--") if "--" in given else len(given)
    asked = parser.parse_args(given[:mine])
    python = environment(asked.version, asked.backend)
    found = said([python, "-c", "import keras; print(keras.__version__)"], asked.backend)
    command: list[str | Path] = [
        python,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--tb=short",
    ]
    if asked.core:
        command += [name for name in CORE if (ROOT / name).exists()]
    left_out = LEFT_OUT.get((asked.version, asked.backend), ())
    command += [f"--deselect={test}" for test in left_out]
    ended = subprocess.run(
        [*command, *given[mine + 1 :]],
        cwd=ROOT,
        env=settings(asked.backend),
        stdout=subprocess.PIPE,
        text=True,
    )
    print(ended.stdout, end="")
    lines = ended.stdout.strip().splitlines() or ["nothing ran"]
    tests = "the core of the tests" if asked.core else "the tests"
    print(f"Keras {found.split()[-1]} on {asked.backend}, {tests}: {lines[-1].strip('= ')}")
    return ended.returncode


def environment(version: str, backend: str) -> Path:
    """The interpreter of an environment with this Keras, which is made if it is missing."""
    folder = ROOT / f".venv-{version}-{backend}"
    python = folder / "bin" / "python"
    is_new = not python.exists()
    if is_new:
        venv.create(folder, with_pip=True)
        install(python, OLD.get((version, backend), BACKENDS[backend]))
        keras = [] if version == NIGHTLY else [f"keras=={version}"]
        install(python, *keras, "-e", f"{ROOT}[test]")
        if version != NIGHTLY:  # a backend may have brought another along
            install(python, *keras)
    if version == NIGHTLY:
        # Last and alone: all others ask for the Keras of the day, and both have one folder.
        if is_new:
            subprocess.run(
                [python, "-m", "pip", "uninstall", "--quiet", "--yes", "keras"], check=True
            )
        install(python, "--upgrade", "--pre", "--no-deps", "keras-nightly")
    return python


def install(python: Path, *what: str) -> None:
    """Installs with pip, and says so."""
    print("pip install", *what, file=sys.stderr)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *what], check=True)


def said(command: Sequence[str | Path], backend: str) -> str:
    """What a program prints."""
    ended = subprocess.run(
        command,
        env=settings(backend),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return ended.stdout


def settings(backend: str) -> dict[str, str]:
    """The variables of a process in which Keras runs on this backend."""
    return os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}


if __name__ == "__main__":
    sys.exit(main())
