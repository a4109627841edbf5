"""Initializers inside others: in attributes, closures, containers, partials and methods."""

import functools

import keras
import numpy as np
import pytest

import keras_fanwise as kf

from support.models import values_of


class Scaled(keras.initializers.Initializer):
    """Somebody's wrapper."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, shape, dtype=None, **kwargs):
        return 0.5 * self.first()(shape, dtype=dtype)

    def first(self):
        return self.inner

    def get_config(self):
        return {"inner": self.inner}


class Several(Scaled):
    def first(self):
        return self.inner["several"][0]


class Named(Scaled):
    def first(self):
        return keras.initializers.get(self.inner)


class WithMethod:
    def __init__(self, inner):
        self.inner = inner

    def fill(self, shape, dtype=None):
        return self.inner(shape, dtype=dtype)


def closure(inner):
    return lambda shape, dtype=None: 0.5 * inner(shape, dtype=dtype)


def default(inner):
    return lambda shape, dtype=None, inner=inner: 0.5 * inner(shape, dtype=dtype)


def _scaled(factor, inner, shape, dtype=None):
    return factor * inner(shape, dtype=dtype)


HOLDERS = {
    "attribute": Scaled,
    "container": lambda inner: Several({"several": [inner]}),
    "closure": closure,
    "default": default,
    "closure in an attribute": lambda inner: Scaled(closure(inner)),
    "partial": lambda inner: functools.partial(_scaled, 0.5, inner),
    "method": lambda inner: WithMethod(inner).fill,
}
INSIDE = {
    "Keras's": lambda: keras.initializers.RandomNormal(seed=1),
    "Keras's without a seed": lambda: keras.initializers.HeNormal(),
    "ours": lambda: kf.FanwiseHeNormal(seed=1),
}


def dense(initializer):
    layer = keras.layers.Dense(16, kernel_initializer=initializer, name="head")
    return keras.Sequential([keras.Input((16,)), layer])


@pytest.mark.few(10)
@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("holder", HOLDERS)
def test_what_is_inside_gets_fresh_seeds(holder, inside):
    initializer = HOLDERS[holder](INSIDE[inside]())
    model = dense(initializer)
    values = [values_of(model.weights[0])]
    for seed in (5, 6, 5):
        report = kf.reinitialize(model, seed=seed)
        assert report.rows[0].status == "set"
        values.append(values_of(model.weights[0]))
    first, one, two, again = values
    assert not np.any(first == one)
    assert not np.any(one == two)
    assert np.array_equal(one, again)
    # Nothing that the user holds has changed.
    assert np.array_equal(values_of(initializer((4, 4))), values_of(initializer((4, 4))))


def test_names_inside_are_made_anew():
    model = dense(Named("he_normal"))
    kernels = []
    for seed in (1, 2, 1):
        kf.reinitialize(model, seed=seed)
        kernels.append(values_of(model.weights[0]))
    assert not np.any(kernels[0] == kernels[1])
    assert np.array_equal(kernels[0], kernels[2])


def test_a_seed_inside_counts_for_initialize():
    one, two = dense("zeros"), dense("zeros")
    rule = kf.Rule(closure(kf.FanwiseNormal(seed=3)), weight="kernel")
    kf.initialize(one, rule, seed=1)
    kf.initialize(two, rule, seed=2)
    assert np.array_equal(values_of(one.weights[0]), values_of(two.weights[0]))
    rule = kf.Rule(closure(kf.FanwiseNormal()), weight="kernel")
    kf.initialize(two, rule, seed=2)
    assert not np.array_equal(values_of(one.weights[0]), values_of(two.weights[0]))


@pytest.mark.parametrize("holder", HOLDERS)
def test_ours_inside_another_is_bound_to_its_weight(holder):
    """It counts by the layer, and has a stream for each weight."""

    def kernel(name):
        initializer = HOLDERS[holder](kf.FanwiseHeNormal(seed=1))
        layer = keras.layers.DepthwiseConv2D(
            3, depth_multiplier=4, depthwise_initializer=initializer, name=name
        )
        layer.build((None, 8, 8, 64))
        return values_of(layer.kernel)

    one, two = kernel("one"), kernel("two")
    assert not np.any(one == two)
    assert np.array_equal(one, kernel("one"))
    # fan_in is 9; by the shape it would be 576.
    factor = {"method": 1.0, "closure in an attribute": 0.25}.get(holder, 0.5)
    tolerance = 5 / np.sqrt(2 * one.size)
    assert abs(one.std() / (factor * np.sqrt(2 / 9)) - 1) < tolerance


def test_each_call_draws_other_values():
    halves = lambda shape, dtype=None: keras.ops.concatenate(  # noqa: E731
        [inner((8, 16), dtype=dtype) for _ in range(2)]
    )
    inner = keras.initializers.RandomNormal(seed=1)
    model = dense(halves)
    assert np.array_equal(*np.split(values_of(model.weights[0]), 2))  # as in Keras
    kf.reinitialize(model, seed=1)
    assert not np.any(np.equal(*np.split(values_of(model.weights[0]), 2)))


def test_circles_and_what_is_not_random():
    def itself(shape, dtype=None):
        return itself and keras.ops.ones(shape, dtype)

    holder = Scaled(itself)
    holder.circle = [holder]
    model = dense(holder)
    kf.reinitialize(model, seed=1)
    assert np.all(values_of(model.weights[0]) == 0.5)


def test_what_cannot_be_copied_stays_as_it_is():
    def ones(shape, dtype=None):
        return keras.ops.ones(shape, dtype)

    cached = functools.lru_cache(ones)  # its copy is itself
    cached.inner = inner = keras.initializers.RandomNormal(seed=1)
    model = dense(lambda shape, dtype=None: cached(tuple(shape), dtype))
    assert kf.reinitialize(model, seed=1).rows[0].status == "set"
    assert cached.inner is inner
    assert np.all(values_of(model.weights[0]) == 1)
