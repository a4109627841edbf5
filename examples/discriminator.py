"""A discriminator of six dense layers from two recipes, side by side on real data.

    python examples/discriminator.py

Builds the network on the functional API twice and starts it by the recipes "kaiming" and
"normal", with N(0, 0.02²). Prints the standard deviation of the signal after each layer
for scikit-learn's breast cancer data, thirty standardized features of two classes, and
the loss while both are trained on the same batches.
"""

import argparse
import os
from typing import Any

# Read when Keras imports its backend: fewer log lines of TensorFlow, and threads of
# PyTorch that sleep while they wait, not several times as slow where cores are shared.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import keras
import numpy as np
from keras import layers
from rich.console import Console
from rich.progress import track
from rich.table import Table

import keras_fanwise

SEED = 0
RECIPES = ("kaiming", "normal")
BATCH = 64
SHOWN_STEPS = (1, 2, 5, 10, 20, 50)


def discriminator(
    latent: int, width: int = 1000, recipe: Any = "kaiming", seed: int | None = 0
) -> keras.Model:
    """Five dense layers, each with a LeakyReLU, and one more for two logits.

    Args:
        latent: the length of the vectors to tell apart.
        width: the units of each of the five layers.
        recipe: the name of a recipe, such as "kaiming" or "normal", or whatever else
            `keras_fanwise.initialize` takes.
        seed: see `keras_fanwise.initialize`.

    Raises:
        TypeError: see `keras_fanwise.initialize`.
        ValueError: likewise.
    """
    vector = keras.Input((latent,))
    x = vector
    for number in range(1, 6):
        x = layers.Dense(width, name=f"dense_{number}")(x)
        x = layers.LeakyReLU(negative_slope=0.2, name=f"leaky_relu_{number}")(x)
    model = keras.Model(vector, layers.Dense(2, name="dense_6")(x))
    keras_fanwise.initialize(model, recipe, seed=seed)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="Start a discriminator by two recipes.")
    parser.add_argument("--width", type=int, default=1000, help="units of a layer")
    width = parser.parse_args().width

    features, labels = standardized_features()
    models = {
        recipe: discriminator(features.shape[1], width, recipe, SEED) for recipe in RECIPES
    }
    signals = {recipe: signal(model, features) for recipe, model in models.items()}
    losses = {recipe: train(model, features, labels) for recipe, model in models.items()}
    console = Console()
    console.print(side_by_side("std of the signal", "after", signals))
    console.print(side_by_side("loss of the step", "step", losses))


def standardized_features() -> tuple[np.ndarray, np.ndarray]:
    """Thirty features of mean 0 and standard deviation 1, and the two classes."""
    # Here, so that the discriminator alone needs no scikit-learn.
    from sklearn.datasets import load_breast_cancer

    features, labels = load_breast_cancer(return_X_y=True)
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    return features.astype("float32"), labels


def signal(model: keras.Model, features: np.ndarray) -> dict[str, float]:
    """By layer, the standard deviation of its output, of all rows and units together."""
    outputs = {layer.name: layer.output for layer in model.layers[1:]}
    values = keras.Model(model.input, outputs).predict(features, verbose=0)
    # float64, for an exact sum.
    stds = {name: float(values[name].std(dtype="float64")) for name in outputs}
    return {"input": float(features.std(dtype="float64")), **stds}


def train(model: keras.Model, features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The loss of the steps to be shown, each on its batch before it learns from it."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss)
    # The same batches for every model.
    rng = np.random.default_rng(SEED)
    shown = {}
    for step in track(
        range(1, SHOWN_STEPS[-1] + 1), "training", console=Console(stderr=True)
    ):
        batch = rng.choice(len(features), BATCH, replace=False)
        # Of this step alone, not the running mean over the steps so far.
        model.reset_metrics()
        value = model.train_on_batch(features[batch], labels[batch])
        if step in SHOWN_STEPS:
            shown[str(step)] = float(value)
    return shown


def side_by_side(title: str, heading: str, columns: dict[str, dict[str, float]]) -> Table:
    """A table of one row for each key of the columns, which have the same keys."""
    result = Table(heading, title=title, box=None, pad_edge=False)
    for recipe in columns:
        result.add_column(recipe, justify="right")
    for key in columns[RECIPES[0]]:
        result.add_row(key, *(f"{column[key]:.4f}" for column in columns.values()))
    return result


if __name__ == "__main__":
    main()
