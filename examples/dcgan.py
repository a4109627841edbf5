"""A DCGAN that draws digits, started by the recipe of its paper.

    python examples/dcgan.py --figure dcgan.png

Builds a generator and a discriminator for scikit-learn's digits, starts both by
`initialize(model, "dcgan")` (Radford et al. 2016, <https://arxiv.org/abs/1511.06434>),
trains them, and draws what the generator makes of sixty random vectors.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when Keras imports TensorFlow

import keras
import numpy as np
from keras import layers
from matplotlib.figure import Figure
from rich.progress import track
from sklearn.datasets import load_digits

import keras_fanwise

LATENT, BATCH = 32, 64


def generator() -> keras.Model:
    z = keras.Input((LATENT,))
    x = layers.Reshape((2, 2, 128))(layers.Dense(2 * 2 * 128, use_bias=False)(z))
    for filters in (64, 32):
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Conv2DTranspose(filters, 4, 2, "same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(z, layers.Conv2D(1, 3, padding="same", activation="tanh")(x))


def discriminator() -> keras.Model:
    image = keras.Input((8, 8, 1))
    x = layers.LeakyReLU(negative_slope=0.2)(layers.Conv2D(32, 4, 2, "same")(image))
    x = layers.Conv2D(64, 4, 2, "same", use_bias=False)(x)
    x = layers.LeakyReLU(negative_slope=0.2)(layers.BatchNormalization()(x))
    return keras.Model(image, layers.Dense(1)(layers.Flatten()(x)))


def train(draw: keras.Model, judge: keras.Model, images: np.ndarray, epochs: int) -> None:
    random = np.random.default_rng(0)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    both = keras.Sequential([keras.Input((LATENT,)), draw, judge])
    for model in (both, judge):
        model.compile(keras.optimizers.Adam(2e-4, beta_1=0.5), loss)
    weights = judge.trainable_variables

    def step(model: keras.Model, learns: bool, x: np.ndarray, y: np.ndarray) -> None:
        for weight in weights:  # not the layer: its statistics go on being those of a batch
            weight.trainable = learns
        model.train_on_batch(x, y)

    for _ in track(range(epochs), "training"):
        random.shuffle(images)
        for batch in np.split(images[: len(images) // BATCH * BATCH], len(images) // BATCH):
            z = random.standard_normal((BATCH, LATENT)).astype("float32")
            made = keras.ops.convert_to_numpy(draw(z, training=True))
            step(judge, True, batch, np.ones((BATCH, 1)))
            step(judge, True, made, np.zeros((BATCH, 1)))
            step(both, False, z, np.ones((BATCH, 1)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a DCGAN on digits.")
    parser.add_argument("--figure", type=Path, default=Path("dcgan.png"))
    parser.add_argument("--epochs", type=int, default=80)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    images = load_digits().images[..., None].astype("float32") / 8 - 1  # as tanh: -1 to 1

    draw, judge = generator(), discriminator()
    for model in (draw, judge):
        print(keras_fanwise.initialize(model, "dcgan", seed=0), end="\n\n")
    train(draw, judge, images, arguments.epochs)

    z = np.random.default_rng(1).standard_normal((60, LATENT)).astype("float32")
    frames = ((0, 0), (0, 0), (1, 1), (1, 1))
    drawn = draw.predict(z, verbose=0).reshape(5, 12, 8, 8)
    rows = np.pad(drawn, frames, constant_values=-1).transpose(0, 2, 1, 3)
    figure = Figure((9, 3.9), layout="constrained")
    axes = figure.subplots()
    axes.imshow(rows.reshape(50, 120), "gray_r")
    axes.set_title("Digits drawn by a DCGAN")
    axes.set_axis_off()
    figure.savefig(arguments.figure, dpi=120)


if __name__ == "__main__":
    main()
