"""Random small networks of many kinds, each with a start that fits it.

What is random is drawn from a seed: widths, depths, kernel sizes, strides, and the
activation with the initializer for it: He's rule for ReLUs, Glorot's for tanh, LeCun's
for SELU, and the scale that `gain` computes for others. All count the fans of the layer.
"""

import contextlib
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

import keras_fanwise as kf

layers = keras.layers

CLASSES = 10


def dcgan(width: int) -> keras.Model:
    """Generator and discriminator, one after the other."""
    x = inputs = keras.Input((100,))
    x = layers.Reshape((4, 4, 4 * width))(layers.Dense(64 * width, use_bias=False)(x))
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2DTranspose(width, 4, 2, "same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2DTranspose(3, 4, 2, "same", activation="tanh")(x)
    x = layers.LeakyReLU(0.2)(layers.Conv2D(width, 4, 2, "same")(x))
    for _ in range(2):
        x = layers.BatchNormalization()(layers.Conv2D(2 * width, 4, 2, "same")(x))
        x = layers.LeakyReLU(0.2)(x)
    return keras.Model(inputs, layers.Dense(1)(layers.Flatten()(x)))


def transformer_network(width: int, blocks: int) -> keras.Model:
    """As GPT-2: the normalization comes before each branch, and sums are operators."""
    tokens = keras.Input((12,), dtype="int32")
    x = layers.Embedding(50, width)(tokens)
    for _ in range(blocks):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(2, width // 2)(y, y)
        y = layers.Dense(4 * width, "gelu")(layers.LayerNormalization()(x))
        x = x + layers.Dense(width)(y)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(tokens, layers.Dense(CLASSES)(x))


def residual_network(blocks: int, width: int) -> keras.Model:
    """Without normalization, of branches of two kernels."""
    inputs = keras.Input((24,))
    x = layers.Dense(width, "relu")(inputs)
    for _ in range(blocks):
        y = layers.Dense(width)(layers.Dense(width, "relu")(x))
        x = layers.add([x, y])
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


class Builder:
    """Layers of one architecture, with the initializers that fit its activation."""

    def __init__(self, seed: str) -> None:
        self.rng = random.Random(seed)
        self.activation = self.rng.choice(
            ["relu", "relu", "leaky_relu", "tanh", "selu", "gelu", "silu", "elu"]
        )

    def size(self, low: int, high: int) -> int:
        """A multiple of 4."""
        return 4 * self.rng.randint(low // 4, high // 4)

    def hidden(self, scale: float = 1.0) -> Any:
        """The initializer of a kernel before the activation, its variance times `scale`."""
        seed = self.rng.randrange(2**32)
        uniform = self.rng.random() < 0.5
        if scale == 1.0 and self.activation == "relu":
            return (kf.FanwiseHeUniform if uniform else kf.FanwiseHeNormal)(seed=seed)
        if scale == 1.0 and self.activation == "leaky_relu":  # with Keras's slope
            return kf.FanwiseHeNormal(negative_slope=0.2, seed=seed)
        if scale == 1.0 and self.activation == "tanh":
            return self.linear()
        if self.activation == "leaky_relu":
            scale *= 2 / (1 + 0.2**2)
        elif self.activation != "tanh":
            scale *= kf.gain(self.activation) ** 2
        distribution = "uniform" if uniform else "truncated_normal"
        return kf.FanwiseVarianceScaling(
            scale=scale, mode="fan_in", distribution=distribution, seed=seed
        )

    def linear(self) -> Any:
        """The initializer of a kernel with nothing, a sum or a gate behind it."""
        cls = self.rng.choice(
            [kf.FanwiseGlorotUniform, kf.FanwiseGlorotNormal, kf.FanwiseLecunNormal]
        )
        return cls(seed=self.rng.randrange(2**32))

    def dense(self, units: int, **arguments: Any) -> keras.Layer:
        return layers.Dense(
            units, self.activation, kernel_initializer=self.hidden(), **arguments
        )

    def conv(
        self, filters: int, size: int = 3, strides: int = 1, **arguments: Any
    ) -> keras.Layer:
        arguments = {"activation": self.activation, "padding": "same"} | arguments
        arguments.setdefault("kernel_initializer", self.hidden())
        return layers.Conv2D(filters, size, strides, **arguments)

    def head(self, x: Any) -> Any:
        """Class scores, from units, rows of units or images."""
        if len(x.shape) == 4:
            choices = [
                layers.GlobalAveragePooling2D,
                layers.Flatten,
                layers.GlobalMaxPooling2D,
            ]
            x = self.rng.choice(choices)()(x)
        elif len(x.shape) == 3:
            x = layers.GlobalAveragePooling1D()(x)
        return layers.Dense(CLASSES, kernel_initializer=self.linear())(x)


def plain(b: Builder) -> keras.Model:
    inputs = x = keras.Input((b.size(16, 64),))
    for _ in range(b.rng.randint(2, 14)):
        x = b.dense(b.size(24, 64))(x)
    return keras.Model(inputs, b.head(x))


def convolutional(b: Builder) -> keras.Model:
    inputs = x = keras.Input((12, 12, 3))
    for number in range(b.rng.randint(2, 8)):
        strides = 2 if number and x.shape[1] > 3 and b.rng.random() < 0.3 else 1
        x = b.conv(b.size(8, 24), b.rng.choice([1, 3, 3, 5]), strides)(x)
        if x.shape[1] > 5 and b.rng.random() < 0.2:
            x = layers.MaxPooling2D()(x)
    return keras.Model(inputs, b.head(x))


def grouped(b: Builder) -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = b.conv(32)(inputs)
    for _ in range(b.rng.randint(2, 5)):
        x = b.conv(b.rng.choice([16, 32]), groups=b.rng.choice([2, 4]))(x)
    return keras.Model(inputs, b.head(x))


def residual(b: Builder) -> keras.Model:
    """Without normalization: the ends of the branches are small, or zero."""
    blocks, width = b.rng.randint(2, 8), b.size(16, 32)
    images = b.rng.random() < 0.5
    inputs = keras.Input((8, 8, 3) if images else (24,))
    zero = b.rng.random() < 0.25
    x = b.conv(width)(inputs) if images else b.dense(width)(inputs)
    for _ in range(blocks):
        end = "zeros" if zero else b.hidden(1 / blocks)
        if images:
            y = b.conv(width)(x)
            y = b.conv(width, activation=None, kernel_initializer=end)(y)
        else:
            y = b.dense(2 * width)(x)
            y = layers.Dense(width, kernel_initializer=end)(y)
        x = layers.add([x, y])
    return keras.Model(inputs, b.head(x))


def batch_normalization(b: Builder) -> keras.Model:
    inputs = x = keras.Input((12, 12, 3))
    for _ in range(b.rng.randint(2, 8)):
        x = b.conv(b.size(8, 24), activation=None, use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.Activation(b.activation)(x)
    return keras.Model(inputs, b.head(x))


def normalized_residual(b: Builder) -> keras.Model:
    """As ResNet: γ of a branch's last normalization may be zero."""
    width, gamma = b.size(8, 24), b.rng.choice(["ones", "zeros"])
    inputs = keras.Input((8, 8, 3))
    x = b.conv(width)(inputs)
    for _ in range(b.rng.randint(2, 6)):
        y = b.conv(width, activation=None, use_bias=False)(x)
        y = layers.Activation(b.activation)(layers.BatchNormalization()(y))
        y = b.conv(width, activation=None, use_bias=False)(y)
        y = layers.BatchNormalization(gamma_initializer=gamma)(y)
        x = layers.Activation(b.activation)(layers.add([x, y]))
    return keras.Model(inputs, b.head(x))


def layer_normalization(b: Builder) -> keras.Model:
    inputs = x = keras.Input((b.size(16, 64),))
    for _ in range(b.rng.randint(2, 10)):
        x = layers.Dense(b.size(16, 64), kernel_initializer=b.hidden())(x)
        x = layers.Activation(b.activation)(layers.LayerNormalization()(x))
    return keras.Model(inputs, b.head(x))


def transformer(b: Builder) -> keras.Model:
    """With the normalization before or behind each branch."""
    width, heads, before = b.size(16, 32), b.rng.choice([2, 4]), b.rng.random() < 0.7
    tokens = keras.Input((12,), dtype="int32")
    x = layers.Embedding(50, width, embeddings_initializer=b.linear())(tokens)
    for _ in range(b.rng.randint(1, 4)):
        y = layers.LayerNormalization()(x) if before else x
        attention = layers.MultiHeadAttention(
            heads, width // heads, kernel_initializer=b.linear()
        )
        x = layers.add([x, attention(y, y)])
        x = y = layers.LayerNormalization()(x) if not before else x
        y = layers.LayerNormalization()(y) if before else y
        y = b.dense(2 * width)(y)
        x = layers.add([x, layers.Dense(width, kernel_initializer=b.linear())(y)])
        x = x if before else layers.LayerNormalization()(x)
    x = layers.LayerNormalization()(x) if before else x
    return keras.Model(tokens, b.head(x))


def _recurrent(b: Builder, cls: Any) -> keras.Model:
    inputs = x = keras.Input((8, b.size(8, 24)))
    for _ in range(b.rng.randint(1, 3)):
        seed = b.rng.randrange(2**32)
        recurrent = b.rng.choice([b.linear(), keras.initializers.Orthogonal(seed=seed)])
        layer = cls(
            b.size(16, 32),
            return_sequences=True,
            kernel_initializer=b.linear(),
            recurrent_initializer=recurrent,
        )
        if b.rng.random() < 0.3:
            back = cls(
                layer.units,
                return_sequences=True,
                go_backwards=True,
                kernel_initializer=b.linear(),
                recurrent_initializer=b.linear(),
            )
            layer = layers.Bidirectional(layer, backward_layer=back)
        x = layer(x)
    return keras.Model(inputs, b.head(x[:, -1]))


def gru(b: Builder) -> keras.Model:
    return _recurrent(b, layers.GRU)


def lstm(b: Builder) -> keras.Model:
    return _recurrent(b, layers.LSTM)


def depthwise(b: Builder) -> keras.Model:
    """Without normalization."""
    inputs = keras.Input((10, 10, 3))
    x = b.conv(b.size(16, 32))(inputs)
    for _ in range(b.rng.randint(2, 6)):
        strides = 2 if x.shape[1] > 3 and b.rng.random() < 0.3 else 1
        x = layers.DepthwiseConv2D(
            3, strides, "same", activation=b.activation, depthwise_initializer=b.hidden()
        )(x)
        x = b.conv(b.size(16, 32), 1)(x)
    return keras.Model(inputs, b.head(x))


def separable(b: Builder) -> keras.Model:
    inputs = keras.Input((10, 10, 4))
    x = b.conv(b.size(16, 24))(inputs)
    for _ in range(b.rng.randint(2, 5)):
        x = layers.SeparableConv2D(
            b.size(16, 32),
            3,
            padding="same",
            activation=b.activation,
            depthwise_initializer=b.linear(),
            pointwise_initializer=b.hidden(),
        )(x)
    return keras.Model(inputs, b.head(x))


def transposed(b: Builder) -> keras.Model:
    """From a vector to an image."""
    channels = b.size(16, 32)
    inputs = keras.Input((b.size(16, 32),))
    x = layers.Reshape((4, 4, channels))(b.dense(16 * channels)(inputs))
    for size in (channels, 16)[: b.rng.randint(1, 2)]:
        x = layers.Conv2DTranspose(
            size, 4, 2, "same", activation=b.activation, kernel_initializer=b.hidden()
        )(x)
    last = layers.Conv2DTranspose(3, 4, 2, "same", kernel_initializer=b.linear())
    return keras.Model(inputs, layers.Activation("tanh")(last(x)))


def branched(b: Builder) -> keras.Model:
    """As Inception: branches of different sizes, concatenated."""
    inputs = x = keras.Input((8, 8, 3))
    for _ in range(b.rng.randint(1, 4)):
        one = b.conv(b.size(8, 16), 1)(x)
        two = b.conv(b.size(8, 16), 3)(b.conv(b.size(8, 16), 1)(x))
        three = layers.AveragePooling2D(3, 1, "same")(x)
        x = layers.concatenate([one, two, b.conv(b.size(8, 16), 1)(three)])
    return keras.Model(inputs, b.head(x))


def embeddings(b: Builder) -> keras.Model:
    tokens = keras.Input((12,), dtype="int32")
    initializer = b.rng.choice(["uniform", b.linear()])
    x = layers.Embedding(b.size(40, 200), b.size(16, 32), initializer)(tokens)
    pooling = b.rng.choice([layers.GlobalAveragePooling1D(), layers.Flatten()])
    x = pooling(x)
    for _ in range(b.rng.randint(1, 4)):
        x = b.dense(b.size(16, 48))(x)
    return keras.Model(tokens, b.head(x))


def several_inputs(b: Builder) -> keras.Model:
    """Numbers, and a category of few values, or an image; their features side by side."""
    numbers = keras.Input((b.size(8, 24),))
    if b.rng.random() < 0.5:
        other = keras.Input((1,), dtype="int32")
        side = layers.Embedding(b.size(20, 100), 8, embeddings_initializer=b.linear())
        y = layers.Flatten()(side(other))
        x = numbers
    else:
        other = keras.Input((8, 8, 3))
        y = layers.GlobalAveragePooling2D()(b.conv(16)(b.conv(16)(other)))
        x = b.dense(b.size(16, 32))(numbers)
    x = layers.concatenate([x, y])
    for _ in range(b.rng.randint(1, 4)):
        x = b.dense(b.size(16, 48))(x)
    return keras.Model([numbers, other], b.head(x))


def parallel_heads(b: Builder) -> keras.Model:
    """As detectors: heads beside each other, of which some begin at zero."""
    inputs = x = keras.Input((8, 8, 3))
    for _ in range(b.rng.randint(2, 4)):
        x = b.conv(b.size(8, 24))(x)
    heads = []
    for units in (4, CLASSES, 1)[: b.rng.randint(2, 3)]:
        y = b.conv(b.size(8, 16))(x)
        end = b.linear() if not heads or b.rng.random() < 0.5 else "zeros"
        heads.append(layers.Conv2D(units, 1, kernel_initializer=end)(y))
    return keras.Model(inputs, heads)


def operator_sums(b: Builder) -> keras.Model:
    """Branches that are added by operators, subtracted, averaged, or scaled."""
    width, blocks = b.size(16, 32), b.rng.randint(2, 6)
    inputs = keras.Input((24,))
    x = b.dense(width)(inputs)
    for _ in range(blocks):
        end = "zeros" if b.rng.random() < 0.25 else b.hidden(1 / blocks)
        y = layers.Dense(width, kernel_initializer=end)(b.dense(2 * width)(x))
        way = b.rng.choice(["+", "-", "add", "0.5"])
        x = {
            "+": lambda x, y: x + y,
            "-": lambda x, y: x - y,
            "add": keras.ops.add,
            "0.5": lambda x, y: x + 0.5 * y,
        }[way](x, y)
    return keras.Model(inputs, b.head(x))


class Gated(layers.Layer):
    """A layer of one's own, with layers inside and a branch: x + value * sigmoid(gate)."""

    def __init__(self, value: keras.Layer, gate: keras.Layer) -> None:
        super().__init__()
        self.value, self.gate = value, gate

    def build(self, shape: Any) -> None:
        self.value.build(shape)
        self.gate.build(shape)

    def call(self, x: Any) -> Any:
        return x + self.value(x) * keras.ops.sigmoid(self.gate(x))


class Matrix(layers.Layer):
    """As the guides of Keras write one: its weights have no names of their own."""

    def __init__(self, units: int, kernel_initializer: Any) -> None:
        super().__init__()
        self.units, self.kernel_initializer = units, kernel_initializer

    def build(self, shape: Any) -> None:
        kernel = {"shape": (shape[-1], self.units), "initializer": self.kernel_initializer}
        self.w = self.add_weight(**kernel)
        self.b = self.add_weight(shape=(self.units,), initializer="zeros")

    def call(self, x: Any) -> Any:
        return keras.ops.matmul(x, self.w) + self.b


class Siren(Matrix):
    """One that does more than multiply."""

    def call(self, x: Any) -> Any:
        return keras.ops.sin(30.0 * super().call(x))


def custom_layers(b: Builder) -> keras.Model:
    width = b.size(16, 48)
    inputs = keras.Input((24,))
    x = b.dense(width)(inputs)
    for _ in range(b.rng.randint(1, 5)):
        if b.rng.random() < 0.5:
            x = layers.Activation(b.activation)(Matrix(width, b.hidden())(x))
        else:
            two = [layers.Dense(width, kernel_initializer=b.linear()) for _ in range(2)]
            x = Gated(*two)(x)
    return keras.Model(inputs, b.head(x))


def recipes(b: Builder) -> keras.Model:
    """Models with the recipes that are for them, at several widths."""
    width = b.rng.choice([16, 32, 64])
    make, names = b.rng.choice(
        [
            (lambda: dcgan(width), ["dcgan", "he", "kaiming"]),
            (lambda: transformer_network(width, 2), ["transformer", "vit", "gpt2", "he"]),
            (lambda: residual_network(b.rng.randint(2, 12), width), ["fixup"]),
            (lambda: plain(b), ["he", "lecun", "critical"]),
        ]
    )
    model = make()
    kf.initialize(model, b.rng.choice(names), seed=b.rng.randrange(2**32))
    return model


def sigmoids(b: Builder) -> keras.Model:
    """With the scale that trains them: N(0, 1), far from Glorot's."""
    inputs = x = keras.Input((b.size(24, 64),))
    for _ in range(b.rng.randint(3, 12)):
        normal = kf.FanwiseNormal(stddev=1.0, seed=b.rng.randrange(2**32))
        x = layers.Dense(b.size(32, 64), "sigmoid", kernel_initializer=normal)(x)
    return keras.Model(inputs, b.head(x))


def siren(b: Builder) -> keras.Model:
    """By functions, layers of one's own, or operators, whose gain nobody knows."""
    x = inputs = keras.Input((2,))
    width, way = b.size(32, 64), b.rng.choice(["layer", "activation", "ops"])

    def initializer(first: bool = False) -> Any:
        return kf.FanwiseVarianceScaling(
            1 / 6 if first else 2 / 900,
            distribution="uniform",
            seed=b.rng.randrange(2**32),
        )

    for number in range(b.rng.randint(3, 6)):
        given = initializer(number == 0)
        if way == "layer":
            x = Siren(width, given)(x)
            continue
        wave = (lambda x: keras.ops.sin(30.0 * x)) if way == "activation" else None
        x = layers.Dense(width, wave, kernel_initializer=given)(x)
        x = keras.ops.sin(30.0 * x) if way == "ops" else x
    return keras.Model(inputs, layers.Dense(1, kernel_initializer=initializer())(x))


def trained(b: Builder) -> keras.Model:
    """What learning makes of weights: each step adds a few directions, and moves biases."""
    model = b.rng.choice([plain, convolutional, batch_normalization])(b)
    rng = np.random.default_rng(b.rng.randrange(2**32))
    for weight in model.trainable_weights:
        values = keras.ops.convert_to_numpy(weight)
        if values.ndim > 1:
            rows, columns = math.prod(values.shape[:-1]), values.shape[-1]
            update = rng.normal(size=(rows, 2)) @ rng.normal(size=(2, columns))
            weight.assign(values + 0.4 * values.std() * update.reshape(values.shape))
        else:
            weight.assign(values + 0.05 * rng.normal(size=values.shape))
    return model


def mixed_precision(b: Builder) -> keras.Model:
    make = b.rng.choice([plain, convolutional, batch_normalization, transformer, depthwise])
    with dtype_policy(b.rng.choice(["mixed_bfloat16", "mixed_float16"])):
        return make(b)


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


KINDS: dict[str, Callable[[Builder], keras.Model]] = {
    make.__name__.replace("_", " "): make
    for make in (
        plain,
        convolutional,
        grouped,
        residual,
        batch_normalization,
        normalized_residual,
        layer_normalization,
        transformer,
        gru,
        lstm,
        depthwise,
        separable,
        transposed,
        branched,
        embeddings,
        several_inputs,
        parallel_heads,
        operator_sums,
        custom_layers,
        recipes,
        sigmoids,
        siren,
        trained,
        mixed_precision,
    )
}


def build(kind: str, seed: int) -> keras.Model:
    """The architecture of this kind and seed, the same in every process."""
    return KINDS[kind](Builder(f"{kind} {seed}"))
