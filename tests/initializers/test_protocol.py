"""The three methods of every initializer, and initializers that users derive."""

import copy
import json
import math

import keras
import numpy as np
import pytest
from scipy import stats

import keras_fanwise as kf
from keras_fanwise.initializers import base as base_module

from support.any_weight import ANY_WEIGHT
from support.models import values_of

layers = keras.layers


def state(initializer):
    return copy.deepcopy(initializer.__dict__)


@keras.saving.register_keras_serializable("tests")
class Cauchy(kf.FanwiseInitializer):
    """Heavy tails, by the inverse CDF; the scale follows from the fans of the weight."""

    def __init__(self, scale=1.0, seed=None):
        super().__init__(seed)
        self.scale = scale

    def expected(self, shape, site=None):
        return kf.Distribution("cauchy", math.inf)

    def sample(self, stream, distribution, shape, dtype, index=None, site=None):
        uniform = stream.draw("uniform", shape, "float64", index=index)
        fan = site.fans.fan_in if site else 1
        return self.scale / fan * np.tan(np.pi / 2 * uniform)

    def get_config(self):
        config = super().get_config()
        return {"scale": self.scale, "seed": config["seed"]}


@pytest.mark.few(12)
@pytest.mark.parametrize("cls", ANY_WEIGHT)
@pytest.mark.parametrize("seed", [1, None])
def test_an_initializer_is_never_changed_by_being_used(cls, seed):
    initializer = cls(seed=seed)
    before = state(initializer)
    layer = layers.DepthwiseConv2D(3, depthwise_initializer=initializer)
    layer.build((None, 8, 8, 4))
    model = keras.Sequential([keras.Input((5, 4)), layers.Conv1D(3, 3)])
    kf.initialize(model, initializer, seed=0)
    kf.audit(model)
    initializer((3, 3, 3))
    assert state(initializer) == before


def test_what_is_handed_to_keras_holds_the_initializer_and_says_its_config(monkeypatch):
    variables = []
    original = keras.Variable.__init__

    def noting(self, initializer, *args, **kwargs):
        variables.append(initializer)
        return original(self, initializer, *args, **kwargs)

    initializer = kf.FanwiseHeNormal(seed=3)
    monkeypatch.setattr(keras.Variable, "__init__", noting)
    layers.Dense(3, use_bias=False, kernel_initializer=initializer).build((None, 4))
    (bound,) = variables
    assert bound is not initializer
    assert bound.get_config() == initializer.get_config()


def test_fans_and_distribution_of_each_weight_are_worked_out_once(monkeypatch):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.SeparableConv2D(4, 3),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(5),
        ]
    )
    fans, distributions = [], []
    layer_fans, expected = base_module.layer_fans, kf.FanwiseVarianceScaling.expected

    def counting_fans(layer, name, shape):
        fans.append((layer.name, name))
        return layer_fans(layer, name, shape)

    def counting_expected(self, shape, site=None):
        distributions.append(site.path)
        return expected(self, shape, site)

    monkeypatch.setattr(base_module, "layer_fans", counting_fans)
    monkeypatch.setattr(kf.FanwiseVarianceScaling, "expected", counting_expected)
    report = kf.initialize(model, "he", seed=0)
    assert len(fans) == len(set(fans)) == len(report.rows) == len(model.weights)
    assert len(distributions) == len(set(distributions))
    assert len(distributions) == sum(bool(row.std_asked) for row in report.rows)


def test_a_seed_of_the_draw_goes_before_the_initializers_own():
    site = kf.Site.of(layers.Dense(4, name="head"), "kernel", (8, 4))
    one, two = kf.FanwiseHeNormal(seed=1), kf.FanwiseHeNormal(seed=2)
    first = values_of(two.draw((8, 4), site=site, seed=1))
    assert np.array_equal(first, values_of(one.draw((8, 4), site=site)))
    assert not np.array_equal(first, values_of(two.draw((8, 4), site=site)))


def test_expected_is_what_is_drawn():
    layer = layers.DepthwiseConv2D(3, name="blur")
    site = kf.Site.of(layer, "kernel", (3, 3, 4000, 1))
    initializer = kf.FanwiseHeUniform(seed=1)
    expected = initializer.expected(site.shape, site)
    assert expected.std == pytest.approx(math.sqrt(2 / 9))
    values = values_of(initializer.draw(site.shape, site=site))
    cdf = stats.uniform(-expected.spread, 2 * expected.spread).cdf
    assert stats.kstest(values.ravel(), cdf).pvalue > 1e-4
    # Without the site the channels count: what it would be by shape is told apart.
    by_shape = initializer.expected(site.shape)
    assert by_shape.std < expected.std / 50


# A user's own


def test_a_derived_initializer_gets_site_stream_types_and_reports():
    layer = layers.Dense(500, kernel_initializer=Cauchy(seed=1), name="heavy")
    layer.build((None, 40))
    values = values_of(layer.kernel).astype(np.float64)
    assert stats.kstest(values.ravel() * 40, stats.cauchy.cdf).pvalue > 1e-4
    # A planted fault: the fans ignored.
    assert stats.kstest(values.ravel(), stats.cauchy.cdf).pvalue < 1e-4
    again = layers.Dense(500, kernel_initializer=Cauchy(seed=1), name="heavy")
    again.build((None, 40))
    assert np.array_equal(values_of(again.kernel), values_of(layer.kernel))
    model = keras.Sequential([keras.Input((40,)), layer])
    report = kf.initialize(model, Cauchy(), seed=0)
    assert report.rows[0].initializer == "Cauchy()"
    assert not np.array_equal(values_of(again.kernel), values_of(layer.kernel))
    json.loads(report.to_json())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_derived_initializer_draws_every_type(dtype):
    drawn = Cauchy(scale=1e-3, seed=1)((100, 10), dtype=dtype)
    assert keras.backend.standardize_dtype(drawn.dtype) == dtype
    exact = values_of(Cauchy(scale=1e-3, seed=1)((100, 10), dtype="float32"))
    rounded = values_of(keras.ops.cast(drawn, "float32"))
    assert np.allclose(rounded, exact, rtol=2**-7, atol=1e-7)


def test_a_derived_initializer_saves_and_loads(tmp_path):
    layer = layers.Dense(3, kernel_initializer=Cauchy(scale=0.5, seed=7))
    model = keras.Sequential([keras.Input((4,)), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    config = loaded.layers[0].kernel_initializer.get_config()
    assert config == {"scale": 0.5, "seed": 7}


def test_what_samples_by_itself_does_not_draw_by_the_backend():
    class Loud(Cauchy):
        def __init__(self):
            kf.FanwiseInitializer.__init__(self, sampler="backend")

    with pytest.raises(ValueError, match=r"`sampler` must be 'portable' for Loud"):
        Loud()


def test_mistakes_in_an_initializer_of_ones_own_are_named():
    with pytest.raises(
        ValueError, match=r"`family` must be one of.*did you mean 'uniform'"
    ):
        kf.Stream(key=7).draw("unifrm", (2, 3))
    with pytest.raises(ValueError, match="`dtype` must be one of"):
        kf.Stream(key=7).draw("uniform", (2, 3), "int32")

    class Unfinished(kf.FanwiseInitializer):
        pass

    with pytest.raises(NotImplementedError, match="Unfinished has no method `expected`"):
        Unfinished()((2, 3))
