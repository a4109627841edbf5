"""Generated inputs of the command line, and what must hold for every one of them."""

import contextlib
import io
import json
import os
import tempfile
import traceback
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import keras
import numpy as np
from hypothesis import strategies as st

from keras_fanwise_command import main

layers = keras.layers
RAN = "ran"  # the file that a Lambda layer writes if it runs


class Case(NamedTuple):
    """A file for the command line, and its arguments.

    Attributes:
        kind: of the file, a key of `KINDS`.
        content: of the file; `None` if there is none.
        name: of the file, which the arguments name.
        arguments: of the command.
        files: that the arguments ask to be written.
        encoding: of the standard output.
    """

    kind: str
    content: bytes | None
    name: str
    arguments: list[str]
    files: list[str]
    encoding: str


class Outcome(NamedTuple):
    """What became of a case.

    Attributes:
        code: the exit code; `None` for a traceback.
        faults: what is wrong, in words; empty if all is well.
    """

    code: int | None
    faults: list[str]


@contextlib.contextmanager
def _inside(folder: str) -> Iterator[None]:
    """From Python 3.11 on `contextlib.chdir`."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


# Files


def _saved(model: keras.Model, suffix: str) -> bytes:
    path = Path(f"model{suffix}")
    model.save(path)
    return path.read_bytes()


def whole_files() -> dict[str, dict[str, bytes]]:
    """Files as Keras saves them, by suffix: good, of zeros, and with a Lambda layer."""
    with tempfile.TemporaryDirectory() as folder, _inside(folder):
        body = [layers.Dense(3, "relu", name="one"), layers.Dense(2, name="two[b]\x1b")]
        good = keras.Sequential([keras.Input((4,)), *body], name="net")
        good.compile("sgd", "mse")
        zeros = layers.Dense(70, kernel_initializer="zeros")
        dead = keras.Sequential([keras.Input((4,)), zeros, layers.Dense(2)])
        runs = layers.Lambda(lambda x: (__import__("pathlib").Path("ran").touch(), x)[1])
        hostile = keras.Sequential([keras.Input((4,)), runs, layers.Dense(2)])
        return {
            suffix: {
                "good": _saved(good, suffix),
                "zeros": _saved(dead, suffix),
                "hostile": _saved(hostile, suffix),
            }
            for suffix in (".keras", ".h5")
        }


def _zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def _members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {name: file.read(name) for name in file.namelist()}


def _flipped(content: bytes, places: list[int]) -> bytes:
    data = bytearray(content)
    for place in places:
        data[place // 8 % len(data)] ^= 1 << place % 8
    return bytes(data)


_SMALL = st.integers(-3, 9)  # or a layer might ask for all memory there is
_LEAVES = st.none() | st.booleans() | _SMALL | st.floats() | st.text(max_size=8)
_JSON = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
_CLASSES = [
    ("os", "system"),
    ("builtins", "eval"),
    ("keras.layers", "Denze"),
    ("keras.layers", "Dropout"),
    ("keras.models", "Model"),
    ("others", "Dense"),
    (None, "Mine\x1b[31m"),
]


def _places(content: Any, at: tuple = ()) -> list[tuple]:
    """The ways to all that stands in JSON."""
    found = [at] if at else []
    if isinstance(content, (dict, list)):
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in pairs:
            found += _places(value, (*at, key))
    return found


@st.composite
def _configuration(draw: Any, config: str) -> str:
    """A configuration of which something is replaced."""
    content = json.loads(config)
    if draw(st.booleans()):
        module, name = draw(st.sampled_from(_CLASSES))
        place = draw(
            st.sampled_from([p for p in _places(content) if p[-1] == "class_name"])
        )
        changes = {"class_name": name, "module": module}
    else:
        place = draw(st.sampled_from(_places(content)))
        changes = {place[-1]: draw(_JSON)}
    target = content
    for key in place[:-1]:
        target = target[key]
    for key, value in changes.items():
        target[key] = value
    return json.dumps(content)


@st.composite
def _content(draw: Any, kind: str, suffix: str, files: dict) -> bytes | None:
    good = files[suffix]["good"]
    if kind == "missing":
        return None
    if kind in files[suffix]:
        return files[suffix][kind]
    if kind == "empty":
        return b""
    if kind == "random bytes":
        return draw(st.sampled_from([b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"])) + draw(
            st.binary(max_size=99)
        )
    if kind == "truncated":
        return good[: draw(st.integers(1, len(good) - 1))]
    if kind == "flipped":
        places = st.lists(st.integers(0, 8 * len(good) - 1), min_size=1, max_size=5)
        return _flipped(good, draw(places))
    if kind == "another zip":
        names = st.sampled_from(
            ["config.json", "metadata.json", "model.weights.h5", "../a"]
        )
        return _zip(draw(st.dictionaries(names, st.binary(max_size=50), max_size=3)))
    if kind == "without a part":
        return draw(_without_a_part(suffix, good))
    return draw(_of_another_configuration(kind, suffix, good))


@st.composite
def _without_a_part(draw: Any, suffix: str, good: bytes) -> bytes:
    members = _members(good) if suffix == ".keras" else {"model.weights.h5": good}
    gone = draw(st.sampled_from([*members, "a weight"]))
    if gone in members and len(members) > 1:
        del members[gone]
        return _zip(members)
    buffer = io.BytesIO(members["model.weights.h5"])
    with h5py.File(buffer, "a") as file:
        if gone != "a weight":
            del file.attrs["model_config"]
        else:
            paths: list[str] = []
            file.visit(paths.append)
            path = draw(st.sampled_from(paths))
            del file[path]
            if draw(st.booleans()):
                file[path] = draw(st.sampled_from([np.zeros(3), np.zeros((4, 3), "S1"), 0]))
    members["model.weights.h5"] = buffer.getvalue()
    return _zip(members) if suffix == ".keras" else members["model.weights.h5"]


@st.composite
def _of_another_configuration(draw: Any, kind: str, suffix: str, good: bytes) -> bytes:
    def other(config: str) -> str:
        if kind == "another configuration":
            return draw(_configuration(config))
        return draw(_JSON.map(json.dumps) | st.text(max_size=20) | st.just("[" * 10**5))

    if suffix == ".keras":
        members = _members(good)
        config = other(members["config.json"].decode())
        members["config.json"] = config.encode("utf-8", "replace")
        return _zip(members)
    buffer = io.BytesIO(good)
    with h5py.File(buffer, "a") as file:
        config = other(file.attrs["model_config"]).encode("utf-8", "replace")
        # An attribute holds no more than 64 KiB.
        file.attrs["model_config"] = np.bytes_(config[:60_000])
    return buffer.getvalue()


KINDS = (
    "good",
    "zeros",
    "missing",
    "empty",
    "random bytes",
    "truncated",
    "flipped",
    "another zip",
    "without a part",
    "another configuration",
    "nonsense",
    "hostile",
    "folder",
    "pipe",
    "loop",
)

# Arguments

_COMMANDS = st.sampled_from(["fans", "audit", "signal", "init", "calibrate"])
_WRITING = ("init", "calibrate")
_NAMES = st.sampled_from(
    [
        "model",
        "two\nlines",
        "red\x1b[31m",
        "-model",
        "層 ×",
        "half\udcff",
        "n" * 249,
        "$a_1$",
    ]
)
_STEMS = _NAMES | st.text(st.characters(exclude_characters="/"), min_size=1, max_size=9)


_FILES = ["batch.npy", "batch.npy", "missing.npy", "there.keras", ""]
_VALUES = {
    "signal": {"data": _FILES},
    "init": {
        "seed": ["0", "7", "-1", str(10**30), "x", ""],
        "recipe": ["he", "zeros", "", "kamming", "\x1b[31m"],
    },
    "calibrate": {
        "data": _FILES,
        "std": ["0.5", "1e-30", "1e300", "0", "-1", "nan", "inf", "x", ""],
        "by": ["layer", "unit", "kernel", ""],
        "only": ["*", "one/*", "", "[", "\x1b[31m"],
    },
}


@st.composite
def cases(draw: Any, files: dict[str, dict[str, bytes]], kind: str) -> Case:
    """A `Case` of a kind, of the files that `whole_files` gives.

    The arguments of three in four are such that all hangs on the file.
    """
    plain = draw(st.integers(0, 3)) < 3
    suffix = draw(st.sampled_from([".keras", ".h5"]))
    name, arguments, written = draw(
        _plain_arguments(suffix) if plain else _odd_arguments(suffix)
    )
    encoding = draw(st.sampled_from(["utf-8", "ascii"]))
    special = kind in ("folder", "pipe", "loop")
    content = None if special else draw(_content(kind, suffix, files))
    return Case(kind, content, name, arguments, written, encoding)


@st.composite
def _plain_arguments(draw: Any, suffix: str) -> tuple[str, list[str], list[str]]:
    name = draw(_NAMES) + suffix
    command = draw(_COMMANDS)
    options = draw(st.lists(st.sampled_from(["--json", "--overwrite"]), unique=True))
    written = ["there.keras" if "--overwrite" in options else "new.h5"] * (
        command in _WRITING
    )
    places = ["--", name, *written]
    if draw(st.integers(0, 5)) == 5:
        written.append("figure.svg")
        options.append("--plot=figure.svg")
    return name, [command, *options, *places], written


@st.composite
def _odd_arguments(draw: Any, suffix: str) -> tuple[str, list[str], list[str]]:
    name = draw(_STEMS) + draw(st.sampled_from([suffix] * 9 + ["", ".txt"]))
    command = draw(_COMMANDS)
    options, written = [], []
    if draw(st.booleans()):
        options.append("--json")
    if draw(st.integers(0, 3)) == 0:
        figure = draw(_STEMS) + draw(st.sampled_from([".png", ".svg", ".gif"]))
        figure = draw(st.sampled_from([figure, figure, "missing/figure.png", "there.svg"]))
        options.append(f"--plot={figure}")
        written.append(figure)
    if draw(st.booleans()):
        options.append("--overwrite")
    places = [name]
    if command in _WRITING:
        new = draw(_STEMS) + draw(st.sampled_from([".keras", ".h5"]))
        new = draw(
            st.sampled_from([new, new, new, name, "there.keras", "new", "no/new.h5"])
        )
        places.append(new)
        written.append(new)
    for option, values in _VALUES.get(command, {}).items():
        if draw(st.booleans()):
            options.append(f"--{option}={draw(st.sampled_from(values))}")
    if draw(st.integers(0, 9)) == 0:
        options.append(draw(st.text(max_size=5)))
    dashes = draw(st.sampled_from([["--"], ["--"], []]))
    return name, [command, *options, *dashes, *places], written


# What must hold


def outcome(case: Case) -> Outcome:
    """Runs a case in a folder of its own, and looks at what came of it."""
    with tempfile.TemporaryDirectory() as folder, _inside(folder):
        _lay_out(case)
        before = _seen()
        output = io.TextIOWrapper(io.BytesIO(), encoding=case.encoding)
        errors = io.StringIO()
        by_argparse = False
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            try:
                code = main(case.arguments)
            except SystemExit as stopped:
                code, by_argparse = stopped.code, True
            except BaseException:
                return Outcome(None, [traceback.format_exc()])
        output.flush()
        text = output.buffer.getvalue().decode(case.encoding)
        faults = [
            *_faults_of_text(case, code, text, errors.getvalue(), by_argparse),
            *_faults_of_files(case, code, before, _seen()),
        ]
        if RAN in os.listdir():
            faults.append("the code in the file was run")
        return Outcome(code, faults)


def _lay_out(case: Case) -> None:
    Path("there.keras").write_text("before")
    Path("there.svg").write_text("before")
    np.save("batch.npy", np.eye(4, dtype="float32"))
    # The system may have no such name: then there is no file.
    with contextlib.suppress(OSError, ValueError):
        if case.kind == "folder":
            Path(case.name).mkdir()
        elif case.kind == "pipe":
            os.mkfifo(case.name)
        elif case.kind == "loop":
            Path(case.name).symlink_to(case.name)
        elif case.content is not None:
            Path(case.name).write_bytes(case.content)


def _seen() -> dict[str, bytes | None]:
    """All that is in the folder; files with what they hold."""
    return {
        str(path): path.read_bytes() if path.is_file() else None
        for path in sorted(Path().rglob("*"))
    }


def _faults_of_text(
    case: Case, code: Any, text: str, errors: str, by_argparse: bool
) -> list[str]:
    faults = []
    if code not in (0, 1, 2):
        faults.append(f"exit code {code!r}")
    if code == 2 and not by_argparse:
        if not (errors.startswith("keras-fanwise: ") and errors.count("\n") == 1):
            faults.append(f"not one line of errors: {errors!r}")
        if text:
            faults.append(f"output beside an error: {text[:99]!r}")
    if not (text + errors).replace("\n", "").isprintable():
        faults.append(f"control characters: {text + errors!r}")
    if code in (0, 1) and not by_argparse:
        if not text:
            faults.append("no output")
        elif "--json" in case.arguments:
            try:
                json.loads(text, parse_constant=lambda name: faults.append(name))
            except ValueError as error:
                faults.append(f"no JSON: {error}")
    return faults


def _faults_of_files(
    case: Case, code: Any, before: dict[str, Any], after: dict[str, Any]
) -> list[str]:
    asked = {os.path.normpath(name) for name in case.files} if code in (0, 1) else set()
    changed = {
        name
        for name in {**before, **after}
        if name not in before or name not in after or before[name] != after[name]
    }
    faults = [f"changed, and not asked for: {name!r}" for name in changed - asked]
    if "--overwrite" not in case.arguments:
        faults += [f"replaced unasked: {name!r}" for name in changed & set(before)]
    faults += [f"not written: {name!r}" for name in asked if name not in after]
    return faults
