"""What the benchmarks share: a process per backend, the timing, the look of the output."""

import importlib.metadata
import importlib.util
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

BACKENDS = ("tensorflow", "jax", "torch")

# A file or a pipe has no width of its own, and the tables need more than 80 columns.
console = Console(width=None if sys.stdout.isatty() else 100)

_CPU_ONLY = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "JAX_PLATFORMS": "cpu",
    "KERAS_TORCH_DEVICE": "cpu",
}

# TensorFlow's threads spin for a while after an operation, looking for more to do,
# and would slow down whoever is measured next.
_SETTLE_SECONDS = 0.1
_ROUNDS = 5


def installed_backends() -> list[str]:
    """The backends that are installed; prints which are not."""
    found = [backend for backend in BACKENDS if importlib.util.find_spec(backend)]
    for backend in BACKENDS:
        if backend not in found:
            console.print(f"{backend}: missing, so not measured")
    if not found:
        raise SystemExit("No backend is installed: there is nothing to measure.")
    return found


def fresh_process(backend: str, *, accelerator: bool = False) -> ProcessPoolExecutor:
    """A new Python process for Keras on `backend`, which runs what is submitted.

    Accelerators are hidden from it, unless one is asked for: all is measured on the CPU.
    """
    # Spawned, not forked: nothing that is loaded here helps or burdens the child.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, _prepare, (backend, accelerator))


def _prepare(backend: str, accelerator: bool) -> None:
    if "keras" in sys.modules:
        # A new process imports the program first: it would be of the default backend.
        raise ImportError("import keras in the functions that are submitted")
    os.environ.update({"KERAS_BACKEND": backend, **({} if accelerator else _CPU_ONLY)})
    # TensorFlow's start-up messages would break up the progress bar. Exceptions reach
    # the parent another way.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def finished(tensor: Any) -> Any:
    """The tensor, once it is computed: JAX and a GPU's PyTorch hand it out before that."""
    if getattr(tensor, "is_cuda", False):
        import torch

        torch.cuda.synchronize()
    return tensor.block_until_ready() if hasattr(tensor, "block_until_ready") else tensor


def where(backend: str) -> str:
    """The device on which a new tensor of the backend is. Runs in a process of it."""
    import keras

    return f"{backend} on {keras.ops.zeros(1).device}"


def fastest_seconds(
    calls: dict[str, Callable[[], Any]], repeats: int, rounds: int = _ROUNDS
) -> dict[str, float]:
    """The shortest duration of each call, once it is warm.

    Not the mean or the median, because whatever else the machine does only ever adds, and
    in bursts: on a virtual machine, memory that the host has to find first takes 20 times
    as long to touch, for one call or for ten in a row.

    The calls take turns, so that a slow minute of the machine meets all of them, in
    blocks of `repeats` calls, so that each is measured in its own surroundings. What
    a call returns is freed before the next, outside the measured time.
    """
    durations: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(_SETTLE_SECONDS)
            for _ in range(repeats):
                start = time.perf_counter()
                result = call()
                durations[name].append(time.perf_counter() - start)
                del result
    return {name: min(each) for name, each in durations.items()}


def results_table(title: str, texts: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    """An empty table with a column for each text and each number of a row."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for header in texts:
        table.add_column(header, no_wrap=True)
    for header in numbers:
        table.add_column(header, justify="right")
    return table


def progress() -> Progress:
    """A progress bar on standard error, gone when the work is done."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def cores() -> int:
    """How many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Windows and macOS do not have it
        return os.cpu_count() or 1


def print_machine() -> None:
    """Prints the machine, how busy it is, and the versions of what is measured."""
    owners = importlib.metadata.packages_distributions()
    versions = [f"Python {platform.python_version()}"]
    for package in ("keras_fanwise", "keras", "numpy", *BACKENDS):
        if package in owners:
            versions.append(f"{package} {importlib.metadata.version(owners[package][0])}")
    machine = f"{platform.system()} {platform.machine()}, {_processor()}, {cores()} cores"
    console.print(f"{machine}{_load()}; {', '.join(versions)}", highlight=False)


def _load() -> str:
    # Who else runs slows down most what has the most threads, and bends the ratios.
    return f" (load {os.getloadavg()[0]:.1f})" if hasattr(os, "getloadavg") else ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # Linux alone has it
        return platform.processor()
    names = [
        line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
    ]
    return names[0] if names else platform.processor()
