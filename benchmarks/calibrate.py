"""What calibrating costs, in forward passes, next to a loop that runs anew for each layer.

    python benchmarks/calibrate.py                # some 5 minutes
    python benchmarks/calibrate.py --backends jax --only "plain 100"

Times of `keras_fanwise.calibrate`, of one forward pass of the same model on the same batch
(`model(x)`, eager, and `model.predict`, compiled) and of LSUV (Mishkin and Matas 2016) as
one would write it, on the CPU. Times are the shortest of several, once everything is warm;
the first call, with what the backend compiles in it, is that of a process of its own.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from harness import (
    BACKENDS,
    console,
    fastest_seconds,
    finished,
    fresh_process,
    installed_backends,
    print_machine,
    progress,
    results_table,
)

FORWARD, PREDICT, CALIBRATE, LSUV = "forward", "predict", "calibrate", "LSUV"
NETWORKS = ("MLP 10", "plain 100", "residual 100", "transformer 12")
# LSUV's limits of the variance, and of the times that a layer is scaled.
_TOLERANCE, _MOST = 0.1, 10
_REPEATS, _ROUNDS = 1, 3
# What the first call may take on JAX, which compiles each new shape, in seconds.
_AIM = 20.0


class Times(NamedTuple):
    """Seconds of each call, once it is warm, and of the first two of it in a process."""

    fastest: dict[str, float]
    first: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", nargs="*", choices=BACKENDS)
    parser.add_argument("--only", nargs="*", choices=NETWORKS, default=NETWORKS)
    arguments = parser.parse_args()
    print_machine()
    backends = [
        backend
        for backend in installed_backends()
        if backend in (arguments.backends or BACKENDS)
    ]
    table = results_table(
        "Calibrating a network: milliseconds, and how many forward passes that is",
        ("backend", "network"),
        ("eager", "predict", "ours", "passes", "LSUV", "passes", "LSUV / ours"),
    )
    firsts = results_table(
        "The first call in a process, seconds",
        ("backend", "network"),
        ("eager pass", "ours", "LSUV", "LSUV / ours"),
    )
    cases = [(backend, network) for backend in backends for network in arguments.only]
    with progress() as bar:
        for backend, network in bar.track(cases, description="networks"):
            fastest, first = measured(backend, network)
            passes = {name: fastest[name] / fastest[FORWARD] for name in fastest}
            table.add_row(
                backend,
                network,
                *(f"{1e3 * fastest[name]:.0f}" for name in (FORWARD, PREDICT, CALIBRATE)),
                f"{passes[CALIBRATE]:.1f}",
                f"{1e3 * fastest[LSUV]:.0f}",
                f"{passes[LSUV]:.0f}",
                f"{fastest[LSUV] / fastest[CALIBRATE]:.1f}",
            )
            firsts.add_row(
                backend,
                network,
                *(f"{first[name]:.1f}" for name in (FORWARD, CALIBRATE, LSUV)),
                f"{first[LSUV] / first[CALIBRATE]:.1f}",
            )
    console.print(table)
    console.print(firsts)
    console.print(f"Aim for the first call on JAX: below {_AIM:.0f} s.")


def measured(backend: str, network: str) -> Times:
    first = {}
    for name in (FORWARD, CALIBRATE, LSUV):
        with fresh_process(backend) as process:
            first[name] = process.submit(first_seconds, network, name).result()
    with fresh_process(backend) as process:
        return Times(process.submit(seconds, network).result(), first)


def first_seconds(network: str, name: str) -> float:
    call = calls_of(network)[name]
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def seconds(network: str) -> dict[str, float]:
    return fastest_seconds(calls_of(network), _REPEATS, _ROUNDS)


def calls_of(network: str) -> dict[str, Callable[[], Any]]:
    """All on one model; those that scale its weights begin with the same ones."""
    import keras
    import numpy as np

    import keras_fanwise

    keras.utils.set_random_seed(0)
    inputs, batch = _INPUTS[network]
    model = built(network, inputs)
    x = np.random.default_rng(0).standard_normal((batch, *inputs), "float32")
    tensor = keras.ops.convert_to_tensor(x)
    weights = model.get_weights()

    def afresh(scale: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> Any:
            model.set_weights(weights)
            return scale()

        return call

    return {
        FORWARD: lambda: finished(model(tensor)),
        PREDICT: lambda: model.predict(x, batch_size=batch, verbose=0),
        CALIBRATE: afresh(lambda: keras_fanwise.calibrate(model, tensor)),
        LSUV: afresh(lambda: lsuv(model, tensor)),
    }


def lsuv(model: Any, x: Any) -> None:
    """Layer by layer: the network up to it runs until what it gives has variance 1."""
    import keras

    for layer in model.layers:
        if not hasattr(layer, "kernel"):
            continue
        part = keras.Model(model.inputs, layer.output)
        for _ in range(_MOST):
            variance = float(keras.ops.var(part(x)))
            if abs(variance - 1) < _TOLERANCE:
                break
            layer.kernel.assign(layer.kernel / variance**0.5)


# Of a network: the shape of a sample, and the samples.
_INPUTS: dict[str, tuple[tuple[int, ...], int]] = {
    "MLP 10": ((512,), 512),
    "plain 100": ((8, 8, 16), 128),
    "residual 100": ((8, 8, 16), 128),
    "transformer 12": ((32, 128), 32),
}


def built(network: str, shape: tuple[int, ...]) -> Any:
    """With activations of their own, so that LSUV sees what a layer gives before them."""
    import keras
    from keras import layers

    x = inputs = keras.Input(shape)
    kind, depth = network.split()
    for _ in range(int(depth) // 2 if kind == "residual" else int(depth)):
        if kind == "MLP":
            x = layers.ReLU()(layers.Dense(shape[-1])(x))
        elif kind == "plain":
            x = layers.ReLU()(layers.Conv2D(shape[-1], 3, padding="same")(x))
        elif kind == "residual":
            branch = layers.ReLU()(layers.Conv2D(shape[-1], 3, padding="same")(x))
            branch = layers.Conv2D(shape[-1], 3, padding="same")(branch)
            x = layers.Add()([x, branch])
        else:
            x = transformer_block(x, shape[-1])
    if kind != "MLP":
        x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def transformer_block(x: Any, width: int) -> Any:
    from keras import layers

    normal = layers.LayerNormalization()(x)
    query, key, value = (layers.Dense(width)(normal) for _ in range(3))
    attention = layers.Attention()([query, value, key])
    x = layers.Add()([x, layers.Dense(width)(attention)])
    hidden = layers.Dense(4 * width)(layers.LayerNormalization()(x))
    hidden = layers.Activation("gelu")(hidden)
    return layers.Add()([x, layers.Dense(width)(hidden)])


if __name__ == "__main__":
    main()
