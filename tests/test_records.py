"""Records are where tensors end: numbers with units, and JSON that any reader takes."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from workbench import errors
from workbench.records import (
    SCORE_NAMES,
    Auxiliary,
    Drift,
    Estimate,
    Scores,
    StepRecord,
    cosine,
    mean_defined,
    scores_from_json,
    scores_to_json,
)

GAP = np.array([2.0, 0.5, 8.0])


def drift_of(vector, unit, gap=GAP):
    """A drift by its definitions, layer by layer."""
    along = np.array([float(v @ u) for v, u in zip(vector, unit, strict=True)])
    across = np.array(
        [np.linalg.norm(v - a * u) for v, a, u in zip(vector, along, unit, strict=True)]
    )
    return Drift(
        vector=vector,
        alignment=cosine(vector, unit),
        along=along / gap,
        across=across / gap,
        norm=np.linalg.norm(vector, axis=1),
        interval=np.stack([cosine(vector, unit) - 0.1, cosine(vector, unit) + 0.2], axis=1),
        projections=np.zeros((len(vector), 4)),
        floor=np.zeros(len(vector)),
    )


@pytest.fixture
def world():
    rng = np.random.default_rng(0)
    unit = rng.normal(size=(3, 16))
    return rng.normal(size=(3, 16)), unit / np.linalg.norm(unit, axis=1, keepdims=True)


def test_the_cosine_of_planted_vectors_is_the_planted_one():
    unit = np.eye(3, 4)
    vector = np.array([[3.0, 4.0, 0, 0], [0, -2.0, 0, 0], [1.0, 0, 0, 5.0]])
    assert np.allclose(cosine(vector, unit), [0.6, -1.0, 0.0])
    steps = np.stack([vector, 10 * vector])
    assert np.allclose(cosine(steps, unit), [[0.6, -1.0, 0.0]] * 2)


def test_a_zero_vector_has_no_cosine():
    assert np.array_equal(np.isnan(cosine(np.diag([1.0, 0.0]), np.eye(2))), [False, True])


def test_the_mean_leaves_undefined_layers_out():
    values = np.array([[0.5, np.nan, 0.1], [np.nan, np.nan, np.nan]])
    assert np.allclose(mean_defined(values), [0.3, np.nan], equal_nan=True)
    assert float(mean_defined(values[0])) == pytest.approx(0.3)


def test_the_mean_alignment_is_the_mean_of_the_layers_that_are_defined(world):
    drift = drift_of(*world)
    assert drift.mean_alignment == pytest.approx(drift.alignment.mean())
    assert drift.undefined == 0
    partly = replace(drift, alignment=np.array([0.5, np.nan, 0.1]))
    assert partly.mean_alignment == pytest.approx(0.3)
    assert partly.undefined == 1
    assert math.isnan(replace(drift, alignment=np.full(3, np.nan)).mean_alignment)


def test_the_stacked_alignment_is_the_cosine_of_the_concatenated_layers_in_gap_units(world):
    vector, unit = world
    stacked = np.concatenate(vector / GAP[:, None])
    witness = np.concatenate(unit)  # every gap is 1 in gap units
    expected = stacked @ witness / np.linalg.norm(stacked) / np.linalg.norm(witness)
    assert drift_of(vector, unit).stacked_alignment == pytest.approx(expected)
    still = drift_of(np.zeros((3, 16)), unit)
    assert math.isnan(still.stacked_alignment)


def test_a_large_late_layer_does_not_dominate_the_stacked_alignment():
    unit = np.eye(3, 16)
    # Two layers go straight back, the last one, in whose units all is larger, goes off.
    vector = np.stack([unit[0] * 2.0, unit[1] * 0.5, np.roll(unit[2], 5) * 8.0])
    raw = vector.ravel() @ unit.ravel() / np.linalg.norm(vector) / np.linalg.norm(unit)
    assert drift_of(vector, unit).stacked_alignment == pytest.approx(2 / 3)
    assert raw < 0.2


def a_score(name="harmfulness", **values):
    scores = {name: Estimate(0.5, 0.4, 0.6, 20) for name in SCORE_NAMES}
    return Scores(**scores | ({name: replace(scores[name], **values)} if values else {}))


def test_scores_come_back_from_json_as_they_were():
    scores = a_score("kl", value=1.25, n=7)
    assert scores_from_json(json.loads(json.dumps(scores_to_json(scores)))) == scores
    assert scores["kl"].value == 1.25
    unknown = scores_from_json(scores_to_json(a_score("kl", value=math.nan, n=0)))
    assert math.isnan(unknown.kl.value)
    assert (unknown.kl.low, unknown.kl.n) == (0.4, 0)


def test_the_json_of_a_record_is_strict_and_holds_every_scalar(world):
    drift = replace(drift_of(*world), alignment=np.array([0.5, np.nan, 0.1]))
    record = StepRecord(
        step=3,
        loss=1.5,
        learning_rate=1e-5,
        gradient_norm=2.0,
        auxiliary={"block": Auxiliary(loss=0.1, gradient_norm=0.2, scale=1.0)},
        drift=drift,
        scores=a_score(),
    )
    line = json.loads(json.dumps(record.to_json(), allow_nan=False))
    assert (line["step"], line["loss"], line["learning_rate"]) == (3, 1.5, 1e-5)
    assert line["auxiliary"]["block"] == {"loss": 0.1, "gradient_norm": 0.2, "scale": 1.0}
    assert line["drift"]["alignment"] == [0.5, None, 0.1]
    assert line["drift"]["undefined"] == 1
    assert line["drift"]["mean_alignment"] == pytest.approx(0.3)
    assert line["drift"]["stacked_alignment"] == pytest.approx(drift.stacked_alignment)
    for name in ("along", "across", "norm"):
        assert line["drift"][name] == getattr(drift, name).tolist()
    assert line["drift"]["low"] == drift.interval[:, 0].tolist()
    assert line["drift"]["high"] == drift.interval[:, 1].tolist()
    assert "vector" not in line["drift"]
    assert set(line["scores"]) == set(SCORE_NAMES)


def test_a_record_without_drift_says_nothing_of_it():
    line = StepRecord(step=1, loss=1.0, learning_rate=1e-5, gradient_norm=1.0).to_json()
    assert set(line) == {"step", "loss", "learning_rate", "gradient_norm"}


def test_every_error_is_ours_and_a_builtin():
    kinds = (value for value in vars(errors).values() if isinstance(value, type))
    ours = [kind for kind in kinds if issubclass(kind, BaseException)]
    assert len(ours) > 5
    for error in ours:
        assert issubclass(error, errors.WorkbenchError)
        if error is not errors.WorkbenchError:
            assert any(base.__module__ == "builtins" for base in error.__bases__)
