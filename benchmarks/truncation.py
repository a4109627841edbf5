"""Counts draws outside two standard deviations: ours and Keras's own.

python benchmarks/truncation.py                        # 10**9 and 5 * 10**7 draws
KERAS_BACKEND=torch python benchmarks/truncation.py
"""

import argparse

import keras
import numpy as np
from rich.console import Console
from rich.progress import track

from keras_fanwise.sampling.sampler import draw, stream_key

BATCH = 10_000_000


def outside(values: np.ndarray) -> tuple[int, float]:
    """How many of the values, with deviation 1 before truncation, are outside two."""
    magnitudes = np.abs(values)
    return int(np.count_nonzero(magnitudes > 2.0)), float(magnitudes.max())


def ours(batch: int) -> np.ndarray:
    return draw(stream_key(batch), "truncated_normal", (BATCH,))


def built_in(batch: int) -> np.ndarray:
    values = keras.random.truncated_normal((BATCH,), seed=batch)
    return np.asarray(keras.ops.convert_to_numpy(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=10**9, help="of ours")
    arguments = parser.parse_args()
    console = Console()
    for name, source, draws in (
        ("keras_fanwise", ours, arguments.draws),
        (f"keras.random on {keras.backend.backend()}", built_in, 5 * BATCH),
    ):
        batches = range(max(1, draws // BATCH))
        counts = [outside(source(batch)) for batch in track(batches, name, console=console)]
        found = sum(count for count, _ in counts)
        largest = max(magnitude for _, magnitude in counts)
        console.print(
            f"{name}: {found} of {len(counts) * BATCH:,} draws outside two standard "
            f"deviations, the largest at {largest:.7f}"
        )


if __name__ == "__main__":
    main()
