"""What is stored verifies as sound, and every kind of damage is found and named."""

import json
import math
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from planted_experiment import planted_alignment, planted_drift
from planted_inputs import SMALL
from safetensors.numpy import load_file, save_file

from workbench.arms import choose_arms, standard_arms
from workbench.cli import main
from workbench.config import Recipe, settings_hash
from workbench.errors import RunError
from workbench.experiment import run_experiment
from workbench.files import json_bytes
from workbench.inputs import Inputs
from workbench.manifest import manifest_of
from workbench.passage import read_about
from workbench.passage_reading import read_passage
from workbench.phases import Lineage
from workbench.probes import ProbeSet
from workbench.records import StepRecord
from workbench.store import RunStore
from workbench.summary import summarise
from workbench.verification import verify


def run_small(inputs_folder, out, **options):
    run_experiment(
        Inputs.beside(inputs_folder),
        arms=choose_arms("ordinary,block", standard_arms()),
        seeds=(0,),
        recipe=Recipe(steps=3, learning_rate=1e-3, batch_size=4),
        out=out,
        max_new_tokens=3,
        state_every=1,
        **options,
    )


@pytest.fixture(scope="module")
def stored(inputs_folder, tmp_path_factory):
    """An experiment, a run that stands alone and a passage, as they were written."""
    root = tmp_path_factory.mktemp("stored")
    run_small(inputs_folder, root / "experiment")
    assert main(["finetune", str(inputs_folder), *SMALL, "--out", str(root / "alone")]) == 0
    probes = ProbeSet.load(inputs_folder / "probes.jsonl").of_kind("harmful")
    read_passage(Lineage.load(inputs_folder), probes, root / "passage", keep="all")
    return root


@pytest.fixture
def copied(stored, tmp_path):
    """The same, to be damaged."""
    return shutil.copytree(stored, tmp_path / "copied")


def rewrite(path, change):
    """Change a JSON file, and nothing of how it is written; run.json is sealed again."""
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    if path.name == "run.json":
        data = seal_anew(data)
    path.write_bytes(json_bytes(data))


def rewrite_line(run, number, change):
    """Change one line of a run's records, and its manifest, so that its content tells."""
    lines = (run / "records.jsonl").read_text().splitlines()
    data = json.loads(lines[number])
    change(data)
    lines[number] = json.dumps(data)
    (run / "records.jsonl").write_text("".join(f"{line}\n" for line in lines))
    renew_manifest(run)


def renew_manifest(run):
    rewrite(run / "run.json", lambda info: info.update(files=manifest_of(run)))


def seal_anew(info):
    told = {key: value for key, value in info.items() if key != "sha256"}
    return told | {"sha256": settings_hash(told)}


@pytest.mark.parametrize(
    "name", ["experiment", "alone", "passage", "experiment/runs/planted-block-0"]
)
def test_what_was_written_is_sound_and_verifying_changes_nothing(stored, name):
    before = {path: path.read_bytes() for path in stored.rglob("*") if path.is_file()}
    findings = verify(stored / name)
    assert findings.faults == [] and findings.sound
    assert findings.remarks == []
    assert findings.checked["number"] > 10
    assert before == {path: path.read_bytes() for path in stored.rglob("*") if path.is_file()}


def test_every_run_and_every_measured_step_is_looked_at(stored):
    checked = verify(stored / "experiment").checked
    assert checked["run"] == 2
    assert checked["drift file"] == 2 * 3
    assert checked["record"] == 2 * 4  # and step 0
    assert checked["evaluation"] == 2 * 3


RUN = "experiment/runs/planted-block-0"


def set_drift(name, value):
    return lambda line: line["drift"].update({name: value(line["drift"][name])})


def nudge(values):
    return [values[0] + 1e-3, *values[1:]]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (set_drift("alignment", nudge), "step 2: alignment of row 0"),
        (set_drift("along", nudge), "step 2: along of row 0"),
        (set_drift("across", nudge), "step 2: across of row 0"),
        (set_drift("norm", nudge), "step 2: norm of row 0"),
        (set_drift("mean_alignment", lambda value: value + 1e-3), "step 2: mean_alignment"),
        (set_drift("stacked_alignment", lambda value: -value), "step 2: stacked_alignment"),
        (set_drift("undefined", lambda value: value + 1), "step 2: undefined"),
        (set_drift("low", lambda values: [2.0, *values[1:]]), "step 2: an interval"),
        (lambda line: line.update(step=2.5), "line 3.step is 2.5, not a count"),
        (lambda line: line.update(step=7), r"step 7 follows step 1|follows step 7|after 7"),
        (lambda line: line.update(extra=1), r"unknown key line 3\.extra"),
        (lambda line: line.pop("drift"), "step 2 is not measured"),
        (lambda line: line["drift"].update(sha256="0" * 64), "000002.safetensors: not the file"),
    ],
)
def test_a_number_that_is_not_what_the_drift_file_gives_is_found(copied, change, told):
    rewrite_line(copied / RUN, 2, change)
    findings = verify(copied / RUN)
    assert any(re.search(told, one) for one in findings.faults), findings.faults


def test_rounding_alone_is_no_fault(copied):
    def round_off(line):
        line["drift"]["along"] = [float(np.float32(value)) for value in line["drift"]["along"]]

    rewrite_line(copied / RUN, 2, round_off)
    assert verify(copied / RUN).faults == []


def flip(path, place=-3):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def swap(one, other):
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda run: flip(run / "drift/000002.safetensors"), "000002.safetensors"),
        (lambda run: (run / "drift/000002.safetensors").unlink(), "000002.safetensors"),
        (
            lambda run: swap(run / "drift/000001.safetensors", run / "drift/000002.safetensors"),
            "000001.safetensors",
        ),
        (
            lambda run: shutil.copy(
                run / "drift/000001.safetensors", run / "drift/000009.safetensors"
            ),
            "000009.safetensors: no record of this step",
        ),
        (lambda run: flip(run / "records.jsonl", 40), "records.jsonl"),
        (lambda run: (run / "answers/000003.json").unlink(), "answers/000003.json"),
        (
            lambda run: flip(run / "aftermath.safetensors"),
            "aftermath.safetensors: has other content",
        ),
        (
            lambda run: (run / "run.json").write_text((run / "run.json").read_text()[:-20]),
            "run.json: cannot be read",
        ),
        (
            lambda run: rewrite(run / "run.json", lambda info: info.update(more=1)),
            "unknown key more",
        ),
        (
            lambda run: rewrite(run / "run.json", lambda info: info.update(schema=7)),
            "schema is 7, not 1",
        ),
        (
            lambda run: rewrite(
                run / "run.json",
                lambda info: info["files"].update({"../x": info["files"].popitem()[1]}),
            ),
            "names a file elsewhere",
        ),
        (
            lambda run: rewrite(
                run / "run.json", lambda info: info["config"]["recipe"].update(steps=9)
            ),
            "ends at step 3, but the run is done and has 9",
        ),
    ],
)
def test_a_damaged_file_of_a_run_is_named(copied, damage, told):
    damage(copied / RUN)
    findings = verify(copied / RUN)
    assert any(told in one for one in findings.faults), findings.faults


def test_answers_that_do_not_give_the_scores_are_found(copied):
    run = copied / RUN

    def refuse(said):
        said["harmful"][0][1:] = ["I'm sorry, but no.", "refuse"]

    rewrite(run / "answers/000003.json", refuse)
    renew_manifest(run)
    assert any("the answers give" in one for one in verify(run).faults)
    rewrite(run / "answers/000003.json", lambda said: said["harmful"][0].__setitem__(2, "comply"))
    assert any("is judged 'comply', by rules 'refuse'" in one for one in verify(run).faults)


def test_other_directions_than_the_run_was_made_with_are_found(copied):
    place = copied / "experiment/lineages/planted/directions.safetensors"
    flip(place)
    told = verify(copied / "experiment").faults
    assert any("not the file that the run was made with" in one for one in told), told
    flip(copied / "alone/directions.safetensors")
    assert any(
        "along of row" in one or "other content" in one for one in verify(copied / "alone").faults
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda summary: summary["arms"]["block"].update(strength=1.0), "arms.block.strength"),
        (lambda summary: summary["seeds"].append(1), "seeds"),
    ],
)
def test_a_summary_that_the_runs_do_not_give_is_found_and_written_again(copied, change, told):
    folder = copied / "experiment"
    before = (folder / "summary.json").read_bytes()
    rewrite(folder / "summary.json", change)
    assert any(told in one for one in verify(folder).faults)
    assert main(["experiment", str(folder), "--recompute"]) == 0
    assert (folder / "summary.json").read_bytes() == before
    assert verify(folder).sound


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda plan: plan["recipe"].update(learning_rate=1.0), "recipe.learning_rate"),
        (lambda plan: plan["arms"][1].update(strength=7.0), "arm.strength"),
        (lambda plan: plan.update(seeds=[5]), "of seed 0"),
        (lambda plan: plan["runs"].pop(), "names 1 runs"),
    ],
)
def test_a_plan_that_the_runs_were_not_made_by_is_found(copied, change, told):
    rewrite(copied / "experiment/experiment.json", change)
    assert any(told in one for one in verify(copied / "experiment").faults)


@pytest.mark.parametrize("name", ["isotropic", "matched"])
def test_percentiles_of_a_null_that_its_readings_do_not_give_are_found(copied, name):
    path = copied / "experiment/lineages/planted/nulls.json"
    rewrite(path, lambda nulls: nulls[name]["p99"].__setitem__(0, 0.01))
    assert any(f"of the {name} null" in one for one in verify(copied / "experiment").faults)


def test_a_damaged_passage_is_found(copied):
    folder = copied / "passage"
    path = sorted((folder / "phases").glob("aligned*"))[0]
    tensors, about = load_file(path), read_about(path)
    about.pop("tensors")
    metadata = {"workbench": json.dumps(about)}
    save_file(tensors, path, metadata)
    assert verify(folder).sound
    tensors["mean"][0, 0] += 1e-3
    save_file(tensors, path, metadata)
    assert any(f"{path.name}: its mean is not that of its acts" in x for x in verify(folder).faults)
    save_file(tensors, path)
    assert any(f"{path.name}: cannot be read" in one for one in verify(folder).faults)


@pytest.mark.parametrize("name", ["mean", "floor", "acts"])
def test_a_number_of_a_passage_that_is_not_what_was_read_is_found(copied, name):
    folder = copied / "passage"
    (path,) = (folder / "phases").glob("aligned-*")
    tensors = load_file(path)
    tensors[name].flat[0] = np.nextafter(tensors[name].flat[0], 9, dtype=tensors[name].dtype)
    if name == "mean":
        del tensors["acts"]  # nothing is left that it could be made from
    about = {key: told for key, told in read_about(path).items() if key != "tensors"}
    if name == "mean":
        about["provenance"]["sha256"].pop("acts")
    save_file(tensors, path, metadata={"workbench": json.dumps(about)})
    assert any(f"{path}: holds other numbers" in one for one in verify(folder).faults)


def test_a_run_that_was_stopped_is_sound_and_a_damaged_state_is_found(inputs_folder, tmp_path):
    from workbench.finetune import FineTuning
    from workbench.loading import load_model
    from workbench.trial import record_run

    examples = [json.loads(line) for line in (inputs_folder / "finetune.jsonl").open()]
    tuning = FineTuning(load_model(inputs_folder / "aligned"), examples, steps=4, batch_size=4)
    run = RunStore(tmp_path).create(tuning.config(), "one")
    record_run(run, tuning, state_every=1, on_record=lambda *_: tuning.stop())
    run.fail("stopped; resume to continue")
    findings = verify(run.folder)
    assert findings.sound and findings.checked["state"] == 1
    assert findings.remarks == [
        f"{run.folder}: not finished, it came to step 1 of 4: stopped; resume to continue"
    ]
    flip(run.folder / "state/000001/state.safetensors")
    assert any("state.safetensors: damaged" in one for one in verify(run.folder).faults)
    with pytest.raises(RunError, match="damaged"):
        run.load_state()


def test_a_run_that_was_copied_out_of_its_experiment_is_sound_as_far_as_it_can_be_told(copied):
    alone = shutil.copytree(copied / RUN, copied / "out/of/it")
    findings = verify(alone)
    assert findings.sound
    assert any("along and across cannot be made again" in one for one in findings.remarks)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda plan: plan["lineages"][0].update(witness="someone"), "the witness is 'someone'"),
        (lambda plan: plan["evaluated_steps"].pop(0), "evaluate_at"),
    ],
)
def test_a_plan_that_was_changed_and_summed_up_again_is_found(copied, change, told):
    folder = copied / "experiment"
    rewrite(folder / "experiment.json", change)
    if "witness" in told:
        summarise(folder)
    assert any(told in one for one in verify(folder).faults)


@pytest.mark.parametrize("change", [('"seed": 0', '"seed": 1'), ('"records.jsonl"', '"records"')])
def test_settings_or_a_manifest_that_were_changed_by_hand_are_found(copied, change):
    path = copied / RUN / "run.json"
    path.write_text(path.read_text().replace(*change))
    assert f"{path}: says something else than what was written" in verify(copied / RUN).faults


def test_a_run_that_was_killed_before_it_measured_needs_no_directions_yet(copied):
    run = copied / "alone"
    (run / "directions.safetensors").unlink()
    assert any("directions.safetensors: is missing" in one for one in verify(run).faults)
    rewrite(run / "run.json", lambda info: (info.update(status="running"), info.pop("files")))
    for path in (run / "records.jsonl", *(run / "drift").iterdir()):
        path.unlink()
    (run / "records.jsonl").touch()
    assert verify(run).faults == []


def test_the_command_says_sound_or_names_the_faults_and_fails(copied, capsys):
    assert main(["verify", str(copied / "experiment"), str(copied / "passage")]) == 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2 and all(": sound (1 " in line for line in told)
    flip(copied / RUN / "drift/000002.safetensors")
    assert main(["verify", str(copied / "experiment"), str(copied / "passage"), "--json"]) == 2
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found[str(copied / "passage")]["faults"] == []
    assert any("000002" in one for one in found[str(copied / "experiment")]["faults"])
    assert "experiment: " in err and "fault" in err
    assert main(["verify", str(copied / "experiment/lineages"), str(copied / "passage")]) == 2
    out, err = capsys.readouterr()
    assert "lineages: neither a run, nor an experiment or passage" in out
    assert "passage: sound (1 passage" in out and "lineages: 1 fault" in err


@pytest.mark.parametrize("name", ["directions.safetensors", "readout.json"])
def test_what_surrounds_a_run_is_named_when_it_cannot_be_read(copied, name):
    with (copied / "alone" / name).open("r+b") as file:
        file.truncate(100)
    found = verify(copied / "alone").faults
    assert any(f"{name}: cannot be read" in one for one in found), found
    assert any(f"{name}: has 100 bytes" in one for one in found), found


def test_a_plan_that_is_gone_is_missed_where_there_is_a_summary(copied):
    (copied / "experiment/experiment.json").unlink()
    assert any("experiment.json: is missing" in one for one in verify(copied / "experiment").faults)
    (copied / "experiment/summary.json").unlink()
    findings = verify(copied / "experiment")
    assert findings.sound and any("not finished" in one for one in findings.remarks)


@pytest.mark.parametrize(
    ("steps", "measured"), [(20, [1, 2, 7]), (7, [1, 2]), (12, [1, 2, 5, 12]), (20, [1, 2, 12, 20])]
)
def test_a_training_by_a_trainer_may_end_early_and_go_on_further_but_leaves_no_step_out(
    tmp_path, steps, measured
):
    run = RunStore(tmp_path).create(
        {
            "trainer": {},
            "recipe": {"steps": steps, "measure_at": [1, 2]},
            "directions": {"lineage": "planted"},
        },
        "one",
    )
    for step in sorted({0, 7, *measured}):
        drift = planted_drift(planted_alignment("ordinary", 0)[2], step)
        found = drift if step in measured else None
        run.append(StepRecord(step, math.nan, 0.0, math.nan, drift=found))
    run.finish()
    # Directions would be beside a real one.
    assert [one for one in verify(run.folder).faults if "is missing" not in one] == []
    rewrite_line(run.folder, 2, lambda line: line.pop("drift"))
    assert any("step 2 is not measured" in one for one in verify(run.folder).faults)


def test_an_edited_number_of_an_ablation_grid_is_found(copied):
    from planted_grid import make_grid

    grids = copied / RUN / "ablation"
    grids.mkdir()
    make_grid().save(grids / "one.json")
    findings = verify(copied / RUN)
    assert findings.sound and findings.checked["ablation grid"] == 1

    def better(grid):
        grid["scores"]["harmfulness"][0][0][0][0] = 0.123

    rewrite(grids / "one.json", better)
    assert any(
        "one.json: not an ablation grid, or damaged" in x for x in verify(copied / RUN).faults
    )


def test_a_summary_that_was_edited_is_not_shown(copied, capsys):
    folder = copied / "experiment"
    rewrite(folder / "summary.json", lambda summary: summary.update(steps=4))
    assert main(["report", str(folder)]) == 2
    assert "summary.json: not what was written" in capsys.readouterr().err
    assert main(["experiment", str(folder), "--recompute"]) == 0
    assert main(["report", str(folder)]) == 0


def test_an_experiment_resumed_when_it_is_done_changes_nothing(copied, inputs_folder):
    folder = copied / "experiment"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    run_small(inputs_folder, folder, resume=True)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_that_continue_one_experiment_do_not_write_at_once(copied, inputs_folder):
    from workbench.locks import locked

    folder = copied / "experiment"
    with locked(folder / "lock"), pytest.raises(RunError, match="being written by process"):
        run_small(inputs_folder, folder, resume=True)


VERIFY = """
import sys
from workbench import verify
assert verify(sys.argv[1]).sound
heavy = {"torch", "transformers", "transformer_lens"} & set(sys.modules)
assert not heavy, heavy
"""


def test_verifying_takes_no_torch(stored):
    for name in ("experiment", "alone", "passage"):
        told = subprocess.run(
            [sys.executable, "-c", VERIFY, stored / name], capture_output=True, text=True
        )
        assert told.returncode == 0, told.stderr
