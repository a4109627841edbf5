"""The code of the README and of the site runs, and prints what stands there."""

import importlib.util
import re
from pathlib import Path

import keras
import pytest

import keras_fanwise

from support.processes import fewer_by_default

ROOT = Path(__file__).parents[1]


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pages = tool("pages")
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in pages.PAGES}
WITH_CODE = [name for name, text in TEXTS.items() if pages.blocks(text)]


@pytest.mark.parametrize("name", fewer_by_default(WITH_CODE, "README.md"))
# Files of a model with a Lambda layer, or of the older kind, warn when they are saved.
def test_the_blocks_of_a_page_print_what_stands_under_them(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block, printed in pages.run(ROOT / name):
        assert printed == block.output, f"{name}:{block.line}"


def test_another_output_is_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nx = 1\nprint(x)\n```\n\n```text\n2\n```\n\n"
        "```python\nprint(x)\n```\n\n"
        "```console\n$ echo $?\n0\n```\n"
    )
    first, second, session = pages.run(page)
    assert [first[1], first[0].output] == ["1\n", "2\n"]
    assert [second[1], second[0].output] == ["1\n", ""]
    assert session[1] == session[0].output == "$ echo $?\n0\n"
    with pytest.raises(ValueError, match="cannot run"):
        pages._console("$ rm -rf /\n")


# Those of MyST, which are no code; what `sh` shows runs in .ci/run, or takes long.
LANGUAGES = {"python", "text", "console", "sh"}


def unknown_fences(text):
    opened = re.findall(r"^```(.*)\n(?:.*\n)*?```$", text, re.M)
    return {kind for kind in opened if not kind.startswith("{")} - LANGUAGES


def test_all_code_is_of_a_kind_that_runs():
    for name, text in TEXTS.items():
        assert not unknown_fences(text), name
        known = sum(not block.is_console for block in pages.blocks(text))
        assert text.count("```python\n") == known, name
    assert unknown_fences("```py\nx\n```\n") == {"py"}


def missing(text):
    """The programs, and their options, that a text names and the repository lacks."""
    for program, rest in re.findall(r"python (\w+/\w+\.py)((?: --[\w-]+)?)", text):
        source = ROOT / program
        if not source.is_file() or f'"{rest.strip()}"' not in f'{source.read_text()}""':
            yield f"{program}{rest}"


def test_programs_that_a_page_names_are_there():
    assert [(name, program) for name in TEXTS for program in missing(TEXTS[name])] == []


def test_a_program_that_is_not_there_is_seen():
    assert list(missing("`python tools/nothing.py`")) == ["tools/nothing.py"]
    assert list(missing("python tools/pages.py --read")) == ["tools/pages.py --read"]


def test_the_reference_has_every_public_name():
    found = re.findall(r"^\.\. auto(?:class|function):: (\w+)$", TEXTS["docs/api.md"], re.M)
    assert sorted(found) == keras_fanwise.__all__


def initializers_of(library):
    """The names of all initializers of a library, as they are written there."""
    if library == "keras":
        public = {
            name: getattr(keras.initializers, name)
            for name in dir(keras.initializers)
            if not name.startswith("_")
        }
        # One class has several names: the one that is no alias.
        return {cls.__name__ for cls in public.values() if isinstance(cls, type)} - {
            "Initializer"
        }
    if library == "torch":
        public = dir(pytest.importorskip("torch.nn.init"))
        return {name for name in public if name[0] != "_" and name[-1] == "_"}
    public = dir(pytest.importorskip("jax.nn.initializers"))
    return {name for name in public if name[0].islower() and name != "initializers"}


@pytest.mark.parametrize("library", ["keras", "torch", "jax"])
def test_every_initializer_of_other_libraries_has_a_row(library):
    text = TEXTS["docs/coming_from.md"]
    names = initializers_of(library)
    assert len(names) > 10
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", text)] == []


def test_the_readme_is_of_a_screen_or_two():
    assert len(TEXTS["README.md"].splitlines()) <= 150


def test_recipes_and_verdicts_are_all_on_the_site():
    recipes = TEXTS["docs/whole_models.md"] + TEXTS["docs/calibration.md"]
    assert all(f'`"{name}"' in recipes for name in keras_fanwise.recipes())
    diagnosing = TEXTS["docs/diagnosing.md"]
    for verdict in keras_fanwise.Verdict:
        assert f"\n### {verdict.label.capitalize()}\n" in diagnosing
    for condition in keras_fanwise.Condition:
        assert f"\n| {condition.label} |" in diagnosing


@pytest.mark.skipif(
    not hasattr(keras.initializers.VarianceScaling(), "input_axes"),
    reason="the table is of Keras 3.15, which counts an EinsumDense by its equation",
)
def test_the_table_of_fans_is_what_the_package_counts():
    table = TEXTS["docs/why_fans.md"].split("<!-- fans -->\n")[1].split("<!-- /fans -->")[0]
    assert table.strip().splitlines() == tool("fans_of_layers").lines()
