"""Time and memory of draws from a million elements to a billion, whole and in shards.

    python benchmarks/scale.py                    # some 12 minutes, and 10 GB of memory
    python benchmarks/scale.py --largest 100000000

Draws `fanwise_he_normal` in float32 on JAX, as one weight and as a thousand, on one device
and spread over eight virtual ones by rows or by columns, with one thread and two. Times
are the shortest of several; memory is what the process needed at its peak beyond the
tensors themselves. Ends with a plan for a model of 70 billion weights, from the time per
element of the largest sharded draw.
"""

import argparse
import gc
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from harness import (
    console,
    fastest_seconds,
    fresh_process,
    print_machine,
    progress,
    results_table,
)
from memory import peak_growth

# Of one weight, and of each of a thousand, by the number of elements in all.
SHAPES = {
    10**6: ((1000, 1000), (25, 40)),
    10**7: ((2000, 5000), (50, 200)),
    10**8: ((10000, 10000), (250, 400)),
    10**9: ((20000, 50000), (1000, 1000)),
}
WEIGHTS = (1, 1000)
LAYOUTS: dict[str, tuple[Any, ...] | None] = {
    "whole": None,
    "rows": ("x", None),
    "columns": (None, "x"),
}
THREADS = (1, 2)
_DEVICES = 8
# What the time per element at the largest size may be, in terms of that at 10**7.
_AIM = 1.3
# The plan.
_PLANNED_WEIGHTS, _HOSTS, _LARGEST_WEIGHT = 70 * 10**9, 64, 10**9


class Case(NamedTuple):
    """What is drawn."""

    weights: int
    layout: str
    threads: int


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure draws of all sizes.")
    parser.add_argument("--largest", type=int, default=10**9, choices=list(SHAPES))
    largest = parser.parse_args().largest
    print_machine()
    sizes = [size for size in SHAPES if size <= largest]
    cases = [
        Case(weights, layout, threads)
        for weights in WEIGHTS
        for layout in LAYOUTS
        for threads in THREADS
        if weights == 1 or layout != "rows"  # rows of small weights do not divide by 8
    ]
    table = results_table(
        "Nanoseconds per element, and MiB beyond the result",
        ("weights", "layout", "threads"),
        (*(f"10^{len(str(size)) - 1}" for size in sizes), "last / 10^7", "MiB"),
    )
    found: dict[Case, list[float]] = {}
    with progress() as bar:
        for case in bar.track(cases, description="draws"):
            with fresh_process("jax") as process:
                times = process.submit(nanoseconds, case, sizes).result()
            with fresh_process("jax") as process:
                extra = process.submit(extra_bytes, case, sizes[-1]).result()
            found[case] = times
            table.add_row(
                str(case.weights),
                case.layout,
                str(case.threads),
                *(f"{time:.2f}" for time in times),
                f"{times[-1] / times[sizes.index(10**7)]:.2f}",
                f"{extra / 2**20:.0f}",
            )
    console.print(table)
    console.print(f"Aim: at most {_AIM} times the time per element at 10^7.")
    print_plan(found[Case(1, "columns", THREADS[-1])][-1])


def nanoseconds(case: Case, sizes: list[int]) -> list[float]:
    """For an element, at each size; runs in a fresh process."""
    prepare(case)
    times = []
    for size in sizes:
        repeats, rounds = (3, 5) if size <= 10**7 else (1, 2)
        fastest = fastest_seconds({"draw": draws(case, size)}, repeats, rounds)
        times.append(1e9 * fastest["draw"] / size)
    return times


def extra_bytes(case: Case, size: int) -> int:
    """At the peak, beyond the result; runs in a fresh process."""
    prepare(case)
    draws(case, min(SHAPES))()
    gc.collect()  # JAX lets go of memory that it took over when it next collects
    growth, _ = peak_growth(draws(case, size))
    return growth - 4 * size


def prepare(case: Case) -> None:
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={_DEVICES}"
    os.environ["KERAS_FANWISE_THREADS"] = str(case.threads)


def draws(case: Case, size: int) -> Callable[[], Any]:
    """Draws all weights of a case, which are of so many elements together."""
    import jax
    import numpy as np

    import keras_fanwise

    shape = SHAPES[size][WEIGHTS.index(case.weights)]
    axes, layout = LAYOUTS[case.layout], None
    if axes:
        mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
        layout = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
    initializers = [keras_fanwise.FanwiseHeNormal(seed=n) for n in range(case.weights)]
    return lambda: jax.block_until_ready(
        [initializer(shape, layout=layout) for initializer in initializers]
    )


def print_plan(nanoseconds: float) -> None:
    share = _PLANNED_WEIGHTS / _HOSTS
    shard = _LARGEST_WEIGHT / _HOSTS
    seconds = share * nanoseconds / 1e9
    console.print(
        f"A plan for {_PLANNED_WEIGHTS / 1e9:.0f} billion weights in float32 on {_HOSTS} "
        f"hosts, each weight over all of them: each host draws {share / 1e9:.2f} billion, "
        f"{seconds:.1f} s on two cores like these at {nanoseconds:.2f} ns; they take "
        f"{4 * share / 1e9:.1f} GB on its devices. On the host one shard at a time, "
        f"{4 * shard / 1e6:.0f} MB of a weight of {_LARGEST_WEIGHT / 1e9:.0f} billion, and "
        "at most 64 MB to work with."
    )


if __name__ == "__main__":
    main()
