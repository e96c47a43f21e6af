"""Dose responses, the Pareto front and layer sweeps hold the arms' ends, and the right arms."""

import pytest

from workbench.statistic import statistic
from workbench.tradeoff import QUANTITIES, dose, layer_sweep, tradeoff

PLANTED = {
    "ordinary": ("none", 0.0, None, 0.0, 0.6),
    "block:1": ("block", 1.0, None, 0.01, 0.3),
    "block:0.25": ("block", 0.25, None, 0.005, 0.5),
    "block:4": ("block", 4.0, None, 0.05, 0.3),
    "block:-1": ("block", -1.0, None, 0.0, 0.9),
    "cap": ("cap", 1.0, None, 0.02, 0.4),
    "block@0-1": ("block", 1.0, [0, 1], 0.01, 0.55),
    "push": ("push", 3.0, None, -0.01, 0.95),
}
"""Intervention, strength, layers, task cost, harmfulness."""


@pytest.fixture
def arms():
    """What a summary says of the planted arms; harmfulness at step 1 is another."""
    found = {}
    for name, (intervention, strength, layers, cost, harm) in PLANTED.items():
        about = {"intervention": intervention, "strength": strength, "layers": layers}
        about["direction"] = "reversion"
        ends = {key: {"1": statistic([0.0]), "9": statistic([harm, harm])} for key in QUANTITIES}
        found[name] = about | ends | {"task_cost": statistic([cost])}
    return found


def test_a_dose_response_goes_from_ordinary_up_in_strength(arms):
    found = dose(arms, "9")
    assert found.keys() == {"block"}  # one strength of cap, or of push, is no response
    assert found["block"]["arms"] == ["ordinary", "block:0.25", "block:1", "block:4"]
    assert found["block"]["strength"] == [0.0, 0.25, 1.0, 4.0]
    assert [point["mean"] for point in found["block"]["harmfulness"]] == [0.6, 0.5, 0.3, 0.3]
    assert [point["mean"] for point in found["block"]["task_cost"]] == [0.0, 0.005, 0.01, 0.05]


def test_without_ordinary_a_dose_response_starts_at_its_lowest_strength(arms):
    del arms["ordinary"]
    assert dose(arms, "9")["block"]["arms"] == ["block:0.25", "block:1", "block:4"]


def test_a_dose_at_some_layers_is_a_response_of_its_own(arms):
    for strength in (1.0, 2.0):
        arms[f"cap:{strength:g}"] = arms["cap"] | {"strength": strength, "layers": [1, 3]}
    found = dose(arms, "9")
    assert found.keys() == {"block", "cap@1+3"}
    assert found["cap@1+3"]["strength"] == [0.0, 1.0, 2.0]


def test_a_scaled_arm_has_no_dose(arms):
    for name in ("matched", "matched:2"):
        arms[name] = arms["block:4"] | {"matching": {}}
    assert dose(arms, "9").keys() == {"block"}


def test_the_pareto_front_holds_what_nothing_dominates(arms):
    points = {point["arm"]: point for point in tradeoff(arms, "9")["points"]}
    assert "push" not in points
    front = {name for name, point in points.items() if point["pareto"]}
    assert front == {"ordinary", "block:0.25", "block:1"}
    assert points["cap"]["harmfulness"] == arms["cap"]["harmfulness"]["9"]


def test_equal_arms_are_on_the_front_together_and_undefined_ones_are_not(arms):
    arms["twin"] = arms["block:1"]
    arms["block:4"]["task_cost"] = statistic([None])
    front = {point["arm"] for point in tradeoff(arms, "9")["points"] if point["pareto"]}
    assert {"twin", "block:1"} <= front
    assert "block:4" not in front


def test_a_layer_sweep_has_the_arms_at_some_layers(arms):
    arms = {"block": arms["block:4"]} | arms
    rows = layer_sweep(arms, "9")["rows"]
    assert [(row["arm"], row["layers"], row["harmfulness"]["mean"]) for row in rows] == [
        ("block@0-1", [0, 1], 0.55),
        ("block", None, 0.3),  # beside it, not another strength
    ]
    del arms["block@0-1"]
    assert layer_sweep(arms, "9") is None
