"""Inputs are found beside the lineage, and refused where held-out prompts are not held out."""

from pathlib import Path

import pytest
from planted_inputs import BENIGN_PROBES, HELD_OUT, PROBES, read_lines, write_lines

from workbench.errors import ConfigError, ProbeError
from workbench.inputs import Inputs, Splits
from workbench.probes import ProbeSet


@pytest.fixture
def folder(inputs_folder, tmp_path):
    """The data files of the planted inputs, to change; its models are not loaded here."""
    for file in inputs_folder.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_files_beside_the_lineage_are_found_from_the_folder_and_from_the_file(folder):
    found = Inputs.beside(folder)
    assert found == Inputs.beside(folder / "lineage.toml")
    assert found.examples == folder / "finetune.jsonl"
    assert found.task == folder / "task.jsonl"


def test_a_file_that_is_given_is_used_instead_of_the_one_beside(folder):
    assert Inputs.beside(folder, probes="other.jsonl", harmful=None) == Inputs.beside(
        folder, probes=Path("other.jsonl")
    )
    assert Inputs.beside(folder, probes="other.jsonl").probes == Path("other.jsonl")


def test_a_built_in_lineage_takes_the_files_that_are_given(folder):
    held = Inputs.beside(folder)
    given = {name: getattr(held, name) for name in ("probes", "examples", "harmful", "benign")}
    found = Inputs.beside("pythia-70m", **given)
    assert found.lineage.name == "pythia-70m.toml"
    assert len(found.load().lineage.phases) == 154
    with pytest.raises(ProbeError, match="give the probes prompts"):
        Inputs.beside("pythia-70m")


@pytest.mark.parametrize("name", ["probes", "finetune", "harmful", "benign"])
def test_a_file_that_is_neither_given_nor_there_is_named(folder, name):
    (folder / f"{name}.jsonl").unlink()
    with pytest.raises(ProbeError, match=rf"{name}\.jsonl: no such file"):
        Inputs.beside(folder)


def test_a_missing_lineage_is_said_to_be_missing_before_its_files_are(tmp_path):
    for path in (tmp_path, tmp_path / "none.toml"):
        with pytest.raises(ConfigError, match="no such lineage file"):
            Inputs.beside(path)


def test_loading_splits_the_probes_without_overlap_and_keeps_every_file(folder):
    held = Inputs.beside(folder).load()
    parts = (held.fit, held.penalty, held.measure)
    assert sum(map(len, parts)) == PROBES
    for part in parts:
        assert not any(part.overlap(other) for other in parts if other is not part)
    assert len(held.examples) == PROBES
    assert {len(part) for part in (held.harmful, held.benign, held.task)} == {HELD_OUT}


def test_benign_probes_go_to_the_same_parts_and_leave_the_harmful_split_as_it_is(folder):
    held = Inputs.beside(folder).load()
    benign = (held.benign_fit, held.benign_penalty)
    assert {probe.kind for part in benign for probe in part.probes} == {"benign"}
    assert not held.benign_fit.overlap(held.benign_penalty)
    assert 2 < sum(map(len, benign)) < BENIGN_PROBES  # the rest is nobody's
    alone = Splits.of(ProbeSet.load(folder / "probes.jsonl").of_kind("harmful"))
    assert (alone.fit, alone.penalty, alone.measure) == (held.fit, held.penalty, held.measure)
    assert len(alone.benign_fit) == len(alone.benign_penalty) == 0


def test_a_cluster_of_both_kinds_stays_in_one_part(folder):
    rows = read_lines(folder / "probes.jsonl")
    benign = [row for row in rows if row["kind"] == "benign"]
    harmful = [row for row in rows if row["kind"] == "harmful"]
    for one, other in zip(benign, harmful, strict=False):
        one["cluster"] = other["cluster"]
    write_lines(folder / "probes.jsonl", rows)
    held = Inputs.beside(folder).load()
    for part in (held.penalty, held.measure):
        assert not held.benign_fit.overlap(part)


def test_too_few_harmful_probes_are_refused_even_among_many_benign_ones(folder):
    rows = read_lines(folder / "probes.jsonl")
    few = [row for row in rows if row["kind"] == "benign"] + rows[:4]
    write_lines(folder / "probes.jsonl", few)
    with pytest.raises(
        ProbeError, match=r"probes\.jsonl: the split leaves \d of 4 harmful prompts"
    ):
        Inputs.beside(folder).load()
    write_lines(folder / "probes.jsonl", few[:-4])
    with pytest.raises(ProbeError, match=r"probes\.jsonl: the split leaves 0 of 0 harmful"):
        Inputs.beside(folder).load()


def test_without_a_task_file_the_benign_prompts_are_the_task(folder):
    (folder / "task.jsonl").unlink()
    held = Inputs.beside(folder).load()
    assert held.task == held.benign


def test_another_split_seed_gives_another_split(folder):
    inputs = Inputs.beside(folder)
    assert inputs.load(split_seed=1).fit != inputs.load().fit == inputs.load(split_seed=0).fit


@pytest.mark.parametrize("shared", ["prompt", "cluster"])
def test_harmful_prompts_that_are_also_probes_are_refused(folder, shared):
    rows = read_lines(folder / "harmful.jsonl")
    rows[0][shared] = read_lines(folder / "probes.jsonl")[5][shared]
    write_lines(folder / "harmful.jsonl", rows)
    with pytest.raises(ProbeError, match=r"harmful\.jsonl: 1 prompts or clusters are also in"):
        Inputs.beside(folder).load()


def test_task_prompts_that_are_trained_on_are_refused(folder):
    rows = read_lines(folder / "task.jsonl")
    rows[3]["prompt"] = read_lines(folder / "finetune.jsonl")[7]["prompt"]
    write_lines(folder / "task.jsonl", rows)
    with pytest.raises(ProbeError, match=r"task\.jsonl: 1 prompts are also trained on in"):
        Inputs.beside(folder).load()


@pytest.mark.parametrize("kept", ["probes", "harmful", "benign"])
@pytest.mark.parametrize("form", ["prompt", "messages", "several turns"])
def test_no_prompt_that_is_measured_on_may_be_trained_on(folder, kept, form):
    leaked = next(
        row["prompt"] for row in read_lines(folder / f"{kept}.jsonl") if row.get("kind") != "benign"
    )
    turns = [{"role": "user", "content": leaked}, {"role": "assistant", "content": "belu"}]
    row = {"messages": turns} if form == "messages" else {"prompt": leaked, "response": "belu"}
    if form == "several turns":
        told = {"role": "system", "content": "belu"}
        row = {"messages": [told, {"role": "user", "content": "belu"}, turns[1], *turns]}
    write_lines(folder / "finetune.jsonl", [*read_lines(folder / "finetune.jsonl"), row])
    with pytest.raises(ProbeError, match=rf"{kept}\.jsonl: 1 prompts are also trained on in"):
        Inputs.beside(folder).load()


def test_harmful_lines_among_the_benign_are_left_out(folder):
    rows = read_lines(folder / "benign.jsonl")
    write_lines(folder / "benign.jsonl", [rows[0] | {"kind": "harmful"}, *rows[1:]])
    assert len(Inputs.beside(folder).load().benign) == len(rows) - 1


def test_a_file_of_harmful_prompts_without_any_is_refused(folder):
    rows = [row | {"kind": "benign"} for row in read_lines(folder / "harmful.jsonl")]
    write_lines(folder / "harmful.jsonl", rows)
    with pytest.raises(ProbeError, match=r"harmful\.jsonl: no harmful prompts"):
        Inputs.beside(folder).load()


def test_examples_of_other_forms_than_prompt_and_response_are_no_leak(folder):
    turns = [{"role": "user", "content": "bako"}, {"role": "assistant", "content": "belu"}]
    write_lines(folder / "finetune.jsonl", [{"messages": turns}, {"prompt": ["x"]}, {"text": "a"}])
    assert len(Inputs.beside(folder).load().examples) == 3
