"""A phase's reading says what it was read from, and unlike ones are not compared."""

from dataclasses import replace

import pytest

from workbench.checkpoints import Checkpoint
from workbench.directions import fit_between, fit_directions
from workbench.errors import ConfigError, PhaseMismatchError, ProbeError
from workbench.finetune import FineTuning
from workbench.penalties import Block
from workbench.phase_reading import PhaseReading
from workbench.probes import ProbeSet


def test_phases_that_see_other_tokens_are_not_compared(lineage, splits):
    fit = splits[0]
    helpful, aligned = (lineage.load_model(phase) for phase in (lineage.witness, lineage.aligned))
    of_aligned = PhaseReading.of(aligned, "aligned", fit)
    fit_between(PhaseReading.of(helpful, "helpful", fit), of_aligned, fit, lineage="planted")
    helpful.chat = "builtin" if helpful.chat != "builtin" else "none"
    other = PhaseReading.of(helpful, "helpful", fit)
    assert other.tokens_hash != of_aligned.tokens_hash
    with pytest.raises(PhaseMismatchError, match="helpful and aligned turn the same prompts into"):
        fit_between(other, of_aligned, fit, lineage="planted")


def test_the_read_position_is_part_of_what_was_read(aligned_model, splits):
    hashes = {
        PhaseReading.of(aligned_model, "aligned", splits[0], position=position).tokens_hash
        for position in (-1, -2, "prompt_mean")
    }
    assert len(hashes) == 3


def test_two_interventions_of_one_name_are_refused(aligned_model, directions, splits, examples):
    block = Block(directions, strength=1.0, probes=splits[1])
    with pytest.raises(ConfigError, match="Two interventions are called 'block'"):
        FineTuning(aligned_model, examples, intervention=[block, replace(block, strength=2.0)])


def test_an_adapter_with_a_config_beside_it_is_no_whole_checkpoint(lineage, tmp_path):
    phase = replace(lineage.aligned, model=str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert Checkpoint.of(lineage, phase) is not None
    (tmp_path / "adapter_config.json").write_text("{}")
    assert Checkpoint.of(lineage, phase) is None


def test_prompts_that_are_cut_are_counted_in_what_directions_are_made_from(lineage, sentence):
    probes = ProbeSet.from_prompts([sentence(1), sentence(2, words=80), sentence(3)])
    with pytest.raises(ProbeError, match="85 tokens"):
        fit_directions(lineage, probes)
    cutting = replace(lineage, overflow="truncate")
    assert Checkpoint.of(cutting, cutting.aligned)().overflow == "truncate"
    with pytest.warns(UserWarning, match="Probes: 1 of 3 are longer than the 64 tokens"):
        assert fit_directions(cutting, probes).provenance["truncated"] == 1
    fitting = ProbeSet.from_prompts([sentence(1), sentence(3)])
    assert "truncated" not in fit_directions(cutting, fitting).provenance
