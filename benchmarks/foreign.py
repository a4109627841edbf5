"""Whether what `diagnose` says of a start tells how it will train.

    KERAS_BACKEND=jax python benchmarks/foreign.py --results foreign.jsonl

Networks as people write them, on data that comes with scikit-learn (the extra `examples`),
each from the starts that people give them. Each start is diagnosed and then trained: 300
steps of Adam at 0.001, and at 0.01 and 0.0001 if that failed. A training is fine if its
loss comes at least half way from that of the base rates to the least that any start of the
network reaches at any rate; a start that is fine at none of the three never learns. The
limits may be set by every other network alone: the others are for judging.

The exit code is 1 if there, of starts with an error, more than 15% are fine at 0.001 or
fewer than 80% never learn; or if, of those with neither error nor warning, more than 4%
never learn or fewer than 88% are fine at 0.001.

It trains on JAX, where one compiled loop trains all starts of a network. What is measured
of a network is written to the file of results at once; what stands there already is not
measured again, and with `--judge` only the verdicts are. It takes about twenty minutes on
one core.
"""

import argparse
import functools
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from keras import layers
from sklearn import datasets

import keras_fanwise
from keras_fanwise.models.diagnose import Case
from keras_fanwise.reports.report import ERROR, WARNING

from harness import console, print_machine, progress, results_table

STEPS, BATCH, LAST = 300, 64, 20
RATES = 0.001, 0.01, 0.0001
SAMPLES, WIDTH, CHANNELS = 512, 24, 8
LEVELS = "error", "warning", "clean"
OUTCOMES = "fine", "other rate", "never"
_FINE_ERRORS, _NEVER_ERRORS, _NEVER_CLEAN, _FINE_CLEAN = 0.15, 0.80, 0.04, 0.88


def normal(stddev: float) -> Callable[[], Any]:
    return lambda: keras.initializers.RandomNormal(stddev=stddev)


# As written, and what people write in its place.
STARTS: dict[str, Callable[[], Any] | None] = {
    "as written": None,
    "he_normal": keras.initializers.HeNormal,
    "N(0, 0.01)": normal(0.01),
    "N(0, 1)": normal(1.0),
    "orthogonal": keras.initializers.Orthogonal,
    "glorot_normal": keras.initializers.GlorotNormal,
    "N(0, 0.02)": normal(0.02),
    "he_uniform": keras.initializers.HeUniform,
    "lecun_normal": keras.initializers.LecunNormal,
    "random_uniform": keras.initializers.RandomUniform,
    "lecun_uniform": keras.initializers.LecunUniform,
    "fanwise_he_normal": lambda: keras.initializers.get("fanwise_he_normal"),
    "fanwise_glorot_uniform": lambda: keras.initializers.get("fanwise_glorot_uniform"),
    "N(0, 0.3)": normal(0.3),
}
# Of each network the first four, and four of the others by turns.
_ALWAYS, _BY_TURNS = 4, 4
_KERNELS = "kernel", "depthwise_kernel", "pointwise_kernel"


def dense(units: int, activation: Any = None) -> keras.Layer:
    return layers.Dense(units, activation)


def conv(filters: int, size: Any = 3, **options: Any) -> keras.Layer:
    return layers.Conv2D(filters, size, **{"padding": "same", **options})


def standard(values: np.ndarray) -> np.ndarray:
    return np.asarray((values - values.mean(0)) / values.std(0), "float32")


@functools.cache
def data(name: str) -> tuple[Any, Any]:
    """Inputs and targets: classes as integers, and what is not a class as numbers."""
    source = {"wine": "wine", "iris": "iris", "cancer": "breast_cancer"}.get(name, "digits")
    source = "diabetes" if name == "diabetes" else source
    x, y = getattr(datasets, f"load_{source}")(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))[:SAMPLES]
    x, y = x[order].astype("float32"), y[order]
    if name == "diabetes":
        return standard(x), standard(y[:, None])
    y = y.astype("int32")
    if source != "digits":
        return standard(x), y
    pixels = x / np.float32(16)
    if name == "pairs":
        # Every other pair is of one digit.
        partner = np.roll(np.arange(len(x)), 1)
        same = [
            np.flatnonzero((y == one) & (np.arange(len(x)) != i)) for i, one in enumerate(y)
        ]
        partner[::2] = [same[i][0] for i in range(0, len(x), 2)]
        return [pixels, pixels[partner]], (y == y[partner]).astype("int32")
    found: dict[str, Any] = {
        "digits": pixels,
        "rows": pixels.reshape(-1, 8, 8),
        "images": pixels.reshape(-1, 8, 8, 1),
        "tokens": x.astype("int32"),
        "pixels": standard(pixels + 1e-3 * np.random.default_rng(1).normal(size=x.shape)),
        "halves": [pixels[:, :32], pixels[:, 32:]],
        "itself": pixels,
        "image itself": pixels.reshape(-1, 8, 8, 1),
    }
    given = found[name]
    return given, given if name.endswith("itself") else y


Builder = Callable[[Any], Any]


def mlp(activation: str, depth: int, *more: Callable[[], keras.Layer]) -> Builder:
    """With layers between a kernel and its activation, if there are more."""

    def body(x: Any) -> Any:
        for _ in range(depth):
            x = dense(WIDTH, None if more else activation)(x)
            for layer in more:
                x = layer()(x)
            x = layers.Activation(activation)(x) if more else x
        return x

    return body


def dropout(x: Any) -> Any:
    for _ in range(5):
        x = layers.Dropout(0.2)(dense(WIDTH, "relu")(x))
    return x


def convolutions(
    depth: int, activation: str = "relu", norm: Any = None, flat: bool = False
) -> Builder:
    def body(x: Any) -> Any:
        for i in range(depth):
            x = conv(CHANNELS, activation=None if norm else activation, use_bias=not norm)(
                x
            )
            x = layers.Activation(activation)(norm()(x)) if norm else x
            x = layers.MaxPooling2D()(x) if i % 4 == 1 and x.shape[1] > 2 else x
        return layers.Flatten()(x) if flat else layers.GlobalAveragePooling2D()(x)

    return body


def strided(x: Any) -> Any:
    for width in (4, 8, 16):
        x = conv(width, strides=2, activation="leaky_relu")(x)
    return layers.Flatten()(x)


def separable(depth: int, norm: Any = None) -> Builder:
    def body(x: Any) -> Any:
        x = conv(CHANNELS, activation="relu")(x)
        for _ in range(depth):
            x = layers.SeparableConv2D(
                CHANNELS, 3, padding="same", activation=None if norm else "relu"
            )(x)
            x = layers.ReLU()(norm()(x)) if norm else x
        return layers.GlobalAveragePooling2D()(x)

    return body


def depthwise(depth: int, norm: Any = None, pointwise: bool = True) -> Builder:
    def body(x: Any) -> Any:
        x = conv(CHANNELS, activation="relu")(x)
        for _ in range(depth):
            x = layers.DepthwiseConv2D(
                3, padding="same", activation=None if norm else "relu"
            )(x)
            x = layers.ReLU()(norm()(x)) if norm else x
            x = conv(CHANNELS, 1, activation="relu")(x) if pointwise else x
        return layers.GlobalAveragePooling2D()(x)

    return body


def residual(depth: int, norm: Any = None, activation: str = "relu") -> Builder:
    def body(x: Any) -> Any:
        x = dense(WIDTH)(x)
        for _ in range(depth):
            inner = dense(WIDTH, activation)(norm()(x) if norm else x)
            x = x + dense(WIDTH)(inner)
        return norm()(x) if norm else x

    return body


def residual_images(depth: int, norm: Any = None) -> Builder:
    def body(x: Any) -> Any:
        x = conv(CHANNELS)(x)
        for _ in range(depth):
            inner = x
            for _ in range(2):
                inner = conv(CHANNELS)(layers.ReLU()(norm()(inner) if norm else inner))
            x = layers.Add()([x, inner])
        return layers.GlobalAveragePooling2D()(layers.ReLU()(x))

    return body


def densely(x: Any) -> Any:
    for _ in range(6):
        x = layers.Concatenate()([x, dense(8, "relu")(x)])
    return x


def highway(x: Any) -> Any:
    x = dense(WIDTH, "relu")(x)
    for _ in range(8):
        gate = dense(WIDTH, "sigmoid")(x)
        x = gate * dense(WIDTH, "relu")(x) + (1 - gate) * x
    return x


def gated(depth: int, gate: str = "sigmoid") -> Builder:
    def body(x: Any) -> Any:
        for _ in range(depth):
            x = layers.Multiply()([dense(WIDTH)(x), dense(WIDTH, gate)(x)])
        return x

    return body


def experts(x: Any) -> Any:
    weights = keras.ops.split(dense(3, "softmax")(x), 3, axis=-1)
    return sum(weight * dense(WIDTH, "relu")(dense(WIDTH, "relu")(x)) for weight in weights)


def squeezed(x: Any) -> Any:
    for _ in range(3):
        x = conv(CHANNELS, activation="relu")(x)
        share = dense(4, "relu")(layers.GlobalAveragePooling2D()(x))
        x = x * layers.Reshape((1, 1, CHANNELS))(dense(CHANNELS, "sigmoid")(share))
    return layers.GlobalAveragePooling2D()(x)


def inception(x: Any) -> Any:
    for _ in range(3):
        ways = [conv(4, size, activation="relu")(x) for size in (1, 3, 5)]
        x = layers.Concatenate()(ways)
    return layers.GlobalAveragePooling2D()(x)


def recurrent(kind: str, depth: int = 1, both: bool = False) -> Builder:
    def body(x: Any) -> Any:
        for i in range(depth):
            layer = getattr(layers, kind)(WIDTH, return_sequences=i < depth - 1)
            x = (layers.Bidirectional(layer) if both else layer)(x)
        return x

    return body


def conv_then_rnn(x: Any) -> Any:
    x = layers.Conv1D(16, 3, padding="same", activation="relu")(x)
    return layers.GRU(16)(x)


def causal(x: Any) -> Any:
    for i in range(4):
        x = layers.Conv1D(16, 2, padding="causal", dilation_rate=2**i, activation="relu")(x)
    return x[:, -1]


def transformer(depth: int, norm: str) -> Builder:
    """`norm`: before a branch, after the addition, or none."""

    def body(x: Any) -> Any:
        x = dense(16)(x)
        normalized = layers.LayerNormalization
        for _ in range(depth):
            for branch in ("attention", "mlp"):
                given = normalized()(x) if norm == "before" else x
                if branch == "attention":
                    inner = layers.MultiHeadAttention(2, 8)(given, given)
                else:
                    inner = dense(16)(dense(32, "gelu")(given))
                x = x + inner
                x = normalized()(x) if norm == "after" else x
        x = normalized()(x) if norm == "before" else x
        return layers.GlobalAveragePooling1D()(x)

    return body


def embedded(body: Builder) -> Builder:
    return lambda x: body(layers.Embedding(17, 16)(x))


def averaged(x: Any) -> Any:
    return dense(WIDTH, "relu")(layers.Flatten()(layers.Embedding(17, 4)(x)))


def mixer(x: Any) -> Any:
    for _ in range(3):
        mixed = layers.Permute((2, 1))(layers.LayerNormalization()(x))
        mixed = dense(8)(dense(16, "gelu")(mixed))
        x = x + layers.Permute((2, 1))(mixed)
        x = x + dense(8)(dense(16, "gelu")(layers.LayerNormalization()(x)))
    return layers.GlobalAveragePooling1D()(x)


def autoencoder(widths: tuple[int, ...], activation: str) -> Builder:
    def body(x: Any) -> Any:
        for width in widths:
            x = dense(width, activation)(x)
        return x

    return body


def image_autoencoder(x: Any) -> Any:
    x = conv(8, strides=2, activation="relu")(x)
    x = conv(CHANNELS, strides=2, activation="relu")(x)
    for width in (12, 8):
        x = layers.Conv2DTranspose(width, 4, strides=2, padding="same", activation="relu")(
            x
        )
    return x


def siamese(pair: Any) -> Any:
    encoder = [dense(WIDTH, "relu"), dense(WIDTH, "relu"), dense(12)]
    ends = []
    for x in pair:
        for layer in encoder:
            x = layer(x)
        ends.append(x)
    return dense(12, "relu")(keras.ops.abs(ends[0] - ends[1]))


def joined(halves: Any) -> Any:
    ends = [dense(WIDTH, "tanh")(dense(WIDTH, "tanh")(x)) for x in halves]
    return dense(WIDTH, "tanh")(layers.Concatenate()(ends))


class Own(layers.Layer):
    """Multiplies and activates by itself."""

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(
            shape=(shape[-1], WIDTH), initializer="glorot_uniform", name="kernel"
        )

    def call(self, x: Any) -> Any:
        return keras.ops.relu(x @ self.kernel)


def of_own_layers(depth: int) -> Builder:
    def body(x: Any) -> Any:
        for _ in range(depth):
            x = Own()(x)
        return x

    return body


def sines(x: Any) -> Any:
    for _ in range(4):
        x = keras.ops.sin(dense(WIDTH)(x))
    return x


BATCH_NORM, LAYER_NORM = layers.BatchNormalization, layers.LayerNormalization
GROUP_NORM = functools.partial(layers.GroupNormalization, 4)
# Of each kind every other one is for judging, so neighbours are alike.
NETWORKS: dict[str, tuple[str, Builder]] = {
    "relu 3": ("digits", mlp("relu", 3)),
    "relu 6": ("digits", mlp("relu", 6)),
    "relu 12": ("digits", mlp("relu", 12)),
    "relu 15": ("pixels", mlp("relu", 15)),
    "relu 24": ("digits", mlp("relu", 24)),
    "relu 40": ("digits", mlp("relu", 40)),
    "relu 5, wine": ("wine", mlp("relu", 5)),
    "relu 10, cancer": ("cancer", mlp("relu", 10)),
    "relu 4, diabetes": ("diabetes", mlp("relu", 4)),
    "relu 8, diabetes": ("diabetes", mlp("relu", 8)),
    "tanh 3": ("digits", mlp("tanh", 3)),
    "tanh 5, iris": ("iris", mlp("tanh", 5)),
    "tanh 10": ("digits", mlp("tanh", 10)),
    "tanh 8, wine": ("wine", mlp("tanh", 8)),
    "tanh 30": ("digits", mlp("tanh", 30)),
    "tanh 20, diabetes": ("diabetes", mlp("tanh", 20)),
    "sigmoid 2": ("digits", mlp("sigmoid", 2)),
    "sigmoid 3, cancer": ("cancer", mlp("sigmoid", 3)),
    "sigmoid 5": ("digits", mlp("sigmoid", 5)),
    "sigmoid 6, wine": ("wine", mlp("sigmoid", 6)),
    "elu 6": ("digits", mlp("elu", 6)),
    "elu 12": ("digits", mlp("elu", 12)),
    "selu 8": ("digits", mlp("selu", 8)),
    "selu 30": ("digits", mlp("selu", 30)),
    "gelu 5": ("digits", mlp("gelu", 5)),
    "gelu 14": ("digits", mlp("gelu", 14)),
    "silu 6": ("digits", mlp("silu", 6)),
    "silu 10, cancer": ("cancer", mlp("silu", 10)),
    "leaky 7": ("digits", mlp("leaky_relu", 7)),
    "leaky 18": ("pixels", mlp("leaky_relu", 18)),
    "softplus 4": ("digits", mlp("softplus", 4)),
    "mish 9": ("digits", mlp("mish", 9)),
    "dropout": ("digits", dropout),
    "batch norm, relu 8": ("digits", mlp("relu", 8, BATCH_NORM)),
    "batch norm, relu 20": ("digits", mlp("relu", 20, BATCH_NORM)),
    "layer norm, gelu 8": ("digits", mlp("gelu", 8, LAYER_NORM)),
    "layer norm, tanh 16": ("digits", mlp("tanh", 16, LAYER_NORM)),
    "conv 3": ("images", convolutions(3)),
    "conv 5, flat": ("images", convolutions(5, flat=True)),
    "conv 8": ("images", convolutions(8)),
    "conv 6, tanh": ("images", convolutions(6, "tanh")),
    "conv 5, batch norm": ("images", convolutions(5, norm=BATCH_NORM)),
    "conv 10, batch norm": ("images", convolutions(10, norm=BATCH_NORM)),
    "conv 6, group norm": ("images", convolutions(6, norm=GROUP_NORM)),
    "conv 4, elu": ("images", convolutions(4, "elu", flat=True)),
    "conv, strided": ("images", strided),
    "squeeze": ("images", squeezed),
    "inception": ("images", inception),
    "separable 4": ("images", separable(4)),
    "separable 8": ("images", separable(8)),
    "separable 5, batch norm": ("images", separable(5, BATCH_NORM)),
    "depthwise 5": ("images", depthwise(5)),
    "depthwise 8, batch norm": ("images", depthwise(8, BATCH_NORM)),
    "depthwise alone 6": ("images", depthwise(6, pointwise=False)),
    "residual 6": ("digits", residual(6)),
    "residual 24": ("digits", residual(24)),
    "residual 8, layer norm": ("digits", residual(8, LAYER_NORM)),
    "residual 16, layer norm": ("digits", residual(16, LAYER_NORM, "gelu")),
    "residual images 4": ("images", residual_images(4)),
    "residual images 5, batch norm": ("images", residual_images(5, BATCH_NORM)),
    "dense net": ("digits", densely),
    "highway": ("digits", highway),
    "gated 3": ("digits", gated(3)),
    "gated 6": ("digits", gated(6)),
    "swish gated 4": ("pixels", gated(4, "silu")),
    "experts": ("digits", experts),
    "LSTM": ("rows", recurrent("LSTM")),
    "GRU": ("rows", recurrent("GRU")),
    "SimpleRNN": ("rows", recurrent("SimpleRNN")),
    "LSTM 3": ("rows", recurrent("LSTM", 3)),
    "GRU, both ways": ("rows", recurrent("GRU", both=True)),
    "convolution and GRU": ("rows", conv_then_rnn),
    "causal": ("rows", causal),
    "mixer": ("rows", mixer),
    "transformer 2, norm before": ("rows", transformer(2, "before")),
    "transformer 4, norm before": ("rows", transformer(4, "before")),
    "transformer 2, norm after": ("rows", transformer(2, "after")),
    "transformer 2, no norm": ("rows", transformer(2, "")),
    "transformer on tokens": ("tokens", embedded(transformer(1, "before"))),
    "tokens": ("tokens", averaged),
    "autoencoder": ("itself", autoencoder((32, 12, 32), "relu")),
    "autoencoder, deep": ("itself", autoencoder((32, 24, 12, 8, 12, 24, 32), "tanh")),
    "autoencoder of images": ("image itself", image_autoencoder),
    "siamese": ("pairs", siamese),
    "joined halves": ("halves", joined),
    "sines": ("digits", sines),
    "own layers 3": ("digits", of_own_layers(3)),
    "own layers 6": ("digits", of_own_layers(6)),
}


def build(name: str) -> tuple[keras.Model, Any, Any]:
    """The compiled model with its data."""
    source, body = NETWORKS[name]
    x, y = data(source)
    inputs = keras.tree.map_structure(
        lambda one: keras.Input(one.shape[1:], dtype=str(one.dtype)), x
    )
    if y.dtype.kind == "i":
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        head = dense(int(y.max()) + 1)
    else:
        loss = keras.losses.MeanSquaredError()
        head = conv(1) if y.ndim > 2 else dense(y.shape[-1])
    model = keras.Model(inputs, head(body(inputs)))
    model.compile("adam", loss)
    return model, x, y


def kernels_drawn(model: keras.Model, make: Callable[[], Any], seed: int) -> None:
    """Draws the kernels anew, as if their layers had been written with an initializer."""
    kernels = [one.path for one in model.weights if one.name in _KERNELS]
    keras_fanwise.initialize(model, {path: make() for path in kernels}, seed)


def base_loss(y: np.ndarray) -> float:
    """Of what does not look at the inputs."""
    if y.dtype.kind == "i":
        shares = np.bincount(y) / len(y)
        shares = shares[shares > 0]
        return float(-(shares * np.log(shares)).sum())
    return float(y.var(0).mean())


def trainer(
    model: keras.Model, x: Any, y: Any, steps: int = STEPS
) -> Callable[[float], float]:
    """Trains a network from the weights that it has now, and gives the loss at the end.

    The model stays as it is, and one compiled loop trains it from all starts.
    """
    number = len(y) // BATCH
    xs, ys = keras.tree.map_structure(
        lambda one: jnp.asarray(one[: number * BATCH]).reshape(
            number, BATCH, *one.shape[1:]
        ),
        (x, y),
    )
    loss = model.loss

    def run(weights: Any, others: Any, rate: Any) -> Any:
        def step(state: Any, i: Any) -> Any:
            weights, others, means, squares = state

            def objective(weights: Any) -> Any:
                given = keras.tree.map_structure(lambda one: one[i % number], xs)
                out, after = model.stateless_call(weights, others, given, training=True)
                return loss(ys[i % number], out), after

            (value, others), gradients = jax.value_and_grad(objective, has_aux=True)(
                weights
            )
            # Adam, as Keras has it.
            pairs = list(zip(means, squares, gradients, strict=True))
            means = [0.9 * mean + 0.1 * new for mean, _, new in pairs]
            squares = [0.999 * square + 0.001 * new**2 for _, square, new in pairs]
            size = rate * jnp.sqrt(1 - 0.999 ** (i + 1)) / (1 - 0.9 ** (i + 1))
            weights = [
                weight - size * mean / (jnp.sqrt(square) + 1e-7)
                for weight, mean, square in zip(weights, means, squares, strict=True)
            ]
            return (weights, others, means, squares), value

        zeros = [jnp.zeros_like(weight) for weight in weights]
        state = weights, others, zeros, zeros
        return jax.lax.scan(step, state, jnp.arange(steps))[1][-LAST:].mean()

    compiled = jax.jit(run)

    def trained(rate: float) -> float:
        weights, others = (
            [variable.value for variable in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables)
        )
        value = float(compiled(weights, others, rate))
        return value if math.isfinite(value) else math.inf

    return trained


def starts_of(number: int) -> list[str]:
    names = list(STARTS)
    turns = names[_ALWAYS:]
    first = number * _BY_TURNS
    return names[:_ALWAYS] + [turns[(first + i) % len(turns)] for i in range(_BY_TURNS)]


def verdict_of(model: keras.Model, x: Any, y: Any) -> dict[str, Any]:
    found = Case(model, x, y).evidence()
    levels = {one.severity for one in found.findings}
    level = "error" if ERROR in levels else "warning" if WARNING in levels else "clean"
    told = [
        f"{one.severity} {one.fault.label} {one.path} {one.numbers}"
        for one in found.findings
        if one.severity in (ERROR, WARNING)
    ]
    return {"level": level, "told": told[:6], "totals": found.totals}


def measured(name: str, number: int, before: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Of each start of a network the verdict, and the losses by rate."""
    keras.utils.set_random_seed(number)
    model, x, y = build(name)
    train, base = trainer(model, x, y), base_loss(y)
    for start in starts_of(number):
        if make := STARTS[start]:
            kernels_drawn(model, make, number)
        losses = before.get(start, {}).get("losses")
        if losses is None:
            losses = {str(RATES[0]): train(RATES[0])}
            if losses[str(RATES[0])] > base / 2:  # or it is fine, whatever others reach
                losses |= {str(rate): train(rate) for rate in RATES[1:]}
        yield {
            "network": name,
            "start": start,
            "base": base,
            "losses": losses,
            **verdict_of(model, x, y),
        }


def outcomes(rows: list[dict[str, Any]]) -> list[str]:
    """Of the starts of a network what became of them."""
    base = rows[0]["base"]
    least = min(loss for row in rows for loss in row["losses"].values())
    enough = (base + least) / 2

    def outcome(row: dict[str, Any]) -> str:
        fine = {rate for rate, loss in row["losses"].items() if loss <= enough}
        return "fine" if str(RATES[0]) in fine else "other rate" if fine else "never"

    return [outcome(row) for row in rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, help="a file of what was measured")
    parser.add_argument("--judge", action="store_true", help="measure the verdicts again")
    parser.add_argument("--only", help="the networks with this in their names")
    arguments = parser.parse_args()
    if keras.backend.backend() != "jax":
        raise SystemExit("It trains on JAX: set KERAS_BACKEND=jax")
    found: dict[str, list[dict[str, Any]]] = {}
    if arguments.results and arguments.results.exists():
        for line in arguments.results.read_text().splitlines():
            rows = json.loads(line)
            found[rows[0]["network"]] = rows
    with progress() as bar:
        for number, name in bar.track([*enumerate(NETWORKS)], description="networks"):
            if arguments.only and arguments.only not in name:
                continue
            if name in found and not arguments.judge:
                continue
            before = {row["start"]: row for row in found.get(name, [])}
            found[name] = list(measured(name, number, before))
            keras.backend.clear_session()
            if arguments.results:
                with arguments.results.open("a") as file:
                    file.write(json.dumps(found[name]) + "\n")
    print_machine()
    return print_all({name: found[name] for name in NETWORKS if name in found})


def print_all(found: dict[str, list[dict[str, Any]]]) -> int:
    counts: dict[str, Counter[tuple[str, str]]] = {"to set limits by": Counter()}
    counts["for judging"] = Counter()
    for name, rows in found.items():
        half = list(counts)[list(NETWORKS).index(name) % 2]
        for row, outcome in zip(rows, outcomes(rows), strict=True):
            counts[half][row["level"], outcome] += 1
            if (row["level"], outcome) in (("error", "fine"), ("clean", "never")):
                losses = ", ".join(f"{loss:.3g}" for loss in row["losses"].values())
                console.print(
                    f"{half}: {name}, {row['start']}: {row['level']}, {outcome}: "
                    f"{losses} of {row['base']:.3g}; {row['totals']}; {row['told'][:2]}",
                    soft_wrap=True,
                    highlight=False,
                )
    for half, found_there in counts.items():
        total = sum(found_there.values())
        title = f"Networks {half}: {total} starts"
        table = results_table(title, ("diagnose says",), (*OUTCOMES, "fine", "never"))
        for level in LEVELS:
            cells = [found_there[level, outcome] for outcome in OUTCOMES]
            shares = [f"{_share(found_there, level, one):.0%}" for one in ("fine", "never")]
            table.add_row(level, *map(str, cells), *shares)
        console.print(table)
    judged = counts["for judging"]
    return int(
        _share(judged, "error", "fine") > _FINE_ERRORS
        or _share(judged, "error", "never") < _NEVER_ERRORS
        or _share(judged, "clean", "never") > _NEVER_CLEAN
        or _share(judged, "clean", "fine") < _FINE_CLEAN
    )


def _share(counts: Counter[tuple[str, str]], level: str, outcome: str) -> float:
    total = sum(counts[level, one] for one in OUTCOMES)
    return counts[level, outcome] / total if total else 0.0


if __name__ == "__main__":
    sys.exit(main())
