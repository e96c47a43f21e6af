"""Arms say what they are in their names, and come in an order in which they can run."""

import pytest

from workbench.arms import (
    STRENGTHS,
    base_of,
    choose_arms,
    dose_names,
    layer_names,
    standard_arms,
    waves,
)
from workbench.errors import ConfigError


def test_the_standard_arms_carry_the_strengths_they_are_given():
    given = {"block": 7.0, "push": 2.0, "steer": 0.5}
    arms = standard_arms(given, target=0.5, penalty_batch=8, layers=(1,))
    assert arms["ordinary"].intervention == "none"
    assert arms["ordinary"].layers is None
    for name in ("block", "random", "matched", "refusal-scaled", "drift", "block-rank3"):
        assert (arms[name].intervention, arms[name].strength) == ("block", 7.0)
        assert (arms[name].penalty_batch, arms[name].layers) == (8, (1,))
    assert (arms["push"].strength, arms["push"].target) == (2.0, 0.5)
    assert arms["steer"].strength == 0.5
    assert arms["ablate"].strength == STRENGTHS["ablate"]
    scaled = {name for name, arm in arms.items() if arm.match}
    assert scaled == {name for name in arms if name.endswith("-scaled")} | {
        "matched", "matched-two-sided"
    }  # fmt: skip


def test_a_strength_for_an_arm_that_takes_none_is_refused():
    with pytest.raises(ConfigError, match="No arm 'random' has a strength; these do: block"):
        standard_arms({"random": 1.0})


def test_a_name_says_strength_and_layers():
    plain, dose, part, both = choose_arms(
        "block,block:0.5,cap@3,steer:-0.25@0-1+3", standard_arms()
    )
    assert (plain.strength, plain.layers) == (STRENGTHS["block"], None)
    assert (dose.strength, dose.layers, base_of(dose.name)) == (0.5, None, "block")
    assert (part.strength, part.layers, base_of(part.name)) == (STRENGTHS["cap"], (3,), "cap")
    assert (both.strength, both.layers, base_of(both.name)) == (-0.25, (0, 1, 3), "steer")
    assert (dose.slug, both.slug) == ("block=0.5", "steer=-0.25@0-1+3")


def test_what_holds_the_whole_model_has_no_layers():
    arms = standard_arms(layers=(1,))
    for name in ("anchor-kl", "anchor-penalty", "anchor-weights", "rehearse"):
        assert arms[name].layers is None
        with pytest.raises(ConfigError, match=f"{name} acts on the whole model and takes no lay"):
            choose_arms(f"{name}@1", arms)


def test_a_scaled_arm_at_some_layers_is_scaled_to_block_at_those_layers():
    chosen = {arm.name: arm for arm in choose_arms("block@2,matched@2", standard_arms())}
    assert chosen["matched@2"].match == "block@2"
    with pytest.raises(ConfigError, match="is scaled to 'block@2': name 'block@2' too"):
        choose_arms("block,matched@2", standard_arms())


def test_a_subspace_is_fitted_again_after_block_of_the_same_strength_at_the_same_layers():
    names = "block:3@1-2,block-rank2:3@1-2,block-rank3:3@1-2"
    sources = {arm.name: arm.source for arm in choose_arms(names, standard_arms())}
    assert sources["block-rank2:3@1-2"] == "block:3@1-2"
    assert sources["block-rank3:3@1-2"] == "block-rank2:3@1-2"
    ordinary = choose_arms("ordinary,drift:3@1", standard_arms())[1]
    assert ordinary.source == "ordinary"


def test_arms_come_after_those_they_need():
    names = "block-rank3, matched, block-rank2, drift-scaled, block,ordinary"
    chosen = [arm.name for arm in choose_arms(names, standard_arms())]
    assert chosen == ["block", "ordinary", "matched", "block-rank2", "drift-scaled", "block-rank3"]
    assert choose_arms(names.split(","), standard_arms()) == choose_arms(names, standard_arms())
    groups = waves(choose_arms(names, standard_arms()))
    assert [len(group) for group in groups] == [2, 3, 1]


def test_all_names_every_arm():
    chosen = choose_arms("all", standard_arms())
    assert {arm.name for arm in chosen} == standard_arms().keys()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("ordinary,blok", "Unknown arm 'blok'; there are ordinary, block"),
        ("", "Unknown arm ''"),
        ("block,block", "named twice"),
        ("ordinary,matched", "Arm 'matched' is scaled to 'block': name 'block' too"),
        ("block,drift", "'drift' takes a direction from the runs of 'ordinary': name 'ordinary' t"),
        ("block:1,block-rank2", "takes a direction from the runs of 'block'"),
        ("block,matched:2", "its gradient is scaled to that of 'block', so a strength would"),
        ("ordinary:1", "ordinary takes neither strength nor layers"),
        ("block:", "write NAME"),
        ("block@", "write NAME"),
        ("block:@1", "write NAME"),
        ("block:x", "strength 'x' is not a number"),
        ("block:nan", "strength is nan; give a number"),
        ("block@1-x", "layers '1-x' are not such as 2 or 0-1"),
        ("block@0-99999999", "are not such as"),
        ("block@3-1", "layers '3-1' hold no layer"),
    ],
)
def test_a_choice_that_cannot_run_is_refused(names, message):
    with pytest.raises(ConfigError, match=message):
        choose_arms(names, standard_arms())


def test_a_dose_response_is_ordinary_and_every_strength_above_zero():
    names = dose_names(["block", "anchor-kl"], [1.0, 0.0, 0.25, 1.0])
    assert names == ["ordinary", "block:0.25", "block:1", "anchor-kl:0.25", "anchor-kl:1"]
    assert len(choose_arms(names, standard_arms())) == 5


def test_a_layer_sweep_has_every_layer_half_and_third_once_and_all_of_them():
    assert layer_names(["block"], 4) == [
        *("block@0", "block@1", "block@2", "block@3"),
        *("block@0-1", "block@2-3", "block"),
    ]
    assert layer_names(["push"], 1) == ["push@0", "push"]
    bands = layer_names(["block:2"], 7)[7:-1]
    assert bands == ["block:2@0-3", "block:2@4-6", "block:2@0-2", "block:2@3-4", "block:2@5-6"]
    assert [arm.layers for arm in choose_arms(bands, standard_arms())][-1] == (5, 6)
