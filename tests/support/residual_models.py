"""Networks with residual branches, and others with additions that are none.

Each residual network comes with the names of the layers whose weight is the last of a
branch, in the order of the calls.
"""

from collections.abc import Callable

import keras
from keras import layers, ops

WIDTH = 8
# Graphs are the same on every backend: on most of them a few models are enough.


def _model(inputs, outputs):
    return keras.Model(inputs, outputs)


def plain_blocks(count=3):
    x = inputs = keras.Input((WIDTH,))
    for i in range(count):
        h = layers.Dense(16, "relu", name=f"in_{i}")(x)
        x = layers.Add()([x, layers.Dense(WIDTH, name=f"out_{i}")(h)])
    return _model(inputs, layers.Dense(3, name="head")(x)), [
        f"out_{i}" for i in range(count)
    ]


def resnet(version=1):
    """Bottlenecks with batch normalization, the first of each stage with a projection."""
    x = inputs = keras.Input((8, 8, 4))
    ends = []
    for i, (filters, strides) in enumerate([(8, 1), (8, 1), (16, 2), (16, 1)]):
        before = x
        if version == 2:
            x = layers.ReLU()(layers.BatchNormalization()(x))
        short = before
        if filters != before.shape[-1] or strides != 1:
            short = layers.Conv2D(filters, 1, strides, name=f"short_{i}")(x)
            if version == 1:
                short = layers.BatchNormalization()(short)
        h = layers.Conv2D(filters, 3, strides, "same", name=f"first_{i}")(x)
        h = layers.ReLU()(layers.BatchNormalization()(h))
        h = layers.Conv2D(filters, 3, padding="same", name=f"second_{i}")(h)
        if version == 1:
            h = layers.BatchNormalization(name=f"norm_{i}")(h)
        x = layers.Add()([short, h] if i % 2 else [h, short])
        if version == 1:
            x = layers.ReLU()(x)
        ends.append(f"norm_{i}" if version == 1 else f"second_{i}")
    x = layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(x))
    return _model(inputs, x), ends


class Block(layers.Layer):
    """A transformer block whose layers and additions no graph of a model shows."""

    def __init__(self, post=False, **kwargs):
        super().__init__(**kwargs)
        self.post = post
        self.attention = layers.MultiHeadAttention(2, 4, name="attention")
        self.norms = [layers.LayerNormalization(name=f"norm_{i}") for i in range(2)]
        self.first = layers.Dense(16, "gelu", name="first")
        self.second = layers.Dense(WIDTH, name="second")
        self.dropout = layers.Dropout(0.1)

    def build(self, shape):
        self.attention.build(shape, shape)
        for layer in (*self.norms, self.first):
            layer.build(shape)
        self.second.build((*shape[:-1], 16))

    def call(self, x, training=False):
        first, second = self.norms
        h = x if self.post else first(x)
        x = x + self.dropout(self.attention(h, h), training=training)
        x = first(x) if self.post else x
        h = x if self.post else second(x)
        x = x + self.dropout(self.second(self.first(h)), training=training)
        return second(x) if self.post else x


def transformer(post=False, count=2):
    tokens = keras.Input((6,), dtype="int32")
    x = layers.Embedding(11, WIDTH, name="tokens")(tokens)
    places = layers.Embedding(6, WIDTH, name="places")(ops.arange(6))
    x = x + places
    for i in range(count):
        x = Block(post, name=f"block_{i}")(x)
    x = layers.LayerNormalization(name="last_norm")(x)
    ends = [
        end
        for i in range(count)
        for end in (f"block_{i}/attention/attention_output", f"block_{i}/second")
    ]
    return _model(tokens, layers.Dense(3, name="head")(x)), ends


class Own(keras.Model):
    """A subclassed model with a loop."""

    def __init__(self):
        super().__init__(name="own")
        self.inner = [layers.Dense(16, "tanh", name=f"in_{i}") for i in range(3)]
        self.outer = [layers.Dense(WIDTH, name=f"out_{i}") for i in range(3)]
        self.head = layers.Dense(3, name="head")

    def call(self, x):
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = x + 0.5 * outer(inner(x))
        return self.head(x)


def subclassed():
    model = Own()
    model(ops.zeros((2, WIDTH)))
    return model, [f"out_{i}" for i in range(3)]


class Scale(layers.Layer):
    def build(self, shape):
        self.gamma = self.add_weight((shape[-1],), "ones", name="gamma")

    def call(self, x):
        return x * self.gamma


def layer_scale():
    x = inputs = keras.Input((8, 8, WIDTH))
    for i in range(2):
        h = layers.DepthwiseConv2D(3, padding="same")(x)
        h = layers.Dense(16, "gelu")(layers.LayerNormalization()(h))
        x = x + Scale(name=f"scale_{i}")(layers.Dense(WIDTH)(h))
    return _model(inputs, layers.Dense(3, name="head")(x)), ["scale_0", "scale_1"]


def squeeze_excite():
    x = inputs = keras.Input((8, 8, WIDTH))
    for i in range(2):
        h = layers.Conv2D(WIDTH, 3, padding="same", name=f"main_{i}")(x)
        gate = layers.GlobalAveragePooling2D(keepdims=True)(h)
        gate = layers.Conv2D(4, 1, activation="relu")(gate)
        gate = layers.Conv2D(WIDTH, 1, activation="sigmoid")(gate)
        x = layers.Add()([x, layers.Multiply()([h, gate])])
    return _model(inputs, layers.Dense(3, name="head")(x)), ["main_0", "main_1"]


def parallel():
    """Two branches side by side: in one sum of three, in two sums, and added first."""
    x = inputs = keras.Input((WIDTH,))

    def branch(name):
        h = layers.Dense(16, "relu")(layers.LayerNormalization()(x))
        return layers.Dense(WIDTH, name=name)(h)

    x = layers.Add()([x, branch("a"), branch("b")])
    c, d = branch("c"), branch("d")
    x = x + c + d
    e, f = branch("e"), branch("f")
    x = x + (e + f)
    return _model(inputs, layers.Dense(3, name="head")(x)), [*"abcd", "e f"]


def nested():
    """Models in a model, one of them called twice, and a branch inside a branch."""

    def block(name):
        inputs = keras.Input((WIDTH,))
        h = layers.Dense(16, "relu")(inputs)
        return _model(inputs, inputs + layers.Dense(WIDTH, name=name)(h))

    shared = block("twice")
    x = inputs = keras.Input((WIDTH,))
    x = shared(shared(x))
    h = layers.Dense(WIDTH, "relu", name="outer_in")(x)
    h = layers.Dense(WIDTH, name="outer_out")(h)
    x = x + block("inside")(h)
    ends = ["twice", "twice", "inside", "outer_out inside"]
    return _model(inputs, layers.Dense(3, name="head")(x)), ends


RESIDUAL: dict[str, Callable] = {
    "plain blocks": plain_blocks,
    "resnet": resnet,
    "resnet v2": lambda: resnet(2),
    "transformer": transformer,
    "post-norm transformer": lambda: transformer(post=True),
    "subclassed": subclassed,
    "layer scale": layer_scale,
    "squeeze and excite": squeeze_excite,
    "parallel": parallel,
    "nested": nested,
}


def unet(join):
    x = inputs = keras.Input((16, 16, 4))
    skips = []
    for filters in (4, 8):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    for skip in reversed(skips):
        up = layers.Conv2DTranspose(skip.shape[-1], 2, 2)(x)
        x = layers.Conv2D(4, 3, padding="same", activation="relu")(join()([up, skip]))
    return _model(inputs, layers.Conv2D(1, 1)(x))


def pyramid():
    """The top-down path of a feature pyramid."""
    x = inputs = keras.Input((16, 16, 4))
    stages = []
    for filters in (4, 8, 16):
        x = layers.Conv2D(filters, 3, 2, "same", activation="relu")(x)
        stages.append(x)
    top = layers.Conv2D(8, 1)(stages[-1])
    outputs = [top]
    for stage in reversed(stages[:-1]):
        top = layers.Conv2D(8, 1)(stage) + layers.UpSampling2D()(top)
        outputs.append(layers.Conv2D(8, 3, padding="same")(top))
    return _model(inputs, outputs)


def towers(shared):
    """Two inputs, each through its tower, or through the same, and their sum."""
    inputs = [keras.Input((WIDTH,)), keras.Input((WIDTH,))]

    def tower():
        return keras.Sequential([layers.Dense(16, "relu"), layers.Dense(4)])

    first = tower()
    second = first if shared else tower()
    joined = layers.Add()([first(inputs[0]), second(inputs[1])])
    return _model(inputs, layers.Dense(1)(joined))


def two_views():
    """One input through two towers."""
    inputs = keras.Input((WIDTH,))
    sides = [layers.Dense(4)(layers.Dense(16, "relu")(inputs)) for _ in range(2)]
    return _model(inputs, layers.Dense(1)(layers.Add()(sides)))


def wide_and_deep():
    inputs = keras.Input((WIDTH,))
    deep = layers.Dense(1)(layers.Dense(16, "relu")(inputs))
    return _model(inputs, layers.Activation("sigmoid")(layers.Dense(1)(inputs) + deep))


def two_linear_maps():
    inputs = keras.Input((8, 8, 4))
    both = [layers.Conv2D(4, size, padding="same")(inputs) for size in (1, 3)]
    return _model(inputs, layers.Dense(1)(layers.Add()(both)))


def masked_scores():
    """Scores of attention, and a mask that comes of the same tokens."""
    tokens = keras.Input((6,), dtype="int32")
    x = layers.Embedding(11, WIDTH)(tokens)
    scores = ops.matmul(layers.Dense(4)(x), ops.transpose(layers.Dense(4)(x), (0, 2, 1)))
    mask = ops.cast(ops.equal(tokens, 0), "float32") * -1e9
    scores = ops.softmax(scores + ops.expand_dims(mask, 1))
    return _model(tokens, layers.Dense(1)(ops.matmul(scores, x)))


class Places(layers.Layer):
    """A learned vector for each place, added to what comes."""

    def build(self, shape):
        self.vectors = self.add_weight(shape[1:], name="position_embedding")

    def call(self, x):
        return x + ops.convert_to_tensor(self.vectors)


def summed_embeddings():
    tokens, kinds = keras.Input((6,), dtype="int32"), keras.Input((6,), dtype="int32")
    x = layers.Embedding(11, WIDTH)(tokens) + layers.Embedding(2, WIDTH)(kinds)
    return _model([tokens, kinds], layers.Dense(1)(Places()(x)))


def gates():
    """A highway: the way past the branch is gated."""
    x = inputs = keras.Input((WIDTH,))
    gate = layers.Dense(WIDTH, "sigmoid")(x)
    x = gate * layers.Dense(WIDTH, "relu")(x) + (1 - gate) * x
    return _model(inputs, layers.Dense(1)(x))


OTHERS: dict[str, Callable] = {
    "unet": lambda: unet(layers.Concatenate),
    "unet of sums": lambda: unet(layers.Add),
    "pyramid": pyramid,
    "two towers": lambda: towers(False),
    "siamese": lambda: towers(True),
    "two views": two_views,
    "wide and deep": wide_and_deep,
    "two linear maps": two_linear_maps,
    "masked scores": masked_scores,
    "summed embeddings": summed_embeddings,
    "gates": gates,
}
