"""The door of the command `keras-fanwise`: what its arguments may be.

It stands beside the package and not inside, since importing the package imports Keras and a
backend, which takes seconds: `--help`, `--version` and wrong arguments need neither.
"""

import argparse
import contextlib
import importlib.metadata
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

COMMANDS = {
    "fans": "the fans of every weight, and Keras's",
    "audit": "whether the model meets the conditions of a good start",
    "signal": "whether a signal survives the depth of the model",
    "diagnose": "why the model does not learn, and what to change",
    "init": "write the model with new weights to a new file",
    "calibrate": "write the model with kernels scaled on a batch to a new file",
}
# Those of `keras_fanwise.recipes()`.
RECIPES = (
    "critical, dcgan, deepnorm, fixup, glorot, gpt2, he, kaiming, lecun, normal, siren, "
    "transformer, vit"
)
# As `keras_fanwise.calibrate` takes it.
BY = ("layer", "unit")
_BATCH = (
    "a batch to send, all of it: an array in a .npy file, or a .npz file with x or with "
    "the model's inputs by their names"
)
_DATA = {
    "signal": f"{_BATCH}; with y in it, what comes back is the gradient of the loss that "
    "the model is compiled with",
    "diagnose": f"{_BATCH}; with y in it, head, targets and loss are looked at too",
    "calibrate": f"{_BATCH}; y is not used; by default a random batch is drawn",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command, by default with this process's arguments; gives the exit code."""
    options = _parser().parse_args(arguments)
    with _quiet_errors():
        from keras_fanwise.cli import run
    return run(options)


@contextlib.contextmanager
def _quiet_errors() -> Iterator[None]:
    """Without what TensorFlow logs while it is imported, past Python, and later."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # As `keras_fanwise.arguments.printable`, which is not to be had without Keras.
        super().error("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="keras-fanwise",
        description="Initializers that count the fans of the weight they fill: what they "
        "would change in a saved model, whether it starts well, and a new start.",
        epilog="Exit codes: 0 clean, 1 findings, 2 bad input. Models are loaded in Keras's "
        "safe mode.",
    )
    version = importlib.metadata.version("keras_fanwise")
    parser.add_argument("--version", action="version", version=f"keras-fanwise {version}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        _add_arguments(command.add_argument, name)
    # Of commands that do not take them.
    parser.set_defaults(output=None, data=None, strict=False, recipe=None, seed=None)
    return parser


def _add_arguments(add: Callable[..., Any], name: str) -> None:
    add("model", type=_path, help="a .keras or .h5 file")
    add("--json", action="store_true", help="print JSON")
    add("--plot", type=_path, metavar="FILE", help="draw a figure")
    add("--overwrite", action="store_true", help="files that are written may exist")
    add("--verbose", action="store_true", help="show every weight or layer")
    add(
        "--import",
        action="append",
        default=[],
        metavar="MODULE",
        dest="modules",
        help="import a module first, such as that of the model's own layers; it is looked "
        "for in the working folder too",
    )
    if name in ("audit", "diagnose"):
        add(
            "--ignore",
            action="append",
            metavar="GLOB",
            help="accept the findings of these weights, such as 'head/*'",
        )
        add("--strict", action="store_true", help="exit code 1 for notes too")
    if name == "diagnose":
        add("--steps", type=int, default=0, help="train so many steps from each start")
    if name in ("init", "calibrate"):
        add("output", type=_path, help="the file to write")
    if name in _DATA:
        add("--data", type=_path, metavar="FILE", help=_DATA[name])
    if name == "init":
        add(
            "--recipe",
            help=f"one of {RECIPES}, or an initializer for all kernels, such as "
            "fanwise_he_uniform; by default every weight is drawn anew by the initializer "
            "that its layer was given",
        )
        add("--seed", type=int, help="an integer, 0 or more")
    if name == "calibrate":
        add(
            "--std",
            type=float,
            default=1.0,
            help="the standard deviation of what each layer gives; by default 1",
        )
        add(
            "--by",
            choices=BY,
            default=BY[0],
            help="one factor for a layer, or one for each of its units, which are centred "
            "too; by default for a layer",
        )
        add(
            "--only",
            action="append",
            metavar="GLOB",
            help="scale these kernels alone, such as 'head/*'",
        )


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("a name of a file is empty")
    return Path(text)


if __name__ == "__main__":
    raise SystemExit(main())
