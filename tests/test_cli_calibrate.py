"""The command that calibrates a saved model on a batch."""

import random

import keras
import numpy as np
import pytest

import keras_fanwise as kf
import keras_fanwise_command
from keras_fanwise.models.calibrate import BY
from keras_fanwise_command import main

from support.models import arrays, equal

layers = keras.layers
# Legacy .h5 files warn when they are saved.
pytestmark = pytest.mark.filterwarnings("ignore")


def network():
    body = [layers.Dense(64, "relu", name=f"dense_{i}") for i in range(3)]
    model = keras.Sequential([keras.Input((16,)), *body, layers.Dense(8, name="head")])
    model.compile("adam", keras.losses.MeanSquaredError(), run_eagerly=True)
    return model


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def batch(folder):
    random.seed(0)
    x = np.random.default_rng(0).normal(1.0, 3.0, (200, 16)).astype("float32")
    np.save("x.npy", x)
    return x


def run(capsys, *arguments):
    """The exit code, the output and the errors."""
    code = main(["calibrate", *map(str, arguments)])
    return code, *capsys.readouterr()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def stds(model, x):
    """Of what each layer gives before its activation: NumPy alone."""
    found = []
    for layer in model.layers:
        kernel, bias = map(keras.ops.convert_to_numpy, (layer.kernel, layer.bias))
        raw = x @ kernel + bias
        found.append(raw.std())
        x = np.maximum(raw, 0)
    return found


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_every_layer_of_the_new_file_gives_what_was_asked(folder, capsys, batch, suffix):
    model = network()
    model.fit(batch, np.zeros((200, 8)), verbose=0)
    steps = int(model.optimizer.iterations)
    model.save(f"model.{suffix}")
    old = (folder / f"model.{suffix}").read_bytes()
    assert not np.allclose(stds(model, batch), 2.0, rtol=0.1)
    arguments = (f"model.{suffix}", f"new.{suffix}", "--data", "x.npy", "--std", 2)
    code, output, errors = run(capsys, *arguments)
    assert (code, errors) == (0, "")
    assert output.startswith("4 scaled, 0 kept\n")
    new = keras.saving.load_model(f"new.{suffix}")
    np.testing.assert_allclose(stds(new, batch), 2.0, rtol=1e-4)
    assert int(new.optimizer.iterations) == steps > 0
    assert (folder / f"model.{suffix}").read_bytes() == old
    assert names(folder) == [f"model.{suffix}", f"new.{suffix}", "x.npy"]


def test_options_are_the_arguments_of_the_function(folder, capsys, batch):
    network().save("model.keras")
    np.savez("xy.npz", x=batch, y=np.zeros((200, 3)))  # y is not used
    for options, arguments in (
        ((), {}),
        (("--data", "x.npy"), {"x": batch}),
        (("--data", "xy.npz", "--by", "unit"), {"x": batch, "by": "unit"}),
        (("--only", "dense_*", "--only", "head/*"), {"only": ["dense_*", "head/*"]}),
        (("--only", "head/*", "--std", "0.5"), {"only": "head/*", "std": 0.5}),
    ):
        code, output, errors = run(
            capsys, "model.keras", "new.keras", "--json", "--overwrite", *options
        )
        assert (code, errors) == (0, "")
        model = keras.saving.load_model("model.keras")
        before = arrays(model)
        assert output == kf.calibrate(model, **arguments).to_json() + "\n"
        assert all(equal(arrays(model), arrays(keras.saving.load_model("new.keras"))))
        assert not all(equal(arrays(model), before))


def test_what_is_kept_is_told(folder, capsys):
    lstm = layers.LSTM(4, name="lstm")
    model = keras.Sequential([keras.Input((5, 3)), lstm, layers.Dense(2, name="head")])
    model.save("model.keras")
    code, output, errors = run(capsys, "model.keras", "new.keras", "--plot", "figure.svg")
    assert (code, errors) == (0, "")
    assert output.startswith("1 scaled, 2 kept\n")
    assert "of a recurrent cell: 2 kernels" in output


def test_a_figure_of_a_model_in_which_all_is_kept(folder, capsys):
    keras.Sequential([keras.Input((5, 3)), layers.LSTM(4)]).save("model.keras")
    code, output, errors = run(capsys, "model.keras", "new.keras", "--plot", "figure.svg")
    assert (code, errors) == (0, "")
    assert output.startswith("0 scaled, 2 kept\n")
    assert (folder / "figure.svg").read_bytes().startswith(b"<?xml")


BAD_ARGUMENTS = {
    "a deviation of 0": (("new.keras", "--std", "0"), "`std` must be"),
    "no number": (("new.keras", "--std", "nan"), "`std` must be"),
    "an infinite deviation": (("new.keras", "--std", "inf"), "`std` must be"),
    "no such kernel": (("new.keras", "--only", "nothing"), "nothing"),
    "another kind of file": (("new.txt",), "the output must be a .keras or .h5 file"),
    "data of another shape": (
        ("new.keras", "--data", "wide.npy"),
        "the model cannot be calibrated: ",
    ),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments(folder, capsys, case):
    arguments, message = BAD_ARGUMENTS[case]
    network().save("model.keras")
    np.save("wide.npy", np.ones((2, 17), "float32"))
    old, before = (folder / "model.keras").read_bytes(), names(folder)
    code, output, errors = run(capsys, "model.keras", *arguments, "--plot", "figure.svg")
    assert (code, output) == (2, "")
    assert message in errors
    assert "Exception encountered" not in errors
    assert errors.startswith("keras-fanwise: ")
    assert errors.count("\n") == 1
    assert (folder / "model.keras").read_bytes() == old
    assert names(folder) == before


def test_a_model_without_kernels(folder, capsys):
    keras.Sequential([keras.Input((4,)), layers.BatchNormalization()]).save("model.keras")
    code, output, errors = run(capsys, "model.keras", "new.keras")
    assert (code, output) == (2, "")
    assert "`model` must be one that has kernels" in errors
    assert names(folder) == ["model.keras"]


def test_the_help_lists_what_the_function_takes():
    assert keras_fanwise_command.BY == BY
