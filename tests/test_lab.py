"""`workbench lab` copies a notebook once, never over a user's, and opens JupyterLab on it."""

import subprocess
import sys

import pytest

from workbench.cli import main
from workbench.commands import lab
from workbench.resources import resource_folder

NAMES = [path.stem for path in sorted(resource_folder("notebooks").glob("*.ipynb"))]


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Run the command in an empty folder; return its status and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        try:
            status = main(["lab", *argv])
        except SystemExit as stop:
            status = stop.code
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def started(monkeypatch):
    """What would have been started, instead of starting it; each start takes the next outcome."""
    calls = []

    class Process:
        outcomes = [0]  # noqa: RUF012

        def __init__(self, command):
            calls.append(command)

        def wait(self):
            outcome = self.outcomes.pop(0)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

    monkeypatch.setattr(subprocess, "Popen", Process)
    calls.append(Process)
    return calls


def test_there_are_six_notebooks_numbered_in_order(call):
    status, out, _ = call("--list")
    assert (status, out.split()) == (0, NAMES)
    assert [name[:3] for name in NAMES] == [f"0{number}_" for number in range(1, 7)]


@pytest.mark.parametrize(
    ("asked", "place"), [("02", 1), ("2", 1), ("ablation", 3), ("OWN", 4), (NAMES[5], 5),
                         (f"{NAMES[5]}.ipynb", 5)]
)  # fmt: skip
def test_a_notebook_is_found_by_number_or_part_of_its_name(call, tmp_path, asked, place):
    status, out, _ = call(asked, "--no-open")
    copy = tmp_path / f"{NAMES[place]}.ipynb"
    assert (status, out) == (0, f"{copy.name}: copied; it opens with `jupyter lab`\n")
    assert copy.read_bytes() == (resource_folder("notebooks") / copy.name).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [copy.name]


def test_without_a_name_it_is_the_first(call):
    assert call("--no-open")[1] == f"{NAMES[0]}.ipynb: copied; it opens with `jupyter lab`\n"


def test_a_copy_that_is_there_is_opened_as_it_is(call, tmp_path, started):
    (tmp_path / "mine").mkdir()
    mine = tmp_path / "mine" / f"{NAMES[1]}.ipynb"
    mine.write_text("my work")
    status, out, _ = call("drift", "--out", "mine")
    assert (status, out) == (0, f"mine/{mine.name}: was there, and is left as it is\n")
    assert mine.read_text() == "my work"
    assert started[1][-1] == f"mine/{mine.name}"


def test_jupyterlab_is_started_with_this_python_and_may_open_no_browser(call, started):
    status, _, _ = call("03", "--no-browser")
    assert status == 0
    assert started[1][:3] == [sys.executable, "-m", "jupyterlab"]
    assert started[1][3:] == [f"{NAMES[2]}.ipynb", "--no-browser"]


def test_an_interrupt_is_left_to_jupyterlab(call, started):
    started[0].outcomes = [KeyboardInterrupt(), 0]
    assert call("03")[0] == 0


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["nothing", "--no-open"], f"No 'nothing'; there are {', '.join(NAMES)}."),
        (["07", "--no-open"], f"No '07'; there are {', '.join(NAMES)}."),
        (["a", "--no-open"], "'a' is in the names of"),
        (["01", "--out", "taken"], "taken"),
    ],
)
def test_what_cannot_be_opened_is_one_line_and_nothing_is_copied(call, tmp_path, argv, told):
    (tmp_path / "taken").write_text("a file")
    status, out, err = call(*argv)
    assert (status, out) == (2, "")
    assert err.startswith("workbench: ")
    assert told in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_without_jupyterlab_the_copy_is_made_and_one_line_says_what_to_install(call, monkeypatch):
    monkeypatch.setattr(lab.importlib.util, "find_spec", lambda _: None)
    status, out, err = call("01")
    assert (status, out) == (2, f"{NAMES[0]}.ipynb: copied; it opens with `jupyter lab`\n")
    assert err == "workbench: JupyterLab is not installed: pip install jupyterlab.\n"


def test_a_jupyterlab_that_ends_badly_is_told_in_one_line(call, started):
    started[0].outcomes = [1]
    status, _, err = call("01")
    assert status == 2
    assert err.startswith("workbench: JupyterLab ended with status 1: ")
    assert err.count("\n") == 1
