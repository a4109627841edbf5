"""The rooms of the package: who imports whom."""

import ast
import functools
import importlib
import re
from pathlib import Path

import pytest

import keras_fanwise
import keras_fanwise_command
from keras_fanwise.backends import private_keras

PACKAGE = Path(keras_fanwise.__file__).parent
# In the order of the data: a room imports only rooms that stand before it.
ROOMS = [
    "arguments",
    "fans",
    "sampling",
    "backends",
    "initializers",
    "seam",
    "graph",
    "reports",
    "diagnostics",
    "models",
    "cli",
]
FILES = sorted(PACKAGE.rglob("*.py"))
COMMAND = Path(keras_fanwise_command.__file__)


def room(module):
    """`keras_fanwise.fans.layers` stands in the room `fans`."""
    return module.split(".")[1] if "." in module else ""


def module_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imported(source):
    """The modules of the package that a source imports, wherever in it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


def upward(module, source):
    """The rooms that a module imports although they do not stand before its own."""
    mine = room(module)
    return [
        name
        for name in imported(source)
        if name.split(".")[0] == "keras_fanwise"
        and room(name) != mine
        and (room(name) not in ROOMS or ROOMS.index(room(name)) > ROOMS.index(mine))
    ]


def test_no_room_imports_one_that_stands_after_it():
    # The command, in the last one, uses the package as others do.
    inside = [path for path in FILES if room(module_of(path)) in ROOMS[:-1]]
    found = {path: upward(module_of(path), path.read_text()) for path in inside}
    assert not {path: names for path, names in found.items() if names}


def test_an_import_upward_is_seen():
    for line in (
        "from keras_fanwise.models.initialize import initialize",
        "def f():\n    import keras_fanwise.models.initialize",
        "from keras_fanwise import audit",
    ):
        assert upward("keras_fanwise.fans.layers", line)
    assert not upward("keras_fanwise.models.initialize", "import keras_fanwise.fans.layers")


def test_every_file_stands_in_a_room():
    doors = {"__init__", "__main__", "keras_fanwise"}
    assert {room(module_of(path)) or "keras_fanwise" for path in FILES} <= {*ROOMS, *doors}


# Whoever comes to them looks for what two places say twice, before raising them.
MOST_MODULES, MOST_LINES = 45, 16_120


def test_the_house_is_small_enough_to_know():
    """Modules beside the doors of the rooms, and lines of the package and its command."""
    lengths = [len(path.read_text().splitlines()) for path in [*FILES, COMMAND]]
    assert sum(length > 1 for length in lengths) <= MOST_MODULES
    assert sum(lengths) <= MOST_LINES


def graph():
    modules = {module_of(path): path.read_text() for path in [*FILES, COMMAND]}
    return {
        module: {
            known
            for name in imported(source)
            # A module itself, or what stands in one.
            if (known := name if name in modules else name.rpartition(".")[0]) in modules
            and known != module
        }
        for module, source in modules.items()
    }


def circle(edges):
    """A module that reaches itself, or `None`."""
    edges = {module: set(targets) for module, targets in edges.items()}
    while leaves := [module for module, targets in edges.items() if not targets]:
        for leaf in leaves:
            del edges[leaf]
        for targets in edges.values():
            targets.difference_update(leaves)
    return next(iter(edges), None)


def test_no_circle():
    assert circle(graph()) is None
    assert circle({"a": {"b"}, "b": {"a"}})


@pytest.mark.parametrize("name", [name for name in ROOMS if (PACKAGE / name).is_dir()])
def test_no_room_hides_one_of_its_modules(name):
    package = importlib.import_module(f"keras_fanwise.{name}")
    for path in (PACKAGE / name).glob("[a-z]*.py"):
        importlib.import_module(f"keras_fanwise.{name}.{path.stem}")
        assert getattr(package, path.stem).__name__ == f"keras_fanwise.{name}.{path.stem}"


def relied_on():
    """The rows of the table of what Keras does not promise: where it stands, and the test."""
    rows = re.findall(r"^\| .* \| (.*) \| `(test_\w+)` \|$", private_keras.__doc__, re.M)
    return [(where.strip("`"), test) for where, test in rows]


def test_whatever_keras_does_not_promise_has_a_test():
    defined = {
        name
        for path in Path(__file__).parent.rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    assert len(relied_on()) > 10
    for where, test in relied_on():
        assert where == "here" or (PACKAGE / where).is_file()
        assert test in defined


def private_imports(source):
    return [name for name in imported(source) if name.startswith("keras.src")]


def test_what_is_private_is_imported_in_one_module():
    users = [path.stem for path in FILES if private_imports(path.read_text())]
    assert users == ["private_keras"]
