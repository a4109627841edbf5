"""Deep residual networks without normalization, from different starts.

    python examples/no_normalization.py --figure no_normalization.png

Trains residual networks of 10, 50 and 100 convolutions of 16 channels on scikit-learn's
digits, five passes of Adam, from Keras's default kernels, from `he_normal`, and from that
once `calibrate` has scaled the kernels on a batch of images or on noise, and once the last
kernel of each branch is zero or divided by the square root of the number of branches.
Prints the validation accuracies with an interval over the seeds, and draws them. The exit
code is 0 only if at the largest depth each seed learns from the starts that are for such
networks, and from the others none gets as far as any of these.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from keras import layers
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_fanwise

CHANNELS, BATCH, EPOCHS = 16, 64, 5
DEPTHS = (10, 50, 100)
SEEDS = (0, 1, 2)
# The accuracy that each seed must reach from the starts for deep residual networks.
LEARNED = 0.88
CONFIDENCE = 0.95


def he(model: keras.Model, seed: int, residual: str | None = None) -> None:
    keras_fanwise.initialize(model, "he_normal", seed, residual=residual)


def calibrated(model: keras.Model, seed: int, x: np.ndarray | None) -> None:
    he(model, seed)
    keras_fanwise.calibrate(model, x)


class Start(NamedTuple):
    """How a network starts.

    Attributes:
        apply: changes a new network; takes it, the seed and a batch of images.
        colour: in the figure.
        learns: whether it is for deep residual networks.
    """

    apply: Callable[[keras.Model, int, np.ndarray], object]
    colour: str
    learns: bool = True


STARTS = {
    "Keras's default": Start(
        lambda model, seed, x: keras_fanwise.initialize(model, "glorot_uniform", seed),
        "#e69f00",
        learns=False,
    ),
    "he_normal": Start(lambda model, seed, x: he(model, seed), "#d55e00", learns=False),
    "calibrated": Start(lambda model, seed, x: calibrated(model, seed, x), "#0072b2"),
    "calibrated on noise": Start(
        lambda model, seed, x: calibrated(model, seed, None), "#56b4e9"
    ),
    'residual="zero"': Start(lambda model, seed, x: he(model, seed, "zero"), "#009e73"),
    'residual="depth"': Start(lambda model, seed, x: he(model, seed, "depth"), "#cc79a7"),
}

# By depth and start, the accuracy from each seed.
Results = dict[tuple[int, str], list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train without normalization.")
    parser.add_argument("--figure", type=Path, default=Path("no_normalization.png"))
    quick = "one seed, 100 convolutions, he_normal, calibrated and zero only"
    parser.add_argument("--quick", action="store_true", help=quick)
    arguments = parser.parse_args()
    depths, seeds, starts = list(DEPTHS), list(SEEDS), list(STARTS)
    if arguments.quick:
        depths, seeds = depths[-1:], seeds[:1]
        starts = ["he_normal", "calibrated", 'residual="zero"']

    results: Results = {}
    for depth in depths:
        for start in starts:
            accuracies = [train(depth, start, seed) for seed in seeds]
            results[depth, start] = accuracies
            print(depth, start, *(f"{accuracy:.3f}" for accuracy in accuracies))
            sys.stdout.flush()
    Console().print(table(results))
    draw(results, arguments.figure)
    check(results, depths[-1])


def train(depth: int, start: str, seed: int) -> float:
    """The validation accuracy."""
    train_x, validation_x, train_y, validation_y = split_digits()
    keras.utils.set_random_seed(seed)
    network = build_network(depth)
    STARTS[start].apply(network, seed, train_x[:256])
    network.fit(train_x, train_y, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    _, accuracy = network.evaluate(validation_x, validation_y, batch_size=360, verbose=0)
    return float(accuracy)


def split_digits() -> list[np.ndarray]:
    """Images, of mean 0 and variance 1, for training and validation; then labels."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("float32")
    images = (images - images.mean()) / images.std()
    return train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)


def build_network(depth: int) -> keras.Model:
    """A convolution, branches of two with a ReLU between them, and a dense layer."""
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(CHANNELS, 3, padding="same")(inputs)
    for _ in range((depth - 1) // 2):
        branch = layers.Conv2D(CHANNELS, 3, padding="same", activation="relu")(x)
        x = layers.Add()([x, layers.Conv2D(CHANNELS, 3, padding="same")(branch)])
    x = layers.Flatten()(layers.ReLU()(x))
    network = keras.Model(inputs, layers.Dense(10)(x))
    network.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return network


def interval(accuracies: list[float]) -> tuple[float, float]:
    """The mean and how far the interval for it reaches, by Student's t over the seeds."""
    count = len(accuracies)
    if count == 1:
        return accuracies[0], float("nan")
    error = np.std(accuracies, ddof=1) / count**0.5
    reach = error * stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)
    return float(np.mean(accuracies)), float(reach)


def interval_text(accuracies: list[float]) -> str:
    mean, reach = interval(accuracies)
    return f"{mean:.2f}" if len(accuracies) == 1 else f"{mean:.2f} ± {reach:.2f}"


def table(results: Results) -> Table:
    result = Table("start", box=None, title="Validation accuracy, mean ± 95% interval")
    result.pad_edge = False
    depths = list(dict.fromkeys(depth for depth, _ in results))
    for depth in depths:
        result.add_column(f"{depth} convolutions", justify="right")
    for start in dict.fromkeys(start for _, start in results):
        result.add_row(start, *(interval_text(results[depth, start]) for depth in depths))
    return result


def draw(results: Results, file: Path) -> None:
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    panel = figure.subplots()
    depths = list(dict.fromkeys(depth for depth, _ in results))
    starts = list(dict.fromkeys(start for _, start in results))
    width = 0.8 / len(starts)
    for place, start in enumerate(starts):
        centres = np.arange(len(depths)) + (place - (len(starts) - 1) / 2) * width
        colour = STARTS[start].colour
        means = [interval(results[depth, start])[0] for depth in depths]
        panel.bar(centres, means, 0.9 * width, color=colour, alpha=0.45, label=start)
        for centre, depth in zip(centres, depths, strict=True):
            accuracies = results[depth, start]
            panel.plot([centre] * len(accuracies), accuracies, "o", color=colour, ms=4)
    panel.axhline(0.1, color="0.5", linewidth=0.8, linestyle=":")
    panel.set(ylabel="validation accuracy", ylim=(0, 1))
    panel.set_xticks(range(len(depths)), [f"{depth} convolutions" for depth in depths])
    panel.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(file, dpi=150)


def check(results: Results, depth: int) -> None:
    ours, others = (
        [
            accuracy
            for start, (_, _, learns) in STARTS.items()
            if learns is wanted
            for accuracy in results.get((depth, start), [])
        ]
        for wanted in (True, False)
    )
    if min(ours) < LEARNED or max(others) >= min(ours):
        measured = f"{min(ours):.3f} at least, {max(others):.3f} at most from the others"
        raise SystemExit(f"no_normalization: {measured}, which is not as claimed")


if __name__ == "__main__":
    main()
