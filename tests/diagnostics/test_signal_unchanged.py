"""What `signal` must leave as it was, and to whom: losses, PyTorch's modules, threads."""

import contextlib
import itertools
import threading

import keras
import numpy as np
import pytest

import keras_fanwise as kf
from keras_fanwise.backends.arrays import moments
from keras_fanwise.backends.tap import tapped

from support.processes import needs

layers = keras.layers
BACKEND = keras.backend.backend()
only_torch = needs("torch")


class Failing(layers.Layer):
    """Fails when it is asked to."""

    fail = False

    def call(self, x):
        if self.fail:
            raise RuntimeError("broken")
        return x


class Penalty(layers.Layer):
    def call(self, x):
        self.add_loss(keras.ops.mean(keras.ops.square(x)))
        return x


def run(model, failing):
    """`signal`, to the end or to an error."""
    failing.fail = True
    with pytest.raises(RuntimeError, match="broken"):
        kf.signal(model)
    failing.fail = False
    kf.signal(model)


def losses_of(model):
    return [float(keras.ops.convert_to_numpy(loss)) for loss in model.losses]


def test_losses_of_the_call_before():
    failing = Failing()
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, kernel_regularizer="l2"), Penalty(),
         layers.Dense(2, activity_regularizer="l1"), failing]
    )  # fmt: skip
    model(np.ones((5, 4), "float32"))
    before = losses_of(model)
    assert len(before) == 3
    run(model, failing)
    assert losses_of(model) == before


def torch_state(model):
    import torch

    [wrapper] = [layer for layer in model.layers if hasattr(layer, "module")]
    buffers = {
        name: b.cpu().clone().numpy().tobytes() for name, b in wrapper.named_buffers()
    }
    modes = [module.training for module in wrapper.modules()]
    return buffers, modes, torch.random.get_rng_state().numpy().tobytes()


@only_torch
@pytest.mark.parametrize("training", [False, True])
def test_modules_of_pytorch(training):
    import torch

    class Replacing(torch.nn.Module):
        """Puts another tensor in place of its buffer."""

        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls = self.calls + 1
            return x

    module = torch.nn.Sequential(
        torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.Dropout(0.5), Replacing()
    )
    failing = Failing()
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.TorchModuleWrapper(module), failing]
    )
    x = np.random.default_rng(0).normal(2.0, 3.0, (16, 6)).astype("float32")
    model(x, training=True)
    predicted = keras.ops.convert_to_numpy(model(x, training=False))
    model(x, training=training)
    module[0].train(not training)  # and one whose mode is not that of the others
    buffer = module[3].calls
    before = torch_state(model)
    run(model, failing)
    assert torch_state(model) == before
    assert module[3].calls is buffer
    module.eval()
    if not training:
        again = keras.ops.convert_to_numpy(model(x, training=False))
        assert np.array_equal(again, predicted)


class Meeting(layers.Layer):
    """Lets another thread call the model while this one is in the middle of it."""

    meet = None

    def call(self, x):
        if self.meet:
            meet, self.meet = self.meet, None
            meet()
        return x


def in_thread(function):
    result = []
    thread = threading.Thread(target=lambda: result.append(function()))
    thread.start()
    thread.join(timeout=120)
    [value] = result
    return value


def served_model():
    meeting = Meeting()
    first = layers.Dense(4, name="first")
    model = keras.Sequential(
        [keras.Input((4,)), first, meeting, layers.Dropout(0.5), layers.Dense(2)]
    )
    return model, meeting, first


def test_another_thread_that_serves_the_model():
    model, meeting, _ = served_model()
    x = np.ones((3, 4), "float32")
    alone = keras.ops.convert_to_numpy(model(x))
    quiet = kf.signal(model)
    served = []

    def serve():
        with keras.device("cpu:0"):
            served.append(in_thread(lambda: keras.ops.convert_to_numpy(model(x))))

    meeting.meet = serve
    report = kf.signal(model)
    assert str(report) == str(quiet)
    assert np.array_equal(served[0], alone)


def test_another_thread_gets_indices_as_they_are():
    """In place of indices that are out of range only the batch of `signal` gets others."""
    taken = []

    class Spy(layers.Embedding):
        def call(self, x):
            taken.append(threading.get_ident())
            return super().call(keras.ops.minimum(keras.ops.cast(x, "int32"), 5))

    embedding, meeting = Spy(6, 4), Meeting()
    model = keras.Sequential([keras.Input((3,)), embedding, meeting])
    before = keras.ops.convert_to_numpy(model(np.full((2, 3), 9.0, "float32")))
    found = []
    meeting.meet = lambda: found.append(
        in_thread(
            lambda: keras.ops.convert_to_numpy(model(np.full((2, 3), 9.0, "float32")))
        )
    )
    kf.signal(model)
    assert np.array_equal(found[0], before)


def test_signals_of_two_threads_at_once():
    model, meeting, first = served_model()
    quiet = str(kf.signal(model))
    inner = []
    meeting.meet = lambda: inner.append(in_thread(lambda: str(kf.signal(model))))
    outer = str(kf.signal(model))
    assert inner == [quiet]
    assert outer == quiet
    assert "call" not in vars(first)


def test_replacements_that_end_in_any_order():
    layer = layers.Dense(2)
    first, second = (tapped([layer], lambda call, n=n: n) for n in (1, 2))
    first.__enter__()
    second.__enter__()
    assert layer.call(None) == 2
    first.__exit__(None, None, None)
    assert layer.call(None) == 2
    second.__exit__(None, None, None)
    assert "call" not in vars(layer)
    object.__setattr__(layer, "call", len)
    with tapped([layer], lambda call: "replaced"):
        assert layer.call("") == "replaced"
        assert in_thread(lambda: layer.call("")) == 0
    assert layer.call is len


UNSEEN = itertools.count(1237)  # shapes that JAX has compiled nothing for


@contextlib.contextmanager
def heard_compilations():
    """What JAX compiles in the block, in a list that grows."""
    import jax

    compiled = []

    def listen(event, seconds, **_):
        if "compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
        jax.numpy.linspace(0.0, 1.0, next(UNSEEN)) + 1
        assert compiled  # of this one at least the listener hears
    finally:
        jax.monitoring.clear_event_listeners()


@needs("jax")  # which keeps what it compiles for each shape
def test_nothing_is_compiled_for_a_new_batch_size():
    import jax

    tensors = [jax.device_put(np.ones((size, 3), "float32")) for size in range(2, 12)]
    with heard_compilations() as compiled:
        for tensor in tensors:
            moments(tensor, -1)
            moments(tensor, 1)
        assert not compiled


@needs("jax")
def test_nothing_is_compiled_by_a_second_signal():
    """So that one can be measured after every epoch, whatever the weights are by then."""
    body = [layers.Dense(6, "relu"), layers.BatchNormalization(), layers.Dropout(0.5)]
    model = keras.Sequential([keras.Input((5,)), *body, layers.Dense(2)])
    model.compile("sgd", "mse")
    x, y = np.ones((4, 5), "float32"), np.zeros((4, 2), "float32")
    kf.signal(model, x, y)
    model.layers[0].kernel.assign(2 * model.layers[0].kernel)
    with heard_compilations() as compiled:
        kf.signal(model, x, y)
        assert not compiled


@needs("jax")
def test_nothing_is_compiled_to_measure_a_training_again():
    x, y = np.ones((4, 3), "float32"), np.ones((4, 2), "float32")
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, "tanh")])
    model.compile("adam", "mse")
    history = kf.SignalHistory(x, y)
    history.measure(model, 0)
    with heard_compilations() as compiled:
        history.measure(model, 1)
        assert not compiled
