"""Peak memory of a new start of a whole model, in sizes of its weights. On Linux alone.

    python benchmarks/memory.py

One dense network with the state of Adam, 134 million weights, on each backend that is
installed: what `initialize` and `reinitialize` take beyond the model and its optimizer, and
what a plan takes. Every call runs in a process of its own. `draws.py` has the memory of a
draw from here.
"""

import math
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contenders import KERAS, OURS, TORCH, Shape, initializers
from harness import (
    console,
    fresh_process,
    installed_backends,
    print_machine,
    progress,
    results_table,
)

SHAPE: Shape = (4096, 4096)
_RESULT_BYTES = 4 * math.prod(SHAPE)
UNITS, LAYERS = 4096, 8
STARTS = ("initialize", "reinitialize", "initialize, dry run")

# What keras_fanwise aims for: at most this many results, and this many bytes.
_AIM = (2.1, 32 * 2**20)


def peak_memory(distribution: str, contender: str) -> tuple[float, str]:
    """The peak of one draw, in sizes of its result, and where the number is from.

    Runs in a fresh process of the backend.
    """
    # Loads what is loaded at the first draw.
    initializers(distribution, (2, 2))[contender]()
    growth, source = peak_growth(initializers(distribution, SHAPE)[contender])
    return growth / _RESULT_BYTES, source


def peak_growth(call: Callable[[], Any]) -> tuple[int, str]:
    """By how many bytes a call raises the peak memory, and where the number is from."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak becomes the present
        source, peak = "VmHWM, reset before the call", _vm_hwm
    except OSError:
        source, peak = "growth of ru_maxrss, from which earlier peaks can hide", _ru_maxrss
    before = peak()
    call()
    return peak() - before, source


def _vm_hwm() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def _ru_maxrss() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def print_memory(backends: list[str], distributions: tuple[str, ...]) -> None:
    """One row for each backend and distribution; every draw in a process of its own."""
    table = results_table(
        "Peak memory of a draw, in sizes of its result",
        ("backend", "He"),
        (OURS, KERAS, TORCH),
    )
    sources = set()
    with progress() as bar:
        task = bar.add_task("memory", total=len(backends) * len(distributions))
        for backend in backends:
            names = (OURS, KERAS, TORCH) if backend == "torch" else (OURS, KERAS)
            for distribution in distributions:
                cells = []
                for name in names:
                    with fresh_process(backend) as process:
                        peak, source = process.submit(
                            peak_memory, distribution, name
                        ).result()
                    cells.append(f"{peak:.2f}")
                    sources.add(source)
                table.add_row(backend, distribution, *cells)
                bar.advance(task)
    results, more = _AIM
    console.print(table)
    console.print(
        f"From {' and '.join(sources)}. Aim for ours: at most {results} results and "
        f"{more >> 20} MiB, here {results + more / _RESULT_BYTES:.1f}."
    )


def peak_of_start(call: str) -> float:
    """Of a whole model, in sizes of the weights; runs in a fresh process of the backend."""
    import keras

    import keras_fanwise

    dense = [keras.layers.Dense(UNITS, use_bias=False) for _ in range(LAYERS)]
    model = keras.Sequential([keras.Input((UNITS,)), *dense])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    small = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    keras_fanwise.initialize(small, "he", seed=0)  # loads what is loaded once
    starts = {
        "initialize": lambda: keras_fanwise.initialize(model, "he", seed=0),
        "reinitialize": lambda: keras_fanwise.reinitialize(model, seed=0),
        "initialize, dry run": lambda: keras_fanwise.initialize(
            model, "zeros", seed=0, dry_run=True
        ),
    }
    return peak_growth(starts[call])[0] / (4 * UNITS * UNITS * LAYERS)


def main() -> None:
    print_machine()
    table = results_table("Peak memory beyond the model", ("backend",), STARTS)
    for backend in installed_backends():
        cells = []
        for call in STARTS:
            with fresh_process(backend) as process:
                cells.append(f"{process.submit(peak_of_start, call).result():.2f}")
        table.add_row(backend, *cells)
    console.print(table)


if __name__ == "__main__":
    main()
