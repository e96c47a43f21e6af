"""Figures stay on this machine: no way of showing one offers an upload."""

import copy
import json
import pickle

import lab
import plotly.graph_objects as go
import plotly.io as pio
import pytest
from planted_experiment import build_experiment

PLOTLY = "application/vnd.plotly.v1+json"


@pytest.fixture
def figure():
    from workbench.plots.style import new_figure

    return new_figure("planted").add_scatter(x=[0, 1], y=[0.25, 0.5])


def settings(html):
    """What the one plot of a page is given as its settings."""
    start = html.rindex("{", 0, html.rindex('"displaylogo"'))
    return json.JSONDecoder().raw_decode(html[start:])[0]


def quiet(config):
    return config["showSendToCloud"] is False and config["plotlyServerURL"] == ""


def test_a_notebook_is_told_to_offer_no_upload(figure, monkeypatch):
    monkeypatch.setattr(pio.renderers, "default", "plotly_mimetype")
    assert quiet(figure._repr_mimebundle_()[PLOTLY]["config"])
    assert "config" not in go.Figure(figure)._repr_mimebundle_()[PLOTLY]  # plotly's own says none


def test_a_shown_figure_offers_none(figure, monkeypatch):
    seen = []
    monkeypatch.setattr(pio, "show", lambda shown, **options: seen.append((shown, options)))
    figure.show(config={"scrollZoom": True})
    figure._ipython_display_()
    assert [shown is figure for shown, _ in seen] == [True, True]
    assert all(quiet(options["config"]) for _, options in seen)
    assert [options["config"].get("scrollZoom") for _, options in seen] == [True, None]


def test_a_page_of_a_figure_offers_none(figure, tmp_path):
    figure.write_html(tmp_path / "figure.html", include_plotlyjs=False)
    for page in ((tmp_path / "figure.html").read_text(), figure.to_html(include_plotlyjs=False)):
        assert settings(page)["showSendToCloud"] is False


def test_a_copy_is_as_quiet_as_the_figure(figure):
    from workbench.plots.local import LocalFigure

    for other in (copy.deepcopy(figure), pickle.loads(pickle.dumps(figure))):
        assert type(other) is LocalFigure
        assert other == figure


def test_every_figure_of_the_package_is_one(tmp_path):
    from workbench import plots
    from workbench.plots.explorer import explorer
    from workbench.plots.local import LocalFigure
    from workbench.store import RunStore

    folder = build_experiment(tmp_path / "planted")
    runs = list(RunStore(folder / "runs"))
    drawn = [plots.alignment(runs), plots.heatmap(runs[0]), explorer(runs).figure("map")]
    assert [type(one) for one in drawn] == [LocalFigure] * 3


@pytest.mark.browser
def test_jupyterlab_draws_a_plot_without_the_upload_button(browser, tmp_path):
    folder = build_experiment(tmp_path / "planted")
    open_run = f"import workbench as wb\nrun = wb.Run({str(folder / 'runs' / 'l0-push-0')!r})"
    lab.write_notebook(
        tmp_path / "plots.ipynb",
        f"{open_run}\nwb.plots.alignment(run)",
        "wb.plots.heatmap(run).show()",
        "import plotly.graph_objects as go\ngo.Figure(wb.plots.alignment(run))",
    )
    with lab.serve(tmp_path) as address, lab.tab(browser) as tab:
        lab.open_notebook(tab.page, address, "plots.ipynb")
        lab.run_all(tab.page)
        outputs = tab.page.locator(".jp-Notebook .jp-CodeCell")
        for place in range(3):
            outputs.nth(place).locator(".js-plotly-plot .modebar-btn").first.wait_for(
                state="attached"
            )
        shares = [outputs.nth(place).locator("[data-title*='Share']").count() for place in range(3)]
        assert shares == [0, 0, 1]  # plotly's own has it: it would have been seen
        own = address.replace("http", "ws")
        assert [url for url in tab.asked if not url.startswith(("blob:", address, own))] == []
