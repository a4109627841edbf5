"""Time to build a model: with the initializers of keras_fanwise and with Keras's own.

    python benchmarks/build.py    # some 5 minutes

Builds convolutional models whose kernels are initialized by `fanwise_he_normal` and
by `he_normal`, on the CPU. "Initializers" is the part of the time that is spent
inside calls of that one class, the same on either side. On JAX the built-in is
compiled once for each shape, so a model whose kernels are all of different shapes is
where it takes longest.

Every build is the first one of a fresh process, so no compiled code is at hand; what
a process does only once, when it draws its first kernel, is done before. The times
are medians over the rounds, in each of which the two sides take turns. Ratios hold
within a run on a machine that does nothing else.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from harness import (
    console,
    finished,
    fresh_process,
    installed_backends,
    print_machine,
    progress,
    results_table,
)

OURS, KERAS = "fanwise_he_normal", "he_normal"
ROUNDS = 3
AIM = "The aim for initializers on JAX, distinct shapes: a Keras / ours of 10 or more."
LAYERS = 50


class Build(NamedTuple):
    """Seconds of one build: all of them, and those spent in initializers."""

    total: float
    initializers: float


def distinct_shapes(initializer: str) -> Any:
    """50 convolutions, no two with kernels of the same shape; 7 million weights."""
    return _convolutions(initializer, [16 + 4 * layer for layer in range(LAYERS)])


def equal_shapes(initializer: str) -> Any:
    """50 convolutions, all but the first with kernels of the same shape."""
    return _convolutions(initializer, [120] * LAYERS)


def _convolutions(initializer: str, filters: list[int]) -> Any:
    import keras

    layers = [
        keras.layers.Conv2D(
            count, 3, padding="same", activation="relu", kernel_initializer=initializer
        )
        for count in filters
    ]
    return keras.Sequential([keras.Input((32, 32, 3)), *layers])


# By the name in the table. Each builds a model with the named kernel initializer.
MODELS: dict[str, Callable[[str], Any]] = {
    "50 convolutions, distinct shapes": distinct_shapes,
    "50 convolutions, equal shapes": equal_shapes,
}


def build(model: str, initializer: str) -> Build:
    """Builds one model. Runs in a fresh process of the backend."""
    import keras

    import keras_fanwise

    keras_fanwise.register()
    # Starts the backend and loads all that is loaded at the first use.
    _convolutions(initializer, [1])

    durations = timed_calls(type(keras.initializers.get(initializer)))
    start = time.perf_counter()
    MODELS[model](initializer)
    return Build(time.perf_counter() - start, sum(durations))


def timed_calls(initializer_class: Any) -> list[float]:
    """A list that grows by the duration of each call of an instance of the class."""
    durations: list[float] = []
    call = initializer_class.__call__

    # With the signature, in which Keras looks for `layout`.
    @functools.wraps(call)
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        values = finished(call(*args, **kwargs))
        durations.append(time.perf_counter() - start)
        return values

    initializer_class.__call__ = timed
    return durations


def measure(model: str, backend: str, step: Callable[[], None]) -> dict[str, Build]:
    """The medians of either side; calls `step` after each build."""
    builds: dict[str, list[Build]] = {OURS: [], KERAS: []}
    for _ in range(ROUNDS):
        for initializer, measured in builds.items():
            with fresh_process(backend) as process:
                measured.append(process.submit(build, model, initializer).result())
            step()
    return {
        initializer: Build(*map(statistics.median, zip(*measured, strict=True)))
        for initializer, measured in builds.items()
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print_machine()
    backends = installed_backends()
    table = results_table(
        "Seconds to build a model",
        ("model", "backend", "spent in"),
        ("ours", "Keras", "Keras / ours"),
    )
    with progress() as bar:
        task = bar.add_task("builds", total=2 * ROUNDS * len(MODELS) * len(backends))
        for model in MODELS:
            for backend in backends:
                medians = measure(model, backend, lambda: bar.advance(task))
                for part in Build._fields:
                    ours, keras = (getattr(medians[name], part) for name in (OURS, KERAS))
                    ratio = keras / ours
                    table.add_row(
                        model, backend, part, f"{ours:.3f}", f"{keras:.3f}", f"{ratio:.1f}"
                    )
    console.print(table)
    console.print(AIM)


if __name__ == "__main__":
    main()
