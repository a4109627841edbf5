"""`initialize`: rules, recipes, and all or nothing."""

import math

import keras
import numpy as np
import pytest

import keras_fanwise as kf
from keras_fanwise.models import initialize as plan

from support.models import MODELS, arrays, equal, network, values_by_path
from support.statistics_checks import (
    KURTOSIS,
    check_distribution,
    check_moments,
    truncated_normal_cdf,
)

layers = keras.layers
Rule = kf.Rule


def test_one_initializer_for_all_kernels():
    model = network()
    for weight in model.weights:
        weight.assign(weight + 1)
    report = kf.initialize(model, "fanwise_he_normal", seed=0)
    values = values_by_path(model)
    for row in report.rows:
        if row.path.endswith("kernel"):
            expected = math.sqrt(2 / row.fans.fan_in)
            check_distribution(values[row.path], truncated_normal_cdf(expected))
            assert row.std_asked == pytest.approx(expected)
            with pytest.raises(AssertionError):  # a planted fault
                check_distribution(values[row.path], truncated_normal_cdf(expected * 3))
    for name, value in {"norm/gamma": 1, "norm/beta": 0, "norm/moving_mean": 0}.items():
        assert np.all(values[name] == value)
    assert np.all(values["norm/moving_variance"] == 1)
    forget = np.repeat([0, 1, 0, 0], 16)
    assert np.array_equal(values["lstm/lstm_cell/bias"], forget)
    assert np.array_equal(values["head/bias"], np.zeros(10))
    assert {row.status for row in report.rows} == {"set"}


@pytest.mark.parametrize(
    "identifier",
    [
        "FanwiseHeNormal",
        kf.FanwiseHeNormal,
        kf.FanwiseHeNormal(),
        Rule("fanwise_he_normal", weight="*kernel"),
        [Rule("fanwise_he_normal", weight="*kernel")],
        (Rule(kf.FanwiseHeNormal(), weight="*kernel"),),
        "he",
    ],
)
def test_ways_to_say_the_same(identifier):
    model, other = network(), network()
    kf.initialize(model, "fanwise_he_normal", seed=0)
    kf.initialize(other, identifier, seed=0)
    one, two = values_by_path(model), values_by_path(other)
    kernels = [path for path in one if path.endswith("kernel")]
    assert len(kernels) == 5
    assert all(np.array_equal(one[path], two[path]) for path in kernels)


def test_the_first_rule_that_is_met_wins():
    model = network()
    before = values_by_path(model)
    report = kf.initialize(
        model,
        [
            Rule("ones", path="head/*"),
            Rule("zeros", layer=layers.LSTM, weight="bias"),
            Rule(kf.FanwiseNormal(stddev=0.5), weight="kernel", layer=(layers.Conv2D, layers.Dense)),
            Rule(keras.initializers.Constant(3.0), weight="kernel"),
        ],
        seed=0,
    )  # fmt: skip
    by_path = {row.path: row for row in report.rows}
    assert by_path["head/kernel"].initializer == by_path["head/bias"].initializer == "Ones"
    assert by_path["conv/kernel"].initializer == "FanwiseNormal(stddev=0.5)"
    assert by_path["depthwise/kernel"].initializer == "Constant"
    assert by_path["lstm/lstm_cell/kernel"].initializer == "Constant"
    kept = [row.path for row in report.rows if row.status == "kept"]
    assert set(kept) == {
        "conv/bias", "depthwise/bias", "lstm/lstm_cell/recurrent_kernel",
        "norm/gamma", "norm/beta", "norm/moving_mean", "norm/moving_variance",
    }  # fmt: skip
    after = values_by_path(model)
    assert all(np.array_equal(before[path], after[path]) for path in kept)
    assert {row.reason for row in report.rows if row.status == "kept"} == {"no rule for it"}
    assert np.all(after["depthwise/kernel"] == 3)
    assert np.all(after["head/bias"] == 1)


def test_a_layer_is_met_by_what_is_inside_it():
    inputs = keras.Input((5, 6))
    attention = layers.MultiHeadAttention(2, 3)(inputs, inputs)
    model = keras.Model(inputs, layers.Bidirectional(layers.GRU(4))(attention))
    report = kf.initialize(
        model,
        [
            Rule("ones", layer=layers.MultiHeadAttention),
            Rule("zeros", layer=layers.Bidirectional, weight="*kernel"),
        ],
    )
    assert [row.initializer for row in report.rows] == ["Ones"] * 8 + [
        "Zeros",
        "Zeros",
        "",
    ] * 2


def test_paths_may_leave_out_the_first_layers():
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, name="head")], name="inner"
    )
    model = keras.Sequential([keras.Input((4,)), inner], name="outer")
    for path in ("head/*", "head/kernel", "*/head/kernel", "*kernel", "h*/kern?l"):
        report = kf.initialize(model, Rule("ones", path=path))
        assert report.rows[0].status == "set"
    for path in ("ead/*", "head", "Head/*", "head/kernel/"):
        with pytest.raises(ValueError, match="meets none of the weights"):
            kf.initialize(model, Rule("ones", path=path))


def test_inserting_a_named_layer_leaves_the_others_values():
    plain, longer = network(), network(between=[layers.Dense(16, name="extra")])
    for model in (plain, longer):
        kf.initialize(model, "he", seed=3)
    one, two = values_by_path(plain), values_by_path(longer)
    assert len(two) == len(one) + 2
    assert all(np.array_equal(one[path], two[path]) for path in one)


def test_the_layers_are_given_the_initializers(tmp_path):
    model = network()
    kf.initialize(model, "kaiming", seed=0)
    again = kf.reinitialize(model, seed=1)
    by_path = {row.path: row.initializer for row in again.rows}
    assert by_path["depthwise/kernel"] == "FanwiseHeNormal()"
    assert by_path["lstm/lstm_cell/kernel"] == "GlorotUniform"
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert str(loaded.get_layer("depthwise").depthwise_initializer) == "FanwiseHeNormal()"
    assert by_path == {row.path: row.initializer for row in kf.reinitialize(loaded).rows}


def test_an_initializer_of_several_weights_stays_with_the_others():
    both = keras.initializers.HeNormal()
    layer = layers.SimpleRNNCell(3, kernel_initializer=both, recurrent_initializer=both)
    layer.build((None, 2))
    kf.initialize(
        layer,
        [
            Rule("ones", weight="kernel"),
            Rule(lambda shape, dtype=None: np.zeros(shape), weight="bias"),
        ],
    )
    assert layer.kernel_initializer is layer.recurrent_initializer is both
    assert [row.initializer for row in kf.reinitialize(layer, seed=1).rows] == [
        "Ones",
        "HeNormal",
        "<lambda>",
    ]
    assert isinstance(layer.bias_initializer, keras.initializers.Zeros)  # it can be saved


def test_every_weight_has_values_of_its_own():
    model = keras.Sequential([keras.Input((8,)), *(layers.Dense(8) for _ in range(4))])
    kf.initialize(model, "he", seed=3)
    kernels = arrays(model)[::2]
    for i, kernel in enumerate(kernels):
        assert not any(np.array_equal(kernel, other) for other in kernels[:i])


def test_seeds():
    model = network()
    kf.initialize(model, "he", seed=3)
    one = arrays(model)
    kf.initialize(model, "he", seed=np.int64(3))
    assert all(equal(one, arrays(model)))
    kf.initialize(model, "he", seed=4)
    random = [weight.path.endswith("kernel") for weight in model.weights]
    assert np.array_equal(np.logical_not(equal(one, arrays(model))), random)


@pytest.mark.parametrize("sampler", ["portable", "backend"])
def test_an_initializer_keeps_a_seed_of_its_own(sampler):
    def start(own, seed):
        model = keras.Sequential([keras.Input((8,)), layers.Dense(8), layers.Dense(8)])
        kf.initialize(model, kf.FanwiseHeNormal(own, sampler=sampler), seed=seed)
        return arrays(model)[::2]

    assert all(equal(start(5, 1), start(5, 2)))
    assert not any(equal(start(None, 1), start(None, 2)))
    assert all(equal(start(None, 1), start(None, 1)))
    # One generator: its state advances from weight to weight.
    generators = [keras.random.SeedGenerator(7) for _ in range(2)]
    assert all(equal(start(generators[0], 1), start(generators[1], 2)))
    for kernels in (start(5, 1), start(None, 1), start(generators[0], 1)):
        assert not np.array_equal(*kernels)


def test_random_initializers_of_others():
    class Shifted(keras.initializers.RandomNormal):
        def __call__(self, shape, dtype=None):
            return super().__call__(shape, dtype) + 5

    def start(initializer, seed):
        model = keras.Sequential([keras.Input((8,)), layers.Dense(8), layers.Dense(8)])
        kf.initialize(model, initializer, seed=seed)
        return arrays(model)[::2]

    assert all(equal(start(Shifted(), 1), start(Shifted(), 1)))
    assert not any(equal(start(Shifted(), 1), start(Shifted(), 2)))
    assert all(equal(start(Shifted(seed=1), 1), start(Shifted(seed=1), 2)))
    assert not np.array_equal(*start(Shifted(), 1))
    assert start(Shifted(), 1)[0].mean() > 4


def raising(shape, dtype=None):
    raise RuntimeError("planted")


FAULTS = {
    "an unknown name": ("fanwise_he_norml", ValueError, r"did you mean 'fanwise_he_normal'\?.*Received: recipe='fanwise_he_norml'"),
    "an unknown recipe": ("kamming", ValueError, r"'dcgan', 'kaiming'.*did you mean 'kaiming'\?.*Received: recipe='kamming'"),
    "as PyTorch calls it": ("xavier_uniform", ValueError, "did you mean 'glorot_uniform'"),
    "and He's": ("kaiming_normal_", ValueError, "did you mean 'he_normal'"),
    "a recipe of PyTorch": ("xavier", ValueError, "did you mean 'glorot'"),
    "not a name": (3, TypeError, "`recipe` must be .*Received: recipe=3"),
    "none": (None, TypeError, "`recipe` must be .*Received: recipe=None"),
    "no rules": ([], ValueError, "`recipe` must be a list of at least one Rule"),
    "not rules": (["zeros"], TypeError, r"`recipe` must be a list of keras_fanwise.Rule"),
    "an unmet rule": ([Rule("ones"), Rule("zeros", path="nothing/*")], ValueError, r"Rule\('zeros', path='nothing/\*'\) meets none of the weights of the model: conv/kernel, .* and \d+ more"),
    "axes out of range": ([Rule("ones", path="conv/*"), Rule(kf.FanwiseVarianceScaling(input_axes=[3], output_axes=[0]), path="head/kernel")], ValueError, r"head/kernel of shape \(16, 10\): .*"),
    "no matrix": ([Rule("ones", path="conv/*"), Rule("orthogonal", path="head/bias")], ValueError, r"head/bias of shape \(10,\): `shape` must be of two axes or more"),
    "no matrix for Keras": ([Rule("ones", path="conv/*"), Rule("identity", path="norm/gamma")], ValueError, r"norm/gamma of shape \(32,\): "),
    "a wrong shape": ([Rule("ones", path="conv/*"), Rule(lambda shape, dtype=None: np.zeros((2, 2)), path="head/kernel")], ValueError, r"head/kernel of shape \(16, 10\): `initializer` must be one that gives the shape"),
    "a raising one": ([Rule("ones", path="conv/*"), Rule(raising, path="head/kernel")], RuntimeError, "planted"),
    "a bad seed": ("he", TypeError, "`seed` must be"),
}  # fmt: skip


@pytest.mark.few(6)
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_after_an_error_no_weight_is_changed(fault):
    recipe, kind, message = fault
    model = network()
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(5)
    before = arrays(model)
    with pytest.raises(kind, match=message):
        kf.initialize(model, recipe, seed="1" if message == "`seed` must be" else 1)
    assert all(equal(before, arrays(model)))
    assert int(model.optimizer.iterations) == 5


def test_a_plan_that_were_carried_out_at_once_would_be_seen(monkeypatch):
    """What `test_after_an_error_no_weight_is_changed` is there to catch."""
    planned = plan._planned

    def hasty(*arguments):
        weight = planned(*arguments)
        if weight.fill:
            weight.owned.variable.assign(weight.fill())
        return weight

    monkeypatch.setattr(plan, "_planned", hasty)
    with pytest.raises(AssertionError):
        test_after_an_error_no_weight_is_changed(FAULTS["a raising one"])


def test_rules_check_their_arguments():
    with pytest.raises(ValueError, match=r"`initializer` must be .*did you mean 'zeros'\?"):
        Rule("zeroes")
    with pytest.raises(TypeError, match="`initializer` must be"):
        Rule(3)
    for name in ("path", "weight"):
        with pytest.raises(TypeError, match=f"`{name}` must be a glob"):
            Rule("zeros", **{name: 3})
    for layer in ("", "Dense", keras.layers.Dense(3), (layers.Dense, int), int):
        with pytest.raises(TypeError, match=r"`layer` must be a subclass of keras\.Layer"):
            Rule("zeros", layer=layer)
    with pytest.raises(TypeError, match="`optional` must be True or False"):
        Rule("zeros", optional=1)


def test_a_rule_without_an_initializer_keeps():
    model = network()
    before = values_by_path(model)
    rules = [Rule(None, path="head/*"), Rule("ones", weight="*kernel")]
    reasons = {row.path: row.reason for row in kf.initialize(model, rules).rows}
    after = values_by_path(model)
    assert np.all(after["conv/kernel"] == 1)
    assert np.array_equal(before["head/kernel"], after["head/kernel"])
    assert reasons["head/kernel"] == reasons["head/bias"] == "a rule keeps it"
    assert reasons["conv/bias"] == "no rule for it"


def test_an_optional_rule_may_be_unmet():
    kf.initialize(network(), [Rule("zeros"), Rule("ones", path="nothing", optional=True)])


def test_the_siren_recipe():
    """The first kernel of each way is another than those after it."""
    one, other = keras.Input((2,)), keras.Input((3,))
    x = layers.concatenate(
        [layers.Dense(64, name=name)(given) for name, given in (("a", one), ("b", other))]
    )
    x = keras.ops.sin(30.0 * x)
    for name in ("c", "d"):
        x = keras.ops.sin(30.0 * layers.Dense(128, name=name)(x))
    model = keras.Model([one, other], layers.Dense(1, name="last")(x))
    kf.initialize(model, "siren", seed=0)
    for layer in model.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            fan_in = kernel.shape[0]
            limit = 1 / fan_in if layer.name in "ab" else math.sqrt(6 / fan_in) / 30
            assert 0.9 * limit < np.abs(kernel).max() <= limit * (1 + 1e-6)
            assert 0 < np.abs(bias).max() <= fan_in**-0.5


def test_unbuilt():
    for model in (keras.Sequential([layers.Dense(3)]), layers.Dense(3)):
        with pytest.raises(ValueError, match="`model` must be built"):
            kf.initialize(model, "he")
    with pytest.raises(TypeError, match="`model` must be a Keras model or layer"):
        kf.initialize(network().weights, "he")


# Those for certain networks have tests of their own, in test_critical and test_residual.
OF_THEIR_OWN = {"critical", "deepnorm", "fixup", "gpt2", "siren", "transformer", "vit"}


@pytest.mark.parametrize("recipe", sorted(set(kf.recipes()) - OF_THEIR_OWN))
def test_recipes(recipe):
    model = network()
    for weight in model.weights:
        weight.assign(weight + 1)
    report = kf.initialize(model, recipe, seed=0)
    values = values_by_path(model)
    for weight in ("beta", "moving_mean"):
        assert np.all(values[f"norm/{weight}"] == 0)
    assert np.all(values["norm/moving_variance"] == 1)
    if recipe != "dcgan":
        assert np.all(values["norm/gamma"] == 1)
    recurrent = [row for row in report.rows if row.layer == "LSTMCell"]
    everywhere = recipe in ("he", "glorot", "lecun")
    assert {row.status for row in recurrent} == {"set" if everywhere else "kept"}
    # Distributions at sample sizes: tests/test_examples.py.
    kernel = next(row for row in report.rows if row.path == "conv/kernel")
    fan_in, fan_out = kernel.fans
    expected = {
        "dcgan": 0.02, "normal": 0.02, "kaiming": (2 / fan_in) ** 0.5, "he": (2 / fan_in) ** 0.5,
        "lecun": fan_in**-0.5, "glorot": (2 / (fan_in + fan_out)) ** 0.5,
    }[recipe]  # fmt: skip
    kurtosis = {
        "glorot": "uniform",
        "dcgan": "untruncated_normal",
        "normal": "untruncated_normal",
    }
    check_moments(
        values["conv/kernel"],
        0.0,
        expected,
        KURTOSIS[kurtosis.get(recipe, "truncated_normal")],
    )
    assert kernel.std_asked == pytest.approx(expected)


def test_recipes_of_models_without_what_they_are_for():
    kf.initialize(keras.Sequential([keras.Input((4,)), layers.Dense(3)]), "dcgan")
    model = keras.Sequential([keras.Input((4, 2)), layers.LSTM(3)])
    kept = {row.reason for row in kf.initialize(model, "dcgan").rows}
    assert kept == {"a rule keeps it"}
    model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization()])
    with pytest.raises(ValueError, match=r"Rule\('fanwise_normal', role='kernel'\) meets"):
        kf.initialize(model, "dcgan")


def test_dcgan_draws_dense_kernels_too():
    """As the code of its authors does: generator and discriminator begin or end so."""
    model = keras.Sequential([keras.Input((100,)), layers.Dense(400)])
    kernel, bias = kf.initialize(model, "dcgan", seed=0).rows
    assert kernel.std == pytest.approx(0.02, rel=4 / 40_000**0.5)
    assert bias.initializer == "Zeros"


def test_a_mapping_of_paths():
    model = keras.Sequential(
        [keras.Input((4,)), *(layers.Dense(3, name=name) for name in ("a[1]", "a1", "b"))],
        name="net",
    )
    paths = [weight.path for weight in model.weights]
    report = kf.initialize(model, {paths[0]: "ones", paths[4]: "fanwise_he_normal"})
    assert [row.status for row in report.rows] == ["set", *["kept"] * 3, "set", "kept"]
    assert np.all(arrays(model)[0] == 1)
    before = arrays(model)
    report = kf.initialize(model, {})  # as the remedies of a sound model are
    assert {row.status for row in report.rows} == {"kept"}
    assert all(equal(arrays(model), before))
    allowed = (
        r"`recipe` must be a mapping of paths of weights, .* Received: recipe='kernel'"
    )
    with pytest.raises(ValueError, match=allowed):
        kf.initialize(model, {"kernel": "zeros"})
    with pytest.raises(ValueError, match="did you mean 'zeros'"):
        kf.initialize(model, {paths[0]: "zeroes"})
    with pytest.raises(TypeError, match="a mapping of paths"):
        kf.initialize(model, {3: "zeros"})


def test_rules_by_role():
    inner = keras.Sequential(
        [layers.Dense(4, name="a"), layers.LayerNormalization(name="n")]
    )
    model = keras.Sequential([keras.Input((3,)), layers.Embedding(5, 6, name="e"), inner])
    report = kf.initialize(
        model, [Rule("ones", role="lookup table"), Rule("zeros", role="scale")]
    )
    paths = [row.path.split("/")[-2:] for row in report.rows if row.status == "set"]
    assert paths == [["e", "embeddings"], ["n", "gamma"]]
    assert repr(Rule("ones", role="kernel")) == "Rule('ones', role='kernel')"
    with pytest.raises(ValueError, match="`role` must be one of 'kernel', "):
        Rule("ones", role="kernels")


def test_a_recipe_is_a_list_to_add_to():
    model = network()
    report = kf.initialize(
        model, [Rule("ones", path="head/bias"), *kf.recipes()["kaiming"]]
    )
    assert report.rows[-1].initializer == "Ones"


def test_the_report_prints():
    report = kf.initialize(network(), "kaiming", seed=11)
    for text in (str(report), repr(report), report.text(verbose=True)):
        assert text.startswith("10 set, 3 kept; seed 11\n")
        assert "3×3×16×32" in text
        assert "kept: a rule keeps it" in text
    # Whole paths, one line each.
    assert all(
        sum(row.path in line for line in text.splitlines()) == 1 for row in report.rows
    )


def test_dry_run():
    model = network()
    before = arrays(model)
    planned = kf.initialize(model, "he", seed=1, dry_run=True)
    assert all(equal(before, arrays(model)))
    assert "13 set, 0 kept" in str(planned)
    report = kf.initialize(model, "he", seed=1)
    assert planned.rows == [row._replace(std=None) for row in report.rows]


def test_progress_is_shown_for_long_work(monkeypatch, capsys):
    model = network()
    kf.initialize(model, "he")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(plan, "_LONG", 100)
    monkeypatch.setenv("FORCE_COLOR", "1")
    kf.initialize(model, "he")
    assert "weights" in capsys.readouterr().err


@pytest.mark.few(5)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_any_model(make):
    model = make()
    report = kf.initialize(model, Rule("fanwise_normal", weight="[!v]*"), seed=1)
    assert [row.path for row in report.rows] == [weight.path for weight in model.weights]


def test_a_weight_that_no_float_fits():
    model = MODELS["convolutional"]()
    before = arrays(model)
    with pytest.raises(
        ValueError, match=r"by_hand.* of shape \(\): `dtype` must be one of"
    ):
        kf.initialize(model, Rule("fanwise_normal"), seed=1)
    assert all(equal(before, arrays(model)))
