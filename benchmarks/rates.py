"""What do the right fans change, when each initialization trains at its own best rate?

    python benchmarks/rates.py --results rates.json --figure rates.png

Trains small networks on scikit-learn's digits and on patches of its two photographs, from
four initializations, by Adam and by SGD with momentum: 4, 8 and 16 blocks of a 3×3
depthwise and a 1×1 convolution, with BatchNormalization and without any normalization; a
ResNet; and blocks as in MobileNetV2. The learning rates are √10 apart. A grid of five is
extended until the accuracy has fallen on both sides of the best. The best is chosen by the
validation accuracy of two seeds, and five other seeds are trained at it. Prints their test
accuracy with the 95% interval by Student's t, the best rates, how wide the range of rates
within 0.02 of the best is, and by how much a step changes a kernel there.

Every run is written to the file of results, and is not run again while it stands there.
It needs JAX. `--quick` trains one network for two steps, to see that all works.
"""

import argparse
import functools
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np
from jax import numpy as jnp
from keras import layers
from matplotlib.figure import Figure
from scipy import stats
from sklearn.datasets import load_digits, load_sample_images
from sklearn.model_selection import train_test_split

import keras_fanwise

from harness import console, print_machine, progress, results_table

RULES = ("glorot_uniform", "he_normal")
STARTS = tuple(name for rule in RULES for name in (rule, f"fanwise_{rule}"))
# Where curves lie on each other, the later one is the narrower.
LOOKS: dict[str, dict[str, Any]] = {
    "glorot_uniform": {"color": "#e69f00", "marker": "o", "linewidth": 4, "markersize": 9},
    "fanwise_glorot_uniform": {"color": "#009e73", "marker": "s", "linewidth": 2.6},
    "he_normal": {"color": "#d55e00", "marker": "^", "linewidth": 1.6, "markersize": 5},
    "fanwise_he_normal": {"color": "#0072b2", "marker": ".", "linewidth": 0.9},
}
# Such small networks gain nothing from a second thread.
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
CHANNELS = 16
BATCH, EPOCHS = 32, 5
CLOSE = 0.02  # a rate is good if its accuracy is less than this below the best
LEARNED = 0.2  # with a lower accuracy at all rates nothing was learned: chance is 0.1
CONFIDENCE = 0.95


class Search(NamedTuple):
    """Which rates are tried, as exponents of √10: first those of `start`."""

    start: range
    lowest: int
    highest: int


# 0.0003 to 0.03 for Adam, 0.003 to 0.3 for SGD, and beyond where that is not enough.
OPTIMIZERS = {"Adam": Search(range(-7, -2), -9, 0), "SGD": Search(range(-5, 0), -7, 1)}


class Setting(NamedTuple):
    """What is trained, but for the rate and the seed."""

    data: str
    network: str
    start: str
    optimizer: str


class Run(NamedTuple):
    """Two accuracies, and the mean of ‖ΔW‖ / ‖W‖ over hidden kernels and steps."""

    validation: float
    test: float
    change: float


class Plan(NamedTuple):
    """What is trained, at most `steps` steps, from the seeds to choose and to report by."""

    trained: dict[tuple[str, str], list[str]]  # the networks, by data and optimizer
    optimizers: dict[str, Search]
    choosing: tuple[int, ...] = (1000, 1001)
    reported: tuple[int, ...] = (0, 1, 2, 3, 4)
    steps: int | None = None


# --- data


@functools.cache  # every network asks for the shape
def digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 images of 8×8, of ten classes."""
    images, labels = load_digits(return_X_y=True)
    return images.reshape(-1, 8, 8, 1) / 16, labels


@functools.cache
def patches() -> tuple[np.ndarray, np.ndarray]:
    """2,080 patches of 16×16 in colours; the class is the photograph, and its quarter."""
    images, labels = [], []
    for photograph, pixels in enumerate(load_sample_images().images):
        for row, column in itertools.product(range(26), range(40)):
            top, left = 16 * row, 16 * column
            images.append(pixels[top : top + 16, left : left + 16])
            labels.append(4 * photograph + 2 * (row >= 13) + (column >= 20))
    return np.array(images) / 255, np.array(labels)


DATA = {"digits": digits, "photographs": patches}


def split(data: str) -> list[np.ndarray]:
    """Images to train on, to choose the rate by, and to report; then their labels."""
    images, labels = DATA[data]()
    rest, test, rest_labels, test_labels = train_test_split(
        images.astype("float32"), labels, test_size=0.2, stratify=labels, random_state=0
    )
    train, validation, train_labels, validation_labels = train_test_split(
        rest, rest_labels, test_size=0.25, stratify=rest_labels, random_state=0
    )
    return [train, validation, test, train_labels, validation_labels, test_labels]


# --- networks


class Depthwise(layers.DepthwiseConv2D):
    """The same as nine products of the whole image.

    XLA's own convolution by groups takes seven times as long on CPUs.
    """

    def call(self, inputs: Any) -> Any:
        stride = self.strides[0]
        height, width = (-(-side // stride) for side in inputs.shape[1:3])
        # As TensorFlow pads: what is odd comes after.
        paddings = [
            max((out - 1) * stride + 3 - side, 0)
            for out, side in zip((height, width), inputs.shape[1:3], strict=True)
        ]
        both = [(padding // 2, padding - padding // 2) for padding in paddings]
        padded = jnp.pad(inputs, ((0, 0), *both, (0, 0)))
        reach = (height - 1) * stride + 1, (width - 1) * stride + 1
        total = self.bias.value if self.use_bias else 0.0
        for row, column in itertools.product(range(3), range(3)):
            part = padded[:, row : row + reach[0], column : column + reach[1]]
            total = total + part[:, ::stride, ::stride] * self.kernel[row, column, :, 0]
        return total


def normalize(x: Any) -> Any:
    # The default momentum, 0.99, would average over too many of the few steps.
    return layers.BatchNormalization(momentum=0.9)(x)


def depthwise_blocks(x: Any, start: Any, blocks: int, normalized: bool) -> Any:
    x = layers.ReLU()(layers.Conv2D(CHANNELS, 3, 1, "same", kernel_initializer=start)(x))
    for _ in range(blocks):
        x = layers.ReLU()(Depthwise(3, 1, "same", depthwise_initializer=start)(x))
        x = layers.Conv2D(CHANNELS, 1, kernel_initializer=start)(x)
        x = layers.ReLU()(normalize(x) if normalized else x)
    return layers.Flatten()(x)


def resnet(x: Any, start: Any) -> Any:
    """Three blocks of two 3×3 convolutions, of 16, 32 and 64 channels (He et al. 2016)."""

    def convolution(x: Any, channels: int, size: int, stride: int) -> Any:
        conv = layers.Conv2D(
            channels, size, stride, "same", use_bias=False, kernel_initializer=start
        )
        return normalize(conv(x))

    x = layers.ReLU()(convolution(x, CHANNELS, 3, 1))
    for channels, stride in ((CHANNELS, 1), (2 * CHANNELS, 2), (4 * CHANNELS, 2)):
        shortcut = x if stride == 1 else convolution(x, channels, 1, stride)
        y = layers.ReLU()(convolution(x, channels, 3, stride))
        x = layers.ReLU()(shortcut + convolution(y, channels, 3, 1))
    return layers.GlobalAveragePooling2D()(x)


def mobile(x: Any, start: Any) -> Any:
    """Four inverted residual blocks, four times as wide inside (Sandler et al. 2018)."""

    def pointwise(x: Any, channels: int) -> Any:
        conv = layers.Conv2D(channels, 1, use_bias=False, kernel_initializer=start)
        return normalize(conv(x))

    x = layers.Conv2D(CHANNELS, 3, 1, "same", use_bias=False, kernel_initializer=start)(x)
    x = layers.ReLU(6)(normalize(x))
    for channels, stride in ((16, 1), (24, 2), (24, 1), (32, 2)):
        y = layers.ReLU(6)(pointwise(x, 4 * x.shape[-1]))
        y = Depthwise(3, stride, "same", use_bias=False, depthwise_initializer=start)(y)
        y = pointwise(layers.ReLU(6)(normalize(y)), channels)
        x = x + y if x.shape == y.shape else y
    return layers.GlobalAveragePooling2D()(x)


def depthwise(blocks: int, normalized: bool) -> Callable[[Any, Any], Any]:
    return lambda x, start: depthwise_blocks(x, start, blocks, normalized)


DEPTHS = (4, 8, 16)
PLAIN = {f"{blocks} blocks, plain": depthwise(blocks, False) for blocks in DEPTHS}
NORMALIZED = {f"{blocks} blocks": depthwise(blocks, True) for blocks in DEPTHS}
NETWORKS = {**PLAIN, "ResNet": resnet, **NORMALIZED, "MobileNetV2-like": mobile}
# Depthwise blocks on the photographs are left out, which take longest.
FULL = Plan(
    {
        ("digits", "Adam"): list(NETWORKS),
        ("digits", "SGD"): list(NETWORKS),
        ("photographs", "Adam"): ["MobileNetV2-like", "ResNet"],
        ("photographs", "SGD"): ["MobileNetV2-like", "ResNet"],
    },
    OPTIMIZERS,
)
QUICK = Plan(
    {("digits", "Adam"): ["4 blocks"]},
    {"Adam": Search(range(-6, -4), -6, -5)},
    reported=(0, 1),
    steps=2,
)
# By its name, He's rule with all hidden weights so many times as large.
SCALES = {
    "fanwise_he_normal × 0.25": 0.25,
    "fanwise_he_normal": 1.0,
    "fanwise_he_normal × 4": 4.0,
}


def initializer(start: str) -> Any:
    if start in STARTS:
        return start
    variance = 2 * SCALES[start] ** 2
    return keras_fanwise.FanwiseVarianceScaling(variance, "fan_in", "truncated_normal")


def build(setting: Setting) -> keras.Model:
    """The network; its head has Keras's default, for all."""
    images, labels = DATA[setting.data]()
    inputs = keras.Input(images.shape[1:])
    x = inputs
    if setting.data == "photographs":  # to 8×8, as the digits are
        x = layers.AveragePooling2D(2)(x)
    x = NETWORKS[setting.network](x, initializer(setting.start))
    return keras.Model(inputs, layers.Dense(int(labels.max()) + 1)(x))


# --- training


class Trainer:
    """Trains one network by one optimizer; a compiled step serves all of its starts."""

    def __init__(self, setting: Setting, steps: int | None) -> None:
        self.setting, self.steps = setting, steps
        self.models: dict[str, keras.Model] = {}
        self.data = split(setting.data)
        # What a step does is the same whatever the start: any of the models will do.
        self.any = self.model(setting.start)
        variables = self.any.trainable_variables
        adam = setting.optimizer == "Adam"
        sgd = keras.optimizers.SGD(0.1, momentum=0.9)
        self.optimizer = keras.optimizers.Adam() if adam else sgd
        self.optimizer.build(variables)
        kernels = [at for at, weight in enumerate(variables) if "kernel" in weight.name]
        self.hidden = kernels[:-1]
        self.step, self.predict = jax.jit(self._step), jax.jit(self._predict)

    def model(self, start: str) -> keras.Model:
        if start not in self.models:
            self.models[start] = build(self.setting._replace(start=start))
        return self.models[start]

    def _step(self, state: Any, images: Any, labels: Any) -> Any:
        weights, others, moments = state

        def loss(weights: Any) -> Any:
            logits, after = self.any.stateless_call(weights, others, images, training=True)
            losses = keras.losses.sparse_categorical_crossentropy(labels, logits, True)
            return losses.mean(), after

        gradients, others = jax.grad(loss, has_aux=True)(weights)
        after, moments = self.optimizer.stateless_apply(moments, gradients, weights)
        changes = [
            jnp.linalg.norm(after[at] - weights[at]) / jnp.linalg.norm(weights[at])
            for at in self.hidden
        ]
        return (after, others, moments), jnp.stack(changes).mean()

    def _predict(self, state: Any, images: Any) -> Any:
        return self.any.stateless_call(state[0], state[1], images)[0].argmax(-1)

    def __call__(self, start: str, rate: float, seed: int) -> Run:
        model = self.model(start)
        keras_fanwise.reinitialize(model, seed=seed)
        self.optimizer.learning_rate = rate
        state = tuple(
            [jnp.asarray(variable.value) for variable in variables]
            for variables in (
                model.trainable_variables,
                model.non_trainable_variables,
                self.optimizer.variables,
            )
        )
        images, validation, test, labels, *others = self.data
        changes = []
        for batch in itertools.islice(batches(len(images), seed), self.steps):
            state, change = self.step(state, images[batch], labels[batch])
            changes.append(change)
        on_validation, on_test = (
            float(np.mean(np.asarray(self.predict(state, some)) == some_labels))
            for some, some_labels in zip((validation, test), others, strict=True)
        )
        return Run(on_validation, on_test, float(np.mean(changes)))


def batches(count: int, seed: int) -> Iterator[np.ndarray]:
    """Of each epoch, the indices of its full batches."""
    random = np.random.default_rng(seed)
    for _ in range(EPOCHS):
        order = random.permutation(count)
        for first in range(0, count - BATCH + 1, BATCH):
            yield order[first : first + BATCH]


# --- which runs


def rate(exponent: float) -> float:
    return float(10 ** (exponent / 2))


def best(curve: dict[int, float]) -> int:
    """The exponent of the most accurate rate."""
    return max(curve, key=curve.__getitem__)


def search(score: Callable[[int], float], rates: Search) -> dict[int, float]:
    """The accuracy at each rate of the grid, which is extended until both ends are low."""
    curve = {exponent: score(exponent) for exponent in rates.start}
    for step, limit in ((1, rates.highest), (-1, rates.lowest)):
        end = max(curve) if step == 1 else min(curve)
        while end != limit and curve[end] >= max(curve.values()) - CLOSE:
            end += step
            curve[end] = score(end)
    return dict(sorted(curve.items()))


def good_range(curve: dict[int, float]) -> tuple[float, float]:
    """The exponents between which rates are good, the best among them; interpolated.

    One is infinite where the grid ends before the accuracy has fallen.
    """
    least = max(curve.values()) - CLOSE

    def edge(step: int) -> float:
        at = best(curve)
        while curve.get(at + step, -1.0) >= least:
            at += step
        if at + step not in curve:
            return step * math.inf
        return at + step * (curve[at] - least) / (curve[at] - curve[at + step])

    return edge(-1), edge(1)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and how far its interval reaches by Student's t."""
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return float(np.mean(values)), reach * error


class Results:
    """The runs of a plan, kept in a file; what is missing is trained when asked for."""

    def __init__(self, plan: Plan, file: Path) -> None:
        self.plan, self.file = plan, file
        stored = json.loads(file.read_text()) if file.exists() else {}
        self.runs = {key: Run(*values) for key, values in stored.items()}
        # One: its compiled steps and models take memory.
        self.trainer: Trainer | None = None

    def run(self, setting: Setting, exponent: int, seed: int) -> Run:
        key = " | ".join([*setting, str(exponent), str(seed)])
        if key not in self.runs:
            same = setting._replace(start="")
            if self.trainer is None or self.trainer.setting._replace(start="") != same:
                self.trainer = Trainer(setting, self.plan.steps)
            self.runs[key] = self.trainer(setting.start, rate(exponent), seed)
            after = self.file.with_suffix(".part")
            after.write_text(json.dumps(self.runs, indent=0))
            after.replace(self.file)
        return self.runs[key]

    def curve(self, setting: Setting) -> dict[int, float]:
        """By the exponent, the mean accuracy by which the rate is chosen."""

        def score(exponent: int) -> float:
            runs = [self.run(setting, exponent, seed) for seed in self.plan.choosing]
            return float(np.mean([run.validation for run in runs]))

        return search(score, self.plan.optimizers[setting.optimizer])

    def reported(self, setting: Setting) -> list[Run]:
        """The runs at the best rate, from the other seeds."""
        exponent = best(self.curve(setting))
        return [self.run(setting, exponent, seed) for seed in self.plan.reported]

    def contests(self) -> list[Setting]:
        """What is trained from all four starts; without the start."""
        return [
            Setting(data, network, "", optimizer)
            for (data, optimizer), networks in self.plan.trained.items()
            for network in networks
        ]

    def scaled(self) -> list[Setting]:
        """One network from the same start at three scales, by each optimizer."""
        return [
            Setting("digits", "4 blocks", start, optimizer)
            for optimizer in self.plan.optimizers
            for start in SCALES
        ]

    def train(self) -> None:
        contests = [
            contest._replace(start=start) for contest in self.contests() for start in STARTS
        ]
        with progress() as bar:
            for setting in bar.track([*contests, *self.scaled()], description="training"):
                self.reported(setting)


# --- what is printed and drawn


COLUMNS = ("data", "network", "by")


def width(curve: dict[int, float]) -> str:
    """The highest of the good rates divided by the lowest, at least."""
    low, high = good_range(curve)
    least = rate(min(high, max(curve)) - max(low, min(curve)))
    bound = "" if math.isfinite(high - low) else "≥ "
    return f"{bound}× {least:.{0 if least >= 10 else 1}f}"


def cells(results: Results, setting: Setting) -> tuple[str, str, str, str]:
    """The accuracy, the best rate, the width of the good rates, and the change per step."""
    curve, runs = results.curve(setting), results.reported(setting)
    mean, reach = interval([run.test for run in runs])
    accuracy = f"{mean:.3f} ± {reach:.3f}"
    if max(curve.values()) < LEARNED:
        return accuracy, "none", "", ""
    change = float(np.mean([run.change for run in runs]))
    return accuracy, f"{rate(best(curve)):.1g}", width(curve), f"{100 * change:.2g}%"


def print_tables(results: Results) -> None:
    titles = (
        "Test accuracy at the best rate",
        "Best rate",
        f"Range of the rates within {CLOSE} of the best",
        "Change of a kernel per step at the best rate",
    )
    headings = tuple(start.replace("fanwise_", "fanwise_\n") for start in STARTS)
    for at, title in enumerate(titles):
        table = results_table(title, COLUMNS, headings)
        for contest in results.contests():
            found = [cells(results, contest._replace(start=start))[at] for start in STARTS]
            table.add_row(contest.data, contest.network, contest.optimizer, *found)
        console.print(table)

    table = results_table("Accuracy more by the right fans", COLUMNS, RULES)
    for contest in results.contests():
        found = []
        for rule in RULES:
            ours, keras_ones = (
                [run.test for run in results.reported(contest._replace(start=start))]
                for start in (f"fanwise_{rule}", rule)
            )
            mean, reach = interval(np.subtract(ours, keras_ones).tolist())
            found.append(f"{mean:+.3f} ± {reach:.3f}")
        table.add_row(contest.data, contest.network, contest.optimizer, *found)
    console.print(table)

    numbers = ("accuracy", "best rate", "range", "change")
    table = results_table("4 blocks from three scales, digits", ("start", "by"), numbers)
    for setting in results.scaled():
        table.add_row(setting.start, setting.optimizer, *cells(results, setting))
    console.print(table)


def draw(results: Results, file: Path) -> None:
    """Accuracy against rate, with Adam on digits: the runs by which a rate is chosen."""
    networks = results.plan.trained["digits", "Adam"]
    figure = Figure(figsize=(10, 5.6 if len(networks) > 4 else 3.2), layout="constrained")
    rows = math.ceil(len(networks) / 4)
    panels = figure.subplots(rows, 4, sharex=True, sharey=True, squeeze=False).flat
    for panel, network in zip(panels, networks, strict=False):
        for start, look in LOOKS.items():
            curve = results.curve(Setting("digits", network, start, "Adam"))
            rates = [rate(exponent) for exponent in curve]
            panel.plot(rates, list(curve.values()), label=start, **look)
        panel.set(title=network, xscale="log", ylim=(0, 1.03))
        panel.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("learning rate of Adam")
    figure.supylabel("validation accuracy")
    legend = figure.axes[0].get_legend_handles_labels()
    figure.legend(*legend, loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train each start at its best rate.")
    parser.add_argument("--results", type=Path, default=Path("rates.json"))
    parser.add_argument("--figure", type=Path, default=Path("rates.png"))
    parser.add_argument("--quick", action="store_true", help="one network, two steps")
    arguments = parser.parse_args()
    os.environ.setdefault("XLA_FLAGS", ONE_THREAD)  # read when JAX computes first
    print_machine()
    results = Results(QUICK if arguments.quick else FULL, arguments.results)
    results.train()
    print_tables(results)
    draw(results, arguments.figure)


if __name__ == "__main__":
    main()
