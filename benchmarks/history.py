"""How often `SignalHistory` calls a sound training wrong, and tells what is wrong.

    KERAS_BACKEND=torch python benchmarks/history.py

Twenty sound trainings and twenty with a fault, of 10 epochs on 1,500 of scikit-learn's
digits (the extra `examples`) in batches of 64. A sound one must have no finding at any
epoch. A fault is told if there is a finding of one of its kinds, at its layer if it has
one, no later than one epoch after the loss shows it: is above 1.5 times the median of the
sound trainings in that epoch. Then the processor time of the callback by that of the rest
of the epoch, from the second one on; and, on Linux, by how much the callback raises the
peak memory of a training in large batches, and by how much twice the batch does, each in a
process of its own. The exit code is 1 if a sound training has a finding, fewer than 19
faults are told, or the callback takes more than 10%, the median of the networks.

The limits were chosen with `--seed 0`; other seeds, such as the default, judge them. It
takes five minutes on one core.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# TensorFlow reads it when Keras imports TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

import keras_fanwise
from keras_fanwise import Fault, Learning, Verdict

from harness import console, print_machine, results_table

_SAMPLES, _BATCH, _EPOCHS = 1500, 64, 10
_MOST, _TOLD, _COST = 0, 19, 0.10
# Samples of a batch whose memory is more than what compiling takes.
_LARGE_BATCH = 4096
# A loss shows a fault if it is so many times that of sound trainings, in the median.
_SHOWS = 1.5

Maker = Callable[..., list[Any]]


def dense_net(activation: str = "relu", depth: int = 4, **more: Any) -> list[Any]:
    hidden = [
        layers.Dense(64, activation, name=f"hidden_{i}", **more) for i in range(depth)
    ]
    return [layers.Flatten(), *hidden]


def conv_net(normalized: bool, activation: str = "relu", depth: int = 3) -> list[Any]:
    steps: list[Any] = []
    for i in range(depth):
        conv = layers.Conv2D(16, 3, padding="same", name=f"conv_{i}")
        steps += [conv, *([layers.BatchNormalization()] if normalized else [])]
        steps.append(layers.Activation(activation, name=f"{activation}_{i}"))
    return [*steps, layers.GlobalAveragePooling2D() if normalized else layers.Flatten()]


def dropout_net() -> list[Any]:
    drops = [layers.Dropout(0.3), layers.Dropout(0.3)]
    first, *hidden = dense_net(depth=2)
    return [first, hidden[0], drops[0], hidden[1], drops[1]]


def recurrent_net(kind: Any = layers.LSTM, units: int = 32, **more: Any) -> list[Any]:
    return [layers.Reshape((8, 8)), kind(units, name="recurrent", **more)]


def residual_net(x: Any) -> Any:
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    for i in range(3):
        branch = layers.Conv2D(16, 3, padding="same", name=f"branch_{i}")(x)
        branch = layers.Activation("relu")(layers.BatchNormalization()(branch))
        x = layers.Add()([x, branch])
    return layers.GlobalAveragePooling2D()(x)


def transformer(x: Any, width: int = 32) -> Any:
    x = layers.Dense(width, name="embed")(layers.Reshape((8, 8))(x))
    for i in range(2):
        inside = layers.LayerNormalization()(x)
        x = layers.Add()(
            [x, layers.MultiHeadAttention(4, 8, name=f"attention_{i}")(inside, inside)]
        )
        inside = layers.LayerNormalization()(x)
        inside = layers.Dense(2 * width, "gelu", name=f"wide_{i}")(inside)
        x = layers.Add()([x, layers.Dense(width, name=f"narrow_{i}")(inside)])
    return layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))


def built(body: Any) -> keras.Model:
    """A classifier of digits from a list of layers, or from a function of the image."""
    image = x = keras.Input((8, 8, 1))
    if isinstance(body, list):
        for layer in body:
            x = layer(x)
    else:
        x = body(x)
    return keras.Model(image, layers.Dense(10, "softmax", name="head")(x))


BODIES: dict[str, Callable[[], Any]] = {
    "dense": dense_net,
    "dense, 8 deep": lambda: dense_net(depth=8, kernel_initializer="he_normal"),
    "dense, tanh": lambda: dense_net("tanh"),
    "dense, dropout": dropout_net,
    "convolutions": lambda: conv_net(False),
    "convolutions, normalized": lambda: conv_net(True),
    "residual": lambda: residual_net,
    "LSTM": recurrent_net,
    "GRU": lambda: recurrent_net(layers.GRU),
    "transformer": lambda: transformer,
}


def adam(rate: float = 1e-3, **more: Any) -> Any:
    return keras.optimizers.Adam(rate, **more)


def sgd(rate: float = 0.02, **more: Any) -> Any:
    return keras.optimizers.SGD(rate, momentum=0.9, **more)


SOUND = [(name, make) for name in BODIES for make in (adam, sgd)]


def with_fault(body: Any, change: Callable[[keras.Model], None]) -> keras.Model:
    model = built(body)
    change(model)
    return model


def dying(model: keras.Model) -> None:
    """A bias that only a large signal comes over."""
    model.get_layer("hidden_2").bias.assign(np.full(64, -3.0))


def scaled(name: str, factor: float) -> Callable[[keras.Model], None]:
    def change(model: keras.Model) -> None:
        for weight in model.get_layer(name).weights:
            if len(weight.shape) > 1:
                weight.assign(weight * factor)

    return change


def frozen(*names: str) -> Callable[[keras.Model], None]:
    def change(model: keras.Model) -> None:
        for name in names:
            model.get_layer(name).trainable = False

    return change


_TOO_FAST = (
    Learning.FAST,
    Verdict.NON_FINITE,
    Verdict.DEAD,
    Fault.SATURATION,
    Verdict.EXPLODING,
)


def unstable(factor: float) -> keras.Model:
    """A recurrent network whose state grows by this factor at each step."""
    body = recurrent_net(layers.SimpleRNN, activation="relu")  # and an orthogonal matrix
    return with_fault(body, scaled("recurrent", factor))


# By name: the model, the optimizer, what is put into the data, kinds that tell, the layer.
PLANTED: dict[str, tuple[Any, Any, bool, tuple[Any, ...], str]] = {
    **{
        f"{name}, {kind} × {factor}": (
            lambda name=name: built(BODIES[name]()),
            lambda make=make, base=base, factor=factor: make(base * factor),
            False,
            _TOO_FAST,
            "",
        )
        for name, kind, make, base, factor in (
            ("dense", "Adam", adam, 1e-3, 30),
            ("convolutions", "Adam", adam, 1e-3, 30),
            ("convolutions, normalized", "Adam", adam, 1e-3, 1000),
            ("LSTM", "SGD", sgd, 0.02, 1000),
            ("residual", "SGD", sgd, 0.02, 1000),
            ("dense, tanh", "Adam", adam, 1e-3, 1000),
            ("dense, 8 deep", "SGD", sgd, 0.02, 30),
            ("transformer", "Adam, no warm-up", adam, 1e-3, 100),
        )
    },
    **{
        f"dying ReLUs, {kind}": (
            lambda: with_fault(BODIES["dense"](), dying), make, False, (Verdict.DEAD,), "",
        )
        for kind, make in (("Adam", adam), ("SGD", sgd))
    },
    "exploding recurrence": (
        lambda: unstable(3.0),
        adam, False, (Verdict.EXPLODING, *_TOO_FAST), "recurrent",
    ),
    "exploding recurrence, SGD": (
        lambda: unstable(4.0),
        sgd, False, (Verdict.EXPLODING, *_TOO_FAST), "recurrent",
    ),
    "frozen, dense": (
        lambda: with_fault(BODIES["dense"](), frozen("hidden_0", "hidden_1")),
        adam, False, (Learning.FROZEN,), "hidden_0",
    ),
    "frozen, convolutions": (
        lambda: with_fault(conv_net(True), frozen("conv_1")),
        sgd, False, (Learning.FROZEN,), "conv_1",
    ),
    "rate 1e-8, Adam": (
        lambda: built(BODIES["dense"]()), lambda: adam(1e-8), False, (Learning.SLOW,), "",
    ),
    "rate 1e-8, SGD": (
        lambda: built(conv_net(False)), lambda: sgd(1e-8), False, (Learning.SLOW,), "",
    ),
    "NaN in a batch, dense": (
        lambda: built(BODIES["dense"]()), adam, True, (Verdict.NON_FINITE,), "",
    ),
    "NaN in a batch, LSTM": (
        lambda: built(BODIES["LSTM"]()), sgd, True, (Verdict.NON_FINITE,), "",
    ),
    "saturating tanh": (
        lambda: with_fault(BODIES["dense, tanh"](), scaled("hidden_1", 30.0)),
        adam, False, (Fault.SATURATION,), "hidden_1",
    ),
    "saturating tanh, SGD": (
        lambda: with_fault(BODIES["dense, tanh"](), scaled("hidden_2", 30.0)),
        sgd, False, (Fault.SATURATION,), "hidden_2",
    ),
}  # fmt: skip


class Watched(keras_fanwise.SignalHistory):
    """Also keeps what was found by when, and the processor time that it took."""

    def __init__(self, x: Any, y: Any) -> None:
        super().__init__(x, y)
        self.found: list[list[Any]] = []
        self.seconds: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        before = time.process_time()
        super().on_epoch_end(epoch, logs)
        self.seconds.append(time.process_time() - before)
        self.found.append(self.findings)


class Clock(keras.callbacks.Callback):
    """The processor time of each epoch, with all callbacks."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.times: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.times.append(time.process_time())

    def epochs(self) -> list[float]:
        return list(np.diff(self.times))


def data() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    return (x[:_SAMPLES].reshape(-1, 8, 8, 1) / 16).astype("float32"), y[:_SAMPLES]


def trained(
    make: Callable[[], keras.Model], optimizer: Any, seed: int, nan: bool = False
) -> tuple[list[float], Watched, Clock]:
    keras.utils.set_random_seed(seed)
    model = make()
    model.compile(optimizer(), "sparse_categorical_crossentropy")
    x, y = data()
    watched, clock = Watched(x[:_BATCH], y[:_BATCH]), Clock()
    if nan:
        x = x.copy()
        x[700, 3, 3] = np.nan
    fitted = model.fit(
        x, y, batch_size=_BATCH, epochs=_EPOCHS, callbacks=[watched, clock], verbose=0
    )
    return fitted.history["loss"], watched, clock


def peak(samples: int, is_watched: bool) -> int:
    """The peak memory in bytes of a process that trains in batches of so many samples."""
    model = built(BODIES["residual"]())
    model.compile(adam(), "sparse_categorical_crossentropy")
    x, y = (np.resize(one, (samples, *one.shape[1:])) for one in data())
    watched = keras_fanwise.SignalHistory(x[:_LARGE_BATCH], y[:_LARGE_BATCH])
    callbacks = [watched] if is_watched else []
    model.fit(x, y, batch_size=samples, epochs=3, callbacks=callbacks, verbose=0)
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def peak_of_process(samples: int, *more: str) -> int:
    command = [sys.executable, __file__, "--peak", str(samples), *more]
    # Memory that is free goes back at once, and its peaks do not hide each other.
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    found = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | environment
    )
    return int(found.stdout.split()[-1])


def told_at(watched: Watched, kinds: tuple[Any, ...], layer: str) -> int | None:
    """The first epoch, from 1 on, after which the fault is among the findings."""
    for epoch, found in enumerate(watched.found, 1):
        for one in found:
            if one.fault in kinds and (not layer or layer in one.path):
                return epoch
    return None


def shown_at(losses: list[float], sound: list[float]) -> int:
    """The first epoch whose loss shows a fault, or the last."""
    for epoch, (loss, usual) in enumerate(zip(losses, sound, strict=True), 1):
        if not loss < _SHOWS * usual:
            return epoch
    return len(losses)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="of the weights and batches")
    parser.add_argument("--peak", type=int, help="print the peak memory of such a batch")
    parser.add_argument(
        "--watched", action="store_true", help="likewise, with the callback"
    )
    arguments = parser.parse_args()
    seed = arguments.seed
    keras.utils.disable_interactive_logging()
    if arguments.peak:
        print(peak(arguments.peak, arguments.watched))
        return 0
    print_machine()
    table = results_table("sound", ("training", "findings"), ("loss", "cost"))
    alarms, costs, usual = 0, [], []
    for name, make in SOUND:
        losses, watched, clock = trained(lambda: built(BODIES[name]()), make, seed)  # noqa: B023
        found = {str(one) for all_found in watched.found for one in all_found}
        alarms += bool(found)
        pairs = list(zip(watched.seconds[1:], clock.epochs()[1:], strict=False))
        cost = float(np.median([spent / (whole - spent) for spent, whole in pairs]))
        costs.append(cost)
        usual.append(losses)
        label = f"{name}, {make.__name__}"
        losses_text = f"{losses[0]:.2f} to {losses[-1]:.2f}"
        table.add_row(label, "; ".join(found) or "none", losses_text, f"{cost:.1%}")
    console.print(table)
    table = results_table("faults", ("fault", "told as"), ("loss", "shows", "told"))
    told = 0
    for name, (make, optimizer, nan, kinds, layer) in PLANTED.items():
        losses, watched, _ = trained(make, optimizer, seed, nan)
        when = told_at(watched, kinds, layer)
        shows = shown_at(losses, list(np.median(usual, axis=0)))
        is_told = when is not None and when <= shows + 1
        told += is_told
        first = next(iter(watched.found[(when or _EPOCHS) - 1]), "nothing")
        losses_text = f"{losses[0]:.3g} to {losses[-1]:.3g}"
        table.add_row(name, str(first), losses_text, str(shows), str(when))
    console.print(table)
    cost = float(np.median(costs))
    console.print(f"{alarms} of {len(SOUND)} sound trainings with a finding")
    console.print(f"{told} of {len(PLANTED)} faults told in time")
    console.print(f"cost: {cost:.1%} of an epoch, at most {max(costs):.1%}")
    if Path("/proc/self/status").exists():
        table = results_table("peak memory", ("training",), ("MiB",))
        for label, samples, more in (
            (f"batches of {_LARGE_BATCH}", _LARGE_BATCH, ()),
            ("the same, watched", _LARGE_BATCH, ("--watched",)),
            (f"batches of {2 * _LARGE_BATCH}", 2 * _LARGE_BATCH, ()),
        ):
            table.add_row(label, f"{peak_of_process(samples, *more) / 2**20:,.0f}")
        console.print(table)
    return int(alarms > _MOST or told < _TOLD or cost > _COST)


if __name__ == "__main__":
    sys.exit(main())
