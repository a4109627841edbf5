"""Time and memory of loading a model, inside `skip_init()` and outside it.

    KERAS_BACKEND=jax python benchmarks/load.py    # some 3 minutes for a backend

A model of 160 million weights in dense and convolutional kernels is saved once, and loaded
by `keras.models.load_model` on the CPU: each initializer in a process of its own, the two
sides in turns, and each peak in another process. Times are medians; ratios hold within a
run. Both sides must give the weights of the file, bit for bit, and what a file lacks must
have the values of a model that is built without the block.

Without `KERAS_BACKEND` all installed backends are measured.
"""

import argparse
import contextlib
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from harness import (
    console,
    fresh_process,
    installed_backends,
    print_machine,
    progress,
    results_table,
)
from memory import peak_growth

INITIALIZERS = ("he_normal", "glorot_uniform", "fanwise_he_normal")
ROUNDS = 3
WIDTH = 4096
# Seven dense kernels and four convolutional ones: 160 million weights.
DENSE, CONVOLUTIONS = 7, 4
AIM = {"he_normal": 2.5}


def network(initializer: str, classes: int = 10) -> Any:
    """Wide layers, and a head."""
    import keras

    layers = keras.layers
    inputs = keras.Input((4, 4, 1024))
    x = inputs
    for _ in range(CONVOLUTIONS):
        x = layers.Conv2D(1024, 3, padding="same", kernel_initializer=initializer)(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(WIDTH, kernel_initializer=initializer)(x)
    for _ in range(DENSE):
        x = layers.Dense(WIDTH, kernel_initializer=initializer)(x)
    head = layers.Dense(classes, kernel_initializer=initializer, name=f"head_{classes}")
    return keras.Model(inputs, head(x))


def save(folder: str) -> int:
    """A file for each initializer; returns how many weights it has."""
    import keras_fanwise  # noqa: F401 (its names)

    model = network("zeros")
    generator = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(generator.random(weight.shape, np.float32))
    for initializer in INITIALIZERS:
        other = network(initializer)
        other.set_weights(model.get_weights())
        other.save(file_of(folder, initializer))
    return int(model.count_params())


def file_of(folder: str, initializer: str) -> str:
    return str(Path(folder) / f"{initializer}.keras")


def load(file: str, skip: bool) -> Any:
    import keras

    import keras_fanwise

    with keras_fanwise.skip_init() if skip else contextlib.nullcontext():
        return keras.models.load_model(file)


def seconds(file: str, rounds: int) -> dict[bool, float]:
    """The median of each side; both give the same weights."""
    durations: dict[bool, list[float]] = {False: [], True: []}
    for side in durations:  # what is loaded or compiled once
        load(file, side)
    for _ in range(rounds):
        for side, times in durations.items():
            start = time.perf_counter()
            model = load(file, side)
            times.append(time.perf_counter() - start)
            del model
    weights = [load(file, side).get_weights() for side in durations]
    assert all(np.array_equal(one, two) for one, two in zip(*weights, strict=True))
    return {side: statistics.median(times) for side, times in durations.items()}


def peak(file: str, small: str, skip: bool) -> float:
    """In sizes of the weights."""
    load(small, skip)
    return peak_growth(lambda: load(file, skip))[0] / Path(file).stat().st_size


def save_small(file: str) -> None:
    import keras

    keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)]).save(file)


def mismatch(file: str, initializer: str) -> list[str]:
    """What is drawn where the file has another head; it must be as without the block."""
    import keras

    import keras_fanwise

    heads = []
    for block in (contextlib.nullcontext(), keras_fanwise.skip_init()):
        keras.utils.set_random_seed(1)
        with block as skipped, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = network(initializer, classes=3)
            model.load_weights(file, skip_mismatch=True)
        heads.append(keras.ops.convert_to_numpy(model.layers[-1].kernel))
    assert np.array_equal(*heads)
    assert skipped is not None
    return list(skipped.drawn)


def run(backend: str, rounds: int, folder: str) -> None:
    """Prints the table of a backend."""
    table = results_table(
        f"Loading on {backend}: seconds, and peak memory in sizes of the file",
        ("initializer",),
        ("plain", "skip_init", "ratio", "memory: plain", "memory: skip_init"),
    )
    small = str(Path(folder) / "small.keras")
    with progress() as bar:
        task = bar.add_task(backend, total=len(INITIALIZERS))
        with fresh_process(backend) as process:
            count = process.submit(save, folder).result()
            process.submit(save_small, small).result()
        for initializer in INITIALIZERS:
            file = file_of(folder, initializer)
            with fresh_process(backend) as process:
                times = process.submit(seconds, file, rounds).result()
            peaks = []
            for side in times:
                with fresh_process(backend) as process:
                    peaks.append(process.submit(peak, file, small, side).result())
            table.add_row(
                initializer,
                *(f"{time:.2f}" for time in times.values()),
                f"{times[False] / times[True]:.1f}",
                *(f"{size:.2f}" for size in peaks),
            )
            bar.advance(task)
        with fresh_process(backend) as process:
            drawn = process.submit(
                mismatch, file_of(folder, INITIALIZERS[0]), INITIALIZERS[0]
            ).result()
    console.print(table)
    console.print(f"{count:,} weights; with another head, drawn: {drawn}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    print_machine()
    for name in [os.environ.get("KERAS_BACKEND")] * ("KERAS_BACKEND" in os.environ) or (
        installed_backends()
    ):
        with tempfile.TemporaryDirectory() as folder:
            run(str(name), arguments.rounds, folder)
    aims = ", ".join(f"{name} {ratio} times as fast" for name, ratio in AIM.items())
    console.print(f"Aim: {aims}.")
