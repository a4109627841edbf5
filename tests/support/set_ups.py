"""Sound trainings as people set them up, and faulty ones, each with its fault.

A set-up is a compiled model with the data that it is to learn. The data come with
scikit-learn.
"""

import functools

import keras
import numpy as np
from keras import layers, losses
from sklearn import datasets

SAMPLES = 256


@functools.cache
def data(name):
    """Some samples in random order: inputs, and targets as the package gives them."""
    found = getattr(datasets, f"load_{name}")()
    order = np.random.default_rng(0).permutation(len(found.data))[:SAMPLES]
    y = found.target[order]
    return found.data[order].astype("float32"), y.astype(
        "int32" if y.dtype.kind == "i" else "float32"
    )


def standard(values):
    return (values - values.mean(0)) / values.std(0)


def digits(divisor=16.0):
    x, y = data("digits")
    return x / np.float32(divisor), y


def pixels():
    """As from a file: 0 to 255."""
    x, y = data("digits")
    return np.floor(x * (255 / 16)).astype("float32"), y


def cancer():
    x, y = data("breast_cancer")
    return standard(x), y.astype("float32")[:, None]


def wine():
    x, y = data("wine")
    return standard(x), y


def diabetes(scale=True):
    x, y = data("diabetes")
    return standard(x), (standard(y) if scale else y)[:, None].astype("float32")


def one_hot(y, classes=10):
    return keras.utils.to_categorical(y, classes)


def bits(y):
    """Four labels for each digit, of which several can be true."""
    return ((y[:, None] >> np.arange(4)) & 1).astype("float32")


def mlp(x, units, activation=None, hidden="relu", depth=2, first=(), **options):
    given = inputs = keras.Input(x.shape[1:])
    for layer in first:
        given = layer(given)
    for _ in range(depth):
        given = layers.Dense(48, hidden, **options)(given)
    return keras.Model(inputs, layers.Dense(units, activation, name="head")(given))


def set_up(model, loss, x, y):
    model.compile("adam", loss)
    return model, x, y


SCE = "sparse_categorical_crossentropy"
CCE = "categorical_crossentropy"
BCE = "binary_crossentropy"


def logits(name, **options):
    return getattr(losses, name)(from_logits=True, **options)


def _classes(x, y, units, loss=SCE, activation="softmax", **options):
    return set_up(mlp(x, units, activation, **options), loss, x, y)


def _with_normalization():
    x, y = data("wine")
    first = layers.Normalization()
    first.adapt(x)
    return _classes(x, y, 3, first=[first])


def _images(x, y, *after, activation="softmax", loss=SCE):
    inputs = keras.Input((8, 8, 1))
    given = inputs
    for width in (8, 16):
        given = layers.Conv2D(width, 3, padding="same", use_bias=not after)(given)
        for layer in after:
            given = layer()(given)
        given = layers.ReLU()(given)
    given = layers.GlobalAveragePooling2D()(given)
    model = keras.Model(inputs, layers.Dense(10, activation, name="head")(given))
    return set_up(model, loss, x.reshape(-1, 8, 8, 1), y)


def _rows(kind, scale=1.0):
    x, y = digits()
    inputs = given = keras.Input((8, 8))
    if kind == "attention":
        given = layers.Dense(16)(given)
        attention = layers.MultiHeadAttention(2, 8)
        given = layers.LayerNormalization()(given + attention(given, given))
        if scale != 1:
            for dense in (attention.query_dense, attention.key_dense):
                dense.kernel.assign(dense.kernel * scale)
        given = layers.GlobalAveragePooling1D()(given)
    else:
        given = getattr(layers, kind)(24)(given)
    head = layers.Dense(10, "softmax", name="head")
    return set_up(keras.Model(inputs, head(given)), SCE, x.reshape(-1, 8, 8), y)


def _autoencoder(activation="sigmoid", loss="mse", divisor=16.0):
    x, _ = digits(divisor)
    return set_up(mlp(x, 64, activation), loss, x, x)


def _two_heads(first="softmax", second="sigmoid"):
    x, y = digits()
    inputs = keras.Input((64,))
    hidden = layers.Dense(48, "relu")(inputs)
    heads = [
        layers.Dense(10, first, name="digit")(hidden),
        layers.Dense(1, second, name="odd")(hidden),
    ]
    model = keras.Model(inputs, heads)
    return set_up(model, [SCE, BCE], x, [y, (y % 2).astype("float32")])


def _tokens():
    x, y = data("digits")
    inputs = keras.Input((64,), dtype="int32")
    given = layers.GlobalAveragePooling1D()(layers.Embedding(17, 16)(inputs))
    model = keras.Model(inputs, layers.Dense(10, "softmax", name="head")(given))
    return set_up(model, SCE, x.astype("int32"), y)


def _tagged():
    """A class for every row of an image."""
    x, _ = digits()
    rows = x.reshape(-1, 8, 8)
    y = (rows.mean(-1) > rows.mean()).astype("int32")
    inputs = keras.Input((8, 8))
    given = layers.LSTM(16, return_sequences=True)(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="head")(given))
    return set_up(model, logits("SparseCategoricalCrossentropy"), rows, y)


def _regression(loss="mse", activation=None, change=lambda y: y, x=None, **options):
    given, y = diabetes()
    x = given if x is None else x
    return set_up(mlp(x, 1, activation, **options), loss, x, change(y))


def _raw(loss="mse", activation=None, change=lambda y: y):
    x, y = diabetes(scale=False)
    return set_up(mlp(x, 1, activation), loss, x, change(y))


def _cancer(loss=BCE, activation="sigmoid", change=lambda y: y, units=1, **options):
    x, y = cancer()
    return set_up(mlp(x, units, activation, **options), loss, x, change(y))


def _rare():
    x, y = cancer()
    kept = np.flatnonzero((y[:, 0] == 1) | (np.arange(len(y)) % 12 == 0))
    return set_up(mlp(x, 1, "sigmoid"), BCE, x[kept], 1 - y[kept])


def _signs(y):
    return 2 * y - 1


SOUND = {
    "digits, softmax": lambda: _classes(*digits(), 10),
    "digits, logits": lambda: _classes(
        *digits(), 10, logits("SparseCategoricalCrossentropy"), None
    ),
    "digits, one-hot": lambda: _classes(digits()[0], one_hot(digits()[1]), 10, CCE),
    "digits, smoothed": lambda: _classes(
        digits()[0],
        one_hot(digits()[1]),
        10,
        losses.CategoricalCrossentropy(label_smoothing=0.1),
    ),
    "digits, focal": lambda: _classes(
        digits()[0], one_hot(digits()[1]), 10, losses.CategoricalFocalCrossentropy()
    ),
    "digits, divergence": lambda: _classes(
        digits()[0], one_hot(digits()[1]), 10, "kl_divergence"
    ),
    "digits, 0 to 16": lambda: _classes(*digits(1), 10, depth=1),
    "digits, tanh": lambda: _classes(*digits(), 10, hidden="tanh", depth=4),
    "digits, sigmoid": lambda: _classes(*digits(), 10, hidden="sigmoid"),
    "digits, hard sigmoid": lambda: _classes(*digits(), 10, hidden="hard_sigmoid"),
    "digits, gelu": lambda: _classes(*digits(), 10, hidden="gelu", depth=5),
    "digits, linear": lambda: _classes(*digits(), 10, depth=0),
    "digits, standardized": lambda: _classes(
        (digits()[0] - 0.3) / 0.37, digits()[1], 10, depth=3
    ),
    "digits, several labels": lambda: _classes(
        digits()[0], bits(digits()[1]), 4, BCE, "sigmoid"
    ),
    "digits, several logits": lambda: _classes(
        digits()[0], bits(digits()[1]), 4, logits("BinaryCrossentropy"), None
    ),
    "digits, focal binary": lambda: _classes(
        digits()[0], bits(digits()[1]), 4, losses.BinaryFocalCrossentropy(), "sigmoid"
    ),
    "digits, squares of one-hot": lambda: _classes(
        digits()[0], one_hot(digits()[1]), 10, "mse"
    ),
    "digits, categorical hinge": lambda: _classes(
        digits()[0], one_hot(digits()[1]), 10, "categorical_hinge", None
    ),
    "digits, two heads": _two_heads,
    "digits, tokens": _tokens,
    "digits, rows tagged": _tagged,
    "digits, GRU": lambda: _rows("GRU"),
    "digits, LSTM": lambda: _rows("LSTM"),
    "digits, attention": lambda: _rows("attention"),
    "digits, autoencoder": _autoencoder,
    "digits, autoencoder, likelihood": lambda: _autoencoder(loss=BCE),
    "digits, autoencoder, linear": lambda: _autoencoder(None),
    "digits, convolutions": lambda: _images(*digits()),
    "pixels, rescaled": lambda: _classes(*pixels(), 10, first=[layers.Rescaling(1 / 255)]),
    "pixels, batch normalization": lambda: _images(*pixels(), layers.BatchNormalization),
    "iris, softmax": lambda: _classes(*data("iris"), 3),
    "iris, tanh": lambda: _classes(*data("iris"), 3, hidden="tanh"),
    "wine, standardized": lambda: _classes(*wine(), 3),
    "wine, Normalization": _with_normalization,
    "cancer, sigmoid": _cancer,
    "cancer, logits": lambda: _cancer(logits("BinaryCrossentropy"), None),
    "cancer, hinge": lambda: _cancer("hinge", "tanh", _signs),
    "cancer, squared hinge": lambda: _cancer("squared_hinge", None, _signs),
    "cancer, two classes": lambda: _cancer(SCE, "softmax", units=2),
    "cancer, self-normalizing": lambda: _cancer(
        hidden="selu", depth=6, kernel_initializer="lecun_normal"
    ),
    "cancer, rare": _rare,
    "diabetes, squares": _regression,
    "diabetes, absolute": lambda: _regression("mae"),
    "diabetes, huber": lambda: _regression(losses.Huber(0.5)),
    "diabetes, log-cosh": lambda: _regression("log_cosh", hidden="tanh"),
    "diabetes, inputs as they come": lambda: _regression(x=data("diabetes")[0]),
    "diabetes, counts": lambda: _raw("poisson", "exponential", lambda y: np.round(y / 60)),
    "diabetes, logarithms": lambda: _raw("msle", "softplus", lambda y: y / 100),
    "diabetes, per cent": lambda: _raw("mape", None, lambda y: y / 100 - 0.2),
    "linnerud, three": lambda: set_up(
        mlp(data("linnerud")[0], 3), "mse", *map(standard, data("linnerud"))
    ),
}


def _replaced(value, count=3):
    def change(y):
        y = np.array(y, "float32")
        y.ravel()[:count] = value
        return y

    return change


def _broken(x, value):
    x = x.copy()
    x[3, 5] = value
    return x


WIDE = keras.initializers.RandomNormal(stddev=10.0, seed=0)
# By the fault that is to be found, and what else may be said in its place.
FAULTY = {
    ("head", "missing softmax, labels"): lambda: _classes(*digits(), 10, SCE, None),
    ("head", "missing softmax, one-hot"): lambda: _classes(
        digits()[0], one_hot(digits()[1]), 10, CCE, None
    ),
    ("head", "missing softmax, focal"): lambda: _classes(
        digits()[0], one_hot(digits()[1]), 10, losses.CategoricalFocalCrossentropy(), None
    ),
    ("head", "missing softmax, convolutions"): lambda: _images(*digits(), activation=None),
    ("head", "missing softmax, one of two"): lambda: _two_heads(first=None),
    ("head", "missing sigmoid"): lambda: _cancer(activation=None),
    ("head", "missing sigmoid, several"): lambda: _classes(
        digits()[0], bits(digits()[1]), 4, BCE, None
    ),
    ("head", "missing sigmoid, one of two"): lambda: _two_heads(second=None),
    ("head", "missing sigmoid, autoencoder"): lambda: _autoencoder(None, BCE),
    ("head", "softmax from logits"): lambda: _classes(
        *digits(), 10, logits("SparseCategoricalCrossentropy")
    ),
    ("head", "softmax from logits, one-hot"): lambda: _classes(
        digits()[0], one_hot(digits()[1]), 10, logits("CategoricalCrossentropy")
    ),
    ("head", "softmax from logits, images"): lambda: _images(
        *digits(), loss=logits("SparseCategoricalCrossentropy")
    ),
    ("head", "sigmoid from logits"): lambda: _cancer(logits("BinaryCrossentropy")),
    ("head", "sigmoid from logits, several"): lambda: _classes(
        digits()[0], bits(digits()[1]), 4, logits("BinaryCrossentropy"), "sigmoid"
    ),
    ("head", "ReLU before logits"): lambda: _classes(
        *digits(), 10, logits("SparseCategoricalCrossentropy"), "relu"
    ),
    ("head", "ReLU before binary logits"): lambda: _cancer(
        logits("BinaryCrossentropy"), "relu"
    ),
    ("head", "tanh before logits"): lambda: _classes(
        *digits(), 10, logits("SparseCategoricalCrossentropy"), "tanh"
    ),
    ("head", "softmax of one unit"): lambda: _cancer(activation="softmax"),
    ("head", "softmax of one unit, labels"): lambda: _classes(
        cancer()[0], np.zeros((SAMPLES, 1)), 1
    ),
    ("head", "softmax of one unit, one of two"): lambda: _two_heads(second="softmax"),
    ("head", "softmax for several labels"): lambda: _classes(
        digits()[0], bits(digits()[1]), 4, BCE
    ),
    ("head", "tanh for probabilities"): lambda: _cancer(activation="tanh"),
    ("head", "ReLU for probabilities"): lambda: _classes(*digits(), 10, SCE, "relu"),
    ("head", "ReLU for standardized targets"): lambda: _regression(activation="relu"),
    ("head", "sigmoid for raw targets"): lambda: _raw(activation="sigmoid"),
    ("head", "sigmoid for standardized targets"): lambda: _regression(activation="sigmoid"),
    ("head", "tanh for raw targets"): lambda: _raw("mae", "tanh"),
    ("head", "softmax of one unit for numbers"): lambda: _regression(activation="softmax"),
    ("head", "linear Poisson"): lambda: _raw("poisson", None, lambda y: np.round(y / 60)),
    ("head", "linear divergence"): lambda: _classes(
        digits()[0], one_hot(digits()[1]), 10, "kl_divergence", None
    ),
    ("targets", "labels from 1"): lambda: _classes(digits()[0], digits()[1] + 1, 10),
    ("targets", "labels from 1, wine"): lambda: _classes(wine()[0], wine()[1] + 1, 3),
    ("targets", "too few units"): lambda: _classes(*digits(), 5),
    ("targets", "one unit for ten classes"): lambda: _classes(
        digits()[0], digits()[1][:, None], 1, BCE, "sigmoid"
    ),
    ("targets", "-1 and 1 for probabilities"): lambda: _cancer(change=_signs),
    ("targets", "0 and 255 for probabilities"): lambda: _cancer(change=lambda y: y * 255),
    ("targets", "one-hot for labels"): lambda: _classes(
        digits()[0], one_hot(digits()[1]), 10
    ),
    ("targets", "labels for one-hot"): lambda: _classes(*digits(), 10, CCE),
    ("targets", "labels for squares"): lambda: _classes(*digits(), 10, "mse", None),
    ("targets", "a number for three"): lambda: _classes(
        wine()[0], standard(wine()[1]), 3, "mae"
    ),
    ("targets", "halves for labels"): lambda: _classes(digits()[0], digits()[1] / 2, 10),
    ("targets", "not a number"): lambda: _regression(change=_replaced(np.nan)),
    ("targets", "infinite"): lambda: _regression("mae", change=_replaced(np.inf)),
    ("targets", "not a number, labels"): lambda: _cancer(change=_replaced(np.nan)),
    ("targets", "all the same"): lambda: _regression(change=lambda y: 0 * y + 3),
    ("targets", "all of a class"): lambda: _cancer(change=lambda y: 0 * y),
    ("targets", "negative counts"): lambda: _regression("poisson", "exponential"),
    ("targets", "negative for logarithms"): lambda: _regression("msle", "softplus"),
    ("inputs", "not a number"): lambda: _classes(
        _broken(digits()[0], np.nan), digits()[1], 10
    ),
    ("inputs", "infinite"): lambda: _cancer_x(lambda x: _broken(x, np.inf)),
    ("inputs", "pixels"): lambda: _classes(*pixels(), 10),
    ("inputs", "pixels, tanh"): lambda: _classes(*pixels(), 10, hidden="tanh"),
    ("inputs", "pixels, convolutions"): lambda: _images(*pixels()),
    ("inputs", "pixels, sigmoid"): lambda: _classes(*pixels(), 10, hidden="sigmoid"),
    ("inputs", "wine as it comes"): lambda: _classes(*data("wine"), 3),
    ("inputs", "wine as it comes, tanh"): lambda: _classes(*data("wine"), 3, hidden="tanh"),
    ("inputs", "cancer as it comes"): lambda: _cancer_x(lambda x: data("breast_cancer")[0]),
    ("inputs", "a thousand times"): lambda: _cancer_x(lambda x: 1000 * x),
    ("inputs", "all 0"): lambda: _cancer_x(lambda x: 0 * x),
    ("inputs", "divided twice"): lambda: _classes(pixels()[0] / 255**2, pixels()[1], 10),
    ("loss at the start", "raw targets"): _raw,
    ("loss at the start", "raw targets, absolute"): lambda: _raw("mae"),
    ("loss at the start", "raw targets, huber"): lambda: _raw("huber"),
    ("loss at the start", "wide targets"): lambda: _regression(change=lambda y: 1000 * y),
    ("loss at the start", "narrow targets"): lambda: _regression(change=lambda y: y / 1000),
    ("loss at the start", "years"): lambda: _regression(change=lambda y: 2000 + 5 * y),
    ("saturation", "wide sigmoids"): lambda: _classes(
        *digits(), 10, hidden="sigmoid", kernel_initializer=WIDE
    ),
    ("saturation", "wide tanhs"): lambda: _classes(
        *digits(), 10, hidden="tanh", kernel_initializer=WIDE
    ),
    ("saturation", "wide hard sigmoids"): lambda: _classes(
        *digits(), 10, hidden="hard_sigmoid", kernel_initializer=WIDE
    ),
    ("saturation", "sharp attention"): lambda: _rows("attention", 60.0),
}


def _cancer_x(change):
    x, y = cancer()
    return set_up(mlp(change(x), 1, "sigmoid"), BCE, change(x), y)
