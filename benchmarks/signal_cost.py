"""What a signal costs, next to a training step of the same model on the same batch.

    python benchmarks/signal_cost.py

Times and peak memory of `keras_fanwise.signal` and of `train_on_batch`, which Keras
compiles, on the CPU, for networks of 200 layers. Times are the shortest of several, once
everything is warm; the first training step, with its compilation, is shown as well, since
whoever asks for a signal once has not trained yet. Peak memory is that of the first call
on the batch, in a process of its own, after one on two samples.
"""

import contextlib
import ctypes
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from harness import (
    console,
    fastest_seconds,
    finished,
    fresh_process,
    installed_backends,
    print_machine,
    progress,
    results_table,
)
from memory import peak_growth

SIGNAL, STEP = "signal", "training step"
LAYERS = 200
MODELS = ("dense 256", "convolution 16")
BATCHES = {"dense 256": (32, 1024), "convolution 16": (8, 64)}
REPEATS = 3
# Its number in glibc's malloc.h.
_M_MMAP_THRESHOLD = -3
# At most so many times the time, and the memory, of a training step.
_AIM = (5.0, 1.5)


class Times(NamedTuple):
    """Seconds: of a signal, of a training step, and of the first of those."""

    signal: float
    step: float
    first_step: float


def main() -> None:
    print_machine()
    backends = installed_backends()
    table = results_table(
        f"A signal in a network of {LAYERS} layers, and one training step",
        ("backend", "layers"),
        ("batch", "ms", "step's", "ratio", "first's", "MiB", "step's", "ratio"),
    )
    cases = [
        (backend, model, batch)
        for backend in backends
        for model in MODELS
        for batch in BATCHES[model]
    ]
    with progress() as bar:
        for backend, model, batch in bar.track(cases, description="signals"):
            times = in_fresh_process(backend, seconds, model, batch)
            peaks = [
                in_fresh_process(backend, peak, model, batch, name)
                for name in (SIGNAL, STEP)
            ]
            table.add_row(
                backend,
                model,
                str(batch),
                f"{1e3 * times.signal:.0f}",
                f"{1e3 * times.step:.0f}",
                f"{times.signal / times.step:.2f}",
                f"{1e3 * times.first_step:.0f}",
                *(f"{each / 2**20:.0f}" for each in peaks),
                f"{peaks[0] / peaks[1]:.2f}",
            )
    console.print(table)
    time_aim, memory_aim = _AIM
    console.print(
        f"Aims for the ratios: at most {time_aim} in time, {memory_aim} in memory."
    )


def in_fresh_process(backend: str, function: Callable[..., Any], *arguments: Any) -> Any:
    with fresh_process(backend) as process:
        return process.submit(function, *arguments).result()


def seconds(model: str, batch: int) -> Times:
    calls = both_calls(model, batch)
    start = time.perf_counter()
    calls[STEP]()
    first = time.perf_counter() - start
    fastest = fastest_seconds(calls, REPEATS)
    return Times(fastest[SIGNAL], fastest[STEP], first)


def peak(model: str, batch: int, name: str) -> int:
    # What is asked for counts, not the holes that glibc's heap has between: it cannot put
    # an aligned array where one of its size was.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**16)
    both_calls(model, 2)[name]()
    growth, _ = peak_growth(both_calls(model, batch)[name])
    return growth


def both_calls(kind: str, batch: int) -> dict[str, Callable[[], Any]]:
    import keras
    import numpy as np
    from keras import layers

    import keras_fanwise

    keras.utils.set_random_seed(0)
    if kind == MODELS[0]:
        inputs = keras.Input((256,))
        body = [
            layers.Dense(256, "relu", kernel_initializer="fanwise_he_normal")
            for _ in range(LAYERS - 1)
        ]
    else:
        inputs = keras.Input((16, 16, 16))
        body = [
            layers.Conv2D(
                16, 3, 1, "same", activation="relu", kernel_initializer="fanwise_he_normal"
            )
            for _ in range(LAYERS - 1)
        ]
    model = keras.Sequential([inputs, *body, layers.Dense(10)])
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).standard_normal((batch, *inputs.shape[1:]), "float32")
    y = np.zeros((batch, *model.output_shape[1:]), "float32")
    return {
        SIGNAL: lambda: keras_fanwise.signal(model, x),
        STEP: lambda: finished(model.train_on_batch(x, y)),
    }


if __name__ == "__main__":
    main()
