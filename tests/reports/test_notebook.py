"""What a notebook shows: one output for each report or figure, and none for a text."""

import os

import pytest

# Windows aside, a kernel warns of nothing; what it warns of is not of this package.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
pytest.importorskip("matplotlib")

SETUP = """
import keras, keras_fanwise as kf
from IPython.display import display
dense = [keras.layers.Dense(16, "relu", name=f"body_{i}") for i in range(6)]
model = keras.Sequential([keras.Input((8,)), *dense], name="net")
reports = [
    kf.audit(model), kf.signal(model), kf.fans_table(model),
    kf.initialize(model, "he", seed=0),
]
audit, signal, fans, start = reports
history = kf.SignalHistory(keras.ops.ones((4, 8)))
history.measure(model, 0)
"""
# A cell, and the kinds of its outputs.
CELLS = {
    "audit": ["execute_result"],
    "signal": ["execute_result"],
    "fans": ["execute_result"],
    "start": ["execute_result"],
    "history": ["execute_result"],
    "print(audit)": ["stream"],
    "print(signal)": ["stream"],
    "print(history)": ["stream"],
    "texts = [str(report) for report in reports]": [],
    "audit.plot()": ["execute_result"],
    "signal.plot()": ["execute_result"],
    "history.plot()": ["execute_result"],
    "for _ in range(25):\n    signal.plot()": [],
    "for _ in range(25):\n    display(signal.plot())": ["display_data"] * 25,
    # Also where pyplot is used, which draws what it knows at the end of a cell.
    "from matplotlib import pyplot\npyplot.close('all')": [],
    "fans.plot()": ["execute_result"],
    "for _ in range(25):\n    start.plot()": [],
    # What pyplot knows is drawn once more: the fault that the cells above are free of.
    "figure, ax = pyplot.subplots()\nfans.plot(ax=ax)": ["execute_result", "display_data"],
}


@pytest.fixture(scope="module")
def cells():
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in (SETUP, *CELLS)]
    )
    before = os.environ.get("PYDEVD_DISABLE_FILE_VALIDATION")
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    try:
        nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    finally:
        if before is None:
            del os.environ["PYDEVD_DISABLE_FILE_VALIDATION"]
    return dict(zip(CELLS, notebook.cells[1:], strict=True))


@pytest.mark.parametrize("source", CELLS)
def test_each_display_is_one_output(cells, source):
    outputs = cells[source].outputs
    assert [output.output_type for output in outputs] == CELLS[source]
    assert all(output.get("name") != "stderr" for output in outputs)


def test_reports_are_tables_and_figures_pictures(cells):
    for name in ("audit", "signal", "fans", "start", "history"):
        [output] = cells[name].outputs
        assert output.data["text/html"].count("<table>") == 1
    for source in ("audit.plot()", "fans.plot()", "history.plot()"):
        [output] = cells[source].outputs
        assert "image/png" in output.data
