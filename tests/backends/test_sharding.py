"""Tensors spread over devices have the values of the whole, drawn shard by shard."""

import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_fanwise as kf

from support.processes import TESTS, run_python

layers = keras.layers


@pytest.mark.multi_backend("jax")
def test_on_eight_devices():
    """In one process, of which a traceback tells what failed."""
    run_python("from support.eight_devices import everything; everything()", backend="jax")


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has layouts")
def test_other_backends_have_no_layouts():
    with pytest.raises(ValueError, match=r"`layout` must be None on the .* backend"):
        kf.FanwiseHeNormal()((2, 2), layout=(None, "model"))


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


@pytest.mark.multi_backend("jax")
def test_two_processes_draw_their_own_shards(tmp_path):
    """The union is what one process draws."""
    program = TESTS / "support" / "two_processes.py"
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, program, str(port), str(number), tmp_path],
            stderr=subprocess.PIPE, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    try:
        errors = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, error in zip(processes, errors, strict=True):
        assert process.returncode == 0, error[-4000:]

    whole = keras.ops.convert_to_numpy(kf.FanwiseHeNormal(seed=7)((64, 48)))
    covered = np.zeros(whole.shape, int)
    for number in range(2):
        for index, values in np.load(tmp_path / f"{number}.npz").items():
            assert np.array_equal(values, whole[slices(index)])
            covered[slices(index)] += 1
    assert np.all(covered == 1)

    dense = [layers.Dense(n, name=name) for n, name in ((32, "body"), (8, "head"))]
    model = keras.Sequential([keras.Input((16,)), *dense])
    kf.initialize(model, [kf.Rule("fanwise_he_normal", weight="kernel")], seed=5)
    wholes = {
        weight.path: keras.ops.convert_to_numpy(weight.value) for weight in model.weights
    }
    for number in range(2):
        for name, values in np.load(tmp_path / f"model-{number}.npz").items():
            path, _, index = name.partition(" ")
            expected = wholes[f"{model.name}/{path.partition('/')[2]}"]
            assert np.array_equal(values, expected[slices(index)])


def slices(text):
    """A tuple of slices, from how it is printed."""
    return eval(text, {"slice": slice, "None": None})
