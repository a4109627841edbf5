"""The figures of the reports."""

import itertools
import json
import math
import random
import sys

import keras
import numpy as np
import pytest

import keras_fanwise as kf
from keras_fanwise.reports.tables import Mark, Panel

from support.models import relu_network

matplotlib = pytest.importorskip("matplotlib")
figure_module = pytest.importorskip("matplotlib.figure")
drawing = pytest.importorskip("keras_fanwise.reports.drawing")
layers = keras.layers


def deep(depth=4, name="fanwise_he_normal"):
    random.seed(0)
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
    assert above.get_title("left") == f"Signal in {report.name}"


def regions(axis):
    """The boxes that are filled, by the text in them."""
    boxes = [filled.get_paths()[0].get_extents() for filled in axis.collections]
    return dict(zip([text.get_text() for text in axis.texts], boxes, strict=True))


@pytest.mark.parametrize(
    ("scale", "label"), [(0.2, "vanishing"), (20.0, "exploding"), (2.0, None)]
)
def test_regions_agree_with_the_verdicts(scale, label):
    """Where the signal of the hidden layers ends, and none where there is no finding."""
    report = kf.signal(deep(12, kf.FanwiseVarianceScaling(scale, "fan_in", seed=0)))
    found = {finding.direction: finding.verdict.label for finding in report.findings}
    assert set(found.values()) == ({label} if label else set())
    for axis, direction in zip(report.plot().axes, ("forward", "backward"), strict=True):
        drawn = regions(axis)
        assert list(drawn) == ([found[direction]] if direction in found else [])
        for box in drawn.values():
            # From the first hidden layer to the last: not the one that is the model's.
            assert (box.x0, box.x1) == (-0.5, 11.5)
            end = report.rows[11 if direction == "forward" else 0]
            end = end.std if direction == "forward" else end.gradient_std
            assert box.y0 <= end <= box.y1
            # What the signal began with is outside.
            start = report.rows[0 if direction == "forward" else 11]
            start = start.std if direction == "forward" else start.gradient_std
            assert not box.y0 <= start <= box.y1


def test_a_healthy_model_has_no_point_in_a_region():
    report = kf.signal(deep(4))
    assert not report.findings
    assert [regions(axis) for axis in report.plot().axes] == [{}, {}]


@pytest.mark.few(2)
@pytest.mark.parametrize("depth", [1, 10, 50, 150, 1000])
def test_names_are_readable(depth, tmp_path):
    """Drawn without a warning, labels upright, of the right points, none over another."""
    names = [f"net/block_{i}_{'long_' * 20 * (i % 2)}conv" for i in range(depth)]
    values = [1.0 + i for i in range(depth)]
    figure = drawing.draw(
        [Panel("std", names, {"": values}), Panel("more", names, {"": values})]
    )
    figure.savefig(tmp_path / "figure.png")
    shown = [label for label in figure.axes[-1].get_xticklabels() if label.get_text()]
    assert shown[0].get_text() == "block_0_conv"
    assert len(shown) == depth or 30 <= len(shown) <= 80
    for label in shown:
        name = names[round(label.get_position()[0])].split("/")[1]
        start, dots, end = label.get_text().partition("…")
        assert name.startswith(start)
        assert name.endswith(end)
        assert len(label.get_text()) == (32 if dots else len(name))
    boxes = [label.get_window_extent() for label in shown]
    assert all(one.x1 <= two.x0 for one, two in itertools.pairwise(boxes))
    assert all(box.y0 >= 0 for box in boxes)
    heights = [axis.get_window_extent().height for axis in figure.axes]
    assert min(heights) > 1.2 * figure.dpi


def test_what_a_logarithm_does_not_hold(tmp_path):
    values = [1.0, 0.0, math.nan, math.inf, None, 2.0]
    marks = [Mark("one", [0], "s"), Mark("two", [1], "D", is_filled=False)]
    figure = drawing.draw([Panel("std", list("abcdef"), {"": values}, marks)])
    figure.savefig(tmp_path / "figure.png")
    line, one, two, zero, not_finite, *_ = figure.axes[0].get_lines()
    # What is marked has the shape of its finding, and no point below it.
    assert np.isfinite(line.get_ydata()).tolist() == [*[False] * 5, True]
    assert (one.get_marker(), two.get_marker()) == ("s", "D")
    assert list(one.get_ydata()) == [1.0]
    assert two.get_markerfacecolor() == "none"
    assert list(zero.get_xdata()) == [1]
    assert zero.get_marker() == "D"
    assert list(not_finite.get_xdata()) == [2, 3]
    assert not_finite.get_marker() == "x"


def plots():
    model = deep()
    model.layers[1].kernel.assign(model.layers[1].kernel * 30)
    reports = {
        "Audit of": kf.audit(model),
        "Fans of": kf.fans_table(model),
        "Signal in": kf.signal(model),
        "Start of": kf.initialize(model, "he", 0, dry_run=True),
    }
    return model.name, reports


def test_every_report_has_a_figure(tmp_path):
    from matplotlib import pyplot

    name, reports = plots()
    for title, report in reports.items():
        figure = report.plot()
        figure.savefig(tmp_path / "figure.png")
        assert isinstance(figure, figure_module.Figure)
        assert figure.axes[0].get_title("left") == f"{title} {name}"
        assert figure._repr_png_().startswith(b"\x89PNG")
    # pyplot, which would draw them once more, knows of none.
    assert pyplot.get_fignums() == []
    # Kernels alone where all are drawn by the same rule.
    fans = reports["Fans of"].plot().axes[0]
    assert all(len(line.get_xdata()) in (2, 5) for line in fans.get_lines())


def test_findings_have_shapes_and_directions_colours():
    audit = plots()[1]["Audit of"]
    assert audit.warnings
    [axis] = audit.plot().axes
    marked = [line for line in axis.get_lines() if list(line.get_xdata()) == [1]]
    assert {line.get_marker() for line in marked} == {"^"}
    forward, backward = (line.get_color() for line in marked)
    assert forward != backward
    legend = {
        text.get_text(): line
        for text, line in zip(
            axis.get_legend().get_texts(), axis.get_legend().get_lines(), strict=True
        )
    }
    assert legend["forward"].get_color() == forward
    assert legend["backward"].get_color() == backward
    assert legend["warning: scale"].get_marker() == "^"


def test_axes_are_given():
    figure = figure_module.Figure()
    one, two, three = figure.subplots(3)
    _, reports = plots()
    assert reports["Audit of"].plot(ax=one) is figure
    assert one.get_title("left").startswith("Audit of")
    assert one.get_lines()
    assert reports["Signal in"].plot(ax=(two, three)) is figure
    assert two.get_ylabel() == "std"
    assert three.get_ylabel() == "gradient std"
    assert len(figure.axes) == 3
    # Of a subfigure, the figure; and what NumPy holds.
    whole = figure_module.Figure()
    left, _ = whole.subfigures(1, 2)
    assert reports["Signal in"].plot(ax=left.subplots(2)) is whole
    figure.canvas.draw()
    whole.canvas.draw()


def test_bad_axes():
    one, two = figure_module.Figure().subplots(2)
    _, reports = plots()
    for bad in (1, "a", [one, 1], one.figure):
        with pytest.raises(
            TypeError, match=r"`ax` must be .*matplotlib Axes\. Received: ax="
        ):
            reports["Signal in"].plot(ax=bad)
    for title, bad in (("Signal in", one), ("Audit of", [one, two]), ("Audit of", [])):
        with pytest.raises(ValueError, match="`ax` must be"):
            reports[title].plot(ax=bad)


def test_heights_span_a_decade():
    figure = drawing.draw([Panel("std", ["a", "b"], {"": [1.0, 1.1]})])
    low, high = figure.axes[0].get_ylim()
    assert high / low >= 10
    assert low < 1.0 < 1.1 < high


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "keras_fanwise.reports.drawing", raising=False)
    report = kf.signal(deep())
    with pytest.raises(ImportError, match=r"keras_fanwise\[plot\]"):
        report.plot()


def test_the_report_in_json_has_every_number():
    report = kf.signal(deep(12, kf.FanwiseVarianceScaling(0.2, "fan_in")))
    content = json.loads(report.to_json())
    assert set(content) == {"name", "rows", "findings", "forward", "backward", "loss"}
    assert len(content["rows"]) == len(report.rows)
    for row, found in zip(report.rows, content["rows"], strict=True):
        assert found.pop("verdicts") == [verdict.label for verdict in row.verdicts]
        assert found.pop("shape") == list(row.shape)
        assert found == {name: getattr(row, name) for name in found}
    assert content["forward"] == report.forward._asdict()
    assert [finding["verdict"] for finding in content["findings"]] == ["vanishing"] * 2
