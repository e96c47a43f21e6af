"""The course figure shows the planted course, step 0 on a logarithmic axis, and its cautions."""

from dataclasses import replace

import numpy as np
import pytest

from workbench.cli import main
from workbench.course import between, trace_course
from workbench.errors import ConfigError, DegenerateDirectionError
from workbench.files import write_json
from workbench.plots import course as plot
from workbench.plots.catalogue import figures_of
from workbench.plots.course import positions
from workbench.plots.paper.export import export

STEPS = (0, 1, 10, 100, 1000)
LAYERS = (0, 2, 5)


@pytest.fixture
def means():
    """Phases that go straight from the witness to the aligned one, but the third, across."""
    generator = np.random.default_rng(0)
    start, shift, aside = generator.normal(size=(3, len(LAYERS), 16))
    aside -= (
        np.sum(aside * shift, axis=1, keepdims=True)
        / np.sum(shift * shift, axis=1, keepdims=True)
        * shift
    )
    placed = [start + share * shift for share in (1.0, 0.5, 0.25, -0.5, 0.0)]
    placed[2] = start + aside
    return dict(zip([f"step{n}" for n in STEPS], placed, strict=True))


@pytest.fixture
def course(means):
    roles = {"witness": "step0", "aligned": "step1000"}
    steps = dict(zip(means, STEPS, strict=True))
    return trace_course(means, roles, lineage="toy", steps=steps, layers=LAYERS)


def traces(figure, meta):
    return [trace for trace in figure.data if trace.meta == meta]


def test_the_cells_and_curves_are_the_planted_course(course):
    figure = plot(course)
    [cells, _], [along] = traces(figure, "alignment"), traces(figure, "along")
    expected = [1, 1, 0, -1, None]
    for row in cells.z:
        for value, planted in zip(row, expected, strict=True):
            assert value is None if planted is None else value == pytest.approx(planted, abs=1e-9)
    np.testing.assert_allclose(np.array(along.y, float), [1, 0.5, 0, -0.5, 0], atol=1e-9)


def test_step_0_stands_left_of_a_logarithmic_axis(course):
    np.testing.assert_allclose(positions(course), [-0.5, 0, 1, 2, 3])
    axis = plot(course).layout.xaxis3
    assert axis.ticktext == ("0", "1", "10", "100", "1,000")
    assert axis.tickvals == (-0.5, 0, 1, 2, 3)
    assert "log scale" in axis.title.text


def test_phases_without_ascending_steps_stand_at_equal_distances_under_their_names(course):
    for steps in ((0, 1, 10, 100, None), (0, 1, 10, 10, 1000)):
        other = replace(course, steps=steps)
        assert positions(other).tolist() == [0, 1, 2, 3, 4]
        assert plot(other).layout.xaxis3.ticktext == course.phases


def test_one_layer_is_the_models_layer_of_that_number(course):
    moved = course.along.copy()
    moved[:, 1] = 7
    figure = plot(replace(course, along=moved), layer=2)
    assert set(traces(figure, "along")[0].y) == {7}
    assert figure.layout.yaxis.ticktext == ("0", "2", "5")
    with pytest.raises(ConfigError, match=r"Layer 1 was not read: there are \[0, 2, 5\]"):
        plot(course, layer=1)


def test_the_caption_says_whether_the_shared_endpoint_is_separated(course, means):
    told = plot(course).layout.meta["caption"]
    assert "the shared endpoint is not separated" in told
    assert "a random walk between the two would have such coordinates" in told
    beside = trace_course(
        means,
        course.roles | {"sibling": "step10"},
        lineage="toy",
        steps={},
        layers=LAYERS,
    )
    figure = plot(beside)
    assert "from a sibling" in figure.layout.meta["caption"]
    assert len(traces(figure, "alignment_sibling")) == 1
    assert traces(plot(course), "alignment_sibling") == []


def test_a_displacement_below_ten_noise_floors_has_no_cosine(means):
    roles = {"witness": "step0", "aligned": "step1000"}
    norm = np.linalg.norm(means["step1"] - means["step1000"], axis=1)
    options = {"lineage": "toy", "steps": {}, "layers": LAYERS}
    seen = trace_course(means, roles, floor=norm / 10 * 0.99, **options)
    unseen = trace_course(means, roles, floor=norm / 10 * 1.01, **options)
    assert not np.isnan(seen.alignment[1]).any()
    assert np.isnan(unseen.alignment[1]).all()


def test_a_way_that_is_below_ten_noise_floors_does_not_turn(means):
    roles = {"witness": "step0", "aligned": "step1000"}
    options = {"lineage": "toy", "steps": {}, "layers": LAYERS}
    # The shortest way into or out of step 1 is the half gap that leads to it.
    way = np.linalg.norm(means["step1"] - means["step0"], axis=1)
    seen = trace_course(means, roles, floor=way / 10 * 0.99, **options)
    unseen = trace_course(means, roles, floor=way / 10 * 1.01, **options)
    assert not np.isnan(seen.turning[1]).any()
    assert np.isnan(unseen.turning[1]).all()


def test_the_way_passes_by_the_sibling(means):
    roles = {"witness": "step0", "aligned": "step1000", "sibling": "step10"}
    course = trace_course(means, roles, lineage="toy", steps={}, layers=LAYERS)
    assert np.isnan(course.turning[2]).all()
    # Without it, the way from the witness to the phase after it and on is one line, then back.
    np.testing.assert_allclose(course.turning[1], 1, atol=1e-9)
    np.testing.assert_allclose(course.turning[3], -1, atol=1e-9)


def test_the_line_passes_by_the_sibling_whose_mark_stands_alone(means):
    roles = {"witness": "step0", "aligned": "step1000", "sibling": "step10"}
    [along] = traces(
        plot(trace_course(means, roles, lineage="toy", steps={}, layers=LAYERS)), "along"
    )
    assert along.x == (0, 1, 3, 4, None, 2)
    assert along.text == ("step0", "step1", "step100", "step1000", None, "step10")
    np.testing.assert_allclose(
        np.array(along.y, float)[[0, 1, 2, 3, 5]], [1, 0.5, -0.5, 0, 0], atol=1e-9
    )


def test_phases_that_coincide_or_are_too_few_are_refused(course, means):
    means["twin"] = means["step1"].copy()
    means["twin"][0] += 1
    with pytest.raises(
        DegenerateDirectionError, match=r"step1 and twin coincide at layers \[2, 5\]"
    ):
        between(means, "step1", "twin", LAYERS)
    cut = ("phases", "steps", "along", "across", "alignment", "turning")
    lone = {name: getattr(course, name)[:1] for name in cut}
    with pytest.raises(ConfigError, match="One phase makes no course"):
        plot(replace(course, **lone))


def test_a_hostile_name_is_no_markup(course):
    names = ("<a href='https://x.example'>x</a>\n", *course.phases[1:])
    figure = plot(replace(course, phases=names, steps=(None,) * 5, lineage="<b>x</b>"))
    assert "<a" not in figure.to_json().replace("\\u003c", "<")
    assert "<b>" not in figure.layout.title.text


@pytest.fixture
def folder(means, tmp_path):
    """The same phases as a stored passage."""
    import torch

    from workbench.artefacts import Artefact
    from workbench.passage import PHASES, SCHEMA, phase_file

    out = tmp_path / "passage"
    (out / PHASES).mkdir(parents=True)
    for name, mean in means.items():
        tensors = {"mean": torch.from_numpy(mean)}
        if name == "step1000":
            tensors["floor"] = torch.zeros(len(LAYERS), dtype=torch.float64)
        Artefact(tensors, LAYERS, {"phase": name}).save(phase_file(out, name), SCHEMA)
    plan = {
        "schema": SCHEMA,
        "lineage": "toy",
        "settings": {"position": -1},
        "roles": {"witness": "step0", "aligned": "step1000"},
        "phases": [{"name": name, "step": n} for name, n in zip(means, STEPS, strict=True)],
        "prompts": [],
        "failures": {},
        "versions": {},
    }
    write_json(out / "passage.json", plan)
    return out


def test_the_catalogue_has_the_course_of_a_passage(folder):
    [named] = figures_of(folder).values()
    assert named.name == "course"
    assert named.provenance["phases"] == "5"
    assert "Top: cosine of every phase's" in named.caption


def test_the_export_command_writes_the_course(folder, capsys):
    assert main(["export", str(folder), "--figure", "list"]) == 0
    assert capsys.readouterr().out == "course\n"
    assert main(["export", str(folder), "--format", "html"]) == 0
    page = (folder / "figures" / "course.html").read_text(encoding="utf-8")
    assert "passage passage" in page


@pytest.mark.filterwarnings("ignore:No browser")
def test_a_figure_for_paper_is_drawn_of_it(course, tmp_path):
    path = export(plot(course), tmp_path / "course.png", width="single")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert "coordinate along v_rev" in path.with_suffix(".txt").read_text(encoding="utf-8")
