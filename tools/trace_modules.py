"""Which modules of the package a newcomer has to open, to follow what one call does.

    python tools/trace_modules.py            # the numbers, and whether they are allowed
    python tools/trace_modules.py --list     # and the modules

A module is counted if one of its functions is called while a layer is built, and in `audit`
and in `signal` of a small network. What a first call alone does is left out.
"""

import argparse
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import keras
import numpy as np

import keras_fanwise

PACKAGE = Path(keras_fanwise.__file__).parent


def visited(call: Callable[[], object]) -> list[str]:
    """The modules of the package in which functions run during the second of two calls."""
    call()
    files: set[str] = set()

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            files.add(frame.f_code.co_filename)

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    inside = [Path(name) for name in files if Path(name).is_relative_to(PACKAGE)]
    return sorted(
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in inside
    )


def build() -> None:
    keras.layers.Dense(3, kernel_initializer="fanwise_he_normal").build((None, 4))


def network() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(2, "softmax")(x))


def calls() -> dict[str, tuple[Callable[[], object], int]]:
    """What is called, and how many modules it may pass through."""
    model = network()
    images = np.random.default_rng(0).standard_normal((16, 8, 8, 3)).astype("float32")
    return {
        "building a Dense": (build, 14),
        "audit": (lambda: keras_fanwise.audit(model), 16),
        "signal": (lambda: keras_fanwise.signal(model, images), 16),
    }


def main() -> int:
    """Prints a line for each call; whether one passes through too many."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--list", action="store_true", help="name the modules")
    lists = parser.parse_args().list
    too_many = False
    for name, (call, limit) in calls().items():
        modules = visited(call)
        too_many |= len(modules) > limit
        print(f"{name}: {len(modules)} modules, at most {limit} allowed")
        if lists:
            print(*(f"    {module}" for module in modules), sep="\n")
    return int(too_many)


if __name__ == "__main__":
    sys.exit(main())
