"""Do starts that papers name help to train? Two trainings, each start at its best rate.

    python benchmarks/by_name.py chrono
    python benchmarks/by_name.py transformer

`chrono`: the adding problem (Hochreiter and Schmidhuber 1997) over 100 steps, an LSTM of 64
units, 800 steps of Adam: the mean squared error on fresh sequences, with
`FanwiseChronoBias(100)` and with Keras's default. `transformer`: scikit-learn's digits as
8 tokens, their rows, two blocks, pre-normalized, of widths 32, 128 and 512, Adam until the
accuracy settles: that on held-out digits from the recipe "transformer" and from Keras's
default. The learning rate of each is chosen on a seed of its own; of the others the mean
is given, with the 95% interval by Student's t.
"""

import argparse
import os
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when Keras imports TensorFlow

import keras
import numpy as np
from keras import layers
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_fanwise

from harness import console

LENGTH, STEPS = 100, 800
CHRONO_RATES = 0.001, 0.003, 0.01
# By the width: until the accuracy has settled.
EPOCHS = {32: 15, 128: 10, 512: 5}
RATES = {
    32: (0.0003, 0.001, 0.003, 0.01),
    128: (0.0003, 0.001, 0.003),
    512: (0.00003, 0.0001, 0.0003, 0.001),
}
DEFAULT = "Keras's default"
Score = Callable[[float, int], float]


def adding(count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of numbers, of which two are marked; the target is the sum of these."""
    values = random.uniform(size=(count, LENGTH))
    marks = np.zeros((count, LENGTH))
    half = LENGTH // 2
    for low in (0, half):
        marks[np.arange(count), random.integers(low, low + half, count)] = 1.0
    x = np.stack([values, marks], axis=-1).astype("float32")
    return x, (values * marks).sum(1, keepdims=True).astype("float32")


def remembers(start: str) -> Score:
    def score(rate: float, seed: int) -> float:
        keras.utils.set_random_seed(seed)
        chrono = {
            "unit_forget_bias": False,
            "bias_initializer": keras_fanwise.FanwiseChronoBias(LENGTH),
        }
        lstm = layers.LSTM(64, **({} if start == DEFAULT else chrono))
        model = keras.Sequential([keras.Input((LENGTH, 2)), lstm, layers.Dense(1)])
        model.compile(keras.optimizers.Adam(rate), "mse")
        random = np.random.default_rng(seed)
        model.fit(*adding(STEPS * 64, random), batch_size=64, verbose=0)
        return float(model.evaluate(*adding(2000, random), verbose=0))

    return score


class Positions(layers.Layer):
    """Adds a vector that is learned to each token."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.table = self.add_weight(
            shape=shape[1:], initializer="uniform", name="position_embedding"
        )

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x + self.table


def transformer(width: int) -> keras.Model:
    tokens = keras.Input((8, 8))
    x = Positions()(layers.Dense(width)(tokens))
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(4, width // 4)(y, y)
        y = layers.Dense(4 * width, "gelu")(layers.LayerNormalization()(x))
        x = x + layers.Dense(width)(y)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(tokens, layers.Dense(10)(x))


def reads(start: str, width: int) -> Score:
    images, labels = load_digits(return_X_y=True)
    tokens = (images / 16).reshape(-1, 8, 8).astype("float32")
    x, x_val, y, y_val = train_test_split(tokens, labels, random_state=0, stratify=labels)

    def score(rate: float, seed: int) -> float:
        keras.utils.set_random_seed(seed)
        model = transformer(width)
        if start != DEFAULT:
            keras_fanwise.initialize(model, start, seed=seed)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
        model.fit(x, y, batch_size=32, epochs=EPOCHS[width], verbose=0)
        return float(model.evaluate(x_val, y_val, verbose=0)[1])

    return score


def compare(
    name: str, score: Score, rates: tuple[float, ...], seeds: int, lowest: bool = False
) -> None:
    """Prints one contender at its own best rate, which is chosen on another seed."""
    chosen = {rate: score(rate, 1000) for rate in rates}
    best = (min if lowest else max)(chosen, key=chosen.__getitem__)
    scores = np.array([score(best, seed) for seed in range(seeds)])
    half = stats.t.ppf(0.975, seeds - 1) * scores.std(ddof=1) / np.sqrt(seeds)
    tried = ", ".join(f"{value:.3f} at {rate:g}" for rate, value in chosen.items())
    console.print(f"{name}: {scores.mean():.4f} ± {half:.4f}, {seeds} seeds, at {best:g}")
    console.print(f"    chosen by {tried}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train from starts that papers name.")
    parser.add_argument("training", choices=("chrono", "transformer"))
    parser.add_argument("--widths", type=int, nargs="+", choices=EPOCHS, default=[*EPOCHS])
    arguments = parser.parse_args()
    console.print(f"{arguments.training}, {keras.backend.backend()}")
    if arguments.training == "chrono":
        for start in ("FanwiseChronoBias(100)", DEFAULT):
            compare(start, remembers(start), CHRONO_RATES, 3, lowest=True)
        return
    for width in arguments.widths:
        for start in ("transformer", DEFAULT):
            compare(f"{start}, width {width}", reads(start, width), RATES[width], 5)


if __name__ == "__main__":
    main()
