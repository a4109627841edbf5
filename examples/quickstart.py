"""From names to a network that is trained, saved and reloaded, on real images.

    python examples/quickstart.py

Compares the six named initializers with Keras's own, trains a network on
scikit-learn's digits that gives its initializers by name alone, and reloads it in a new
process. The exit code is 0 only if everything that is claimed on the way holds.
"""

import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

# Read when Keras imports its backend: fewer log lines of TensorFlow, and threads of
# PyTorch that sleep while they wait, not several times as slow where cores are shared.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import keras
import numpy as np
from keras import layers
from rich.console import Console
from rich.table import Table
from scipy.stats import ks_2samp
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_fanwise  # noqa: F401 (makes the names known to Keras)

SEED = 0
LEAST_ACCURACY = 0.95
# The seeds are fixed: a p-value below this one is a fault, not bad luck.
LEAST_P_VALUE = 1e-4

# The kernel of the network's hidden Dense layer. For a Dense kernel Keras counts the
# same fans as keras_fanwise, so both must draw from the same distribution.
FAN_IN, FAN_OUT = KERNEL_SHAPE = (4 * 4 * 32, 128)
# By the formulas of the papers, and the same for the normals and the uniforms.
VARIANCES = {"glorot": 2 / (FAN_IN + FAN_OUT), "he": 2 / FAN_IN, "lecun": 1 / FAN_IN}

# All that a program needs in order to use the saved network.
RELOAD = """
import keras_fanwise
import keras, numpy
network = keras.models.load_model("network.keras")
predictions = network.predict(numpy.load("images.npy"), verbose=0)
numpy.save("predictions.npy", predictions)
"""


class Comparison(NamedTuple):
    """The draw of one initializer beside that of Keras's initializer of its name."""

    name: str
    asked: float
    ours: float
    theirs: float
    mean: float
    distance: float
    p_value: float
    same_bits: bool


def main() -> None:
    console = Console()
    names = [f"{who}_{kind}" for who in VARIANCES for kind in ("normal", "uniform")]
    comparisons = [compare(name, seed) for seed, name in enumerate(names)]
    console.print(table(comparisons))
    for comparison in comparisons:
        check(comparison)

    keras.utils.set_random_seed(SEED)
    network = build_network()

    train_x, validation_x, train_y, validation_y = split_digits()
    network.fit(train_x, train_y, batch_size=128, epochs=8, verbose=2)
    _, accuracy = network.evaluate(validation_x, validation_y, verbose=0)
    console.print(f"validation accuracy: {accuracy:.4f}")
    require(accuracy >= LEAST_ACCURACY, f"the accuracy is below {LEAST_ACCURACY}")

    predictions = network.predict(validation_x, verbose=0)
    difference = np.abs(predict_in_new_process(network, validation_x) - predictions).max()
    console.print(f"largest difference after reloading: {difference:g}")
    # The file holds the weights to the bit, and a CPU repeats its sums.
    require(difference == 0, "the reloaded network predicts something else")


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SystemExit(f"quickstart: {otherwise}")


def compare(name: str, seed: int) -> Comparison:
    """Draws the kernel by `fanwise_{name}` and by Keras's `name`, and measures both."""
    ours = draw(f"fanwise_{name}", seed=seed)
    theirs = draw(name, seed=seed)
    on_backend = draw(f"fanwise_{name}", seed=seed, sampler="backend")
    distance, p_value = ks_2samp(ours, theirs)
    return Comparison(
        name=f"fanwise_{name}",
        asked=math.sqrt(VARIANCES[name.split("_")[0]]),
        ours=float(ours.std()),
        theirs=float(theirs.std()),
        mean=float(ours.mean()),
        distance=distance,
        p_value=p_value,
        same_bits=np.array_equal(on_backend, theirs),
    )


def draw(name: str, **arguments: Any) -> np.ndarray:
    """The kernel by the initializer of this name, flat, in float64 for exact sums."""
    initializer = keras.initializers.get({"class_name": name, "config": arguments})
    kernel = keras.ops.convert_to_numpy(initializer(KERNEL_SHAPE))
    return kernel.astype(np.float64).ravel()


def table(comparisons: list[Comparison]) -> Table:
    title = f"standard deviation of a Dense kernel of shape {KERNEL_SHAPE}"
    result = Table("initializer", title=title, box=None, pad_edge=False)
    for heading in ("asked", "ours", "Keras's", "mean", "KS", "p", "same\nbits"):
        result.add_column(heading, justify="right")
    for row in comparisons:
        stds = (f"{std:.5f}" for std in (row.asked, row.ours, row.theirs))
        rest = f"{row.mean:.1e}", f"{row.distance:.4f}", f"{row.p_value:.2f}"
        result.add_row(row.name, *stds, *rest, "yes" if row.same_bits else "no")
    return result


def check(row: Comparison) -> None:
    # Five standard errors; for the std a normal's, larger than those of our draws.
    error = row.asked / math.sqrt(math.prod(KERNEL_SHAPE))
    close = abs(row.ours - row.asked) <= 5 * error / math.sqrt(2)
    require(close, f"the std of {row.name} is not as asked")
    require(abs(row.mean) <= 5 * error, f"the mean of {row.name} is not 0")
    require(row.p_value >= LEAST_P_VALUE, f"{row.name} is not distributed as Keras's")
    require(row.same_bits, f"{row.name} on the backend has other bits than Keras's")


def build_network() -> keras.Model:
    # The default momentum, 0.99, would average over more steps than there are.
    network = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, 1, "same", kernel_initializer="fanwise_he_normal"),
            layers.BatchNormalization(-1, 0.9, gamma_initializer="fanwise_gamma_noise"),
            layers.ReLU(),
            layers.Conv2D(32, 3, 2, "same", kernel_initializer="fanwise_he_normal"),
            layers.BatchNormalization(-1, 0.9, gamma_initializer="fanwise_gamma_noise"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(FAN_OUT, "relu", kernel_initializer="fanwise_he_uniform"),
            layers.Dense(10, "softmax", kernel_initializer="fanwise_glorot_uniform"),
        ]
    )
    network.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return network


def split_digits() -> list[np.ndarray]:
    """Images for training and for validation, then their labels likewise."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("float32") / 16
    return train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=SEED
    )


def predict_in_new_process(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """Saves the network, and predicts in a new process that loads the file."""
    with tempfile.TemporaryDirectory() as folder:
        network.save(Path(folder, "network.keras"))
        np.save(Path(folder, "images.npy"), images)
        environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend()}
        program = [sys.executable, "-c", RELOAD]
        child = subprocess.run(program, cwd=folder, env=environment)
        require(child.returncode == 0, "the new process could not use the network")
        return np.load(Path(folder, "predictions.npy"))


if __name__ == "__main__":
    main()
