"""The figures of the reports."""

import itertools
import json
import math
import sys

import keras
import numpy as np
import pytest

import keras_fanwise as kf
from keras_fanwise.reports.figures import Panel, stacked

from support.models import relu_network

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
layers = keras.layers


@pytest.fixture(autouse=True)
def closed():
    yield
    matplotlib.pyplot.close("all")


def deep(depth=4, name="fanwise_he_normal"):
    keras.utils.set_random_seed(0)
    return relu_network(name, depth, 32, [layers.Dense(3)])


def test_the_signal_is_drawn_against_depth():
    report = kf.signal(deep(12, kf.FanwiseVarianceScaling(0.2, "fan_in")))
    figure = report.plot()
    above, below = figure.axes
    assert [axis.get_yscale() for axis in figure.axes] == ["log", "log"]
    assert [axis.get_ylabel() for axis in figure.axes] == ["std", "gradient std"]
    points = [axis.get_lines()[0].get_ydata() for axis in figure.axes]
    assert list(points[0]) == [row.std for row in report.rows]
    assert list(points[1]) == [row.gradient_std for row in report.rows]
    names = [label.get_text() for label in below.get_xticklabels()]
    assert names == [f"body_{i}" for i in range(12)] + [report.rows[-1].path.split("/")[1]]
    for axis, trend in ((above, report.forward), (below, report.backward)):
        texts = {text.get_text(): text.xy[1] for text in axis.texts}
        assert texts == pytest.approx({"vanishing": trend.low, "exploding": trend.high})
        low, high = axis.get_ylim()
        assert low < trend.low == trend.level / 100
        assert trend.level < trend.high < high


@pytest.mark.parametrize("depth", [1, 5, 30, 200])
def test_names_are_readable(depth, tmp_path):
    """Drawn without a warning, labels upright, of the right points, none over another."""
    names = [f"net/block_{i}_depthwise_convolution" for i in range(depth)]
    values = [1.0 + i for i in range(depth)]
    figure = stacked(
        [Panel("std", names, {"": values}), Panel("more", names, {"": values})]
    )
    figure.savefig(tmp_path / "figure.png")
    shown = [label for label in figure.axes[-1].get_xticklabels() if label.get_text()]
    assert shown[0].get_text() == "block_0_depthwise_convolution"
    for label in shown:
        assert label.get_text() == names[round(label.get_position()[0])].split("/")[1]
    boxes = [label.get_window_extent() for label in shown]
    assert all(one.x1 <= two.x0 for one, two in itertools.pairwise(boxes))
    assert all(box.y0 >= 0 for box in boxes)
    heights = [axis.get_window_extent().height for axis in figure.axes]
    assert min(heights) > 1.2 * figure.dpi


def test_what_a_logarithm_does_not_hold(tmp_path):
    values = [1.0, 0.0, math.nan, math.inf, None, 2.0]
    figure = stacked([Panel("std", list("abcdef"), {"": values}, marked=[0, 1])])
    figure.savefig(tmp_path / "figure.png")
    line, marked, zero, not_finite = figure.axes[0].get_lines()
    assert np.isfinite(line.get_ydata()).tolist() == [True, *[False] * 4, True]
    assert list(marked.get_xdata()) == [0]
    assert list(zero.get_xdata()) == [1]
    assert list(not_finite.get_xdata()) == [2, 3]


def test_every_report_has_a_figure(tmp_path):
    model = deep()
    model.layers[1].kernel.assign(model.layers[1].kernel * 3)
    audit = kf.audit(model)
    assert audit.findings
    for name, report in (
        ("fans", kf.fans_table(model)),
        ("audit", audit),
        ("plan", kf.initialize(model, "he", 0, dry_run=True)),
        ("init", kf.initialize(model, "he", 0)),
    ):
        report.plot().savefig(tmp_path / f"{name}.png")
    [axis] = audit.plot().axes
    assert len(axis.get_lines()) == 4  # forward and backward, and the findings of each
    assert list(axis.get_lines()[1].get_xdata()) == [1]


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    report = kf.signal(deep())
    with pytest.raises(ImportError, match=r"keras_fanwise\[plot\]"):
        report.plot()


def test_the_report_in_json_has_every_number():
    report = kf.signal(deep(12, kf.FanwiseVarianceScaling(0.2, "fan_in")))
    content = json.loads(report.to_json())
    assert set(content) == {"rows", "findings", "forward", "backward"}
    assert len(content["rows"]) == len(report.rows)
    for row, found in zip(report.rows, content["rows"], strict=True):
        assert found.pop("verdicts") == [verdict.label for verdict in row.verdicts]
        assert found.pop("shape") == list(row.shape)
        assert found == {name: getattr(row, name) for name in found}
    assert content["forward"] == report.forward._asdict()
    assert [finding["verdict"] for finding in content["findings"]] == ["vanishing"] * 2
