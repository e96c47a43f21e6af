"""A phase's reading says what it was read from, and unlike ones are not compared."""

from dataclasses import replace

import pytest

from workbench.directions import fit_between
from workbench.errors import ConfigError, PhaseMismatchError
from workbench.finetune import FineTuning
from workbench.penalties import Block
from workbench.phase_reading import PhaseReading


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
