"""The batch that `signal` sends without being given one, for models that are particular."""

import keras
import numpy as np
import pytest

import keras_fanwise as kf
from keras_fanwise.backends.arrays import is_concrete

layers = keras.layers


class Positions(layers.Layer):
    """A learned vector for each position, of which there are so many."""

    def __init__(self, sequence_length, **kwargs):
        super().__init__(**kwargs)
        self.sequence_length = sequence_length

    def build(self, shape):
        self.vectors = self.add_weight((self.sequence_length, shape[-1]), name="kernel")

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        # On every backend an error where there are more.
        if x.shape[1] > self.sequence_length:
            raise ValueError(f"{x.shape[1]} positions")
        return x + keras.ops.expand_dims(self.vectors[: x.shape[1]], 0)


class Words(layers.Layer):
    """Vectors of words and positions in one layer; remembers what it took."""

    def __init__(self, words, **kwargs):
        super().__init__(**kwargs)
        self.words = layers.Embedding(words, 8)
        self.indices = []

    def build(self, shape):
        self.words.build(shape)

    def call(self, x, **options):
        if not isinstance(x, keras.KerasTensor) and is_concrete(x):
            self.indices.append(np.array(keras.ops.convert_to_numpy(x)))
        return self.words(x)


class Recorder(layers.Layer):
    """Gives what it takes, and remembers it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.values = []

    def call(self, x):
        if not isinstance(x, keras.KerasTensor) and is_concrete(x):
            self.values.append(np.array(keras.ops.convert_to_numpy(x)))
        return x


def backbone(length=5, words=11, segments=2):
    """Like BERT: words, segments and a mask of any length, and positions of a length."""
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    kinds = keras.Input((None,), dtype="int32", name="segment_ids")
    mask = keras.Input((None,), dtype="int32", name="padding_mask")
    x = Words(words, name="words")(ids) + layers.Embedding(segments, 8)(kinds)
    x = Positions(length)(x)
    seen = Recorder(name="mask")(mask)
    x = x * keras.ops.cast(keras.ops.expand_dims(seen, -1), "float32")
    model = keras.Model(
        {"token_ids": ids, "segment_ids": kinds, "padding_mask": mask}, layers.Dense(4)(x)
    )
    for layer in (model.get_layer("words"), model.get_layer("mask")):
        vars(layer).get("indices", vars(layer).get("values")).clear()
    return model


@pytest.mark.parametrize("length", [3, 5, 100])
def test_sequences_are_as_long_as_positions_allow(length):
    report = kf.signal(backbone(length))
    assert report.rows[0].shape == (32, min(length, 32), 8)


def test_indices_are_of_the_embedding_that_they_go_to():
    model = backbone(length=40)
    kf.signal(model)
    [indices] = model.get_layer("words").indices
    # All eleven words, though there are but two segments.
    assert set(indices.ravel()) == set(range(11))
    assert np.all(model.get_layer("mask").values[0] == 1)


@pytest.mark.parametrize("named", ["position_embedding", "positions"])
def test_an_embedding_that_is_named_after_positions(named):
    inputs = keras.Input((None,), dtype="int32")
    places = keras.Input((None,), dtype="int32")
    x = layers.Embedding(50, 8)(inputs) + layers.Embedding(7, 8, name=named)(places)
    assert kf.signal(keras.Model([inputs, places], x)).rows[0].shape == (32, 7, 8)


def test_indices_that_no_embedding_takes():
    """Such as the places of images in a text: below the length of the text."""
    words = keras.Input((None,), dtype="int32")
    places = keras.Input((3,), dtype="int32")
    seen = Recorder(name="places")(places)
    x = layers.Embedding(50, 8)(words)
    x = keras.ops.take_along_axis(x, keras.ops.expand_dims(seen, -1), axis=1)
    model = keras.Model([words, places], x)
    model.get_layer("places").values.clear()
    kf.signal(model)
    assert model.get_layer("places").values[0].max() < 32


def test_one_embedding_of_two_inputs():
    """The second call of a shared embedding bounds its input, too."""
    shared = layers.Embedding(9, 4)
    first, second = (keras.Input((4,), dtype="int32") for _ in range(2))
    seen = Recorder(name="seen")
    x = shared(first) + shared(second)
    x = x + layers.Embedding(3, 4)(keras.ops.minimum(seen(second), 2))
    model = keras.Model([first, second], x)
    seen.values.clear()
    kf.signal(model)
    assert 3 <= seen.values[0].max() < 9


@pytest.mark.parametrize("make", ["sequential", "functional"])
def test_a_fixed_batch_size(make):
    inputs = keras.Input(batch_shape=(7, 5))
    fixed = layers.Lambda(lambda x: keras.ops.reshape(x, (7, 5)) * 1.0)
    if make == "sequential":
        model = keras.Sequential([inputs, fixed, layers.Dense(3)])
    else:
        model = keras.Model(inputs, layers.Dense(3)(fixed(inputs)))
    assert [row.shape[0] for row in kf.signal(model).rows] == [7, 7]


class TwoArguments(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.one, self.two = layers.Dense(4), layers.Dense(4)

    def build(self, a_shape, b_shape):
        self.one.build(a_shape)
        self.two.build(b_shape)
        self.built = True

    def call(self, a, b):
        return self.one(a) + self.two(b)


def test_several_arguments():
    built, called = TwoArguments(), TwoArguments()
    built.build((None, 3), (None, 6))
    called(np.ones((2, 3), "float32"), np.ones((2, 6), "float32"))
    for model in (built, called):
        assert [row.shape for row in kf.signal(model).rows] == [(32, 4), (32, 4)]
        assert [row.layer for row in kf.signal(model).rows] == ["Dense", "Dense"]


class Options(layers.Layer):
    """A layer whose `call` takes any options, as those of keras-hub do."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, inputs, training=None, **kwargs):
        return self.dense(inputs, **kwargs)


class OptionsModel(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.options = Options()

    def build(self, shape):
        self.options.build(shape)
        self.built = True

    def call(self, *args, **kwargs):
        return self.options(*args, **kwargs)


def test_any_options():
    inputs = keras.Input((3,))
    functional = keras.Model(inputs, Options()(inputs))
    alone, subclassed = Options(), OptionsModel()
    alone.build((None, 3))
    subclassed.build((None, 3))
    for model in (functional, alone, subclassed):
        [row] = kf.signal(model).rows
        assert row.shape == (32, 4)
        assert row.gradient_std > 0


def test_sound_needs_more_samples_than_a_text_has_words():
    """A filter that is longer than 32, as of speech: Moonshine of keras-hub."""
    inputs = keras.Input((None, 1))
    x = layers.Conv1D(4, 127, strides=64)(inputs)
    report = kf.signal(keras.Model(inputs, layers.Conv1D(4, 3)(x)))
    # TensorFlow gives something for inputs that are too short.
    if keras.backend.backend() != "tensorflow":
        assert report.rows[0].shape == (32, 15, 4)


def test_a_batch_that_no_model_could_guess(capsys):
    """As many indices as there are parts of images: the error says whose batch it was."""

    class Places(layers.Layer):
        def compute_output_shape(self, shape):
            return shape

        def call(self, x):
            if x.shape[1] != 7:
                raise ValueError("seven places")
            return x

    inputs = keras.Input((None, 3))
    model = keras.Model(inputs, layers.Dense(2)(Places()(inputs)))
    with pytest.raises(ValueError, match="seven places") as raised:
        kf.signal(model)
    if hasattr(raised.value, "add_note"):
        assert "`x` was not given" in raised.value.__notes__[-1]
    assert kf.signal(model, np.ones((2, 7, 3), "float32")).rows[-1].shape == (2, 7, 2)
