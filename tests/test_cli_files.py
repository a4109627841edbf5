"""The command line and its surroundings: files and output."""

import contextlib
import errno
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import h5py
import keras
import pytest

from keras_fanwise_command import main

layers = keras.layers
# Legacy .h5 files warn when they are saved, and Lambda layers as well.
pytestmark = pytest.mark.filterwarnings("ignore")


def network():
    body = [layers.Dense(3, name="one"), layers.Dense(2, name="two")]
    return keras.Sequential([keras.Input((4,)), *body], name="net")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    for suffix in ("keras", "h5"):
        network().save(folder / f"model.{suffix}")
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch, saved):
    monkeypatch.chdir(tmp_path)
    shutil.copy(saved / "model.keras", "model.keras")
    return tmp_path


def content(folder):
    """What is there: bytes of files, targets of links."""
    return {
        path.name: os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.iterdir()
        if path.is_symlink() or path.is_file()
    }


def refused(capsys, *arguments):
    """The one line in which bad input is refused."""
    before = content(Path.cwd())
    assert main([str(argument) for argument in arguments]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("keras-fanwise: ")
    assert errors.endswith("\n")
    assert errors[:-1].isprintable()
    assert content(Path.cwd()) == before
    assert not list(Path.cwd().glob(".keras-fanwise-*"))
    return errors


def broken(*_arguments, **_more):
    raise OSError(errno.ENOSPC, "No space left on device")


# Models

LONG = "n" * 300


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model", "must be a .keras or .h5 file: model"),
        (".keras", "must be a .keras or .h5 file: .keras"),
        ("層.keras", "no such file: 層.keras"),
        ("two\nlines.keras", r"no such file: two\nlines.keras"),
        ("red\x1b[31m.keras", r"no such file: red\x1b[31m.keras"),
        ("half\udcff.keras", r"no such file: half\udcff.keras"),
        ("null\0.keras", "null byte"),
        ("model.keras/model.keras", "Not a directory"),
        (f"{LONG}.keras", "File name too long"),
        ("here.keras", "not a file: here.keras"),
        ("loop.keras", "Too many levels of symbolic links"),
        ("nowhere.keras", "no such file: nowhere.keras"),
        ("zero.keras", "not a file: zero.keras"),
        ("pipe.keras", "not a file: pipe.keras"),
    ],
)
def test_names_that_are_no_model(folder, capsys, name, message):
    Path("here.keras").mkdir()
    Path("loop.keras").symlink_to("loop.keras")
    Path("nowhere.keras").symlink_to("missing")
    Path("zero.keras").symlink_to("/dev/zero")
    os.mkfifo("pipe.keras")
    for command in (["audit", name], ["init", name, "new.keras"]):
        errors = refused(capsys, *command)
        assert message in errors


@pytest.mark.parametrize("name", ["", "-model.keras"])
def test_names_that_are_no_argument(folder, capsys, name):
    with pytest.raises(SystemExit) as stopped:
        main(["audit", name])
    assert stopped.value.code == 2
    assert "keras-fanwise" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "-model.keras",
        "two\nlines.keras",
        "層 ×.keras",
        "Lambda.keras",
        "n" * 249 + ".keras",
    ],
)
def test_models_of_odd_names(folder, capsys, name):
    shutil.move("model.keras", name)
    assert main(["audit", "--", name]) == 0
    assert main(["init", "--seed", "0", "--", name, f"./{name[1:]}"]) == 0
    assert capsys.readouterr().err == ""
    assert sorted(content(folder)) == sorted([name, name[1:]])


def rewritten(old, new, edit):
    """A .keras file with other members."""
    with zipfile.ZipFile(old) as source, zipfile.ZipFile(new, "w") as target:
        for name in source.namelist():
            target.writestr(name, edit(name, source.read(name)))


def configured(old, new):
    def edit(name, data):
        return data.replace(old, new) if name == "config.json" else data

    return edit


def without_a_weight(name, data):
    if not name.endswith(".h5"):
        return data
    buffer = io.BytesIO(data)
    with h5py.File(buffer, "a") as file:
        del file["layers/dense/vars/1"]
    return buffer.getvalue()


CAUSES = {
    "an unknown class": (configured(b'"Dense"', b'"Denze"'), "Denze"),
    "a class of others": (configured(b'"keras.layers"', b'"others"'), "InputLayer"),
    "an unknown activation": (configured(b'"linear"', b'"linnear"'), "identifier: linnear"),
    # Keras tells of `units=-3`, and 3.8 of the shape that it gives.
    "a bad argument": (configured(b'"units": 3', b'"units": -3'), "-3"),
    "another argument": (configured(b'"units": 3', b'"units": 3, "odd": 1'), "'odd': 1"),
    "other shapes": (configured(b'"units": 3', b'"units": 5'), "expected axis -1"),
    "a missing weight": (without_a_weight, "Layer 'one' expected 2 variables, but received 1"),
    "no JSON": (configured(b"{", b"["), "delimiter"),
    "a control character": (configured(b'"linear"', rb'"\u001b[31m\n"'), r"\x1b[31m"),
}  # fmt: skip


@pytest.mark.parametrize("case", CAUSES)
def test_the_cause_is_told(folder, capsys, case):
    edit, cause = CAUSES[case]
    rewritten("model.keras", "bad.keras", edit)
    errors = refused(capsys, "fans", "bad.keras")
    assert errors.startswith("keras-fanwise: bad.keras cannot be loaded: ")
    assert cause in errors
    assert len(errors) < 500


def test_the_cause_is_told_of_h5(folder, saved, capsys):
    shutil.copy(saved / "model.h5", "bad.h5")
    with h5py.File("bad.h5", "a") as file:
        del file["model_weights/one"]
    assert "'one'" in refused(capsys, "fans", "bad.h5")
    with h5py.File("bad.h5", "a") as file:
        del file.attrs["model_config"]
    assert "No model config" in refused(capsys, "fans", "bad.h5")


def test_what_is_no_model_but_an_object_of_keras(folder, capsys):
    config = json.dumps(keras.saving.serialize_keras_object(layers.Flatten())).encode()
    rewritten(
        "model.keras",
        "bad.keras",
        lambda name, data: config if name == "config.json" else data,
    )
    assert "bad.keras" in refused(capsys, "init", "bad.keras", "new.keras")


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_layer_that_is_only_named_lambda(folder, capsys, suffix):
    named = layers.Dense(2, name="Lambda")
    keras.Sequential([keras.Input((4,)), named]).save(f"named.{suffix}")
    assert main(["audit", f"named.{suffix}"]) == 0


def test_a_lambda_layer_in_other_letters(folder, capsys):
    """JSON can write any letter by its number."""
    run_once = layers.Lambda(lambda x: (__import__("pathlib").Path("ran").touch(), x)[1])
    keras.Sequential([keras.Input((4,)), run_once, layers.Dense(2)]).save("model.h5")
    Path("ran").unlink()
    with h5py.File("model.h5", "a") as file:
        config = file.attrs["model_config"].replace('"Lambda"', r'"\u004cambda"')
        file.attrs["model_config"] = config
    assert "it holds a Lambda layer" in refused(capsys, "audit", "model.h5")


# Arguments


@pytest.mark.parametrize(
    "arguments",
    [("--seed", "-1"), ("--seed", str(10**30)), ("--recipe", ""), ("--recipe", "no\nname")],
)
def test_arguments_are_checked_before_the_model_is_loaded(
    folder, capsys, monkeypatch, arguments
):
    monkeypatch.setattr(keras.saving, "load_model", broken)
    errors = refused(capsys, "init", "model.keras", "new.keras", *arguments)
    assert "must be" in errors
    assert "No space" not in errors


def test_errors_of_argparse_show_arguments_as_they_are(folder, capsys):
    with pytest.raises(SystemExit):
        main(["audit", "model.keras", "\x1b[31m\n"])
    assert r"\x1b[31m\n" in capsys.readouterr().err


# Files that are written

# Where not even root can write; elsewhere there is no such folder.
CLOSED = "/proc/sys"


@pytest.mark.parametrize(
    "arguments",
    [
        ("init", "model.keras", f"{CLOSED}/new.keras"),
        ("init", "model.keras", "new.keras", "--plot", f"{CLOSED}/figure.png"),
        ("init", "model.keras", f"{CLOSED}/new.keras", "--plot", "figure.png"),
        ("audit", "model.keras", "--plot", f"{CLOSED}/figure.png"),
        ("audit", "model.keras", "--plot", f"{LONG}.png"),
        ("init", "model.keras", f"{LONG}.keras"),
        ("init", "model.keras", "loop.keras"),
        ("init", "model.keras", "new.keras", "--plot", "here.png", "--overwrite"),
        ("init", "model.keras", "new.keras", "--plot", "figures.png"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_model_is_loaded(
    folder, capsys, monkeypatch, arguments
):
    monkeypatch.setattr(keras.saving, "load_model", broken)
    Path("loop.keras").symlink_to("loop.keras")
    Path("here.png").mkdir()
    Path("figures.png").write_text("before")
    assert "No space" not in refused(capsys, *arguments)


@pytest.mark.parametrize("command", ["fans", "audit", "signal", "init"])
def test_figures_are_replaced_only_if_asked(folder, capsys, command):
    pytest.importorskip("matplotlib").use("Agg")
    Path("figure.png").write_text("before")
    more = ["new.keras"] if command == "init" else []
    arguments = [command, "model.keras", *more, "--plot", "figure.png"]
    assert "figure.png exists; --overwrite" in refused(capsys, *arguments)
    assert main([*arguments, "--overwrite"]) == 0
    assert Path("figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("place", ["savefig", "save"])
def test_model_and_figure_together_or_neither(folder, capsys, monkeypatch, place):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    Path("new.keras").write_text("before")
    if place == "savefig":
        monkeypatch.setattr(matplotlib.figure.Figure, "savefig", broken)
    else:
        monkeypatch.setattr(keras.Model, "save", broken)
    arguments = ("init", "model.keras", "new.keras", "--overwrite", "--plot", "figure.png")
    main(arguments)
    errors = capsys.readouterr().err
    assert "No space left on device" in errors
    assert errors.count("\n") == 1
    assert ".keras-fanwise-" not in errors
    assert sorted(content(folder)) == ["model.keras", "new.keras"]
    assert Path("new.keras").read_text() == "before"
    assert len(list(folder.iterdir())) == 2


def test_links_and_modes_stay(folder, capsys):
    Path("deep").mkdir()
    Path("deep/target.keras").write_text("before")
    Path("deep/target.keras").chmod(0o600)
    Path("link.keras").symlink_to("deep/target.keras")
    Path("new.keras").symlink_to("deep/made.keras")
    mask = os.umask(0o027)
    try:
        assert main(["init", "model.keras", "link.keras", "--overwrite"]) == 0
        assert main(["init", "model.keras", "new.keras"]) == 0
        assert main(["init", "model.keras", "plain.keras"]) == 0
    finally:
        os.umask(mask)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*.keras")}
    assert modes[folder / "deep/target.keras"] == 0o600
    assert modes[folder / "deep/made.keras"] == modes[folder / "plain.keras"] == 0o640
    for link, target in (("link", "target"), ("new", "made")):
        assert os.readlink(f"{link}.keras") == f"deep/{target}.keras"
        assert zipfile.is_zipfile(f"deep/{target}.keras")
    assert len(list(folder.rglob("*"))) == 7


# Output


@contextlib.contextmanager
def output_to(stream):
    """Writes the standard output to a stream, and closes that."""
    with stream, contextlib.redirect_stdout(stream):
        yield stream


@pytest.mark.parametrize(
    "command", [["audit", "model.keras"], ["init", "model.keras", "new.keras"]]
)
def test_a_device_that_is_full(folder, capsys, command):
    with output_to(open("/dev/full", "w")):
        assert main(command) == 2
    message = "the output cannot be written: No space left on device"
    assert capsys.readouterr().err == f"keras-fanwise: {message}\n"
    assert sorted(content(folder)) == ["model.keras"]


def test_a_pipe_that_is_closed(folder, capsys):
    """Who reads no more has seen enough: files are written, the exit code is the same."""
    layers_of_zeros = [layers.Dense(4, kernel_initializer="zeros") for _ in range(3)]
    keras.Sequential([keras.Input((4,)), *layers_of_zeros]).save("bad.keras")
    for code, command in (
        (1, ["audit", "bad.keras"]),
        (0, ["init", "model.keras", "new.keras"]),
    ):
        reader, writer = os.pipe()
        os.close(reader)
        with output_to(open(writer, "w")):
            assert main(command) == code
        assert capsys.readouterr().err == ""
    assert zipfile.is_zipfile("new.keras")


@pytest.mark.parametrize("command", ["fans", "audit", "signal", "init"])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_outputs_of_other_encodings(folder, command, encoding):
    kernel = layers.Dense(4, name="γ層")
    keras.Sequential([keras.Input((4,)), kernel]).save("model.keras")
    more = ["new.keras"] if command == "init" else []
    with output_to(io.TextIOWrapper(io.BytesIO(), encoding=encoding)) as output:
        assert main([command, "model.keras", *more, "--verbose"]) in (0, 1)
        assert output.errors == "strict"
        text = output.buffer.getvalue().decode(encoding)
    if encoding == "utf-8":
        assert "γ層" in text
        assert "4×4" in text or "16" in text or command == "signal"
    else:
        assert r"\u03b3\u5c64" in text
        assert ("4x4" in text) == (encoding == "ascii" and command != "signal")


def test_a_terminal(folder):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    with output_to(Terminal()) as output:
        assert main(["audit", "model.keras"]) == 0
        assert "0 errors, 0 warnings, 0 notes" in output.getvalue()


def test_warnings_are_lines(folder, capsys):
    """A weight that no `add_weight` made: `init` keeps it."""
    keras.Sequential([keras.Input((4,)), Stray(name="red\x1b[31m")]).save("model.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        assert main(["init", "model.keras", "new.keras"]) == 0
    output, errors = capsys.readouterr()
    assert errors.startswith("keras-fanwise: warning: kept, as its initializer is")
    assert errors.count("\n") == 1
    assert "\x1b" not in output + errors


@keras.saving.register_keras_serializable("test_cli_files")
class Stray(layers.Layer):
    """A layer with a weight of its own making."""

    def __init__(self, **options):
        super().__init__(**options)
        self.stray = keras.Variable([1.0] * 4, name="stray\x1b[31m")

    def call(self, inputs):
        return inputs * self.stray


# Processes of their own, to their end


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code", "errors"),
    [
        ("{fanwise} audit model.keras > /dev/full", 2, "No space left on device"),
        ("({fanwise} audit model.keras; echo $? >&2) | true", 0, "0"),
    ],
)
def test_processes(folder, command, code, errors):
    python = f"'{sys.executable}' -W ignore"
    line = command.format(fanwise=f"{python} -m keras_fanwise")
    result = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=300)
    ours = [
        line
        for line in result.stderr.splitlines()
        if line.startswith("keras-fanwise") or line == "0"
    ]
    assert result.returncode == code, result.stderr
    assert len(ours) == bool(errors), result.stderr
    assert errors in "".join(ours)
    for word in ("Traceback", "Exception ignored", "BrokenPipe"):
        assert word not in result.stderr
    assert [path.name for path in folder.iterdir()] == ["model.keras"]
