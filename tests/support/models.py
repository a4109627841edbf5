"""Models of many kinds, and what the tests do with their weights."""

import keras
import numpy as np

import keras_fanwise as kf

layers = keras.layers


def draw_after_seed():
    keras.utils.set_random_seed(0)
    return float(keras.random.normal(()))


# Keras 3.11 and older goes on with its global generator.
SEEDS_ALL = draw_after_seed() == draw_after_seed()


def values_of(tensor):
    """The values of a tensor or a weight, copied."""
    return np.array(keras.ops.convert_to_numpy(tensor))


def arrays(model):
    """Of all weights."""
    return [values_of(weight) for weight in model.weights]


def values_by_path(model):
    return {weight.path: values_of(weight) for weight in model.weights}


def equal(one, two):
    return [np.array_equal(a, b) for a, b in zip(one, two, strict=True)]


class Subclassed(keras.Model):
    """Makes its weights when it is called, as most do."""

    def __init__(self):
        super().__init__()
        self.first = layers.Dense(4)
        self.second = layers.Dense(4)
        self.norm = layers.BatchNormalization()

    def call(self, x):
        return self.norm(self.second(self.first(x)))


class ByHand(layers.Layer):
    """Names its initializers where it makes its weights, and one not at all."""

    def build(self, shape):
        self.kernel = self.add_weight(
            shape=(shape[-1], 3), initializer="random_normal", name="kernel"
        )
        self.other = self.add_weight(shape=(shape[-1], 3), name="other")
        self.count = self.add_weight(shape=(), dtype="int32", trainable=False)

    def call(self, x):
        return x @ self.kernel + x @ self.other


def network(*, attention=False, between=()):
    """Named layers of many kinds; others can be put before the last."""
    inputs = keras.Input((8, 8, 16))
    x = layers.Conv2D(32, 3, name="conv")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Reshape((-1, 32), name="rows")(x)
    if attention:
        x = layers.MultiHeadAttention(2, 8, name="attention")(x, x)
    x = layers.LSTM(16, name="lstm")(x)
    for layer in between:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(10, name="head")(x))


def relu_network(initializer, depth, width, head=()):
    body = [
        layers.Dense(width, "relu", kernel_initializer=initializer, name=f"body_{i}")
        for i in range(depth)
    ]
    return keras.Sequential([keras.Input((width,)), *body, *head], name="net")


def subclassed():
    model = Subclassed()
    model(np.zeros((2, 4), "float32"))
    return model


def sequential():
    return keras.Sequential(
        [keras.Input((8,)), layers.Dense(6, "relu"), layers.Dropout(0.5), layers.Dense(3)]
    )


def nested():
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(4), layers.Dense(4)])
    lazy = keras.Sequential([layers.Dense(4), layers.Dense(4)])
    return keras.Sequential([keras.Input((8,)), inner, lazy, layers.Dense(4)])


def recurrent():
    inputs = keras.Input((5, 6))
    x = layers.LSTM(4, return_sequences=True, bias_initializer="ones")(inputs)
    x = layers.Bidirectional(layers.GRU(4, return_sequences=True))(x)
    x = layers.RNN([layers.LSTMCell(3), layers.LSTMCell(4)], return_sequences=True)(x)
    return keras.Model(inputs, layers.LSTM(3, unit_forget_bias=False)(x))


def convolutional_recurrent():
    inputs = keras.Input((3, 6, 6, 2))
    return keras.Model(inputs, layers.ConvLSTM2D(3, 3)(inputs))


def attention():
    inputs = keras.Input((5, 6))
    x = layers.MultiHeadAttention(2, 3)(inputs, inputs)
    x = layers.GroupQueryAttention(4, 4, 2)(x, x)
    x = layers.AdditiveAttention()([x, x])
    return keras.Model(inputs, layers.Attention(use_scale=True)([x, x]))


def convolutional():
    inputs = keras.Input((8, 8, 4))
    x = layers.SeparableConv2D(6, 3, depthwise_initializer="fanwise_he_normal")(inputs)
    x = layers.PReLU(alpha_initializer="random_uniform")(x)
    x = layers.SpectralNormalization(layers.Conv2D(4, 3))(x)
    x = layers.BatchNormalization(gamma_initializer="fanwise_gamma_noise")(x)
    x = layers.GroupNormalization(2)(x)
    x = layers.Conv2DTranspose(4, 3, strides=2)(x)
    x = layers.LayerNormalization()(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, ByHand()(x))


def embedding():
    inputs = keras.Input((5,), dtype="int32")
    return keras.Model(
        inputs, layers.GlobalAveragePooling1D()(layers.Embedding(20, 4)(inputs))
    )


def shared():
    inputs = keras.Input((4,))
    dense = layers.Dense(4)
    return keras.Model(inputs, dense(dense(inputs)))


def mixed_precision():
    policy = keras.DTypePolicy("mixed_bfloat16")
    return keras.Sequential([keras.Input((8,)), layers.Dense(6, dtype=policy)])


def half_precision():
    policy = keras.DTypePolicy("bfloat16")
    return keras.Sequential([keras.Input((8,)), layers.Dense(60, dtype=policy)])


MODELS = {
    make.__name__: make
    for make in (
        subclassed,
        sequential,
        nested,
        recurrent,
        convolutional_recurrent,
        attention,
        convolutional,
        embedding,
        shared,
        mixed_precision,
        half_precision,
    )
}


def structured_model():
    """Each structured start in the layer that it is for, and kernels that hold them."""
    he = "fanwise_he_normal"
    x = image = keras.Input((8, 8, 4))
    for name in ("same", "too"):
        x = layers.Conv2D(
            4, 3, padding="same", kernel_initializer="fanwise_dirac", name=name
        )(x)
    x = layers.Conv2DTranspose(
        4, 4, 2, "same", kernel_initializer="fanwise_upsampling", name="larger"
    )(x)
    x = layers.Conv2D(8, 3, activation="relu", kernel_initializer=he, name="hidden")(x)
    phases = kf.FanwiseSubpixel()
    x = layers.Conv2D(4 * 4, 3, kernel_initializer=phases, name="phases")(x)
    place = keras.Input((2,))
    given, sine = kf.FanwiseSiren(first=True), place
    for name in ("first", "second"):
        sine = layers.Dense(64, kernel_initializer=given, name=name)(sine)
        sine, given = keras.ops.sin(30.0 * sine), "fanwise_siren"
    # Identities without an activation between are no chain that halves the signal.
    same = layers.Dense(16, kernel_initializer=he)(place)
    for _ in range(16):
        same = layers.Dense(16, "relu", kernel_initializer="fanwise_dirac")(same)
    times = keras.Input((5, 4))
    chrono = kf.FanwiseChronoBias(50)
    recurrent = layers.GRU(32, kernel_initializer=he, bias_initializer=chrono, name="gru")(
        times
    )
    parts = [layers.GlobalAveragePooling2D()(x), sine, same, recurrent]
    head = layers.Dense(1, kernel_initializer=he)(layers.concatenate(parts))
    return keras.Model([image, place, times], head)
