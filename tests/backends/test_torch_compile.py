"""Inside a function that `torch.compile` traces, all is drawn as outside of it."""

import random

import keras
import numpy as np
import pytest

import keras_fanwise as kf

from support.models import values_of
from support.processes import needs

torch = pytest.importorskip("torch")
pytestmark = [
    needs("torch"),
    # Of dynamo, about what Keras and Python's `random` do while a layer is built.
    pytest.mark.filterwarnings("ignore"),
]
layers = keras.layers


@pytest.fixture
def compiled():
    torch._dynamo.reset()
    yield lambda function: torch.compile(function, backend="eager")
    torch._dynamo.reset()


@pytest.mark.parametrize("shape", [(4, 4), (1000, 2000)])
def test_drawing_by_hand(compiled, shape):
    initializer = kf.FanwiseHeNormal(seed=3)

    def twice(x):
        return x + 2 * initializer(shape)

    assert torch.equal(compiled(twice)(torch.zeros(())), twice(torch.zeros(())))


def test_a_generator_advances(compiled):
    traced, plain = (kf.FanwiseNormal(seed=keras.random.SeedGenerator(1)) for _ in range(2))
    function = compiled(lambda x: x + traced((2, 3)))
    zero = torch.zeros(())
    for _ in range(3):
        assert torch.equal(function(zero), plain((2, 3)))


def test_without_a_seed(compiled):
    """Each one made is another, and Python's `random` goes on as outside."""
    function = compiled(lambda x: x + kf.FanwiseHeUniform()((2, 3)))
    zero = torch.zeros(())
    random.seed(1)
    traced = [function(zero) for _ in range(3)]
    random.seed(1)
    for values in traced:
        assert torch.equal(values, kf.FanwiseHeUniform()((2, 3)))


def test_a_layer_that_is_built_there(compiled):
    # Dynamo takes seconds for any layer that is built while it traces, so there is one.
    def blur(seed):
        return layers.DepthwiseConv2D(
            3, depthwise_initializer=kf.FanwiseHeNormal(seed=seed), name="blur"
        )

    lazy, plain, other = blur(1), blur(1), blur(2)
    images = torch.ones((2, 6, 6, 4))
    compiled(lazy)(images)
    for layer in (plain, other):
        layer(images)
    assert np.array_equal(values_of(lazy.kernel), values_of(plain.kernel))
    assert not np.array_equal(values_of(lazy.kernel), values_of(other.kernel))
