"""What all reports have in common, on real models; test_golden.py has the whole texts."""

import io
import json
import pickle
import sys
import types
from fractions import Fraction

import keras
import numpy as np
import pytest
from rich.cells import cell_len

import keras_fanwise as kf

layers = keras.layers
KINDS = ("audit", "fans", "signal", "plan", "start", "calibration")


def network(blocks):
    body = [
        layer
        for i in range(blocks)
        for layer in (
            layers.DepthwiseConv2D(
                3, padding="same", name=f"a_block_with_a_long_name_{i}_that_no_column_holds"
            ),
            layers.Conv2D(8, 1, activation="relu", name=f"project_{i}"),
            layers.BatchNormalization(name=f"norm_{i}"),
        )
    ]
    return keras.Sequential([keras.Input((4, 4, 8)), *body], name="net")


def reports(model):
    return {
        "audit": kf.audit(model),
        "fans": kf.fans_table(model),
        "signal": kf.signal(model),
        "plan": kf.initialize(model, "he", seed=0, dry_run=True),
        "start": kf.initialize(model, [kf.Rule("fanwise_he_normal", weight="kernel")], 0),
        "calibration": kf.calibrate(model, dry_run=True),
    }


@pytest.fixture(scope="module")
def short():
    return reports(network(3))


@pytest.fixture(scope="module")
def long():
    return reports(network(11))


@pytest.mark.few(3)
@pytest.mark.parametrize("kind", KINDS)
def test_a_deep_model_fits_a_screen(long, kind):
    lines = str(long[kind]).splitlines()
    assert len(lines) <= 40
    assert max(map(cell_len, lines)) <= 80
    # The long form has every row, with its name in full.
    text = long[kind].text(verbose=True)
    assert all(row.path in text for row in long[kind])


def test_what_was_done_is_told_by_initializer_and_reason(short):
    text = " ".join(str(short["start"]).split())
    assert "set by FanwiseHeNormal(): 6 weights: 3 × DepthwiseConv2D kernel, " in text
    assert "kept: no rule for it: 18 weights: 3 × DepthwiseConv2D bias, " in text


def test_initializers_that_differ_in_a_seed_are_told_together():
    dense = [
        layers.Dense(2, kernel_initializer=keras.initializers.HeNormal(seed=i))
        for i in range(12)
    ]
    model = keras.Sequential([keras.Input((2,)), *dense])
    assert "12 × Dense kernel" in str(kf.reinitialize(model, 0))


def test_signals_of_deep_models_show_some_layers_and_every_verdict():
    model = network(11)
    model.get_layer("project_5").kernel.assign(model.get_layer("project_5").kernel * 0)
    report = kf.signal(model)
    lines = str(report).splitlines()
    assert len(lines) <= 45
    assert any("20 of 22 layers with kernels follow" in line for line in lines)
    dead = next(line for line in lines if line.endswith("  dead"))
    assert dead.startswith(("project_5", "net/project_5"))
    assert "project_10" in lines[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_reports_are_data(short, kind):
    report = short[kind]
    assert len(report) == len(report.rows)
    assert list(report) == report.rows
    content = report.to_dict()
    assert json.loads(report.to_json()) == content
    assert content["name"] == report.name == "net"
    assert [row["path"] for row in content["rows"]] == [row.path for row in report]
    again = pickle.loads(pickle.dumps(report))
    assert again.rows == report.rows
    assert str(again) == str(report)


@pytest.mark.parametrize("kind", KINDS)
def test_pandas(short, kind, monkeypatch):
    report = short[kind]
    frame = types.SimpleNamespace(DataFrame=lambda rows: rows)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pandas", frame)
        assert report.to_pandas() == [row._asdict() for row in report.rows]
        patch.setitem(sys.modules, "pandas", None)
        with pytest.raises(ImportError, match="pip install pandas"):
            report.to_pandas()
    pytest.importorskip("pandas")
    frame = report.to_pandas()
    assert len(frame) == len(report)
    assert list(frame["path"]) == [row.path for row in report]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_displayed_when_a_report_becomes_text(short, kind, monkeypatch):
    output = io.StringIO()
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("rich.jupyter.display", lambda *args: output.write(str(args)))
    monkeypatch.setattr(sys, "stdout", output)
    assert str(short[kind])
    assert short[kind]._repr_html_()
    assert output.getvalue() == ""


def test_models_without_rows():
    layer = layers.BatchNormalization()
    layer.build((None, 4))
    for report in (kf.audit(layer), kf.fans_table(layer), kf.signal(layer)):
        assert str(report).splitlines()
        assert "</div>" in report._repr_html_()


@pytest.mark.parametrize(
    ("fan", "number"),
    [
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (Fraction(3, 2), 1.5),
        (2**60, 2**60),
    ],
)
def test_json_of_fans_that_are_no_numbers_of_python(fan, number):
    class Numbered(layers.Dense):
        """With a rule of its own."""

    kf.register_fans(Numbered)(lambda layer, name, shape: kf.Fans(fan, fan))
    layer = Numbered(4, use_bias=False)
    layer.build((None, 3))
    fans = kf.layer_fans(layer, "kernel", (3, 4))
    assert fans == (number, number)
    assert all(type(one) is type(number) for one in fans)
    for report in (
        kf.fans_table(layer),
        kf.audit(layer),
        kf.signal(keras.Sequential([keras.Input((3,)), layer])),
        kf.initialize(layer, "he", seed=0),
    ):
        rows = json.loads(report.to_json())["rows"]
        if "fans" in rows[0]:
            assert rows[0]["fans"] == {"fan_in": number, "fan_out": number}


def test_json_of_numbers_of_numpy():
    """Rows are made by other people too."""
    row = kf.fans_table(network(1)).rows[0]
    row = row._replace(fan_in_ratio=np.float32("nan"), fan_avg_ratio=np.int64(3))
    [found] = json.loads(kf.FansTable([row]).to_json())["rows"]
    assert found["fan_in_ratio"] is None
    assert found["fan_avg_ratio"] == 3
