"""What all reports have in common."""

import html
import html.parser
import io
import json
import pickle
import re
import sys
import types

import keras
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


VERDICTS = {
    "audit": r"The model .*starts? well: \d+ errors?, \d+ notes?\.",
    "fans": r"Keras counts 3 of 6 kernels otherwise\.",
    "signal": r"The signal is healthy: 0 findings\.",
    "plan": r"24 set, 0 kept; seed 0",
    "start": r"6 set, 18 kept; seed 0",
    "calibration": r"6 scaled, 0 kept",
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_verdict_comes_first(short, kind):
    assert re.fullmatch(VERDICTS[kind], str(short[kind]).splitlines()[0])
    assert re.fullmatch(VERDICTS[kind], short[kind].text(verbose=True).splitlines()[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_deep_model_fits_a_screen(long, kind):
    lines = str(long[kind]).splitlines()
    assert len(lines) <= 40
    assert max(map(cell_len, lines)) <= 80
    # The long form has every row, with its name in full.
    text = long[kind].text(verbose=True)
    assert all(row.path in text for row in long[kind])


NUMBERS = {
    "audit": lambda row: (f"{row.std:.4g}", f"{row.forward:.3g}", f"{row.backward:.3g}"),
    "fans": lambda row: (f"{row.fans.fan_in:.6g}", f"{row.fan_avg_ratio:.3g}"),
    "signal": lambda row: (f"{row.mean:.2g}", f"{row.std:.3g}", f"{row.gradient_std:.3g}"),
    "plan": lambda row: (f"{row.std_asked:.4g}",),
    "calibration": lambda row: (f"{row.before:.4g}", f"{row.factor:.4g}"),
    "start": lambda row: (f"{row.std_asked:.4g}", f"{row.std:.4g}"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_alone_with_whole_numbers(short, kind):
    report = short[kind]
    text = str(report)
    words = [line.split() for line in text.splitlines()]
    for row in report:
        path, shown = row.path, NUMBERS[kind]
        if not (path.endswith("kernel") if kind != "signal" else "norm" not in path):
            assert path not in text
        else:
            assert any({*shown(row)} <= {*line} for line in words), path
    assert "…" in text
    assert re.search(r"a_block…|a_bl…|a_b…|a_block_\w*…", text)


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


class Tables(html.parser.HTMLParser):
    """Checks that what is opened is closed; collects the rows of tables."""

    def __init__(self, page):
        super().__init__()
        self.open, self.rows, self.first = [], [], ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert tag == "br" or not any("color" in (value or "") for _, value in attrs)
        if tag != "br":
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        elif data.strip() and not self.first:
            self.first = f"{self.open[-1]}: {data}"


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_is_a_table_that_wraps(short, kind):
    page = short[kind]._repr_html_()
    assert page.count("<table>") == 1
    assert "<pre" not in page
    assert "white-space: normal; overflow-wrap: anywhere" in page
    found = Tables(page)
    assert re.fullmatch(f"strong: {VERDICTS[kind]}", found.first)
    assert len({len(row) for row in found.rows}) == 1
    # Names in full: the browser breaks them.
    name = "a_block_with_a_long_name_1_that_no_column_holds"
    assert any(name in row[0] for row in found.rows)


def test_a_page_that_is_not_closed_is_noticed():
    with pytest.raises(AssertionError):
        Tables("<table><tr><td>a</tr></table>")
    with pytest.raises(AssertionError):
        Tables("<p style='color: red'>a</p>")


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
    # Before they had a name.
    del again.name
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
