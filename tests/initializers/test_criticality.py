"""Critical points against mpmath, the literature, and the fixed points of wide networks."""

import math

import keras
import mpmath
import numpy as np
import pytest

import keras_fanwise as kf

criticality = kf.criticality

# With where they have a kink, and their arguments.
REFERENCES = {
    "tanh": (mpmath.tanh, [0]),
    "softsign": (lambda x: x / (1 + abs(x)), [0]),
    "elu": (lambda x: x if x > 0 else mpmath.expm1(x), [0]),
    "hard_tanh": (lambda x: max(-1, min(1, x)), [-1, 1]),
    "gelu": (
        lambda x: x * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + 0.044715 * x**3)))
        / 2,
        [0],
    ),
    "silu": (lambda x: x / (1 + mpmath.exp(-x)), [0]),
    "soft_shrink": (lambda x: mpmath.sign(x) * max(0, abs(x) - 0.5), [-0.5, 0.5]),
}  # fmt: skip
# Keras's gelu is exact unless it is asked for the approximation.
APPROXIMATE_GELU = lambda x: keras.activations.gelu(x, approximate=True)  # noqa: E731


def by_mpmath(name, q):
    """(weight variance, bias variance) with the derivative by mpmath's own differences."""
    function, kinks = REFERENCES[name]
    mpmath.mp.dps = 30
    root = mpmath.sqrt(q)
    points = sorted([-12, *(mpmath.mpf(kink) / root for kink in kinks), 12])
    points = [point for point in points if abs(point) <= 12]

    def expectation(integrand):
        return mpmath.quad(lambda z: integrand(root * z) * mpmath.npdf(z), points)

    weight = 1 / expectation(lambda x: mpmath.diff(function, x, h=1e-12) ** 2)
    return float(weight), float(q - weight * expectation(lambda x: function(x) ** 2))


@pytest.mark.few(6)
@pytest.mark.parametrize("q", [0.01, 1.5])
@pytest.mark.parametrize("name", REFERENCES)
def test_against_mpmath(name, q):
    activation = APPROXIMATE_GELU if name == "gelu" else name
    weight, bias = by_mpmath(name, q)
    if bias < 0:
        with pytest.raises(ValueError, match="`q` must be one for which"):
            criticality(activation, q=q)
        return
    found = criticality(activation, q=q)
    # TensorFlow has the constants of this gelu in float32.
    close = 1e-8 if name == "gelu" else 1e-10
    assert found.weight_variance == pytest.approx(weight, rel=close)
    assert found.bias_variance == pytest.approx(bias, rel=10 * close, abs=close / 10 * q)
    assert found.q == q


@pytest.mark.parametrize(
    ("activation", "asked", "weight", "bias"),
    [
        ("tanh", {"bias_variance": 0.05}, 1.76095, 0.05),
        ("gelu", {}, 1.98305826, 0.17292239),
        ("silu", {}, 1.98800468, 0.55514317),
        ("relu", {}, 2, 0),
        ("linear", {}, 1, 0),
        ("leaky_relu", {}, 2 / 1.04, 0),
        (keras.layers.LeakyReLU(negative_slope=0.1), {"q": 3}, 2 / 1.01, 0),
        (keras.layers.ReLU(), {}, 2, 0),
        (keras.layers.Activation("silu"), {}, 1.98800468, 0.55514317),
        (keras.ops.tanh, {"bias_variance": 0.05}, 1.76095, 0.05),
    ],
)
def test_known_points(activation, asked, weight, bias):
    found = criticality(activation, **asked)
    assert found.weight_variance == pytest.approx(
        weight, abs=6e-9 if weight > 1.8 else 6e-6
    )
    assert found.bias_variance == pytest.approx(bias, abs=6e-9)
    assert all(type(number) is float for number in found)


def test_the_bias_of_a_known_weight_variance():
    # Pennington et al. and Xiao et al. start tanh with a weight variance of 1.05.
    low, high = 1e-3, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        above = criticality("tanh", q=middle).weight_variance > 1.05
        low, high = (low, middle) if above else (middle, high)
    assert criticality("tanh", q=low).bias_variance == pytest.approx(2.0105e-5, rel=5e-5)


def test_small_variances_keep_their_digits():
    # tanh x = x - x³/3 + 2x⁵/15 - …: by the moments of a normal, to the orders below.
    q = 1e-4
    assert criticality("tanh", q=q).bias_variance == pytest.approx(4 / 3 * q**3, rel=10 * q)


def wide_network(activation, point, layers=6, width=1000):
    """By how much a layer multiplies the variance of the signal, and of the gradient."""
    random = np.random.default_rng(0)
    function = keras.activations.get(activation)

    def weights():
        return (
            random.standard_normal((width, width)) * (point.weight_variance / width) ** 0.5
        )

    z = random.standard_normal((width, 8)) * point.q**0.5
    slopes, step, gradient = [], 1e-3, random.standard_normal((width, 8))
    start = z.var()

    def numpy(x):
        return keras.ops.convert_to_numpy(
            function(keras.ops.convert_to_tensor(x, "float32"))
        )

    for _ in range(layers):
        slopes.append((numpy(z + step) - numpy(z - step)) / (2 * step))
        biases = random.standard_normal((width, 1)) * point.bias_variance**0.5
        z = weights() @ numpy(z) + biases
    size = gradient.var()
    for slope in slopes:
        gradient = slope * (weights().T @ gradient)
    return (z.var() / start) ** (1 / layers), (gradient.var() / size) ** (1 / layers)


# A layer of width n multiplies a variance by 1 within √(c/n), with c below 10 for these
# activations; over six layers the mean of the logarithm is within √(c/6n).
WITHIN = 5 * math.sqrt(10 / 6000)


@pytest.mark.parametrize(
    ("activation", "asked"), [("tanh", {"q": 0.5}), ("gelu", {}), ("relu", {})]
)
def test_a_wide_network_keeps_signal_and_gradient(activation, asked):
    point = criticality(activation, **asked)
    signal, gradient = wide_network(activation, point)
    assert abs(math.log(signal)) < WITHIN
    assert abs(math.log(gradient)) < WITHIN


def test_a_wide_network_notices_other_points():
    point = criticality("tanh", q=0.5)
    he = point._replace(weight_variance=2.4, bias_variance=0.0)
    assert abs(math.log(wide_network("tanh", he)[1])) > WITHIN
    assert abs(math.log(wide_network("relu", he)[0])) > 0.1


@pytest.mark.parametrize(
    ("activation", "asked", "message"),
    [
        ("softplus", {}, "`activation` must be one with a critical point"),
        ("sigmoid", {}, "`activation` must be one with a critical point"),
        ("softplus", {"q": 1}, "`q` must be one for which"),
        ("softplus", {"bias_variance": 0.1}, "`bias_variance` must be one for which"),
        ("tanh", {}, "`q` must be given"),
        ("relu", {"bias_variance": 0.1}, "`bias_variance` must be 0"),
        ("tanh", {"q": 1, "bias_variance": 0.1}, "`q` must be None"),
        ("tanh", {"q": 0}, "`q` must be a finite number above 0"),
        ("tanh", {"bias_variance": -1}, "`bias_variance` must be 0 or above"),
        ("hard_shrink", {"q": 1}, "`activation` must be continuous"),
        (lambda x: keras.ops.sign(x), {"q": 1}, "`activation` must be continuous"),
        (lambda x: 0 * x, {}, "`activation` must be one with a critical point"),
        ("softmax", {"q": 1}, "maps each element by itself"),
        ("tahn", {"q": 1}, "did you mean 'tanh'"),
    ],
)
def test_what_has_no_critical_point(activation, asked, message):
    with pytest.raises(ValueError, match=f"{message}.* Received: "):
        criticality(activation, **asked)


@pytest.mark.parametrize("asked", [{"q": "1"}, {"bias_variance": True}])
def test_bad_types(asked):
    with pytest.raises(TypeError, match=r"must be a finite number\. Received: "):
        criticality("tanh", **asked)
    with pytest.raises(TypeError, match="`activation` must be the name"):
        criticality(3, q=1.0)


NO_POINT = {"softplus", "sparse_plus", "squareplus", "hard_sigmoid", "sparse_sigmoid",
            "log_sigmoid", "exponential", "sigmoid"}  # fmt: skip
NOT_ELEMENTWISE = {"softmax", "log_softmax", "glu", "sparsemax"}
JUMPS = {"hard_shrink", "threshold"}


@pytest.mark.slow
def test_every_keras_activation():
    names = {name for name in dir(keras.activations) if not name.startswith("_")}
    for name in names - {"get", "serialize", "deserialize", "threshold"}:
        if name in NO_POINT | NOT_ELEMENTWISE | JUMPS:
            with pytest.raises(ValueError, match="Received: "):
                criticality(name, q=0.3)
        elif name == "tanh_shrink":  # has no slope at 0: not for small q
            assert criticality(name, q=30.0).bias_variance >= 0
        else:
            try:
                found = criticality(name)
            except ValueError:
                found = criticality(name, q=0.3)
            assert found.bias_variance >= 0
            assert found.weight_variance > 0
