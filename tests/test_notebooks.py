"""Every notebook runs from top to bottom, shows what it promises, and stops where it is refuted."""

import ast
import json
import os
import re
from functools import reduce
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import workbench

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
SECONDS = 120
PLOTLY, WIDGET = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json"

SMALL = {
    "01_phases_and_directions": "split_seed, shuffles, draws, prompts = 0, 50, 500, 10",
    "02_drift_during_fine_tuning": "steps, seed, out = 20, 0, 'runs/live'",
    "03_interventions_and_controls": (
        "arms, seeds, steps, jobs, out = 'ordinary,block,push', 1, 4, 1, 'experiments/small'"
    ),
    "04_ablation_by_hand": (
        "steps, learning_rate, strengths, layer_sets, prompts, out = "
        "60, 2e-4, (0.0, 1.0), ((0, 1, 2, 3),), 12, 'ablation'"
    ),
    "05_your_own_model": "steps_tried, steps, arms, seeds, out = 3, 10, 2, 1, 'mine'",
    "06_figures_for_a_paper": "seeds, steps, jobs, formats, out = 1, 2, 1, 'html', 'figures'",
}
"""In place of each notebook's cell of parameters."""

SHOWN = {
    "02_drift_during_fine_tuning": ["LiveRun", PLOTLY, PLOTLY],
    "03_interventions_and_controls": ["LayerExplorer", "RunComparison", "Geometry", PLOTLY, PLOTLY],
    "04_ablation_by_hand": [PLOTLY, "AblationSlider"],
    "06_figures_for_a_paper": [PLOTLY, "image/png", "image/png"],
}
"""Views and figures that a notebook promises, in order."""


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_of(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")


def prose_of(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def execute(notebook, name, folder):
    """Run the small version in a folder of its own, with the code of this checkout."""
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source = SMALL[name]
    client = NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": folder}}
    )
    own = {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder / ".ipython"), "OMP_NUM_THREADS": "1"}
    client.execute(env=os.environ | own)
    return notebook


def shown(notebook):
    """What the outputs are: a view by its name, else a figure or picture by its type."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if WIDGET in data:
                yield data["text/plain"].partition("(")[0]
            yield from (kind for kind in (PLOTLY, "image/png") if kind in data)


def complains(output):
    """Whether a user would see red; but for what kaleido's browser says of its own end."""
    return output.get("name") == "stderr" and "choreographer" not in output["text"]


@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_runs_and_shows_what_it_promises(name, tmp_path):
    done = execute(read(name), name, tmp_path)
    assert list(shown(done)) == SHOWN.get(name, [])
    told = [output for cell in done.cells for output in cell.get("outputs", ())]
    assert not [output for output in told if complains(output)]
    for figure in (output["data"][PLOTLY] for output in told if PLOTLY in output.get("data", {})):
        assert figure["config"]["showSendToCloud"] is False
        assert figure["config"]["plotlyServerURL"] == ""
    assert len(told) > 3


def test_a_notebook_stops_where_its_claim_does_not_hold(tmp_path):
    name, fitted = "01_phases_and_directions", "directions = wb.fit_directions(lineage, held.fit)"
    notebook = read(name)
    [cell] = [cell for cell in notebook.cells if fitted in cell.source]
    noise = (
        "readings['helpful'] = readings['aligned'] + torch.randn(readings['aligned'].shape)\n"
        "directions = wb.fit_directions_from(readings['helpful'], readings['aligned'])"
    )
    cell.source = cell.source.replace(fitted, noise)
    with pytest.raises(CellExecutionError, match="the direction depends on the prompts"):
        execute(notebook, name, tmp_path)


def test_there_is_a_small_version_of_every_notebook():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == list(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_is_kept_without_outputs(name):
    for cell in json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            assert {*cell["metadata"]} <= {"tags"}


@pytest.mark.parametrize("name", SMALL)
def test_one_cell_holds_the_parameters_and_the_small_version_gives_all_of_them(name):
    [cell] = [cell for cell in read(name).cells if "parameters" in cell.metadata.get("tags", ())]
    assert assigned(cell.source) == assigned(SMALL[name])


def assigned(code):
    """Names that code assigns."""
    return {
        node.id
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_says_at_once_what_to_look_at_and_what_would_refute_it(name):
    first = read(name).cells[0].source
    assert first.startswith(f"# {int(name[:2])} · ")
    assert "**What to look at.**" in first
    assert "**What would refute" in first
    assert any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(code_of(read(name))))), (
        "nothing in it can fail"
    )


@pytest.mark.parametrize("name", SMALL)
def test_every_public_name_in_a_notebook_exists(name):
    names = set(re.findall(r"\bwb\.((?:plots\.)?\w+)", code_of(read(name))))
    assert names
    for public in names:
        first = public.partition(".")[0]
        assert first in workbench.__all__
        assert reduce(getattr, public.split("."), workbench) is not None
    assert "workbench." not in code_of(read(name)), "a notebook needs public names only"


@pytest.mark.parametrize("name", SMALL)
def test_what_a_notebook_refers_to_is_there(name):
    prose = prose_of(read(name))
    for number in re.findall(r"workbench lab (\d+)", prose):
        assert len(list(FOLDER.glob(f"{number}_*.ipynb"))) == 1
    links = re.findall(r"https?://[^\s)\"]+", prose + code_of(read(name)))
    assert {*links} <= {"https://arxiv.org/abs/2606.28525"}
