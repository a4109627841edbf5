"""Every Python block of the README runs, and prints what the README says it prints."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
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
