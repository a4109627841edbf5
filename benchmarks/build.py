"""Time to build a model: with the initializers of keras_fanwise and with Keras's own.

    python benchmarks/build.py                        # some 10 minutes
    python benchmarks/build.py --only convolutions    # some 4 minutes
    python benchmarks/build.py --only applications    # some 7 minutes

Builds models on the CPU: convolutional ones, whose kernels are initialized by
`fanwise_he_normal` and by `he_normal`, and some of `keras.applications`, inside
`keras_fanwise.retrofit()` and outside it. "Initializers" is the part of the time that
is spent inside calls of initializers. On JAX the built-in is compiled
once for each shape, so a model whose kernels are all of different shapes is where it
takes longest.

Every build is the first one of a fresh process, so no compiled code is at hand; what
a process does only once, when it draws its first kernel, is done before. The times
are medians over the rounds, in each of which the two sides take turns. Ratios hold
within a run on a machine that does nothing else.
"""

import argparse
import contextlib
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

OURS, KERAS = "ours", "Keras"
INITIALIZERS = {OURS: "fanwise_he_normal", KERAS: "he_normal"}
ROUNDS = 3
LAYERS = 50


class Build(NamedTuple):
    """Seconds of one build: all of them, and those spent in initializers."""

    total: float
    initializers: float


class Group(NamedTuple):
    """Models that share a table.

    Attributes:
        title: of the table.
        aim: what the ratios should be.
        models: by the name in the table; each builds a model of a side, ours or Keras's.
    """

    title: str
    aim: str
    models: dict[str, Callable[[str], Any]]


def distinct_shapes(side: str) -> Any:
    """50 convolutions, no two with kernels of the same shape; 7 million weights."""
    return _convolutions(side, [16 + 4 * layer for layer in range(LAYERS)])


def equal_shapes(side: str) -> Any:
    """50 convolutions, all but the first with kernels of the same shape."""
    return _convolutions(side, [120] * LAYERS)


def _convolutions(side: str, filters: list[int]) -> Any:
    import keras

    layers = [
        keras.layers.Conv2D(
            count,
            3,
            padding="same",
            activation="relu",
            kernel_initializer=INITIALIZERS[side],
        )
        for count in filters
    ]
    return keras.Sequential([keras.Input((32, 32, 3)), *layers])


def application(name: str, side: str) -> Any:
    """A model of `keras.applications`, with the initializers that are written into it."""
    import keras

    import keras_fanwise

    with keras_fanwise.retrofit() if side == OURS else contextlib.nullcontext():
        return getattr(keras.applications, name)(weights=None)


APPLICATIONS = ("MobileNetV2", "EfficientNetB0", "ResNet50", "VGG16")
GROUPS = {
    "convolutions": Group(
        "Seconds to build a model",
        "The aim for initializers on JAX, distinct shapes: a Keras / ours of 10 or more.",
        {
            "50 convolutions, distinct shapes": distinct_shapes,
            "50 convolutions, equal shapes": equal_shapes,
        },
    ),
    "applications": Group(
        "Seconds to build an application, inside retrofit() and outside",
        "The aims for the total on JAX: a Keras / ours of 8 or more for EfficientNetB0, "
        "and of 5 or more for MobileNetV2.",
        {name: functools.partial(application, name) for name in APPLICATIONS},
    ),
}


def build(model: Callable[[str], Any], side: str) -> Build:
    """Builds one model. Runs in a fresh process of the backend."""
    import keras

    from keras_fanwise.seam.binding import Bound

    # Starts the backend and loads all that is loaded at the first use.
    _convolutions(side, [1])

    # What Keras calls to fill a kernel.
    families = {OURS: Bound, KERAS: keras.initializers.VarianceScaling}
    durations = timed_calls(families[side])
    start = time.perf_counter()
    model(side)
    return Build(time.perf_counter() - start, sum(durations))


def timed_calls(family: Any) -> list[float]:
    """A list that grows by the duration of each call of an instance of the class.

    Of its subclasses too: none of the family has a call of its own.
    """
    durations: list[float] = []
    call = family.__call__

    # With the signature, in which Keras looks for `layout`.
    @functools.wraps(call)
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        values = finished(call(*args, **kwargs))
        durations.append(time.perf_counter() - start)
        return values

    family.__call__ = timed
    return durations


def measure(
    model: Callable[[str], Any], backend: str, step: Callable[[], None]
) -> dict[str, Build]:
    """The medians of either side; calls `step` after each build."""
    builds: dict[str, list[Build]] = {OURS: [], KERAS: []}
    for _ in range(ROUNDS):
        for side, measured in builds.items():
            with fresh_process(backend) as process:
                measured.append(process.submit(build, model, side).result())
            step()
    return {
        side: Build(*map(statistics.median, zip(*measured, strict=True)))
        for side, measured in builds.items()
    }


def compare(group: Group, backends: list[str]) -> None:
    """Measures all models of a group, and prints the table."""
    table = results_table(
        group.title,
        ("model", "backend", "spent in"),
        (OURS, KERAS, f"{KERAS} / {OURS}"),
    )
    with progress() as bar:
        builds = 2 * ROUNDS * len(group.models) * len(backends)
        task = bar.add_task("builds", total=builds)
        for name, model in group.models.items():
            for backend in backends:
                medians = measure(model, backend, lambda: bar.advance(task))
                for part in Build._fields:
                    ours, keras = (getattr(medians[side], part) for side in (OURS, KERAS))
                    ratio = keras / ours
                    table.add_row(
                        name, backend, part, f"{ours:.3f}", f"{keras:.3f}", f"{ratio:.1f}"
                    )
    console.print(table)
    console.print(group.aim)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=GROUPS, help="measure this one table")
    only = parser.parse_args().only
    print_machine()
    backends = installed_backends()
    for name, group in GROUPS.items():
        if only in (None, name):
            compare(group, backends)


if __name__ == "__main__":
    main()
