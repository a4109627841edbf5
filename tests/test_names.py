"""Public names: where they are found, and what is written into files and pickles."""

import ast
import configparser
import enum
import importlib.util
import pickle
import sys
from pathlib import Path

import keras
import pytest

import keras_fanwise as kf

from support.any_weight import ANY_WEIGHT
from support.processes import run_python

PACKAGE = Path(kf.__file__).parent
ROOT = Path(__file__).parents[1]
PUBLIC_CLASSES = [name for name in kf.__all__ if isinstance(getattr(kf, name), type)]


def test_the_list_of_names():
    assert kf.__all__ == sorted(set(kf.__all__))
    imported = {
        name
        for name in vars(kf)
        if not name.startswith("_")
        and getattr(vars(kf)[name], "__module__", "") == "keras_fanwise"
    }
    assert imported == set(kf.__all__)


@pytest.mark.parametrize("name", PUBLIC_CLASSES)
def test_wrong_arguments_name_the_class_that_was_called(name):
    cls = getattr(kf, name)
    if not issubclass(cls, enum.Enum):
        with pytest.raises(TypeError, match=rf"^{name}\.__(init|new)__\(\) got an unexpec"):
            cls(nonsense=1)


def test_completion_offers_the_public_names():
    assert dir(kf) == sorted([*kf.__all__, "__version__"])


def test_the_version_is_that_of_one_place():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    version = config["metadata"]["version"]
    assert version not in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{version}] - " in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.slow
def test_an_import_brings_nothing_that_keras_does_not():
    """Of what takes long to import: `benchmarks/seam.py` measures it."""
    program = (
        "import sys, keras; before = set(sys.modules); import keras_fanwise; "
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    brought = set(run_python(program).split())
    assert "keras_fanwise" in brought
    assert brought <= {"keras_fanwise", "rich", *sys.stdlib_module_names}


def test_no_module_has_a_public_name():
    """Or importing that module would put it into the place of the function."""

    def modules(names):
        return [name for name in names if importlib.util.find_spec(f"keras_fanwise.{name}")]

    assert modules(kf.__all__) == []
    assert modules(["fans"])


@pytest.mark.parametrize("room", [path.parent for path in PACKAGE.rglob("__init__.py")])
def test_no_room_has_a_function_named_like_its_modules(room):
    tree = ast.parse((room / "__init__.py").read_text())
    names = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert not names & {path.stem for path in room.iterdir()}


def test_every_name_says_that_it_is_of_the_package():
    for name in kf.__all__:
        assert getattr(kf, name).__module__ == "keras_fanwise", name
        assert getattr(kf, name).__doc__, name


def test_pickled_classes_name_the_package():
    for name in PUBLIC_CLASSES:
        pickled = pickle.dumps(getattr(kf, name), protocol=0)
        assert pickled.startswith(f"ckeras_fanwise\n{name}\n".encode())
        assert pickle.loads(pickled) is getattr(kf, name)


@pytest.mark.parametrize("cls", ANY_WEIGHT)
def test_saved_configs_name_the_package(cls):
    saved = keras.saving.serialize_keras_object(cls(seed=1))
    assert saved["module"] == "keras_fanwise"
    assert type(keras.saving.deserialize_keras_object(saved)) is cls


def a_model():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
    model.get_layer("head").kernel.assign(keras.ops.zeros((4, 3)))
    return model


@pytest.mark.parametrize(
    "report",
    [kf.audit, kf.fans_table, kf.signal, lambda model: kf.initialize(model, "he", seed=0)],
)
def test_reports_and_all_that_they_hold_are_public(report):
    made = report(a_model())
    row = made.rows[0]
    assert type(made).__name__ in kf.__all__
    assert type(row).__name__ in kf.__all__
    for finding in getattr(made, "findings", []):
        assert type(finding).__name__ in kf.__all__
        assert type(finding[0]).__name__ in ("str", "Verdict")
    again = pickle.loads(pickle.dumps(made))
    assert type(again) is type(made)
    assert vars(again) == vars(made)


@pytest.mark.parametrize("enumeration", [kf.Condition, kf.Verdict])
def test_enumerations_are_pickled_by_their_labels(enumeration):
    """Not by their remedies, whose words may change."""
    for member in enumeration:
        assert member.value == member.label
        assert enumeration(member.label) is member
        assert member.remedy.encode() not in pickle.dumps(member)
        assert pickle.loads(pickle.dumps(member)) is member
