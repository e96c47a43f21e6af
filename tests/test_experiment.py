"""An experiment runs its trials once, in any number of processes, and writes all or nothing."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from planted_inputs import contents, read_lines, write_lines
from safetensors.numpy import load_file

from workbench import plots
from workbench.arms import choose_arms, standard_arms
from workbench.config import Recipe
from workbench.directions import ReversionDirections, fit_directions
from workbench.errors import ConfigError, DivergedError, RunError, WorkbenchError
from workbench.experiment import Experiment, run_experiment
from workbench.inputs import Inputs
from workbench.plots.aftermath import aftermath_tables
from workbench.plots.controls import controls_table, other_phases_table
from workbench.plots.layers import layers_table
from workbench.plots.readout import readout_tables
from workbench.plots.significance import significance_table
from workbench.summary import summarise
from workbench.surroundings import Surroundings

RECIPE = Recipe(steps=5, learning_rate=1e-3, batch_size=4)
KNOWN = standard_arms({"block": 0.5, "push": 0.5}, penalty_batch=4)
ARMS = choose_arms("ordinary,block,matched", KNOWN)


@pytest.fixture(scope="module")
def run(inputs_folder):
    """Run a small experiment into a folder."""

    def small(out, inputs=None, arms=ARMS, **options):
        settings = {
            "seeds": (0, 1),
            "recipe": RECIPE,
            "evaluate_at": (),
            "max_new_tokens": 3,
            "state_every": 2,
        }
        inputs = inputs or Inputs.beside(inputs_folder)
        return run_experiment(inputs, arms=arms, out=out, **settings | options)

    return small


@pytest.fixture(scope="module")
def done(run, tmp_path_factory):
    return run(tmp_path_factory.mktemp("experiments") / "done")


def results(folder, *seeds):
    """The files of the groundwork and of the runs with these seeds."""
    runs = contents(folder / "runs")
    return contents(folder / "lineages") | {
        path: told for path, told in runs.items() if path.partition("/")[0].endswith(seeds)
    }


def test_every_arm_and_seed_is_run_and_measured_at_the_steps_that_there_are(done):
    assert [one.id for one in done.runs] == sorted(
        f"planted-{arm.name}-{seed}" for arm in ARMS for seed in (0, 1)
    )
    for one in done.runs:
        assert one.status == "done"
        assert one.measured_steps.tolist() == [1, 2, 3, 5]
        assert sorted(one.scores()) == [0, 5]
        assert not (one.folder / "state").exists()
        assert not (one.folder / "lock").exists()


def test_the_summary_is_what_the_run_folders_say(done):
    for arm in ARMS:
        found = done.summary["arms"][arm.name]
        for seed in (0, 1):
            folder = done.folder / f"runs/planted-{arm.name}-{seed}"
            lines = read_lines(folder / "records.jsonl")
            sibling = load_file(done.folder / "lineages/planted/sibling.safetensors")["unit"]
            for line in (line for line in lines if "drift" in line):
                step, layers = str(line["step"]), line["drift"]["alignment"]
                assert None not in layers
                assert found["alignment"][step]["per_seed"][seed] == pytest.approx(np.mean(layers))
                vector = load_file(folder / f"drift/{line['step']:06d}.safetensors")["vector"]
                cosines = (vector * sibling).sum(1) / np.linalg.norm(vector, axis=1)
                aligned = found["alignment_sibling"][step]["per_seed"][seed]
                assert aligned == pytest.approx(cosines.mean(), abs=1e-6)
                along = found["along"][step]["per_seed"][seed]
                assert along == pytest.approx(np.mean(line["drift"]["along"]))
            losses = [line["scores"]["task_loss"]["value"] for line in lines if "scores" in line]
            stored = [found["task_loss"][step]["per_seed"][seed] for step in ("0", "5")]
            assert stored == losses


def test_a_step_of_the_paper_that_was_not_reached_is_said_to_be_not_measured(done):
    told = {row["quantity"]: row["ours"] for row in done.summary["paper"]}
    assert told["cos(drift, v_rev) at step 20"] == "not measured"


def test_the_groundwork_is_v_rev_of_the_fit_split_and_a_sibling_apart(done, inputs_folder):
    folder = done.folder / "lineages/planted"
    held = Inputs.beside(inputs_folder).load()
    stored = ReversionDirections.load(folder / "directions.safetensors")
    fitted = fit_directions(held.lineage, held.fit)
    assert stored.provenance == fitted.provenance
    np.testing.assert_array_equal(stored.unit, fitted.unit)
    sibling = ReversionDirections.load(folder / "sibling.safetensors")
    assert sibling.provenance["aligned"] == "sibling"
    assert not np.allclose(sibling.unit, stored.unit)
    nulls = json.loads((folder / "nulls.json").read_text())
    assert len(nulls["matched"]["p99"]) == len(stored.layers)


def test_every_run_finds_where_the_phases_lie_and_its_geometry_is_drawn(done):
    for run in done.runs:
        around = Surroundings.of(run)
        assert list(around.phases) == ["pretrained", "helpful", "sibling"]
        np.testing.assert_allclose(around.phases["helpful"], around.gap[:, None] * around.unit)
    drawn = [trace for trace in plots.geometry(done).data if trace.meta == "track"]
    assert {trace.name for trace in drawn} == {*done.summary["arms"]}


def test_the_summary_says_how_well_the_matched_arm_was_matched_and_what_it_blocked(done):
    matched = done.summary["arms"]["matched"]
    assert matched["matching"]["applied"]["mean"] == pytest.approx(1.0, rel=1e-5)
    assert matched["matching"]["steps_without"]["mean"] == 0.0
    assert all(abs(value) <= 1 for run in matched["control_cosine"] for value in run)
    assert "matching" not in done.summary["arms"]["block"]
    assert "control_cosine" not in done.summary["arms"]["block"]


def test_the_matched_arm_was_scaled_to_block_of_the_same_seed(done):
    runs = {one.id: one for one in done.runs}
    traces = [
        [runs[f"planted-{arm}-{seed}"].gradient_trace("block") for arm in ("block", "matched")]
        for seed in (0, 1)
    ]
    for block, matched in traces:
        assert matched == pytest.approx(block, rel=1e-6)
    assert traces[0][0] != traces[1][0]


def test_summing_up_again_gives_the_same_bytes(done):
    before = (done.folder / "summary.json").read_bytes()
    summarise(done.folder)
    assert (done.folder / "summary.json").read_bytes() == before


@pytest.mark.slow
def test_two_processes_give_the_same_records_as_one(run, tmp_path, done, monkeypatch):
    # As many threads per process as here: one.
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    seen = []
    side_by_side = run(
        tmp_path / "two", seeds=(0,), jobs=2, on_progress=lambda *told: seen.append(told)
    )
    assert results(side_by_side.folder, "0") == results(done.folder, "0")
    assert {name for name, step, _ in seen if step == RECIPE.steps} == {
        one.id for one in side_by_side.runs
    }


def test_a_stopped_experiment_resumed_gives_what_one_that_ran_through_gave(run, tmp_path, done):
    class Stopped(BaseException):
        pass

    def stop(run_id, step, _):
        if (run_id, step) == ("planted-block-0", 3):
            raise Stopped

    out = tmp_path / "stopped"
    with pytest.raises(Stopped):
        run(out, seeds=(0,), on_progress=stop)
    with pytest.raises(RunError, match="no finished experiment"):
        summarise(out)
    (out / "runs/planted-block-0/lock").unlink()  # this process lives, so it is not stale
    kept = (out / "runs/planted-ordinary-0/run.json").read_bytes()
    seen = []
    run(
        out,
        seeds=(0,),
        resume=True,
        on_progress=lambda run_id, step, _: seen.append((run_id, step)),
    )
    assert results(out, "0") == results(done.folder, "0")
    assert (out / "runs/planted-ordinary-0/run.json").read_bytes() == kept
    assert seen[0] == ("planted-block-0", 3)


def test_a_finished_experiment_resumed_stays_as_it_is_but_other_settings_are_refused(run, tmp_path):
    arms = ARMS[:1]
    first = run(tmp_path / "one", arms=arms, seeds=(0,))
    before = results(first.folder, "0")
    again = run(tmp_path / "one", arms=arms, seeds=(0,), resume=True)
    assert results(again.folder, "0") == before
    with pytest.raises(RunError, match=r"other settings \(recipe\.learning_rate\)"):
        run(
            tmp_path / "one",
            arms=arms,
            seeds=(0,),
            resume=True,
            recipe=replace(RECIPE, learning_rate=2e-3),
        )
    assert results(first.folder, "0") == before


def test_a_groundwork_that_was_laid_on_other_prompts_is_not_gone_on_from(
    run, done, inputs_folder, tmp_path
):
    out = tmp_path / "begun"
    shutil.copytree(done.folder / "lineages", out / "lineages")
    inputs = shutil.copytree(inputs_folder, tmp_path / "inputs")
    probes = inputs / "probes.jsonl"
    probes.write_text("".join(probes.read_text().splitlines(keepends=True)[4:]))
    with pytest.raises(RunError, match=r"made with other inputs \(probes_hash\)"):
        run(out, inputs=Inputs.beside(inputs), resume=True)
    assert not (out / "runs").exists()


def test_the_failure_of_one_run_leaves_the_others_and_the_reason(run, tmp_path):
    hot = replace(KNOWN["push"], name="hot", strength=1e38, target=1e3)
    with pytest.raises(DivergedError):
        run(tmp_path / "one", arms=(KNOWN["ordinary"], hot, KNOWN["block"]), seeds=(0,))
    runs = {path.name: path for path in (tmp_path / "one/runs").iterdir()}
    told = {name: json.loads((path / "run.json").read_text()) for name, path in runs.items()}
    assert told["planted-ordinary-0"]["status"] == "done"
    assert told["planted-hot-0"]["status"] == "failed"
    assert "Try a lower learning rate" in told["planted-hot-0"]["failure"]


def test_a_used_folder_is_refused_and_left_alone(run, done, tmp_path):
    before = contents(done.folder)
    with pytest.raises(RunError, match="already used; choose another output folder, or use --res"):
        run(done.folder)
    assert contents(done.folder) == before
    (tmp_path / "file").write_text("kept")
    with pytest.raises(RunError, match="already used"):
        run(tmp_path / "file")
    with pytest.raises(RunError, match="cannot be written"):
        run(tmp_path / "file/below")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": (replace(KNOWN["block"], layers=(7,)),)}, r"no directions at layers \[7\]"),
        ({"arms": (replace(KNOWN["block"], strength=-1.0),)}, "must not be negative"),
        ({"recipe": replace(RECIPE, steps=0)}, "steps, batch_size"),
        ({"recipe": replace(RECIPE, learning_rate=-1.0)}, "learning_rate is -1.0"),
        ({"judge": "oracle"}, "Unknown judge 'oracle'"),
        ({"jobs": 0}, "jobs is 0"),
    ],
)
def test_settings_that_cannot_run_are_refused_with_nothing_written(run, tmp_path, options, message):
    with pytest.raises(WorkbenchError, match=message):
        run(tmp_path / "deep/one", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "row", "message"),
    [
        ("probes", {"prompt": "bako " * 80}, "the model reads 64"),
        ("harmful", {"prompt": "bako " * 80}, "the model reads 64"),
        ("task", {"prompt": "bako"}, "add 'response'"),
        ("finetune", {"prompt": "bako", "response": "belu " * 80}, "the model reads 64"),
        ("finetune", {"prompt": "bako"}, "Example 24: An example needs"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused_with_nothing_written(
    run, inputs_folder, tmp_path, file, row, message
):
    path = inputs_folder / f"{file}.jsonl"
    changed = write_lines(tmp_path / path.name, [*read_lines(path), row])
    name = "examples" if file == "finetune" else file
    with pytest.raises(WorkbenchError, match=message):
        run(tmp_path / "one", Inputs.beside(inputs_folder, **{name: changed}))
    assert not (tmp_path / "one").exists()


def test_two_lineages_of_one_name_are_refused(run, inputs_folder, tmp_path):
    with pytest.raises(ConfigError, match="Two lineages are called 'planted'; rename one"):
        run(tmp_path / "one", [Inputs.beside(inputs_folder)] * 2)
    assert not (tmp_path / "one").exists()


EVERY_KIND = (
    "ordinary,block,push,matched-two-sided,refusal-scaled,drift,shuffled,ablate,steer,cap@1,"
    "project,anchor-kl,anchor-penalty,anchor-weights,rehearse,block-rank2"
)


def test_arms_of_every_kind_run_and_the_summary_tells_all_the_evidence(run, tmp_path):
    arms = choose_arms(EVERY_KIND, KNOWN)
    options = {"seeds": (0,), "recipe": replace(RECIPE, steps=2)}
    found = run(tmp_path / "all", arms=arms, **options).summary
    assert set(found["arms"]) == {arm.name for arm in arms}
    runs = {one.info["config"]["arm"]["name"]: one for one in Experiment(tmp_path / "all", {}).runs}
    # Step 1 is taken on the same batch; only edits and rehearsal change what its loss is.
    losses = {name: one.lines[1]["loss"] for name, one in runs.items()}
    same = {name for name, loss in losses.items() if loss == losses["ordinary"]}
    assert set(losses) - same == {"ablate", "steer", "cap@1", "rehearse"}
    assert found["after_blocking"].keys() == {"block", "block-rank2"}
    assert found["significance"]["tests"] == 3 * 2
    assert found["other_phases"].keys() >= {"aligned→pretrained", "helpful→pretrained"}
    assert found["readout"]["planted"]["layers"] == [0, 1, 2]
    assert {point["arm"] for point in found["tradeoff"]["points"]} == set(losses) - {"push"}
    controls = {name for name, arm in found["arms"].items() if "control_cosine" in arm}
    assert controls == {"matched-two-sided", "refusal-scaled", "drift", "shuffled"}
    scaled = {name for name, arm in found["arms"].items() if "matching" in arm}
    assert scaled == {"matched-two-sided", "refusal-scaled"}
    (row,) = found["layers"]["rows"]
    assert (row["arm"], row["layers"]) == ("cap@1", [1])
    tables_tell(found)
    for draw in (plots.tradeoff, plots.significance, plots.layers, plots.ordering, plots.cost):
        assert draw(found).data


def tables_tell(summary):
    """Every table of the report finds what it is about in a real summary, and a row for it."""
    tables = [
        significance_table(summary), controls_table(summary), other_phases_table(summary),
        layers_table(summary), *readout_tables(summary), *aftermath_tables(summary),
    ]  # fmt: skip
    assert all(table is not None and table.rows for table in tables)
    assert len(tables) == 4 + len(summary["readout"]) + 2
    assert [row[0] for row in controls_table(summary).rows] == list(summary["controls"])
    assert "refusal log-odds" in layers_table(summary).header
    assert "block" in " ".join(significance_table(summary).header)
