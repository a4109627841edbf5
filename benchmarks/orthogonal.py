"""What exact orthogonal draws cost: time beside Keras's own `Orthogonal`.

    python benchmarks/orthogonal.py

On each backend that is installed: the processor time of a draw, which counts all threads,
for kernels of several sizes; and the time to build an LSTM in a fresh process, with
Keras's initializers and with those of `retrofit(orthogonal=True)`.
"""

import time
from collections.abc import Callable

import numpy as np

from harness import (
    console,
    finished,
    fresh_process,
    installed_backends,
    print_machine,
    progress,
    results_table,
)

SHAPES = ((64, 64), (256, 256), (512, 512), (1024, 1024), (4608, 512), (2048, 2048))
ROUNDS = 5
UNITS, FEATURES = 256, 128


def processor_seconds(shape: tuple[int, int]) -> tuple[float, float, float, float]:
    """Of a draw by Keras's and by ours, and the largest entries of |QᵀQ − I|."""
    import keras

    import keras_fanwise

    initializers: tuple[Callable[..., object], ...] = (
        keras.initializers.Orthogonal(seed=1),
        keras_fanwise.FanwiseOrthogonal(seed=1),
    )
    seconds: list[list[float]] = [[], []]
    errors = []
    for initializer in initializers:
        q = keras.ops.convert_to_numpy(initializer(shape)).astype(np.float64)
        errors.append(float(np.abs(q.T @ q - np.eye(shape[1])).max()))
    for _ in range(ROUNDS):
        for initializer, durations in zip(initializers, seconds, strict=True):
            time.sleep(0.2)  # until the threads of the other have gone to sleep
            start = time.process_time()
            finished(initializer(shape))
            durations.append(time.process_time() - start)
    theirs, ours = map(min, seconds)
    return theirs, ours, errors[0], errors[1]


def building_seconds(ours: bool) -> float:
    """Of an LSTM, the first in its process; what is loaded once is loaded before."""
    import keras

    import keras_fanwise  # noqa: F401 (makes the names known to Keras)

    keras.layers.LSTM(
        8, kernel_initializer="zeros", recurrent_initializer="zeros", unit_forget_bias=False
    ).build((None, 4, 8))
    kernel, recurrent = "glorot_uniform", "orthogonal"
    if ours:
        kernel, recurrent = "fanwise_glorot_uniform", "fanwise_orthogonal"
    start = time.perf_counter()
    layer = keras.layers.LSTM(
        UNITS, kernel_initializer=kernel, recurrent_initializer=recurrent
    )
    layer.build((None, 4, FEATURES))
    for weight in layer.weights:
        finished(weight.value)
    return time.perf_counter() - start


def main() -> None:
    print_machine()
    draws = results_table(
        "A draw of float32: milliseconds of processor time, and max |QᵀQ − I|",
        ("backend", "shape"),
        ("Keras", "ours", "ours / Keras", "Keras's error", "our error"),
    )
    builds = results_table(
        f"Building LSTM({UNITS}) of {FEATURES} features, fresh process: milliseconds",
        ("backend",),
        ("Keras", "ours", "Keras / ours"),
    )
    backends = installed_backends()
    with progress() as bar:
        task = bar.add_task("draws and builds", total=len(backends) * (len(SHAPES) + 1))
        for backend in backends:
            with fresh_process(backend) as process:
                for shape in SHAPES:
                    found = process.submit(processor_seconds, shape).result()
                    theirs, ours, *errors = found
                    draws.add_row(
                        backend,
                        f"{shape[0]}×{shape[1]}",
                        f"{theirs * 1e3:.1f}",
                        f"{ours * 1e3:.1f}",
                        f"{ours / theirs:.1f}",
                        *(f"{error:.0e}" for error in errors),
                    )
                    bar.advance(task)
            seconds: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(3):
                for ours_first, durations in seconds.items():
                    with fresh_process(backend) as process:
                        durations.append(
                            process.submit(building_seconds, ours_first).result()
                        )
            theirs, ours = min(seconds[False]), min(seconds[True])
            builds.add_row(
                backend, f"{theirs * 1e3:.0f}", f"{ours * 1e3:.0f}", f"{theirs / ours:.1f}"
            )
            bar.advance(task)
    console.print(draws)
    console.print(builds)


if __name__ == "__main__":
    main()
