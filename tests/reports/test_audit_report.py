"""What an audit shows: the verdict, then the findings by cause, then the kernels."""

import json
import types

import keras
import pytest
from rich.cells import cell_len

import keras_fanwise as kf
from keras_fanwise.reports import tables
from keras_fanwise.reports.tables import Table

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


def test_the_verdict_comes_first_and_one_cause_is_told_once(report):
    lines = str(report).splitlines()
    assert lines[0] == "The model will not start well: 3 errors, 0 notes."
    assert lines[2].startswith("error: scale: 3 × DepthwiseConv2D kernel, std × 0.08")
    assert str(report).count("counts all channels as inputs of each") == 1
    remedy = 'write depthwise_initializer="fanwise_glorot_uniform"'
    assert str(report).count(remedy) == 1
    assert "bias" not in str(report)


def test_lines_fit_and_numbers_are_whole(report):
    text = str(report)
    assert max(map(cell_len, text.splitlines())) <= 80
    for row in report.rows:
        if row.path.endswith("kernel"):
            cells = f"{row.std:.4g}", f"{row.forward:.3g}", f"{row.backward:.3g}"
            assert any(set(cells) <= set(line.split()) for line in text.splitlines())
    assert "net/a_b" in text
    assert "…" in text


def test_the_long_form_has_every_weight_and_finding(report):
    text = report.text(verbose=True)
    for row in report.rows:
        assert row.path in text
    assert text.count("error: scale") == len(report.findings) == 3


def test_a_wider_terminal_is_used(report, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert max(map(cell_len, str(report).splitlines())) <= 80
    monkeypatch.setattr(tables.sys, "stdout", types.SimpleNamespace(isatty=lambda: True))
    assert 80 < max(map(cell_len, str(report).splitlines())) <= 200
    monkeypatch.setenv("COLUMNS", "40")
    assert max(map(cell_len, str(report).splitlines())) <= 80


def test_names_are_shortened_in_the_middle():
    rows = [("network/層層層層層層層層層層/kernel", "1.25e-05"), ("short", "3")]
    lines = Table(("kernel", "std"), rows).lines(30)
    assert [cell_len(line) for line in lines[:2]] in ([30, 30], [29, 29])
    assert lines[1].startswith("network/")
    assert lines[1].endswith("/kernel  1.25e-05")
    assert "…" in lines[1]
    assert lines[2].split() == ["short", "3"]
    # No number is cut, however narrow it gets.
    assert all("1.25e-05" in Table(("a", "b"), rows[:1]).lines(n)[1] for n in range(5, 40))


def test_a_large_model_fits_a_screen():
    model = keras.applications.MobileNetV2(weights=None)
    report = kf.audit(model)
    lines = str(report).splitlines()
    assert len(lines) <= 40
    assert max(map(cell_len, lines)) <= 80
    assert report.errors == []
    assert len([f for f in report.notes if "depthwise" in f.path]) == 17
    assert "17 × DepthwiseConv2D kernel" in str(report)


def test_errors_stand_before_notes():
    model = network(blocks=1)
    model.layers[-1].kernel.assign(model.layers[-1].kernel * 2)
    model.layers[-2].kernel.assign(model.layers[-2].kernel * 0)
    report = kf.audit(model)
    assert [f.severity for f in report.findings] == ["error", "note", "note"]
    assert report.errors + report.notes == report.findings


def test_the_report_is_data_too(report):
    assert len(report) == len(report.rows) == len(list(report))
    assert list(report) == report.rows
    content = report.to_dict()
    assert json.loads(report.to_json()) == content
    assert set(content) == {"name", "rows", "findings", "ignored"}
    assert content["name"] == "net"
    assert [found["severity"] for found in content["findings"]] == ["error"] * 3
    assert content["findings"][0]["replacement"] == "fanwise_glorot_uniform"
