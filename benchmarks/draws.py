"""Time and memory of one draw: keras_fanwise, Keras, torch.nn.init and a NumPy fill.

    python benchmarks/draws.py                      # some 5 minutes, 3 GB of memory
    python benchmarks/draws.py --largest 1000000    # small tensors alone
    python benchmarks/draws.py --accelerator        # to a GPU, where there is one

Times are the shortest, in nanoseconds per element, of float32 draws on the CPU, warm:
on JAX this leaves out the compilation that the built-in needs for each new shape
(`build.py` counts it). Ratios hold within a run on a machine that does nothing else;
absolute times vary with the machine.

The NumPy fill is uniforms from Philox in a new array: the floor for our sampler.

With `--accelerator` the tensors are made for the backend's own device, large ones of ours
there too; `host` is ours drawn on the host, from which it travels. There are no aims
for this, and memory is not measured; `device.py` compares the bits.

Peak memory is measured on Linux alone: how much the resident memory of a fresh
process grows in its first draw of 4096 × 4096 elements, beyond what was there after
a draw of 2 × 2, as a multiple of the size of the result.
"""

import argparse
import math
import sys

from rich.table import Table

from contenders import (
    HOST,
    KERAS,
    NUMPY,
    OURS,
    TORCH,
    Shape,
    initializers,
    numpy_fill,
    on_host,
)
from harness import (
    console,
    fastest_seconds,
    fresh_process,
    installed_backends,
    print_machine,
    progress,
    results_table,
    where,
)

DISTRIBUTIONS = ("normal", "uniform")
SHAPES: tuple[Shape, ...] = (
    (25, 40),
    (256, 256),
    (3, 3, 128, 128),
    (3, 3, 256, 256),
    (1000, 1000),
    (3, 3, 512, 512),
    (4096, 4096),
    (10_000, 10_000),
)

# What keras_fanwise aims for: Keras's time as a multiple of ours, at least, for
# normal and uniform, by backend; from LARGE elements on, up to SMALL, and between them.
LARGE, SMALL = 10_000_000, 256 * 256
LARGE_AIMS = {"tensorflow": (3.5, 1.2), "jax": (4.0, 3.0), "torch": (8.0, 2.0)}
SMALL_AIMS = {"tensorflow": (1.0, 1.0), "jax": (1.0, 1.0), "torch": (0.77, 0.77)}
MIDDLE_AIM = 1.0
LEGEND = """\
ours: keras_fanwise. Keras: the built-in. torch: torch.nn.init. fill: NumPy's uniforms.
aim: for Keras / ours. From 10 million elements on, a uniform is also to take at most 1.5
times the fill."""

# A block of repeats draws about so many elements, within these limits.
_BLOCK_ELEMENTS, _FEWEST, _MOST = 34_000_000, 1, 100

Times = dict[tuple[str, Shape], dict[str, float]]


def nanoseconds(
    distribution: str, shape: Shape, accelerator: bool = False
) -> dict[str, float]:
    """Per element, by contender. Runs in a process of the backend."""
    size = math.prod(shape)
    calls = initializers(distribution, shape) | {NUMPY: lambda: numpy_fill(shape)}
    if accelerator:
        calls[HOST] = on_host(distribution, shape)
    repeats = min(_MOST, max(_FEWEST, _BLOCK_ELEMENTS // size))
    fastest = fastest_seconds(calls, repeats)
    return {name: 1e9 * seconds / size for name, seconds in fastest.items()}


def measure_times(backend: str, shapes: list[Shape], *, accelerator: bool) -> Times:
    """All draws of a backend, in one process."""
    times: Times = {}
    with progress() as bar, fresh_process(backend, accelerator=accelerator) as process:
        if accelerator:
            console.print(process.submit(where, backend).result())
        task = bar.add_task(backend, total=len(DISTRIBUTIONS) * len(shapes))
        for distribution in DISTRIBUTIONS:
            for shape in shapes:
                measured = process.submit(nanoseconds, distribution, shape, accelerator)
                times[distribution, shape] = measured.result()
                bar.advance(task)
    return times


def times_table(backend: str, times: Times, *, accelerator: bool) -> Table:
    """One row for each draw."""
    torch = (TORCH, f"{TORCH} / {OURS}") if backend == "torch" else ()
    host = (HOST, f"{HOST} / {OURS}") if accelerator else ()
    table = results_table(
        f"{backend}: nanoseconds per element",
        ("He", "shape"),
        (
            OURS,
            KERAS,
            f"{KERAS} / {OURS}",
            "aim",
            *torch,
            *host,
            NUMPY,
            f"{OURS} / {NUMPY}",
        ),
    )
    for (distribution, shape), by_name in times.items():
        ours, keras, fill = by_name[OURS], by_name[KERAS], by_name[NUMPY]
        cells = [f"{ours:.2f}", f"{keras:.2f}", f"{keras / ours:.2f}"]
        cells.append("" if accelerator else _aim(backend, distribution, math.prod(shape)))
        if torch:
            cells += [f"{by_name[TORCH]:.2f}", f"{by_name[TORCH] / ours:.2f}"]
        if host:
            cells += [f"{by_name[HOST]:.2f}", f"{by_name[HOST] / ours:.2f}"]
        cells += [f"{fill:.2f}", f"{ours / fill:.2f}"]
        table.add_row(distribution, "×".join(map(str, shape)), *cells)
    return table


def _aim(backend: str, distribution: str, size: int) -> str:
    if SMALL < size < LARGE:
        return f"≥ {MIDDLE_AIM}"
    aims = SMALL_AIMS if size <= SMALL else LARGE_AIMS
    return f"≥ {aims[backend][DISTRIBUTIONS.index(distribution)]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--largest",
        type=int,
        default=math.prod(SHAPES[-1]),
        metavar="N",
        help="leave out the tensors of more than N elements (default: %(default)s)",
    )
    parser.add_argument("--accelerator", action="store_true", help="draw to the GPU")
    arguments = parser.parse_args()
    largest, accelerator = arguments.largest, arguments.accelerator
    shapes = [shape for shape in SHAPES if math.prod(shape) <= largest]
    print_machine()
    backends = installed_backends()
    for backend in backends:
        times = measure_times(backend, shapes, accelerator=accelerator)
        console.print(times_table(backend, times, accelerator=accelerator))
    console.print(LEGEND)
    if accelerator:
        return
    if sys.platform != "linux":
        console.print("Peak memory: not measured, for lack of Linux.")
        return
    import memory

    if math.prod(memory.SHAPE) <= largest:
        memory.print_memory(backends, DISTRIBUTIONS)


if __name__ == "__main__":
    main()
