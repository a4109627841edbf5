"""What a weight does in its layer."""

import keras
import pytest

from keras_fanwise.seam.weights import OwnedWeight, Role, has_kernel, owned_weights, role

layers = keras.layers


class Own(layers.Layer):
    """A layer with weights of these names, shapes and traits, built for 6 units."""

    def __init__(self, weights):
        super().__init__()
        self._specs = weights

    def build(self, shape):
        for name, size, *trainable in self._specs:
            self.add_weight(shape=size, name=name, trainable=trainable != [False])

    def call(self, x):
        return x


def roles_of(layer, shape=None):
    if shape is not None:
        layer.build(shape)
    return {owned.variable.name: role(owned).value for owned in owned_weights(layer)}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (("kernel", (3, 3, 4)), "kernel"),
        (("w", (6, 4)), "kernel"),
        ((None, (6, 4)), "kernel"),
        (("w", (5, 4)), "matrix"),
        (("w", (2, 6, 4)), "kernel"),
        (("w", (6, 2, 4)), "kernel"),
        (("w", (2, 4, 4)), "matrix"),
        (("w", (1, 6, 4)), "matrix"),
        (("att_kernel_self", (5, 4)), "kernel"),
        (("kernel_scale", (5, 4)), "scale"),
        (("w", (6, 1)), "matrix"),
        (("kernel", (6, 4), False), "state"),
        (("kernel_mean", (6,), False), "state"),
        (("kernel", (6,)), "something else"),
        (("relative_position_bias_table", (49, 3)), "lookup table"),
        (("position_embedding", (7, 6)), "lookup table"),
        (("class_embedding", (1, 1, 6)), "something else"),
        (("class_token", (1, 1, 6)), "something else"),
        (("layer_scale", (1, 1, 6)), "scale"),
        (("gamma", (6, 6)), "scale"),
        (("position_bias", (6, 6)), "bias"),
        (("alpha", (6, 6)), "something else"),
        (("temperature", ()), "something else"),
    ],
)
def test_roles_in_a_layer_of_ones_own(spec, expected):
    [found] = roles_of(Own([spec]), (None, 5, 6)).values()
    assert found == expected


def test_a_matrix_behind_a_kernel_is_one():
    chain = [("up", (6, 24)), ("down", (24, 6)), ("memory", (7, 6))]
    found = roles_of(Own(chain), (None, 6))
    assert found == {"up": "kernel", "down": "kernel", "memory": "matrix"}


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (layers.Dense(1), (None, 6), {"kernel": "kernel", "bias": "bias"}),
        (layers.Embedding(9, 1), (None, 3), {"embeddings": "lookup table"}),
        (layers.PReLU(), (None, 4, 6), {"alpha": "something else"}),
        (layers.EinsumDense("ab,bcd->acd", (3, 4), bias_axes="cd"), (None, 6),
         {"kernel": "kernel", "bias": "bias"}),
        (layers.BatchNormalization(), (None, 6),
         {"gamma": "scale", "beta": "bias", "moving_mean": "state",
          "moving_variance": "state"}),
        (layers.AdditiveAttention(), [(None, 3, 6), (None, 3, 6)],
         {"scale": "something else"}),
    ],
)  # fmt: skip
def test_roles_in_keras_layers(layer, shape, expected):
    assert roles_of(layer, shape) == expected


@pytest.mark.skipif(not hasattr(layers, "STFTSpectrogram"), reason="newer than this Keras")
def test_a_fourier_transform_is_not_learned():
    layer = layers.STFTSpectrogram("real", frame_length=16)
    assert roles_of(layer, (None, 100, 1)) == {"real_kernel": "state"}


def test_a_frozen_kernel_is_one():
    layer = layers.Dense(4)
    layer.build((None, 6))
    layer.trainable = False
    assert role(OwnedWeight(layer, (layer,), layer.kernel)) is Role.KERNEL


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_quantized_kernels_and_their_scales(mode):
    if mode == "int4" and not hasattr(keras.quantizers, "pack_int4"):
        pytest.skip("newer than this Keras")
    for layer, shape in (
        (layers.Dense(4), (None, 6)),
        (layers.EinsumDense("ab,bcd->acd", (3, 4)), (None, 6)),
    ):
        layer.build(shape)
        layer.quantize(mode)
        found = roles_of(layer)
        assert found.pop("kernel") == "kernel"
        assert found.pop("bias", "bias") == "bias"
        assert {*found.values()} == {"state"}


def test_which_layers_multiply_by_a_matrix():
    deep = keras.Sequential([keras.Input((6,)), layers.Dense(4)])
    slopes, tokens = layers.PReLU(), Own([("class_token", (1, 1, 6))])
    for layer in (slopes, tokens):
        layer.build((None, 5, 6))
    assert has_kernel(deep)
    assert not has_kernel(slopes)
    assert not has_kernel(tokens)
