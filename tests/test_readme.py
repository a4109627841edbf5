"""Every Python block of the README runs, and prints what the README says it prints."""

import importlib.util
import re
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(
    r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<output>.*?)```\n)?", re.S
)
BLOCKS = [(match["code"], match["output"]) for match in BLOCK.finditer(README)]


@pytest.mark.parametrize(("code", "output"), BLOCKS)
def test_block(code, output, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out == (output or "")


def test_there_are_blocks_and_they_print():
    assert len(BLOCKS) == README.count("```python\n")
    assert sum(output is not None for _, output in BLOCKS) >= 3


@pytest.mark.skipif(
    not hasattr(keras.initializers.VarianceScaling(), "input_axes"),
    reason="the table is of Keras 3.15, which counts an EinsumDense by its equation",
)
def test_the_table_of_fans_is_what_the_package_counts():
    spec = importlib.util.spec_from_file_location("fans", ROOT / "tools" / "readme_fans.py")
    readme_fans = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme_fans)
    table = README.split("<!-- fans -->\n")[1].split("<!-- /fans -->")[0]
    assert table.strip().splitlines() == readme_fans.lines()
