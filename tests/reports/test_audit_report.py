"""What an audit shows: the verdict, then the findings by cause, then the kernels."""

import re
import types
from typing import NamedTuple

import keras
import pytest
from rich.cells import cell_len

import keras_fanwise as kf
from keras_fanwise.reports import tables
from keras_fanwise.reports.tables import Table, numbers, shorten, words

layers = keras.layers


def network(name="glorot_uniform", blocks=3, width=256):
    body = [
        layer
        for i in range(blocks)
        for layer in (
            layers.DepthwiseConv2D(
                3,
                padding="same",
                depthwise_initializer=name,
                name=f"a_block_with_a_long_name_{i}_that_no_column_of_a_terminal_holds",
            ),
            layers.Conv2D(
                width, 1, kernel_initializer="fanwise_he_normal", name=f"project_{i}"
            ),
        )
    ]
    return keras.Sequential([keras.Input((8, 8, width)), *body], name="net")


@pytest.fixture(scope="module")
def report():
    return kf.audit(network())


def test_lines_fit_and_numbers_are_whole(report):
    text = str(report)
    assert max(map(cell_len, text.splitlines())) <= 80
    for row in report.rows:
        if row.path.endswith("kernel"):
            cells = f"{row.std:.4g}", f"{row.forward:.3g}", f"{row.backward:.3g}"
            assert any(set(cells) <= set(line.split()) for line in text.splitlines())
    assert "net/a_b" in text
    assert "…" in text


def test_a_wider_terminal_is_used(report, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert max(map(cell_len, str(report).splitlines())) <= 80
    monkeypatch.setattr(tables.sys, "stdout", types.SimpleNamespace(isatty=lambda: True))
    assert 80 < max(map(cell_len, str(report).splitlines())) <= 200
    monkeypatch.setenv("COLUMNS", "40")
    assert max(map(cell_len, str(report).splitlines())) <= 80


class Row(NamedTuple):
    path: str
    std: float


def test_names_are_shortened_in_the_middle():
    columns = words("kernel", "path", shrinks=True), numbers("std", "std", ".4g")
    rows = [Row("network/層層層層層層層層層層/kernel", 1.25e-5), Row("short", 3.0)]
    lines = Table.of(columns, rows).text(30)
    assert [cell_len(line) for line in lines[:2]] in ([30, 30], [29, 29])
    assert lines[1].startswith("network/")
    assert lines[1].endswith("/kernel  1.25e-05")
    assert "…" in lines[1]
    assert lines[2].split() == ["short", "3"]
    # No number is cut, however narrow it gets.
    narrow = (Table.of(columns, rows).text(width) for width in range(5, 40))
    assert all("1.25e-05" in lines[1] for lines in narrow)


@pytest.mark.parametrize(
    "pattern",
    ["{}" + 40 * "a" + "/kernel", "encoder/" + 40 * "a" + "{}", 30 * "a" + "_{}_" + 30 * "b",
     40 * "a" + "{}" + 10 * "層" + "/kernel"],
)  # fmt: skip
def test_shortened_names_differ_where_names_do(pattern):
    names = [pattern.format(f"block_{n}") for n in range(12)] + ["short", "short"]
    texts = shorten(names, 24)
    assert len({*texts}) == 13
    assert max(map(cell_len, texts)) <= 24
    assert texts[-1] == "short"
    long = ["a" * 50 + "x" + "b" * 50, "y" + "a" * 50 + "x" + "b" * 49]
    assert len({*shorten(long, 20)}) == 2


def test_a_large_model_fits_a_screen():
    model = keras.applications.MobileNetV2(weights=None)
    report = kf.audit(model)
    lines = str(report).splitlines()
    assert len(lines) <= 40
    assert max(map(cell_len, lines)) <= 80
    assert report.errors == []
    assert len([f for f in report.notes if "depthwise" in f.path]) == 17
    # The first is so near a limit that the draw decides on which side it is.
    assert re.search("1[67] × DepthwiseConv2D kernel", str(report))


def test_errors_stand_before_notes():
    model = network(blocks=1)
    model.layers[-1].kernel.assign(model.layers[-1].kernel * 2)
    model.layers[-2].kernel.assign(model.layers[-2].kernel * 0)
    report = kf.audit(model)
    assert [f.severity for f in report.findings] == ["error", "note", "note"]
    assert report.errors + report.notes == report.findings
