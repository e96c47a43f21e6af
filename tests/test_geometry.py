"""The geometry figure shows planted phases and runs where they are, and says what it hides."""

import json

import numpy as np
import pytest
from planted_experiment import STEPS, build_experiment, planted_alignment, write_run
from planted_surroundings import ORDER, SPOTS, write_directions, write_phases

from workbench import plots
from workbench.errors import ConfigError, RunError
from workbench.plots.frames import Frame, spread_out
from workbench.plots.scene import read_scene
from workbench.store import RunStore

ARMS, SEEDS = ("ordinary", "block", "push"), (0, 1)
NORMS = np.sqrt(STEPS)[:, None] * np.linspace(0.2, 1.0, 5) / 10
"""In gaps, of planted drifts [step layer]."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    built = build_experiment(tmp_path_factory.mktemp("e") / "planted", arms=ARMS, seeds=SEEDS)
    write_directions(built / "lineages" / "l0")
    write_phases(built / "lineages" / "l0")
    return built


def coordinates(arm, seed):
    """Planted along and across [step layer], in gaps."""
    cosine = np.nan_to_num(planted_alignment(arm, seed))
    return NORMS * cosine, NORMS * np.sqrt(1 - cosine**2)


def traces(figure, meta, name=None, panel="x"):
    return [
        one
        for one in figure.data
        if one.meta == meta and name in (None, one.name) and (one.xaxis or "x") == panel
    ]


@pytest.mark.parametrize("arm", ["ordinary", "block", "push"])
def test_at_a_layer_every_run_lies_at_its_planted_coordinates(folder, arm):
    figure = plots.geometry(folder, layer=2)
    for seed, track in zip(SEEDS, traces(figure, "track", arm), strict=True):
        along, across = coordinates(arm, seed)
        np.testing.assert_allclose(track.x, [0, *along[:, 2]], atol=1e-6)
        np.testing.assert_allclose(track.y, [0, *across[:, 2]], atol=1e-6)
        assert "100 % of the squared displacement" in track.customdata[-1]
        assert not any("open" in symbol for symbol in track.marker.symbol)


def test_stacked_along_is_the_mean_over_layers(folder):
    for track in traces(plots.geometry(folder), "track", "ordinary")[:1]:
        along, _ = coordinates("ordinary", 0)
        np.testing.assert_allclose(track.x[1:], along.mean(axis=1), atol=1e-6)


def test_phases_lie_where_they_were_planted_and_open_where_the_plane_hides_most(folder):
    marks = {mark.name: mark for mark in traces(plots.geometry(folder, layer=1), "phase")}
    assert list(marks) == ORDER
    for name, spot in SPOTS.items():
        assert marks[name].x[0] == pytest.approx(spot.get(0, 0))
        assert marks[name].y[0] == pytest.approx(spot.get(1, 0))
    assert (marks["aligned"].x, marks["aligned"].y) == ((0,), (0,))
    # Of 0.4² + 0.3² + 1.2² only the first two are seen.
    share = (0.16 + 0.09) / (0.16 + 0.09 + 1.44)
    assert f"{100 * share:.0f} % of the squared" in marks["pretrained"].customdata[0]
    assert "(1.30 phase gaps in all)" in marks["pretrained"].customdata[0]
    opened = {name for name, mark in marks.items() if "open" in mark.marker.symbol}
    assert opened == {"pretrained", "aligned-b"}


def test_arrows_lead_from_each_phase_to_the_next_and_from_the_witness_to_the_sibling(folder):
    ways = {
        (*np.round((way.x[0], way.x[1]), 3),)
        for way in traces(plots.geometry(folder, layer=1), "way")
    }
    assert ways == {(0.4, 1.0), (1.0, 0.0), (1.0, 0.1)}


def test_hovering_says_which_run_and_step_and_where_in_words(folder):
    (track, _) = traces(plots.geometry(folder, layer=2), "track", "push")
    along, across = (values[6, 2] for values in coordinates("push", 0))
    assert STEPS[6] == 20
    assert track.customdata[7].startswith(
        f"push, seed 0, step 20: along {along:.2f}, across {across:.2f} phase gaps,"
    )
    assert track.customdata[0].endswith("step 0: the aligned model")


def test_a_far_phase_is_named_at_the_edge_and_leaves_the_others_room(folder):
    write_phases(folder / "lineages" / "l0", SPOTS | {"pretrained": {0: -40.0, 1: 30.0}})
    try:
        figure = plots.geometry(folder, layer=1)
    finally:
        write_phases(folder / "lineages" / "l0")
    (far,) = traces(figure, "phase", "pretrained")
    left, right = figure.layout.xaxis.range
    assert right - left < 4
    assert left < far.x[0] < right
    assert far.text[0].endswith("lies at<br>(−40.0, 30.0)")
    assert far.mode == "text"
    near = traces(plots.geometry(folder, layer=1), "phase", "pretrained")[0]
    assert "lies at" not in near.text[0]  # the counterpart


def test_arms_that_stay_near_are_shown_close_up_and_named_there(folder):
    scene = read_scene(folder, layer=4)
    reach = {arm: 0.0 for arm in ARMS}
    for track in scene.tracks:
        far = np.hypot(track.placed.along, track.placed.across).max()
        reach[track.arm] = max(reach[track.arm], far)
    figure = plots.geometry(folder, layer=0)
    close = {name.text[0] for name in traces(figure, "name", panel="x2")}
    assert close  # at layer 0 planted drifts are at most a fifth of a gap
    assert close.isdisjoint(name.text[0] for name in traces(figure, "name"))
    assert min(reach.values()) > 0.9
    assert not traces(plots.geometry(folder, layer=4), "track", panel="x2")


def test_old_experiments_open_and_say_that_phases_were_not_stored(folder):
    (folder / "lineages" / "l0" / "phases.safetensors").unlink()
    try:
        figure = plots.geometry(folder)
    finally:
        write_phases(folder / "lineages" / "l0")
    assert [mark.name for mark in traces(figure, "phase")] == ["helpful", "aligned"]
    assert "other phases were not stored" in figure.layout.title.subtitle.text
    assert "not stored" not in plots.geometry(folder).layout.title.subtitle.text


def test_a_run_alone_has_its_geometry_if_v_rev_lies_beside_it(tmp_path):
    run = write_run(RunStore(tmp_path / "runs").create({"arm": "<b>lone"}, "lone"), "block", 0)
    with pytest.raises(ConfigError, match="no v_rev is stored beside this run"):
        plots.geometry(run)
    write_directions(run.folder)
    figure = plots.geometry(run, layer=1)
    (track,) = traces(figure, "track")
    np.testing.assert_allclose(track.x[1:], coordinates("block", 0)[0][:, 1], atol=1e-6)
    assert "<b>lone" not in figure.to_json()


def test_what_is_not_there_is_refused_with_what_is(folder):
    with pytest.raises(ConfigError, match="no layer 7; it has 0, 1, 2, 3, 4"):
        plots.geometry(folder, layer=7)
    with pytest.raises(ConfigError, match="arm 'cap' here; there are block, ordinary"):
        plots.geometry(folder, arms=["cap"])
    with pytest.raises(ConfigError, match="lineage 'other' here; there are organism"):
        plots.geometry(folder, lineage="other")
    with pytest.raises(RunError, match="neither an experiment"):
        plots.geometry(folder / "lineages")


def test_only_the_arms_asked_for_are_shown_and_the_plane_is_theirs(folder):
    figure = plots.geometry(folder, arms=["push", "ordinary"])
    assert [one.name for one in traces(figure, "track")] == ["ordinary"] * 2 + ["push"] * 2
    assert "n = 2 per arm" in figure.layout.meta["caption"]


def test_axes_are_equal_in_scale(folder):
    figure = plots.geometry(folder, layer=0)
    assert figure.layout.yaxis.scaleanchor == "x"
    assert figure.layout.yaxis2.scaleanchor == "x2"
    json.loads(figure.to_json())


def test_a_way_enters_a_frame_where_it_crosses_the_edge():
    frame = Frame(0.0, 1.0, 0.0, 1.0)
    assert frame.edge_towards((-1.0, 0.5), (0.5, 0.5)) == (0.0, 0.5)
    assert frame.edge_towards((0.2, 0.3), (5.0, 5.0)) == (0.2, 0.3)
    assert frame.edge_towards((-1.0, 2.0), (0.5, 5.0)) is None


def test_names_move_apart_and_keep_their_order():
    moved = spread_out([0.0, 1.0, 0.01], 0.1)
    assert moved[1] == 1.0
    assert moved[2] - moved[0] == pytest.approx(0.1, abs=1e-6)


def test_a_lineage_without_v_rev_is_left_out_and_said_and_the_others_are_drawn(tmp_path):
    from workbench.plots.from_runs import geometry_sections
    from workbench.plots.galleries import plane

    built = build_experiment(tmp_path / "e", arms=ARMS, seeds=(0,), lineages=("a", "b"))
    write_directions(built / "lineages" / "l1")
    view = plane(built)
    assert "lineage a" in view.figure().layout.title.subtitle.text
    (section,) = geometry_sections(list(RunStore(built / "runs")))
    assert "left out, as no v_rev fits: lineage a" in section.figure.layout.title.subtitle.text
    with pytest.raises(ConfigError, match="no v_rev is stored"):
        plots.geometry(built, lineage="a")
    write_directions(built / "lineages" / "l0")  # the counterpart
    sections = geometry_sections(list(RunStore(built / "runs")))
    assert len(sections) == 2
    assert "left out" not in sections[0].figure.layout.title.subtitle.text


def test_a_run_with_other_layers_than_its_lineage_is_left_out_and_said(tmp_path):
    store = RunStore(tmp_path / "runs")
    for name, layers in (("first", range(5)), ("second", range(1, 6))):
        run = write_run(store.create({"arm": name, "lineage": "one"}, name), "block", 0)
        write_directions(run.folder, layers)
    figure = plots.geometry(list(store))
    assert [one.name for one in traces(figure, "track")] == ["first"]
    assert "left out, as no v_rev fits: 1 run" in figure.layout.title.subtitle.text
