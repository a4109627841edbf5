import math

import keras
import numpy as np
import pytest
from keras import layers
from scipy import integrate, stats

import keras_fanwise as kf

# 1 / sqrt(E[f(z)**2]) by quadrature, to the digits that are known from elsewhere.
KNOWN = {
    "relu": 1.4142,
    "tanh": 1.5925,
    "sigmoid": 1.8462,
    "gelu": 1.5335,
    "silu": 1.6765,
    "elu": 1.2452,
    "selu": 1.0000,
    "softplus": 1.0419,
}
# These mix the elements of a vector: they have no gain.
NOT_ELEMENTWISE = {"softmax", "log_softmax", "glu", "sparsemax"}
ARGUMENTS = {"threshold": {"threshold": 0.5, "default_value": 0.25}}


def activations():
    names = [name for name in dir(keras.activations) if not name.startswith("_")]
    return sorted(set(names) - {"get", "serialize", "deserialize"})


@pytest.mark.parametrize("name", KNOWN)
def test_known_gains(name):
    assert kf.gain(name) == pytest.approx(KNOWN[name], abs=6e-5)


@pytest.mark.few(12)
@pytest.mark.parametrize("name", [n for n in activations() if n not in NOT_ELEMENTWISE])
def test_every_keras_activation_against_scipy(name):
    function = keras.activations.get(name)
    arguments = ARGUMENTS.get(name, {})

    def integrand(z):
        value = function(keras.ops.convert_to_tensor(np.array([z], "float32")), **arguments)
        return float(keras.ops.convert_to_numpy(value)[0]) ** 2 * stats.norm.pdf(z)

    # Where Keras's activations have their kinks.
    kinks = [-6, -3, -1, -0.5, 0, 0.5, 1, 3, 6]
    moment, _ = integrate.quad(integrand, -9, 9, points=kinks, epsabs=1e-6, limit=80)
    assert kf.gain(name, **arguments) == pytest.approx(1 / math.sqrt(moment), rel=2e-5)


@pytest.mark.parametrize("name", sorted(NOT_ELEMENTWISE & set(activations())))
def test_activations_that_mix_elements(name):
    with pytest.raises(ValueError, match=r"`activation` must be a function.* Received: "):
        kf.gain(name)


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.3, 1.0, -0.5])
def test_leaky_relu_in_closed_form(slope):
    exact = math.sqrt(2 / (1 + slope**2))
    assert kf.gain("leaky_relu", negative_slope=slope) == exact
    # And by quadrature, which a function of our own must go through.
    assert kf.gain(lambda x: keras.ops.leaky_relu(x, slope)) == pytest.approx(
        exact, abs=6e-6
    )


def test_a_kink_anywhere():
    # E[max(z - c, 0)**2] = (1 + c**2) (1 - Phi(c)) - c phi(c)
    c = 0.1234
    moment = (1 + c * c) * stats.norm.sf(c) - c * stats.norm.pdf(c)
    gain = kf.gain(lambda x: keras.ops.relu(x - c))
    assert gain == pytest.approx(1 / math.sqrt(moment), abs=6e-6)


def test_plain_functions_and_arguments():
    assert kf.gain(keras.ops.tanh) == pytest.approx(kf.gain("tanh"), abs=6e-6)
    assert kf.gain("elu", alpha=0.5) != pytest.approx(kf.gain("elu"), rel=1e-3)
    assert kf.gain(keras.layers.LeakyReLU(negative_slope=0.5)) == pytest.approx(
        kf.gain("leaky_relu", negative_slope=0.5), abs=6e-6
    )
    assert kf.gain("linear") == 1.0


def test_the_gain_keeps_the_second_moment():
    rng = np.random.default_rng(0)
    z = rng.standard_normal(1_000_000)
    squares = (np.tanh(z) * kf.gain("tanh")) ** 2
    assert abs(squares.mean() - 1) < 5 * squares.std() / math.sqrt(z.size)


@pytest.mark.parametrize(
    ("activation", "error"),
    [
        ("rleu", ValueError),
        (3, TypeError),
        (None, TypeError),
        (lambda x: x * 0, ValueError),
        (lambda x: x * math.nan, ValueError),
        (lambda x: x[:3], ValueError),
        (lambda x: x - keras.ops.mean(x) + keras.ops.max(x), ValueError),
    ],
)
def test_bad_activations(activation, error):
    with pytest.raises(error, match=r"`activation` must be .* Received: activation="):
        kf.gain(activation)


@pytest.mark.parametrize("function", [kf.gain, kf.criticality])
@pytest.mark.parametrize(
    "layer",
    [
        layers.LayerNormalization(), layers.Dense(3), layers.PReLU(), layers.Flatten(),
        layers.Softmax(), layers.ReLU, layers.Dense,
    ],
)  # fmt: skip
def test_layers_that_are_no_activation(function, layer):
    with pytest.raises(ValueError, match=r"`activation` must be .* Received: activation="):
        function(layer)


def test_the_nearest_name_is_suggested():
    with pytest.raises(ValueError, match=r"did you mean 'gelu'\?.*Received: activation="):
        kf.gain("gelus")
