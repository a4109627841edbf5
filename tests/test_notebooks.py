"""The notebooks of the examples run from their top to their end, and claim what holds."""

from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
pytest.importorskip("matplotlib")

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))
# Windows aside, a kernel warns of nothing; what it warns of is not of this package.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def executed(notebook, folder):
    """Its outputs, by cell; an error in a cell is one here."""
    nbclient.NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture
def one_thread(monkeypatch):
    """PyTorch's threads wait for each other where cores are shared."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_draws(path, tmp_path, one_thread):
    outputs = executed(nbformat.read(path, 4), tmp_path)
    kinds = [kind for cell in outputs for output in cell for kind in output.get("data", ())]
    assert kinds.count("image/png") >= 1


@pytest.mark.slow
def test_a_claim_that_does_not_hold_is_seen(tmp_path, one_thread):
    cell = nbformat.v4.new_code_cell("assert 1 + 1 == 3")
    with pytest.raises(nbclient.exceptions.CellExecutionError):
        executed(nbformat.v4.new_notebook(cells=[cell]), tmp_path)


def test_there_are_three_notebooks_without_outputs():
    notebooks = [nbformat.read(path, 4) for path in NOTEBOOKS]
    assert len(notebooks) == 3
    for notebook in notebooks:
        nbformat.validate(notebook)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert not any(cell.outputs or cell.execution_count for cell in code)
        assert "assert " in code[-1].source
