"""Where the phases lie is measured on the fit probes, stored, and read again without torch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from workbench.landmarks import SCHEMA, measure_landmarks
from workbench.phase_reading import read_phase
from workbench.surroundings import PHASES, Surroundings


@pytest.fixture(scope="module")
def read(lineage, splits):
    return {phase.name: read_phase(lineage, phase, splits[0]) for phase in lineage.phases}


def test_the_witness_lies_one_gap_along_v_rev_and_at_the_planted_shift(
    lineage, read, directions, planted_shift
):
    found = measure_landmarks(lineage, read)
    assert {*found.tensors} == {"pretrained", "helpful", "sibling"}
    helpful = found.tensors["helpful"]
    torch.testing.assert_close(helpful, directions.gap[:, None] * directions.unit)
    torch.testing.assert_close(helpful[0].float(), planted_shift, atol=1e-5, rtol=0)
    # The sibling has a tenth of that shift, its coordinates in reverse.
    expected = 0.1 * planted_shift.flip(0)
    torch.testing.assert_close(found.tensors["sibling"][0].float(), expected, atol=1e-5, rtol=0)


def test_what_is_saved_is_what_is_loaded_in_training_order(lineage, read, tmp_path):
    found = measure_landmarks(lineage, read)
    found.save(tmp_path / PHASES, SCHEMA)
    around = Surroundings.at(tmp_path)
    assert list(around.phases) == ["pretrained", "helpful", "sibling"]
    for name, displacement in found.tensors.items():
        np.testing.assert_array_equal(around.phases[name], displacement.numpy())
    assert around.order == ("pretrained", "helpful", "aligned", "sibling")
    assert around.roles == dict(lineage.roles)


def test_a_phase_that_makes_other_tokens_of_the_prompts_is_left_out(lineage, read):
    other = replace(read["pretrained"], tokens_hash="other")
    found = measure_landmarks(lineage, read | {"pretrained": other})
    assert {*found.tensors} == {"helpful", "sibling"}
    assert found.provenance["phases"] == ["helpful", "aligned", "sibling"]
