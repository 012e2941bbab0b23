"""The notebook runs from its first cell to its last, here with a small budget."""

import nbformat
import pytest
from nbclient import NotebookClient

from utils.files import ROOT

NOTEBOOK = ROOT / "notebooks" / "skopt_vs_hyperopt.ipynb"


def outputs(notebook: nbformat.NotebookNode) -> list[dict]:
    """Return the outputs of all its code cells."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [output for cell in cells for output in cell.outputs]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of Jupyter's own libraries
def test_the_notebook_runs_end_to_end(monkeypatch, first_model):
    monkeypatch.setenv("EVALUATIONS", "2")
    monkeypatch.setenv("SEEDS", "2")
    monkeypatch.setenv("THREADS", "1")
    monkeypatch.setenv("DATA_DIR", str(first_model / "data"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(
        notebook, timeout=150, resources={"metadata": {"path": NOTEBOOK.parent}}
    ).execute()
    text = str(outputs(notebook))
    assert "2 evaluations, 2 seeds, 1 thread(s)" in text
    assert "Conclusion" in text
    assert text.count("image/png") == 2


def test_the_notebook_is_committed_with_the_outputs_of_a_full_run():
    text = str(outputs(nbformat.read(NOTEBOOK, as_version=4)))
    assert "25 evaluations, 5 seeds" in text
    assert "Conclusion" in text
    assert text.count("image/png") == 2
    assert "Traceback" not in text
