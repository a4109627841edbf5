"""Whether models that one Keras saves load in another.

    python tools/exchange.py .venv-3.15.1-torch/bin/python .venv-nightly-torch/bin/python

Takes two interpreters, with Keras and the package, and lets each write what the other then
reads, in both directions: whole models, their JSON, and configs of initializers. What is
read must have the initializers that were written, argument for argument, weights of the
same bits, nearly the same predictions, and `reinitialize` must draw what it drew before.

Each file is written a second time with Keras's own initializers in the place of ours. Where
that does not load either, Keras itself cannot, and the line says so. The exit code is 1 if
anything of ours does not load that Keras could.
"""

import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLAIN = {
    "fanwise_he_normal": "he_normal",
    "FanwiseHeUniform": "HeUniform",
    "fanwise_orthogonal": "orthogonal",
    "fanwise_glorot_uniform": "glorot_uniform",
    "fanwise_lecun_normal": "lecun_normal",
}
Name = Callable[[str], Any]


def convolutional(name: Name) -> Any:
    """Depthwise and separable convolutions, in a functional model."""
    import keras
    from keras import layers

    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, kernel_initializer=name("fanwise_he_normal"), name="stem")(x)
    x = layers.DepthwiseConv2D(3, depthwise_initializer=name("FanwiseHeUniform"))(x)
    x = layers.BatchNormalization()(x)
    x = layers.SeparableConv2D(
        5,
        3,
        depthwise_initializer=name("fanwise_he_normal"),
        pointwise_initializer=name("fanwise_lecun_normal"),
    )(x)
    x = layers.GlobalAveragePooling2D()(x)
    head = layers.Dense(2, kernel_initializer=name("fanwise_glorot_uniform"), name="head")
    return keras.Model(inputs, head(x))


def recurrent(name: Name) -> Any:
    """An embedding, gates, attention, in a Sequential with a model inside."""
    import keras
    from keras import layers

    glorot = name("fanwise_glorot_uniform")
    inside = keras.Sequential(
        [keras.Input((6,)), layers.Dense(3, kernel_initializer=glorot)]
    )
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Embedding(9, 4, embeddings_initializer=name("fanwise_lecun_normal")),
            layers.Bidirectional(
                layers.LSTM(3, recurrent_initializer=name("fanwise_orthogonal"))
            ),
            inside,
        ]
    )


MODELS = {"convolutional": convolutional, "recurrent": recurrent}


def ours(name: str) -> str:
    """The names of the package."""
    return name


def plain(name: str) -> str:
    """Keras's own in their place."""
    return PLAIN[name]


def write(folder: Path) -> None:
    """Writes every model and config, and what is to be found in them."""
    import keras
    import numpy as np

    import keras_fanwise

    keras.utils.set_random_seed(1)
    for key, make in MODELS.items():
        for kind, name in (("ours", ours), ("plain", plain)):
            model = make(name)
            model.save(folder / f"{key}.{kind}.keras")
            (folder / f"{key}.{kind}.json").write_text(model.to_json())
            np.savez(folder / f"{key}.{kind}.npz", *model.get_weights())
            if kind == "ours":
                found = initializers(model)
                output = keras.ops.convert_to_numpy(model(batch(model)))
                keras_fanwise.reinitialize(model, seed=3)
                np.savez(folder / f"{key}.again.npz", *model.get_weights())
                np.save(folder / f"{key}.output.npy", output)
                (folder / f"{key}.found.json").write_text(json.dumps(found))
    configs = [
        keras.initializers.serialize(getattr(keras_fanwise, name)(seed=5))
        for name in keras_fanwise.__all__
        if name.startswith("Fanwise") and name != "FanwiseInitializer"
    ]
    (folder / "configs.json").write_text(json.dumps(configs))


def read(folder: Path) -> None:
    """Reads what another Keras wrote; prints a line for each, and whether it holds."""
    import keras

    import keras_fanwise  # noqa: F401

    for key in MODELS:
        report(f"{key}.keras", functools.partial(check_file, folder, key))
        report(f"{key}.json", functools.partial(check_json, folder, key))

    def configs(kind: str) -> None:
        for config in json.loads((folder / "configs.json").read_text()):
            again = keras.initializers.serialize(keras.initializers.deserialize(config))
            same(again, config, "config")

    report("configs", configs)


def report(what: str, check: Callable[[str], None]) -> None:
    """Prints one line; of what does not load, also whether that of Keras does."""
    try:
        check("ours")
        print(f"held|{what}")
        return
    except Exception as error:
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    try:
        check("plain")
        print(f"FAILED|{what}: {told}")
    except Exception:
        print(f"Keras itself cannot|{what}: {told}")


def check_file(folder: Path, key: str, kind: str) -> None:
    """A whole model: its weights, its initializers, its predictions, its new start."""
    import keras
    import numpy as np

    import keras_fanwise

    model = keras.models.load_model(folder / f"{key}.{kind}.keras")
    check_weights(model, folder / f"{key}.{kind}.npz")
    if kind == "ours":
        same(
            initializers(model), json.loads((folder / f"{key}.found.json").read_text()), key
        )
        output = keras.ops.convert_to_numpy(model(batch(model)))
        if not np.allclose(output, np.load(folder / f"{key}.output.npy"), 1e-4, 1e-5):
            raise AssertionError("other predictions")
        keras_fanwise.reinitialize(model, seed=3)
        check_weights(model, folder / f"{key}.again.npz")


def check_json(folder: Path, key: str, kind: str) -> None:
    """The architecture alone, of a Keras whose layers may have other arguments."""
    import keras

    model = keras.models.model_from_json((folder / f"{key}.{kind}.json").read_text())
    if kind == "ours":
        same(
            initializers(model), json.loads((folder / f"{key}.found.json").read_text()), key
        )


def check_initializers(model: Any, file: Path) -> None:
    """Argument for argument."""
    same(initializers(model), json.loads(file.read_text()), "initializers")


def check_weights(model: Any, file: Path) -> None:
    """Bit by bit."""
    import numpy as np

    with np.load(file) as written:
        for here, name in zip(model.get_weights(), written.files, strict=True):
            if here.tobytes() != written[name].tobytes():
                raise AssertionError(f"other weights: {name} of {file.name}")


def initializers(model: Any) -> list[Any]:
    """What the initializers of every layer inside say of themselves."""
    import keras

    return [
        [layer.name, attribute, keras.initializers.serialize(value)]
        for layer in model._flatten_layers()
        for attribute, value in sorted(vars(layer).items())
        if type(value).__module__.startswith("keras_fanwise")
    ]


def same(here: Any, there: Any, what: str) -> None:
    """Raises if two values that can be written as JSON differ."""
    if json.loads(json.dumps(here)) != there:
        raise AssertionError(f"{what} differs: {here} and {there}")


def batch(model: Any) -> Any:
    """The same for every Keras; integers for an embedding."""
    import numpy as np

    shape = (2, *model.input_shape[1:])
    values = np.arange(np.prod(shape)).reshape(shape)
    return values % 7 if len(shape) == 2 else (values % 7).astype("float32") / 7


def main(arguments: list[str]) -> int:
    """One direction after the other; returns the exit code."""
    if len(arguments) == 2 and arguments[0] in ("write", "read"):
        {"write": write, "read": read}[arguments[0]](Path(arguments[1]))
        return 0
    if len(arguments) != 2:
        print(__doc__)
        return 2
    failed = False
    for writer, reader in (arguments, arguments[::-1]):
        with tempfile.TemporaryDirectory() as folder:
            versions = [
                run(each, "-c", "import keras; print('|' + keras.__version__)")[0][1]
                for each in (writer, reader)
            ]
            run(writer, __file__, "write", folder)
            for verdict, what in run(reader, __file__, "read", folder):
                print(f"{versions[0]} to {versions[1]}, {what}: {verdict}")
                failed |= verdict == "FAILED"
    return int(failed)


def run(python: str, *arguments: str) -> list[tuple[str, str]]:
    """The lines with a bar that a program prints, divided there."""
    ended = subprocess.run([python, *arguments], capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(ended.stderr[-4000:])
    lines = [line.partition("|") for line in ended.stdout.splitlines() if "|" in line]
    return [(before, after) for before, _, after in lines]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
