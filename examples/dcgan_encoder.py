"""The encoder of a DCGAN: started by a recipe, then trained on real images.

    python examples/dcgan_encoder.py --features 16

Builds the encoder on the functional API, gives it the start of DCGAN by one call, and
prints γ and β of each BatchNormalization before and after it. Then trains the encoder to
tell scikit-learn's digits apart, its ten latent channels as logits, and prints the loss
of the first and the last steps. The exit code is 0 only if the loss fell.
"""

import argparse
import numbers
import os

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
SIDE = 32
DIGITS = 10
BATCH = 64
# So many steps are printed and averaged at either end of the training.
SHOWN = 3


def dcgan_encoder(side: int, channels: int, latent: int, features: int = 64) -> keras.Model:
    """The encoder of a DCGAN: an image becomes one vector, of shape (1, 1, latent).

    Strided convolutions halve the side until it is 4, each after the first doubles the
    channels, and a last convolution covers the 4×4 that are left. None has a bias.

    Args:
        side: of the images: 16, 32, 64, 128, ... Of the multiples of 16 only the powers
            of two arrive at 4 when they are halved; 48 goes on to 6 and 3.
        channels: of the images.
        latent: the channels of the output.
        features: the channels after the first convolution.

    Raises:
        ValueError: `side` is not one of these.

    Reference: Radford et al. 2016, <https://arxiv.org/abs/1511.06434>.
    """
    if not isinstance(side, numbers.Integral) or side < 16 or side & (side - 1):
        allowed = "a multiple of 16 that halves to 4: 16, 32, 64, 128, ..."
        raise ValueError(f"`side` must be {allowed} Received: side={side!r}")

    image = keras.Input((side, side, channels))
    # Of an even side, "same" pads exactly one pixel at each end.
    x = layers.Conv2D(features, 4, 2, "same", use_bias=False)(image)
    x = layers.LeakyReLU(negative_slope=0.2)(x)
    side //= 2
    while side > 4:
        features *= 2
        x = layers.Conv2D(features, 4, 2, "same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.LeakyReLU(negative_slope=0.2)(x)
        side //= 2
    return keras.Model(image, layers.Conv2D(latent, 4, use_bias=False)(x))


def main() -> None:
    parser = argparse.ArgumentParser(description="Start and train a DCGAN encoder.")
    parser.add_argument("--features", type=int, default=16, help="of the first layer")
    parser.add_argument("--steps", type=int, default=60, help="of the training")
    arguments = parser.parse_args()
    if arguments.steps < 2 * SHOWN:
        parser.error(f"--steps must be at least {2 * SHOWN}. Received: {arguments.steps}")

    encoder = dcgan_encoder(SIDE, channels=1, latent=DIGITS, features=arguments.features)
    before = normalizations(encoder)
    keras_fanwise.initialize(encoder, "dcgan", seed=SEED)
    console = Console()
    console.print(start_table(before, normalizations(encoder)))

    losses = train(encoder, arguments.steps)
    console.print(loss_table(losses))
    fell = np.mean(losses[-SHOWN:]) < np.mean(losses[:SHOWN])
    if not fell:  # or is no number
        raise SystemExit("dcgan_encoder: the loss did not fall")


def normalizations(model: keras.Model) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By name of each BatchNormalization, its γ and its β."""
    return {
        layer.name: (
            keras.ops.convert_to_numpy(layer.gamma),
            keras.ops.convert_to_numpy(layer.beta),
        )
        for layer in model.layers
        if isinstance(layer, layers.BatchNormalization)
    }


def start_table(*starts: dict[str, tuple[np.ndarray, np.ndarray]]) -> Table:
    title = "γ and β before and after initialize(encoder, 'dcgan')"
    result = Table("layer", "", title=title, box=None, pad_edge=False)
    for heading in ("count", "γ mean", "γ std", "β min", "β max"):
        result.add_column(heading, justify="right")
    for name in starts[0]:
        for when, start in zip(("before", "after"), starts, strict=True):
            gamma, beta = start[name]
            figures = gamma.mean(), gamma.std(), beta.min(), beta.max()
            texts = (f"{figure:.4f}" for figure in figures)
            result.add_row(name, when, str(gamma.size), *texts)
    return result


def train(encoder: keras.Model, steps: int) -> list[float]:
    """Trains the encoder as a classifier; the loss of each step."""
    logits = layers.Flatten()(encoder.output)
    classifier = keras.Model(encoder.input, logits)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classifier.compile("adam", loss)
    images, labels = digits()
    rng = np.random.default_rng(SEED)
    losses = []
    for _ in track(range(steps), "training", console=Console(stderr=True)):
        batch = rng.choice(len(images), BATCH, replace=False)
        # Of this step alone, not the running mean over the steps so far.
        classifier.reset_metrics()
        losses.append(float(classifier.train_on_batch(images[batch], labels[batch])))
    return losses


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images of `SIDE` by `SIDE` pixels from -1 to 1, as DCGAN has them, and labels."""
    # Here, so that the encoder alone needs no scikit-learn.
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("float32") / 8 - 1
    return images.repeat(SIDE // 8, axis=1).repeat(SIDE // 8, axis=2), labels


def loss_table(losses: list[float]) -> Table:
    result = Table("step", box=None, pad_edge=False)
    result.add_column("loss on the digits", justify="right")
    steps = list(enumerate(losses, 1))
    for step, loss in steps[:SHOWN] + steps[-SHOWN:]:
        result.add_row(str(step), f"{loss:.4f}")
    return result


if __name__ == "__main__":
    main()
