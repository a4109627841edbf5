"""Deep networks of depthwise convolutions on real images, mostly without normalization.

    python examples/deep_depthwise.py --figure deep_depthwise.png

Trains the same networks on scikit-learn's digits from different starts: 4, 8 and 16
blocks of a 3×3 depthwise and a 1×1 convolution, each with a ReLU. First as they are, from
Keras's default, from `he_normal`, from that with depthwise kernels of standard deviation
√(1/9), and from `fanwise_he_normal`; then with BatchNormalization before the last ReLU of
every block. Prints the accuracies, and draws the training losses of the networks
without normalization. For each depth it prints how much more accurate
`fanwise_he_normal` is than `he_normal`, with an interval over the seeds. The exit code is
0 only if that of the deepest network without normalization lies above 0.
"""

import argparse
import itertools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# TensorFlow reads it when Keras imports TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_fanwise  # noqa: F401 (makes the names known to Keras)

DEFAULT, BUILT_IN, OURS = "glorot_uniform", "he_normal", "fanwise_he_normal"
# He's rule but for the depthwise kernels, which get LeCun's with the right fan_in, 9.
MIXED = "he_normal, depthwise √(1/9)"
# By the start, the initializers of the depthwise kernels and of the others.
INITIALIZERS = {
    DEFAULT: (DEFAULT, DEFAULT),
    BUILT_IN: (BUILT_IN, BUILT_IN),
    MIXED: ("fanwise_lecun_normal", BUILT_IN),
    OURS: (OURS, OURS),
}
COLOURS = {DEFAULT: "#e69f00", BUILT_IN: "#d55e00", MIXED: "#56b4e9", OURS: "#0072b2"}
DEPTHS = (4, 8, 16)
SEEDS = (0, 1, 2)
EPOCHS = 15
CHANNELS = 32
# The loss when each of the ten digits gets the same probability.
CHANCE_LOSS = math.log(10)
# Of the intervals for differences of accuracies.
CONFIDENCE = 0.95


class Setting(NamedTuple):
    """What tells one network from the others."""

    normalized: bool
    blocks: int
    start: str


class Run(NamedTuple):
    """The training loss of each epoch, and the validation accuracy after the last."""

    losses: list[float]
    accuracy: float


# Of each network, the runs from all seeds.
Results = dict[Setting, list[Run]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train deep depthwise networks.")
    parser.add_argument("--figure", type=Path, default=Path("deep_depthwise.png"))
    only = "train the deepest network only, from two seeds, without normalization"
    parser.add_argument("--quick", action="store_true", help=only)
    arguments = parser.parse_args()

    compared = [BUILT_IN, OURS]
    if arguments.quick:
        results = train_all(settings(False, DEPTHS[-1:], compared), SEEDS[:2])
    else:
        plain = settings(False, DEPTHS, list(INITIALIZERS))
        results = train_all(plain + settings(True, DEPTHS, compared), SEEDS)
    Console().print(table(results))
    draw_losses(results, arguments.figure)
    for setting in results:
        if setting.start == OURS:
            low, mean, high = difference(results, setting)
            network = f"{setting.blocks} blocks{', normalized' * setting.normalized}"
            print(
                f"{network}: {OURS} - {BUILT_IN}: {mean:+.3f} ({low:+.3f} to {high:+.3f})"
            )
    low, _, _ = difference(results, Setting(False, DEPTHS[-1], OURS))
    if not low > 0:
        raise SystemExit("deep_depthwise: the deepest network learned no better with ours")


def settings(
    normalized: bool, depths: Sequence[int], starts: Sequence[str]
) -> list[Setting]:
    return [Setting(normalized, *values) for values in itertools.product(depths, starts)]


def train_all(networks: Sequence[Setting], seeds: Sequence[int]) -> Results:
    results: Results = {setting: [] for setting in networks}
    for setting, seed in track(list(itertools.product(results, seeds)), "training"):
        results[setting].append(train(setting, seed))
    return results


def train(setting: Setting, seed: int) -> Run:
    train_x, validation_x, train_y, validation_y = split_digits()
    keras.utils.set_random_seed(seed)
    network = build_network(setting)
    history = network.fit(train_x, train_y, batch_size=64, epochs=EPOCHS, verbose=0)
    _, accuracy = network.evaluate(validation_x, validation_y, verbose=0)
    return Run(history.history["loss"], accuracy)


def split_digits() -> list[np.ndarray]:
    """Images for training and for validation, then their labels likewise."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("float32") / 16
    return train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)


def build_network(setting: Setting) -> keras.Model:
    depthwise, name = INITIALIZERS[setting.start]
    network = keras.Sequential([keras.Input((8, 8, 1))])
    network.add(layers.Conv2D(CHANNELS, 3, 1, "same", kernel_initializer=name))
    network.add(layers.ReLU())
    for _ in range(setting.blocks):
        network.add(layers.DepthwiseConv2D(3, 1, "same", depthwise_initializer=depthwise))
        network.add(layers.ReLU())
        network.add(layers.Conv2D(CHANNELS, 1, kernel_initializer=name))
        if setting.normalized:
            # The default momentum, 0.99, would average over too many of the few steps.
            network.add(layers.BatchNormalization(momentum=0.9))
        network.add(layers.ReLU())
    network.add(layers.Flatten())
    network.add(layers.Dense(10, "softmax"))
    adam = keras.optimizers.Adam(1e-3)
    network.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return network


def table(results: Results) -> Table:
    title = "digits: validation accuracy, and mean training loss of two epochs"
    result = Table("blocks", "batch\nnorm", "start", box=None, title=title)
    for heading in ("mean", "each seed", "range", "first\nloss", "last\nloss"):
        result.add_column(heading, justify="right")
    result.pad_edge = False
    for (normalized, blocks, name), runs in results.items():
        accuracies = [run.accuracy for run in runs]
        numbers = (
            f"{np.mean(accuracies):.3f}",
            " ".join(f"{accuracy:.3f}" for accuracy in accuracies),
            f"{max(accuracies) - min(accuracies):.3f}",
            f"{np.mean([run.losses[0] for run in runs]):.3f}",
            f"{np.mean([run.losses[-1] for run in runs]):.3f}",
        )
        result.add_row(str(blocks), "yes" if normalized else "no", name, *numbers)
    return result


def draw_losses(results: Results, file: Path) -> None:
    depths = list(dict.fromkeys(setting.blocks for setting in results))
    figure = Figure(figsize=(1 + 2.7 * len(depths), 3.4), layout="constrained")
    panels = figure.subplots(1, len(depths), sharey=True, squeeze=False)[0]
    for panel, blocks in zip(panels, depths, strict=True):
        draw_panel(panel, results, blocks)
    panels[0].set_ylabel("training loss")
    legend = panels[0].get_legend_handles_labels()
    figure.legend(*legend, loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(file, dpi=150)


def draw_panel(panel: Axes, results: Results, blocks: int) -> None:
    epochs = range(1, EPOCHS + 1)
    for name in dict.fromkeys(setting.start for setting in results):
        runs = results[Setting(False, blocks, name)]
        losses = np.transpose([run.losses for run in runs])
        first, *_ = panel.plot(epochs, losses, color=COLOURS[name], linewidth=1.3)
        first.set_label(name)
    panel.axhline(CHANCE_LOSS, color="black", linestyle="--", linewidth=0.8, zorder=1)
    panel.annotate("chance", (EPOCHS, CHANCE_LOSS + 0.05), ha="right")
    panel.set(title=f"{blocks} blocks", xlabel="epoch", xticks=epochs[::2])
    panel.set(xlim=(-0.5, EPOCHS + 1.5), ylim=(-0.05, 2.6))
    panel.spines[["top", "right"]].set_visible(False)


def difference(results: Results, ours: Setting) -> tuple[float, float, float]:
    """Of the accuracies with ours and with Keras's: the interval of its mean, and the mean.

    By Student's t, over the seeds, from each of which both were trained.
    """
    pairs = zip(results[ours], results[ours._replace(start=BUILT_IN)], strict=True)
    differences = [one.accuracy - other.accuracy for one, other in pairs]
    mean, seeds = float(np.mean(differences)), len(differences)
    error = float(np.std(differences, ddof=1)) / math.sqrt(seeds)
    reach = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1))
    return mean - reach, mean, mean + reach


if __name__ == "__main__":
    main()
