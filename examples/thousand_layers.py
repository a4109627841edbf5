"""A thousand plain layers: no residuals, no normalization, only the right start.

    KERAS_BACKEND=torch python examples/thousand_layers.py --figure thousand_layers.png

Trains a network of 1,000 3×3 convolutions of 16 channels with tanh on scikit-learn's
digits, 60 steps of Adam, from different kernels: delta-orthogonal at criticality, and, each
in the same network with the same stem, head and biases, `he_normal`, `glorot_uniform`,
Gaussian at criticality, and Keras's `Orthogonal`, which flattens a kernel, with the same
gain. Prints how the signal and the gradient pass through the depth, and the validation
accuracies, and draws both. The exit code is 0 only if the network learns with
delta-orthogonal kernels from every seed and with no others.

On PyTorch or JAX: TensorFlow takes minutes to trace a thousand layers. With
`--depth 10000` pass `--starts delta-orthogonal`, unless you have hours.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from keras import layers
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_fanwise

OURS = "delta-orthogonal"
# By the start: the kernels of a network of critical weight variance `variance`.
STARTS: dict[str, Callable[[float], Any]] = {
    OURS: lambda variance: keras_fanwise.FanwiseDeltaOrthogonal(gain=variance**0.5),
    "critical Gaussian": lambda variance: keras_fanwise.FanwiseVarianceScaling(
        scale=variance, distribution="untruncated_normal"
    ),
    "Keras's Orthogonal": lambda variance: keras.initializers.Orthogonal(
        gain=variance**0.5
    ),
    "glorot_uniform": lambda variance: "glorot_uniform",
    "he_normal": lambda variance: "he_normal",
}
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00")
CHANNELS = 16
BATCH = 64

# The accuracy that the network must reach with delta-orthogonal kernels, and the one that
# it must stay at or below with the others.
LEARNED = 0.9
NOT_LEARNED = 0.2


class Run(NamedTuple):
    """Standard deviations in each layer, before training, and the accuracy after it."""

    forward: list[float]
    backward: list[float]
    accuracy: float
    seconds: float


Results = dict[str, list[Run]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a thousand plain layers.")
    parser.add_argument("--figure", type=Path, default=Path("thousand_layers.png"))
    parser.add_argument("--depth", type=int, default=1000, help="number of layers")
    parser.add_argument("--steps", type=int, default=60, help="of training")
    parser.add_argument("--seeds", type=int, default=3, help=f"number, with {OURS}")
    controls = "number, with the other kernels"
    parser.add_argument("--control-seeds", type=int, default=1, help=controls)
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    quick = "300 layers, one seed, delta-orthogonal and he_normal only"
    parser.add_argument("--quick", action="store_true", help=quick)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.depth, arguments.seeds = 300, 1
        arguments.starts = [OURS, "he_normal"]

    if keras.backend.backend() == "torch":
        import torch

        # Where gradients vanish they pass through numbers next to 0, with which a
        # processor takes many times as long.
        torch.set_flush_denormal(True)

    results: Results = {}
    for start in arguments.starts:
        seeds = arguments.seeds if start == OURS else arguments.control_seeds
        results[start] = []
        for seed in range(seeds):
            run = train(start, seed, arguments.depth, arguments.steps)
            results[start].append(run)
            print(f"{start}, seed {seed}: {run.accuracy:.3f} ({run.seconds:.0f} s)")
            sys.stdout.flush()
    Console().print(table(results, arguments.depth))
    draw(results, arguments.depth, arguments.figure)
    check(results, arguments.depth)


def train(start: str, seed: int, depth: int, steps: int) -> Run:
    begin = time.perf_counter()
    train_x, validation_x, train_y, validation_y = split_digits()
    keras.utils.set_random_seed(seed)
    network = build_network(start, depth)
    forward, backward = signal(network, train_x[:BATCH], depth)
    # Whole passes through the images, as long as there are steps.
    random = np.random.default_rng(seed)
    passes = -(-steps * BATCH // len(train_x))
    order = np.concatenate([random.permutation(len(train_x)) for _ in range(passes)])
    order = order[: steps * BATCH]
    network.fit(train_x[order], train_y[order], batch_size=BATCH, shuffle=False, verbose=0)
    _, accuracy = network.evaluate(validation_x, validation_y, batch_size=360, verbose=0)
    return Run(forward, backward, float(accuracy), time.perf_counter() - begin)


def split_digits() -> list[np.ndarray]:
    """Images, of mean 0 and variance 1, for training and validation; then labels."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("float32")
    images = (images - images.mean()) / images.std()
    return train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)


def build_network(start: str, depth: int) -> keras.Model:
    # Keras walks through the graph of a model by recursion.
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 20 * depth + 1000))
    critical = keras_fanwise.criticality("tanh", q=1 / depth)
    biases = keras_fanwise.FanwiseNormal(stddev=critical.bias_variance**0.5)
    scaling = keras_fanwise.FanwiseVarianceScaling
    stem = layers.Conv2D(
        CHANNELS, 3, 2, "same", activation="tanh", kernel_initializer=scaling(critical.q)
    )
    plain = [
        layers.Conv2D(
            CHANNELS,
            3,
            padding="same",
            activation="tanh",
            kernel_initializer=STARTS[start](critical.weight_variance),
            bias_initializer=biases,
            name=f"layer_{i}",
        )
        for i in range(depth)
    ]
    head = layers.Dense(10, kernel_initializer=scaling(1 / critical.q))
    network = keras.Sequential(
        [keras.Input((8, 8, 1)), stem, *plain, layers.Flatten(), head]
    )
    network.compile(
        keras.optimizers.Adam(0.01 / depth),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return network


def signal(
    network: keras.Model, x: np.ndarray, depth: int
) -> tuple[list[float], list[float]]:
    """Standard deviations of signals and gradients in the plain layers."""
    rows = [row for row in keras_fanwise.signal(network, x).rows if "layer_" in row.path]
    assert len(rows) == depth
    return [row.std for row in rows], [row.gradient_std or 0.0 for row in rows]


def table(results: Results, depth: int) -> Table:
    title = f"{depth:,} layers: last over first standard deviation, validation accuracy"
    result = Table("kernels", box=None, title=title)
    for heading in ("signal", "gradient", "accuracy", "seconds"):
        result.add_column(heading, justify="right")
    result.pad_edge = False
    for start, runs in results.items():
        result.add_row(
            start,
            f"{runs[0].forward[-1] / runs[0].forward[0]:.2g}",
            f"{runs[0].backward[0] / runs[0].backward[-1]:.2g}",
            " ".join(f"{run.accuracy:.3f}" for run in runs),
            " ".join(f"{run.seconds:.0f}" for run in runs),
        )
    return result


def draw(results: Results, depth: int, file: Path) -> None:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels: Sequence[Any] = figure.subplots(1, 2)
    colours = dict(zip(STARTS, COLOURS, strict=True))
    for start, runs in results.items():
        accuracies = ", ".join(f"{run.accuracy:.2f}" for run in runs)
        for panel, values in zip(panels, (runs[0].forward, runs[0].backward), strict=True):
            panel.plot(
                np.arange(1, depth + 1),
                np.maximum(values, 1e-30),
                color=colours[start],
                linewidth=2.5 if start == OURS else 1.3,
                label=f"{start}: accuracy {accuracies}",
            )
    for panel, title in zip(panels, ("signal", "gradient"), strict=True):
        panel.set(xlabel="layer", ylabel="standard deviation", yscale="log", title=title)
        panel.spines[["top", "right"]].set_visible(False)
    legend = panels[0].get_legend_handles_labels()
    figure.legend(*legend, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(file, dpi=150)


def check(results: Results, depth: int) -> None:
    for start, runs in results.items():
        for run in runs:
            right = run.accuracy > LEARNED if start == OURS else run.accuracy <= NOT_LEARNED
            if not right:
                measured = f"{depth} layers reach {run.accuracy:.3f} with {start}"
                raise SystemExit(f"thousand_layers: {measured}, which is not as claimed")


if __name__ == "__main__":
    main()
