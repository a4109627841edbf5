"""The command line: exit codes, JSON, and one line for whatever is wrong."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

import keras_fanwise as kf
import keras_fanwise_command
from keras_fanwise_command import main

from support.models import arrays, equal
from support.processes import fewer_by_default, run_python

layers = keras.layers
# Legacy .h5 files warn when they are saved, and Lambda layers as well.
pytestmark = pytest.mark.filterwarnings("ignore")
COMMANDS = list(keras_fanwise_command.COMMANDS)
# What each command takes beside the model.
OUTPUT = {"init": ["new.keras"], "calibrate": ["new.keras"]}


def network(initializer="fanwise_he_normal", channels=16, more=0):
    depthwise = [
        layers.DepthwiseConv2D(
            3, padding="same", depthwise_initializer=initializer, name=name
        )
        for name in ("depthwise", *(f"depthwise_{i}" for i in range(more)))
    ]
    flat = [layers.Flatten(), layers.Dense(3, kernel_initializer="fanwise_he_normal")]
    model = keras.Sequential([keras.Input((8, 8, channels)), *depthwise, *flat], name="net")
    model.compile("adam", keras.losses.MeanSquaredError())
    return model


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *arguments):
    """The exit code, the output and the errors."""
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_exit_codes(folder, capsys, suffix):
    network().save(f"good.{suffix}")
    network("he_normal", channels=256, more=4).save(f"bad.{suffix}")
    code, output, errors = run(capsys, "audit", f"good.{suffix}")
    assert (code, errors) == (0, "")
    assert output.startswith("The weights are well scaled: 0 errors, 0 warnings, 0 notes.")
    code, output, errors = run(capsys, "audit", f"bad.{suffix}")
    assert (code, errors) == (1, "")
    assert "error: scale: 5 × DepthwiseConv2D kernel, std × " in output
    assert 'Remedy: write depthwise_initializer="fanwise_he_normal"' in output
    network("he_normal").save(f"bad.{suffix}")
    code, output, errors = run(capsys, "fans", f"bad.{suffix}")
    assert (code, errors) == (0, "")
    assert "× 4" in output


def test_audit_of_notes_and_of_what_is_ignored(folder, capsys):
    network("he_normal").save("note.keras")
    network("he_normal", channels=256, more=2).save("warning.keras")
    network("he_normal", channels=256, more=4).save("error.keras")
    for name, options, code in (
        ("note", (), 0),
        ("note", ("--strict",), 1),
        ("note", ("--strict", "--ignore", "depthwise/*"), 0),
        ("error", (), 1),
        ("error", ("--ignore", "dense*"), 1),
        ("error", ("--ignore", "dense*", "--ignore", "depthwise*/*"), 0),
        ("warning", (), 1),
        ("warning", ("--ignore", "depthwise*/*"), 0),
        ("error", ("--ignore", "nothing"), 2),
    ):
        found, output, errors = run(capsys, "audit", f"{name}.keras", *options)
        assert found == code, (name, options)
        is_ignored = bool({"depthwise/*", "depthwise*/*"} & {*options})
        assert (" ignored" in output) == is_ignored
        assert errors.count("\n") == (code == 2)
    short = run(capsys, "audit", "error.keras")[1]
    long = run(capsys, "audit", "error.keras", "--verbose")[1]
    assert "depthwise/bias" in long
    assert "depthwise/bias" not in short


def test_signal(folder, capsys):
    network().save("good.keras")
    code, output, errors = run(capsys, "signal", "good.keras")
    assert (code, errors) == (0, "")
    assert output.startswith("The signal is healthy: 0 errors, 0 warnings, 0 notes.\n")
    deep = [layers.Dense(64, "relu", kernel_initializer="zeros") for _ in range(3)]
    keras.Sequential([keras.Input((64,)), *deep]).save("bad.keras")
    code, output, errors = run(capsys, "signal", "bad.keras")
    assert (code, errors) == (1, "")
    assert "dead forward: 100% of the units are 0 for the whole batch" in output


def test_signal_of_a_model_that_takes_what_cannot_be_drawn(folder, capsys):
    text = keras.Input((), dtype="string")
    model = keras.Model(text, layers.Dense(2)(layers.Embedding(9, 4)(Letters()(text))))
    model.save("model.keras")
    code, output, errors = run(capsys, "signal", "model.keras")
    assert (code, output) == (2, "")
    assert errors.startswith("keras-fanwise: no signal can be sent: ")
    assert errors.count("\n") == 1


@keras.saving.register_keras_serializable("test_cli")
class Letters(layers.Layer):
    """Turns text into indices, or would."""

    def compute_output_spec(self, text):
        return keras.KerasTensor((*text.shape, 3), "int32")

    def call(self, text):
        raise NotImplementedError


def test_every_report_has_a_long_form(folder, capsys):
    """With what the short one leaves out: biases, and layers without kernels."""
    network().save("model.keras")
    hidden = {"signal": "flatten", "calibrate": "DepthwiseConv2D", "diagnose": "as it is"}
    for command in COMMANDS:
        arguments = [command, "model.keras", *OUTPUT.get(command, [])]
        short = run(capsys, *arguments)[1]
        long = run(capsys, *arguments, "--overwrite", "--verbose")[1]
        layer = hidden.get(command, "depthwise/bias")
        assert layer not in short
        assert layer in long


@pytest.mark.few(3)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("suffix", fewer_by_default(["png", "svg", "pdf"], "png"))
def test_plot_writes_a_figure(folder, capsys, command, suffix):
    pytest.importorskip("matplotlib").use("Agg")
    network().save("model.keras")
    more = OUTPUT.get(command, [])
    seed = ["--seed", 1] if command == "init" else []
    arguments = (command, "model.keras", *more, *seed)
    _, plain, _ = run(capsys, *arguments)
    assert not (folder / f"figure.{suffix}").exists()
    plot = ("--plot", f"figure.{suffix}")
    code, output, errors = run(capsys, *arguments, *plot, *["--overwrite"] * len(more))
    assert (code, errors, output) == (0, "", plain)
    begin = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert (folder / f"figure.{suffix}").read_bytes().startswith(begin)
    assert len(list(folder.iterdir())) == 2 + len(more)


BAD_FIGURES = {
    "another kind of file": ("model.keras", "must be a .pdf, .png, .svg file"),
    "a missing folder": ("missing/figure.png", "no such folder: missing"),
}


@pytest.mark.parametrize("case", BAD_FIGURES)
def test_bad_figures(folder, capsys, case):
    pytest.importorskip("matplotlib")
    figure, message = BAD_FIGURES[case]
    network().save("model.keras")
    before = (folder / "model.keras").read_bytes()
    code, output, errors = run(capsys, "audit", "model.keras", "--plot", figure)
    assert (code, output) == (2, "")
    assert message in errors
    assert (folder / "model.keras").read_bytes() == before
    assert len(list(folder.iterdir())) == 1


def test_plot_without_matplotlib(folder, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    network().save("model.keras")
    code, output, errors = run(capsys, "audit", "model.keras", "--plot", "figure.png")
    assert (code, output) == (2, "")
    assert "keras_fanwise[plot]" in errors


def test_json_is_that_of_the_report(folder, capsys):
    network("he_normal").save("model.keras")
    model = keras.saving.load_model("model.keras")
    for command, function in (
        ("fans", kf.fans_table),
        ("audit", kf.audit),
        ("signal", kf.signal),
        ("diagnose", kf.diagnose),
    ):
        output = run(capsys, command, "model.keras", "--json")[1]
        assert output == function(model).to_json() + "\n"
    _, output, _ = run(capsys, "init", "model.keras", "new.keras", "--seed", 3, "--json")
    assert json.loads(output)["seed"] == 3
    arguments = ("calibrate", "model.keras", "new.keras", "--json", "--overwrite")
    assert run(capsys, *arguments)[1] == kf.calibrate(model).to_json() + "\n"


def test_json_of_what_is_no_number(folder, capsys):
    model = network()
    model.layers[0].kernel.assign(model.layers[0].kernel * np.inf)
    model.save("model.keras")
    code, output, _ = run(capsys, "audit", "model.keras", "--json")
    assert code == 1
    assert "NaN" not in output
    assert "Infinity" not in output
    assert json.loads(output)["rows"][0]["std"] is None


def damaged(folder):
    """Files that are no models, by the word that must stand in the message."""

    class Mine(layers.Dense):
        """Not to be found by its name."""

    network().save(folder / "good.keras")
    network().save(folder / "good.h5")
    for suffix in ("keras", "h5"):
        whole = (folder / f"good.{suffix}").read_bytes()
        (folder / f"truncated.{suffix}").write_bytes(whole[: len(whole) // 2])
        (folder / f"text.{suffix}").write_text("hello")
        keras.Sequential([keras.Input((4,)), Mine(2)]).save(folder / f"custom.{suffix}")
    (folder / "folder.keras").mkdir()
    (folder / "model.txt").write_text("hello")
    with zipfile.ZipFile(folder / "other.keras", "w") as other:
        other.writestr("hello.txt", "hello")
    keras.Sequential([keras.Input((4,)), layers.Flatten()]).save(folder / "empty.keras")
    return {
        "truncated.keras": "only a part of one", "truncated.h5": "truncated",
        "text.keras": "is not a .keras file", "text.h5": "signature",
        "custom.keras": "not known here, Mine; --import takes", "custom.h5": "--import",
        "folder.keras": "not a file", "missing.keras": "no such file",
        "model.txt": "must be a .keras or .h5 file", "other.keras": "config.json",
        "empty.keras": "no weights",
    }  # fmt: skip


def test_bad_files(folder, capsys):
    words = damaged(folder)
    before = sorted(folder.iterdir())
    for name, word in words.items():
        for command in COMMANDS:
            arguments = (command, name, *OUTPUT.get(command, []))
            code, output, errors = run(capsys, *arguments, "--plot", "figure.png")
            assert (code, output) == (2, ""), name
            assert errors.startswith("keras-fanwise: "), name
            assert errors.count("\n") == 1, name
            assert word in errors, name
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_lambda_layer_is_not_run(folder, capsys, suffix):
    run_once = layers.Lambda(lambda x: (__import__("pathlib").Path("ran").touch(), x)[1])
    keras.Sequential([keras.Input((4,)), run_once, layers.Dense(2)]).save(f"model.{suffix}")
    (folder / "ran").unlink()
    code, output, errors = run(capsys, "audit", f"model.{suffix}")
    assert (code, output) == (2, "")
    assert "it holds a Lambda layer, which could run any code" in errors
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_init_writes_a_new_file(folder, capsys, suffix):
    model = network()
    model.optimizer.build(model.trainable_variables)
    for variable in model.optimizer.variables:  # as if it had been trained
        variable.assign(variable + 1)
    model.save("model.keras")
    old = (folder / "model.keras").read_bytes()
    code, output, errors = run(capsys, "init", "model.keras", f"new.{suffix}", "--seed", 3)
    assert (code, errors) == (0, "")
    assert output.partition("\n")[0].endswith("set, 0 kept; seed 3")
    assert (folder / "model.keras").read_bytes() == old
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.keras",
        f"new.{suffix}",
    ]
    kf.reinitialize(model, seed=3)
    new = keras.saving.load_model(f"new.{suffix}")
    assert all(equal(arrays(model), arrays(new)))
    assert int(new.optimizer.iterations) == 0


def test_init_by_a_recipe(folder, capsys):
    model = network()
    model.save("model.keras")
    for recipe in ("kaiming", "fanwise_lecun_uniform"):
        arguments = ("init", "model.keras", "new.keras", "--recipe", recipe, "--seed", 3)
        assert run(capsys, *arguments, "--overwrite")[0] == 0
        kf.initialize(model, recipe, seed=3)
        assert all(equal(arrays(model), arrays(keras.saving.load_model("new.keras"))))


def test_init_replaces_only_if_told_to(folder, capsys):
    network().save("model.keras")
    old = (folder / "model.keras").read_bytes()
    code, output, errors = run(capsys, "init", "model.keras", "model.keras")
    assert (code, output) == (2, "")
    assert "--overwrite" in errors
    assert (folder / "model.keras").read_bytes() == old
    assert run(capsys, "init", "model.keras", "model.keras", "--overwrite")[0] == 0
    assert (folder / "model.keras").read_bytes() != old


@pytest.mark.parametrize("command", ["init", "calibrate"])
def test_no_command_leaves_half_of_a_file(folder, capsys, monkeypatch, command):
    network().save("model.keras")
    (folder / "new.keras").write_text("before")

    def broken(self, path, *_args, **_kwargs):
        path.write_text("half")
        raise OSError("the disk is full")

    monkeypatch.setattr(keras.Model, "save", broken)
    arguments = (command, "model.keras", "new.keras", "--overwrite")
    code, output, errors = run(capsys, *arguments)
    assert (code, output) == (2, "")
    assert errors == "keras-fanwise: new.keras cannot be written: the disk is full\n"
    assert (folder / "new.keras").read_text() == "before"
    assert {path.name for path in folder.iterdir()} == {"model.keras", "new.keras"}


BAD_ARGUMENTS = {
    "a seed below 0": ("new.keras", "--seed", "-1"),
    "an unknown recipe": ("new.keras", "--recipe", "kamming"),
    "another kind of file": ("new.txt",),
    "a missing folder": ("missing/new.keras",),
}


@pytest.mark.parametrize("arguments", BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments_of_init(folder, capsys, arguments):
    network().save("model.keras")
    code, output, errors = run(capsys, "init", "model.keras", *arguments)
    assert (code, output) == (2, "")
    assert errors.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == ["model.keras"]


@pytest.mark.slow
def test_both_commands_of_a_shell(folder):
    network("he_normal", channels=256, more=5).save("model.keras")
    result = subprocess.run(
        [sys.executable, "-m", "keras_fanwise", "audit", "model.keras"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1, result.stderr
    assert "error: scale: 6 × DepthwiseConv2D kernel" in result.stdout
    [script] = importlib.metadata.entry_points(name="keras-fanwise")
    assert script.load() is main
    with pytest.raises(SystemExit) as stopped:
        main(["paint", "model.keras"])
    assert stopped.value.code == 2


LIGHT = """
import sys
import keras_fanwise_command
try:
    keras_fanwise_command.main(sys.argv[1:])
except SystemExit as stopped:
    assert stopped.code == int(sys.argv[1] == "paint"), stopped.code
print("heavy:", sorted({"keras", "numpy", "rich", "keras_fanwise"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--version"], f"keras-fanwise {kf.__version__}"),
        (["--help"], "COMMAND"),
        (["init", "--help"], "fixup, glorot, gpt2, he, kaiming, lecun, normal"),
        (["signal", "--help"], "--data FILE"),
        (["calibrate", "--help"], "{layer,unit}"),
    ],
    ids=" ".join,
)
def test_help_and_version_need_no_backend(arguments, text):
    """What takes the time: no clock is needed to see that it is not imported."""
    output = run_python(LIGHT, *arguments)
    assert text in re.sub(r"\s+", " ", output)
    assert output.endswith("heavy: []\n")


@pytest.mark.slow
def test_that_something_heavy_is_seen():
    assert "heavy: ['keras" in run_python("import keras_fanwise\n" + LIGHT, "--version")


def test_the_help_lists_the_recipes():
    assert keras_fanwise_command.RECIPES.split(", ") == sorted(kf.recipes())


def test_signal_of_data(folder, capsys):
    network().save("model.keras")
    model = keras.saving.load_model("model.keras")
    x = np.random.default_rng(0).normal(2.0, 3.0, (5, 8, 8, 16)).astype("float32")
    y = np.ones((5, 3), "float32")
    np.save("x.npy", x)
    np.savez("x.npz", x=x)
    np.savez("xy.npz", x=x, y=y)
    np.savez("named.npz", **{model.inputs[0].name: x})
    for name, targets in (("x.npy", None), ("x.npz", None), ("named.npz", None),
                          ("xy.npz", y)):  # fmt: skip
        code, output, errors = run(
            capsys, "signal", "model.keras", "--json", "--data", name
        )
        assert errors == ""
        assert code == 0
        assert output == kf.signal(model, x, targets).to_json() + "\n"


def test_signal_of_data_for_several_inputs(folder, capsys):
    inputs = [keras.Input((4,), name="one"), keras.Input((3,), name="two")]
    dense = layers.Dense(2)(layers.Concatenate()(inputs))
    keras.Model(inputs, dense).save("model.keras")
    model = keras.saving.load_model("model.keras")
    generator = np.random.default_rng(0)
    one, two = (generator.normal(size=(6, n)).astype("float32") for n in (4, 3))
    np.savez("data.npz", two=two, one=one)
    code, output, _ = run(capsys, "signal", "model.keras", "--json", "--data", "data.npz")
    assert code == 0
    assert output == kf.signal(model, [one, two]).to_json() + "\n"


BAD_DATA = {
    "missing.npy": "no such file",
    "model.keras": "must be a .npy or .npz file",
    "text.npy": "cannot be read",
    "objects.npy": "cannot be read",
    "words.npy": "must hold numbers",
    "empty.npy": "empty array",
    "names.npz": "must hold x",
    "shape.npy": "`x` must be a batch of shape (None, 8, 8, 16). Received: x=ndarray(2, 5)",
    "wrong_y.npz": "no signal can be sent",
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data(folder, capsys, name):
    network().save("model.keras")
    x = np.ones((2, 8, 8, 16), "float32")
    (folder / "text.npy").write_text("hello")
    np.save("objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    np.save("words.npy", np.array(["a"]))
    np.save("empty.npy", x[:0])
    np.savez("names.npz", images=x)
    np.save("shape.npy", np.ones((2, 5), "float32"))
    np.savez("wrong_y.npz", x=x, y=np.zeros((2, 7, 5, 3), "float32"))
    before = sorted(folder.iterdir())
    code, output, errors = run(capsys, "signal", "model.keras", "--data", name)
    assert (code, output) == (2, "")
    assert BAD_DATA[name] in errors
    assert "Exception encountered" not in errors  # which says nothing yet
    assert errors.count("\n") == 1
    assert sorted(folder.iterdir()) == before


def test_a_message_that_keras_prints_bold(folder, capsys):
    one, other = keras.Input((None, 3), name="one"), keras.Input((None, 3), name="other")
    keras.Model([one, other], layers.Dense(3)(one + other)).save("model.keras")
    np.savez("data.npz", one=np.ones((2, 4, 3)), other=np.ones((2, 5, 3)))
    code, _, errors = run(capsys, "signal", "model.keras", "--data", "data.npz")
    assert (code, errors.count("\n")) == (2, 1)
    assert errors.startswith("keras-fanwise: no signal can be sent: ")
    assert "\x1b" not in errors
    assert "Exception encountered" not in errors
    assert "[1m" not in errors


def test_data_with_y_for_a_model_without_a_loss(folder, capsys):
    keras.Sequential([keras.Input((4,)), layers.Dense(3)]).save("model.keras")
    np.savez("data.npz", x=np.ones((2, 4)), y=np.zeros((2, 3)))
    code, output, errors = run(capsys, "signal", "model.keras", "--data", "data.npz")
    assert (code, output) == (2, "")
    assert "must be compiled with a loss" in errors


MODULE = """
import keras

@keras.saving.register_keras_serializable("mine")
class Mine(keras.layers.Dense):
    pass
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_layers_of_an_imported_module(folder, capsys, command, monkeypatch):
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    name = f"my_layers_{command}"
    (folder / f"{name}.py").write_text(MODULE.replace("mine", name))
    scope = {}
    exec(MODULE.replace("mine", name), scope)
    layer = scope["Mine"](3, kernel_initializer="fanwise_he_normal")
    keras.Sequential([keras.Input((4,)), layer]).save("model.keras")
    keras.saving.get_custom_objects().pop(f"{name}>Mine")
    arguments = [command, "model.keras", *OUTPUT.get(command, [])]
    assert run(capsys, *arguments)[0] == 2
    arguments += ["--import", name, "--verbose"]
    code, output, errors = run(capsys, *arguments)
    assert (code, errors) == (0, "")
    assert "Mine" in output or command == "diagnose"
    code, _, errors = run(capsys, *arguments, "--import", "no_such_one")
    assert code == 2
    assert "no_such_one cannot be imported: " in errors


@pytest.mark.multi_backend
def test_the_log_of_the_backend_is_no_output(folder):
    """TensorFlow logs past Python while it is imported."""
    network().save("model.keras")
    command = [sys.executable, "-m", "keras_fanwise_command", "signal", "model.keras"]
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    environment["KERAS_BACKEND"] = "tensorflow"
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (result.returncode, result.stderr) == (0, "")
    shown = str(kf.signal(keras.saving.load_model("model.keras")))
    # The numbers are those of another backend.
    assert [line.split()[:1] for line in result.stdout.splitlines()] == [
        line.split()[:1] for line in shown.splitlines()
    ]
