"""Three networks that do not learn, as they are and as `diagnose` says to mend them.

    KERAS_BACKEND=torch python examples/not_learning.py --figure not_learning.png

Pixels of 0 to 255 and a missing softmax, a deep depthwise network, and a residual network
without normalization learn the 8x8 digits that come with scikit-learn. Of the first the
lines that the report gives are changed by hand, to the others `report.apply()` is done.
Draws the training loss by epoch, and prints where it ends. The exit code is 0 only if each
is told to have an error, and ends lower once it is mended.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# TensorFlow reads it when Keras imports TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers
from matplotlib.figure import Figure
from rich.console import Console
from sklearn import datasets

import keras_fanwise

SAMPLES, BATCH, EPOCHS, SEED, CLASSES = 768, 64, 20, 0, 10
LOSS = "sparse_categorical_crossentropy"
AS_IS, MENDED = STATES = "as it is", "mended"
COLOURS = {AS_IS: "#d55e00", MENDED: "#0072b2"}


def pixels(is_mended: bool = False) -> keras.Model:
    x = inputs = keras.Input((8, 8, 1))
    if is_mended:
        x = layers.Rescaling(1 / 255)(x)
    x = layers.Dense(64, "tanh")(layers.Flatten()(x))
    x = layers.Dense(CLASSES, "softmax" if is_mended else None)(x)
    return keras.Model(inputs, x)


def depthwise() -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(16, 3, padding="same")(layers.Rescaling(1 / 255)(inputs))
    for _ in range(16):
        x = layers.DepthwiseConv2D(
            3, padding="same", activation="relu", depthwise_initializer="he_normal"
        )(x)
    x = layers.Dense(CLASSES, "softmax")(layers.Flatten()(x))
    return keras.Model(inputs, x)


def residual() -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    x = layers.Dense(64)(layers.Flatten()(layers.Rescaling(1 / 255)(inputs)))
    for _ in range(30):
        inner = layers.Dense(64, "relu", kernel_initializer="he_normal")(x)
        x = x + layers.Dense(64, kernel_initializer="he_normal")(inner)
    return keras.Model(inputs, layers.Dense(CLASSES, "softmax")(x))


NETWORKS: dict[str, Callable[[], keras.Model]] = {
    "pixels, and no softmax": pixels,
    "16 depthwise layers": depthwise,
    "30 residual blocks, no normalization": residual,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Mend three networks.")
    parser.add_argument("--figure", type=Path, default=Path("not_learning.png"))
    figure = parser.parse_args().figure
    x, y = data()
    curves = {name: both(make, x, y) for name, make in NETWORKS.items()}
    draw(curves, figure)
    if not all(losses[MENDED][-1] < losses[AS_IS][-1] for losses in curves.values()):
        raise SystemExit("not_learning: a network ends no lower, which is not as claimed")


def data() -> tuple[np.ndarray, np.ndarray]:
    """Digits as from a file of images."""
    x, y = datasets.load_digits(return_X_y=True)
    x = np.floor(x[:SAMPLES] * 255 / 16).astype("float32")
    return x.reshape(-1, 8, 8, 1), y[:SAMPLES].astype("int32")


def both(make: Callable[[], keras.Model], x: Any, y: Any) -> dict[str, list[float]]:
    """The losses by epoch of a network as it is, and mended."""
    keras.utils.set_random_seed(SEED)
    model = compiled(make())
    report = keras_fanwise.diagnose(model, x, y)
    Console().print(report.text(), highlight=False)
    if not report.errors:
        raise SystemExit(
            f"not_learning: no error of {make.__name__}, which is not as claimed"
        )
    losses = {AS_IS: trained(model, x, y)}
    keras.utils.set_random_seed(SEED)
    model = compiled(pixels(is_mended=True) if make is pixels else make())
    if make is not pixels:
        keras_fanwise.diagnose(model, x, y).apply()
    losses[MENDED] = trained(model, x, y)
    for state, values in losses.items():
        Console().print(f"{state}: the loss ends at {values[-1]:.3g}", highlight=False)
    return losses


def compiled(model: keras.Model) -> keras.Model:
    model.compile("adam", LOSS)
    return model


def trained(model: keras.Model, x: Any, y: Any) -> list[float]:
    history = model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    return [float(value) for value in history.history["loss"]]


def draw(curves: dict[str, dict[str, list[float]]], path: Path) -> None:
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    for axes, (name, losses) in zip(
        figure.subplots(1, len(curves), sharey=True), curves.items(), strict=True
    ):
        for state, values in losses.items():
            epochs = range(1, len(values) + 1)
            axes.plot(epochs, values, color=COLOURS[state], label=state)
        axes.axhline(np.log(CLASSES), color="0.5", linestyle=":", label="a guess")
        axes.set(title=name, xlabel="epoch", yscale="log", xticks=(1, 5, 10, 15, 20))
        axes.title.set_fontsize("medium")
    figure.axes[0].set_ylabel("training loss")
    figure.axes[0].legend(loc="lower left")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
