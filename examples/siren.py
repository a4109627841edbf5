"""An implicit network that fits a photograph, started by the recipe of its paper.

    python examples/siren.py --figure siren.png

The network gets the coordinates of a pixel and gives its colour. Its activation is
sin(30 x), for which `initialize(model, "siren")` gives each layer its scale (Sitzmann et
al. 2020, <https://arxiv.org/abs/2006.09661>). Prints the peak signal-to-noise ratio, and
draws the photograph beside the network's.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when Keras imports TensorFlow

import keras
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image

import keras_fanwise


def siren() -> keras.Model:
    x = place = keras.Input((2,))
    for _ in range(3):
        x = keras.ops.sin(30.0 * keras.layers.Dense(128)(x))
    return keras.Model(place, keras.layers.Dense(3)(x))


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit a photograph with a SIREN.")
    parser.add_argument("--figure", type=Path, default=Path("siren.png"))
    parser.add_argument("--epochs", type=int, default=150)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    photograph = load_sample_image("flower.jpg")[::5, ::5].astype("float32") / 127.5 - 1
    height, width = photograph.shape[:2]
    lines = [np.linspace(-1, 1, size, dtype="float32") for size in (height, width)]
    places = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, 2)

    model = siren()
    print(keras_fanwise.initialize(model, "siren", seed=0))
    model.compile(keras.optimizers.Adam(5e-4), "mse")
    model.fit(places, photograph.reshape(-1, 3), 512, arguments.epochs, verbose=0)

    fitted = model.predict(places, 4096, verbose=0).reshape(photograph.shape)
    noise = 10 * np.log10(4 / np.mean((fitted - photograph) ** 2))
    print(f"\npeak signal-to-noise ratio: {noise:.1f} dB")
    figure = Figure((9, 3.4), layout="constrained")
    pairs = ("photograph", photograph), (f"SIREN, {noise:.1f} dB", fitted)
    for axes, (title, image) in zip(figure.subplots(1, 2), pairs, strict=True):
        axes.imshow(np.clip((image + 1) / 2, 0, 1))
        axes.set_title(title)
        axes.set_axis_off()
    figure.savefig(arguments.figure, dpi=120)


if __name__ == "__main__":
    main()
