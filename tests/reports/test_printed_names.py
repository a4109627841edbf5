"""Names of layers, which come from files of other people, in all that is shown."""

import html
import io
import json
import re

import keras
import pytest
from rich.console import Console

import keras_fanwise as kf
from keras_fanwise.arguments import printable
from keras_fanwise.reports import tables
from keras_fanwise.reports.tables import Panel

from support.processes import fewer_by_default

layers = keras.layers

# A name, and how it is shown.
NAMES = {
    "branch[a]": "branch[a]",
    "branch[b]": "branch[b]",
    "x[": "x[",
    "[bold]loud": "[bold]loud",
    "[link=a]b": "[link=a]b",
    ":smile:": ":smile:",
    "$a_1$": "$a_1$",
    "_hidden": "_hidden",
    "<script>&amp;": "<script>&amp;",
    "red\x1b[31m": r"red\x1b[31m",
    "line\nbreak\ttab\r": r"line\nbreak\ttab\r",
    "bell\x07\x9b": r"bell\x07\x9b",
    "turned\u202e": r"turned\u202e",
    "back\\slash": "back\\slash",
    "γ×層": "γ×層",
}


def reports(name):
    """One of each kind, of a model with a layer of this name, whose signal dies there."""
    named = layers.Dense(64, "relu", kernel_initializer="zeros", name=name)
    model = keras.Sequential([keras.Input((64,)), named, layers.Dense(64)], name="net")
    return {
        "audit": kf.audit(model),
        "signal": kf.signal(model),
        "fans": kf.fans_table(model),
        "start": kf.initialize(model, "he", seed=0),
    }


@pytest.mark.parametrize(
    "name", fewer_by_default(NAMES, "[bold]loud", "line\nbreak\ttab\r")
)
def test_every_report_shows_a_name_as_it_is(name, monkeypatch):
    monkeypatch.setattr(tables, "_WIDTH", 200)  # or a long name is shortened
    for kind, report in reports(name).items():
        terminal = io.StringIO()
        Console(file=terminal, force_terminal=True, width=1000).print(report)
        plain = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue())
        page = html.unescape(re.sub(r"<[^>]*>", "", report._repr_html_()))
        # In every row of the layer, and in every finding.
        count = sum(name in row.path for row in report.rows)
        count += sum(name in finding.path for finding in getattr(report, "findings", []))
        assert count == {"audit": 3, "signal": 2, "fans": 2, "start": 2}[kind]
        # The bias stands only where every weight does.
        short = {"audit": 2, "signal": 2, "fans": 1, "start": 1}[kind]
        for text, expected in (
            (str(report), short),
            (plain, short),
            (page, short),
            (report.text(verbose=True), count),
        ):
            lines = [line for line in text.split("\n") if NAMES[name] in line]
            assert len(lines) == expected, (kind, text)
            assert text.replace("\n", "").isprintable(), kind
        paths = [row["path"] for row in json.loads(report.to_json())["rows"]]
        assert paths == [row.path for row in report.rows]


def test_a_path_that_looks_like_the_end_of_a_style():
    layer = layers.Layer(name="x[")
    layer.add_weight(shape=(2, 3), name="kernel]")
    assert "x[/kernel]  Layer" in kf.fans_table(layer).text(verbose=True)


def test_names_that_differ_look_different():
    named = [layers.Dense(2, name=name) for name in NAMES]
    model = keras.Sequential([keras.Input((2,)), *named], name="net")
    rows = kf.fans_table(model).text(verbose=True).splitlines()[-2 * len(NAMES) :]
    assert [row.split("  ")[0].removeprefix("net/") for row in rows[::2]] == [
        f"{name}/kernel" for name in NAMES.values()
    ]


@pytest.mark.few(6)
@pytest.mark.filterwarnings("ignore:Glyph")  # the font of matplotlib has no Chinese
@pytest.mark.parametrize("name", NAMES)
def test_figures_show_a_name_as_it_is(name, tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    from keras_fanwise.reports.drawing import draw

    figure = draw([Panel("std", [name, "a"], {"": [1.0, 2.0]})])
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(tmp_path / "figure.svg")
    drawn = html.unescape((tmp_path / "figure.svg").read_text("utf-8"))
    assert f">{NAMES[name]}</text>" in drawn


def test_a_report_without_rows_has_a_figure():
    pytest.importorskip("matplotlib")
    layer = layers.BatchNormalization()
    layer.build((None, 4))
    [axis] = kf.audit(layer).plot().axes
    assert axis.get_title("left") == f"Audit of {layer.name}"


def test_errors_and_warnings_show_a_name_as_it_is():
    named = layers.Dense(2, name="line\nbreak")
    model = keras.Sequential([keras.Input((4,)), named], name="net")
    with pytest.raises(ValueError, match="meets none") as error:
        kf.initialize(model, kf.Rule("zeros", path="nothing"))
    assert r"line\nbreak/kernel" in str(error.value)

    def fails(shape, dtype=None):
        raise ValueError("no")

    with pytest.raises(ValueError, match=r"line\\nbreak/kernel of shape \(4, 2\): no"):
        kf.initialize(model, fails)
    stray = layers.Dense(2)
    stray.stray = keras.Variable([1.0], name="red\x1b[31m")
    model = keras.Sequential([keras.Input((4,)), stray])
    with pytest.warns(UserWarning, match=r"unknown: .*red\\x1b\[31m$"):
        kf.reinitialize(model)


@pytest.mark.parametrize("character", list("\0\a\x1b\x7f\x9b\xad\u2028\ue000\ud800"))
def test_printable_is_what_python_writes(character):
    """Read as Python, what is shown gives the name again."""
    text = f"a{character}b"
    shown = printable(text)
    assert shown.isprintable()
    assert shown.encode("ascii").decode("unicode_escape") == text
