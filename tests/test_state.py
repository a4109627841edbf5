"""Nothing that the package does leaves anything in the global state of Keras or others."""

import contextlib
import inspect
import random

import keras
import numpy as np
import pytest
from keras.src.backend.common import global_state
from keras.src.backend.common.name_scope import current_path

import keras_fanwise as kf

from support.models import values_of

layers = keras.layers


def frozen(value):
    """What can be compared later, when the value may have changed in itself."""
    if isinstance(value, dict):
        return {str(key): frozen(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set)):
        return list(map(frozen, value))
    if isinstance(value, keras.random.SeedGenerator):
        return id(value), values_of(value.state).tolist()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value if isinstance(value, (str, int, float, type(None))) else id(value)


def global_state_now():
    """All that Keras keeps globally, and the random numbers of Python and its libraries."""
    trackers = [value for name, value in vars(global_state).items() if "TRACKER" in name]
    state = {
        name: frozen(value)
        for tracker in trackers
        for name, value in vars(tracker).items()
        # That there is nothing Keras says in several ways.
        if value is not None and not (isinstance(value, (list, dict)) and not value)
    }
    state["path"] = current_path()
    state["floatx"] = keras.config.floatx()
    state["policy"] = keras.config.dtype_policy().name
    state["distribution"] = frozen(keras.distribution.distribution())
    state["custom objects"] = frozen(keras.saving.get_custom_objects())
    state["python"] = random.getstate()
    state["numpy"] = frozen(np.random.get_state())
    if keras.backend.backend() == "torch":
        import torch

        state["torch"] = torch.get_rng_state().tolist()
        state["gradients"] = torch.is_grad_enabled()
        state["threads"] = torch.get_num_threads()
        state["torch dtype"] = frozen(torch.get_default_dtype())
    if keras.backend.backend() == "jax":
        import jax

        state["x64"] = jax.config.jax_enable_x64
    return state


# What a model's own call, by anybody, sets.
_BY_A_CALL = {"_called", "_modules", "_parent_path", "_return_attention_scores"}


def model_now(model):
    """What a model keeps beside its weights."""
    inside = model._flatten_layers()
    generators = [v for v in model.variables if "seed_generator" in v.path]
    return {
        "generators": [values_of(variable).tolist() for variable in generators],
        "nodes": [(len(s._inbound_nodes), len(s._outbound_nodes)) for s in inside],
        "attributes": [
            {
                name: frozen(value)
                for name, value in vars(layer).items()
                if "init" not in name and name not in _BY_A_CALL and value is not None
            }
            for layer in model._flatten_layers()
        ],
    }


class Failing(layers.Layer):
    """Fails when it is asked to."""

    fails = False

    def call(self, x):
        if self.fails:
            raise RuntimeError("broken")
        return x


@keras.saving.register_keras_serializable("test_state")
class Block(layers.Layer):
    """A residual block that makes its layers' weights when it is called."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.attention = layers.MultiHeadAttention(2, 4)
        self.drop = layers.Dropout(0.5)
        self.dense = layers.Dense(8, "relu")
        self.norm = layers.BatchNormalization()

    def call(self, x, training=None):
        x = x + self.attention(x, x)
        return x + self.norm(self.dense(self.drop(x, training=training)))


@keras.saving.register_keras_serializable("test_state")
class Positions(layers.Layer):
    def build(self, shape):
        self.table = self.add_weight(shape[1:], "zeros", trainable=False, name="table")
        self.table.assign(keras.ops.ones(shape[1:]))

    def call(self, x):
        return x + self.table


def network():
    inputs = keras.Input((5, 8))
    x = Failing()(Block()(Positions()(inputs)))
    model = keras.Model(inputs, layers.Dense(3)(x))
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def raising(shape, dtype=None):
    keras.random.normal(shape)
    raise ValueError("broken")


def refused(model):
    with pytest.raises(ValueError, match="broken"):
        kf.initialize(model, kf.Rule(raising), seed=0)


def with_block(block, function):
    with block:
        function()


X = np.random.default_rng(0).normal(size=(4, 5, 8)).astype("float32")
Y = X[..., :3]
# By name, what calls each public function; with a batch where it takes one.
CALLS = {
    "audit": [kf.audit],
    "calibrate": [
        lambda model: kf.calibrate(model, X),
        lambda model: kf.calibrate(model, X, by="unit", dry_run=True),
    ],
    "criticality": [lambda _: kf.criticality("tanh", q=0.1)],
    "diagnose": [
        kf.diagnose,
        lambda model: kf.diagnose(model, X, Y, steps=1),
    ],
    "fans_table": [kf.fans_table],
    "gain": [lambda _: kf.gain("gelu")],
    "initialize": [
        lambda model: kf.initialize(model, "he", seed=0, residual="zero"),
        lambda model: kf.initialize(model, "transformer", seed=1, residual="depth"),
        lambda model: kf.initialize(model, "fixup", dry_run=True),
        refused,
    ],
    "output_bias": [lambda model: kf.output_bias(model, Y)],
    "layer_fans": [lambda model: kf.layer_fans(model.layers[-1], "kernel", (8, 3))],
    "recipes": [lambda _: kf.recipes()],
    "register": [lambda _: kf.register()],
    "reinitialize": [
        lambda model: kf.reinitialize(model, seed=0),
        lambda model: kf.reinitialize(model, dry_run=True),
    ],
    "residual_ends": [kf.residual_ends],
    "retrofit": [lambda model: with_block(kf.retrofit(), lambda: kf.audit(model))],
    "signal": [kf.signal, lambda model: kf.signal(model, X)],
    "skip_init": [
        lambda model: with_block(
            kf.skip_init(), lambda: model.set_weights(model.get_weights())
        )
    ],
}
# They make classes known, for good.
LASTING = {"register_fans"}


def test_every_public_function_is_tried():
    functions = {name for name in kf.__all__ if inspect.isfunction(getattr(kf, name))}
    assert functions == {*CALLS, *LASTING}


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.mark.filterwarnings("ignore:there are branches")
@pytest.mark.parametrize("name", CALLS)
def test_no_function_leaves_anything_behind(name, model):
    failing = next(layer for layer in model.layers if isinstance(layer, Failing))
    for call in CALLS[name]:
        for failing.fails in (True, False):
            before, own = global_state_now(), model_now(model)
            errors = (RuntimeError, ValueError) if failing.fails else ()
            with contextlib.suppress(*errors):
                call(model)
            after = global_state_now()
            changed = {key for key in before | after if before.get(key) != after.get(key)}
            assert not changed, {key: (before.get(key), after.get(key)) for key in changed}
            assert model_now(model) == own


def test_what_is_left_behind_is_seen(model):
    """By things that do so."""

    def variable_for_later():
        with keras.StatelessScope(initialize_variables=False):
            keras.Variable("zeros", shape=(), name="later")

    for leave in (
        variable_for_later,
        lambda: layers.Dense(1),
        random.random,
        np.random.random,
        lambda: keras.random.normal(()),
        lambda: keras.config.set_floatx("float64"),
    ):
        before = global_state_now()
        leave()
        assert global_state_now() != before
        keras.config.set_floatx("float32")
    own = model_now(model)
    model(model.inputs)
    assert model_now(model) != own
