"""A panel keeps what is chosen: set here or there, it is the same choice."""

import json

import numpy as np
import pytest
from planted_experiment import ARMS, build_experiment, planted_alignment


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_experiment(tmp_path_factory.mktemp("experiments") / "planted")


@pytest.fixture
def panel(folder):
    from workbench.widgets import LayerExplorer

    return LayerExplorer(folder)


def test_options_are_chosen_by_what_they_are_called(panel):
    panel.choose(arm="push", layer=2, seed=1)
    assert panel.chosen == {"arm": "push", "seed": "1", "layer": "2", "step": "100"}
    assert panel.choice == {"arm": ARMS.index("push"), "seed": 1, "layer": 2, "step": 10}
    shown = np.array(panel.figure().data[0].z, dtype=float)
    np.testing.assert_allclose(shown, planted_alignment("push", 1).T)


def test_a_figure_for_a_paper_says_what_it_shows(panel):
    panel.choose(arm="push", layer=2, seed=1)
    caption = panel.figure("curves").layout.meta["caption"]
    assert caption.startswith("arm push, seed 1, layer 2, step 100. Layer 2, step 100: cos ")


def test_the_caption_goes_with_the_exported_figure(panel, tmp_path):
    import workbench as wb

    panel.choose(arm="push", layer=2, seed=1)
    wb.export(panel.figure("curves"), tmp_path / "curves.html")
    own = "<figcaption>arm push, seed 1, layer 2, step 100"
    assert own in (tmp_path / "curves.html").read_text()
    wb.export(panel.figure("curves"), tmp_path / "own.html", caption="Mine.")
    assert "<figcaption>Mine." in (tmp_path / "own.html").read_text()


def test_what_cannot_be_chosen_is_refused_and_changes_nothing(panel):
    from workbench.errors import ConfigError

    before = dict(panel.choice)
    with pytest.raises(ConfigError, match="arm: no option 'pull'; there are ordinary"):
        panel.choose(arm="pull")
    with pytest.raises(ConfigError, match="No control 'head'"):
        panel.choose(head=1)
    with pytest.raises(ConfigError, match="does not exist"):
        panel.choice = {"layer": 99}
    assert panel.choice == before


def test_what_the_browser_chooses_is_what_python_sees(panel):
    panel.set_state({"choice": {"arm": 1, "seed": 2, "layer": 0, "step": 3}})
    assert panel.chosen == {"arm": ARMS[1], "seed": "2", "layer": "0", "step": "5"}


def test_a_page_that_is_loaded_later_gets_what_is_shown_now(panel):
    tables = panel.shown.tables
    panel.fill({"alignment": [[[[0.5]]]]})
    state = panel.get_state()
    assert json.loads(state["tables"])["alignment"] == [[[[0.5]]]]
    low = np.array(json.loads(state["tables"])["low"], dtype=float)
    np.testing.assert_allclose(low, np.array(tables["low"], dtype=float), rtol=1e-4)
    panel.choose(layer=0)
    assert panel.get_state()["choice"]["layer"] == 0


def test_all_panels_of_a_kernel_share_one_plotly(folder):
    import gzip

    from workbench.widgets import LayerExplorer
    from workbench.widgets.panel import plotly_build

    first, second = LayerExplorer(folder), LayerExplorer(folder)
    assert first.plotly == second.plotly == f"IPY_MODEL_{plotly_build().model_id}"
    own = sum(len(str(value)) for value in first.get_state().values())
    assert own < 300_000 < len(gzip.decompress(plotly_build().code))


def test_no_upload_button_is_asked_for():
    from workbench.widgets.panel import plotly_build

    config = json.loads(plotly_build().config)
    assert config["showSendToCloud"] is False
    assert config["plotlyServerURL"] == ""


def test_a_panel_is_saved_as_one_page_with_the_choice_made(panel, tmp_path):
    panel.choose(arm="block")
    text = panel.save(tmp_path / "new" / "view.html").read_text()
    assert 'data-view="view-data"' in text
    assert "&quot;arm&quot;: 1" in text


def test_a_mistake_in_python_is_told_in_the_panel(panel, monkeypatch):
    def fail():
        raise ValueError("planted")

    monkeypatch.setattr(panel, "released", fail)
    with pytest.raises(ValueError, match="planted"):
        panel._heard(panel, {"kind": "release"}, [])
    assert panel.status["words"] == "ValueError: planted"
    assert panel.status["busy"] is False


def test_unknown_messages_are_left_alone(panel):
    panel._heard(panel, {"kind": "else"}, [])
    panel._heard(panel, "text", [])
    assert panel.status == {}


def test_showing_a_panel_takes_no_torch(folder):
    import subprocess
    import sys

    code = (
        f"import sys; from workbench.widgets import LayerExplorer; LayerExplorer({str(folder)!r});"
        "print('torch' in sys.modules, 'plotly' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
