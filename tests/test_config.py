"""Arms are chosen in an order in which they can run, and changed settings are named."""

import pytest

from workbench.config import changed_settings, choose_arms, package_versions, standard_arms
from workbench.errors import ConfigError


def test_the_standard_arms_carry_the_strengths_they_are_given():
    arms = standard_arms(block=7.0, push=2.0, target=0.5, penalty_batch=8, layers=(1,))
    assert arms["ordinary"].intervention == "none"
    for name in ("block", "random", "matched", "matched-unscaled"):
        assert (arms[name].intervention, arms[name].strength) == ("block", 7.0)
        assert (arms[name].penalty_batch, arms[name].layers) == (8, (1,))
    assert (arms["push"].strength, arms["push"].target) == (2.0, 0.5)
    assert [name for name, arm in arms.items() if arm.match] == ["matched"]


def test_a_matched_arm_comes_after_the_arm_it_is_matched_to():
    chosen = choose_arms("matched, block,ordinary", standard_arms())
    assert [arm.name for arm in chosen] == ["block", "ordinary", "matched"]
    assert chosen == choose_arms(["matched", "block", "ordinary"], standard_arms())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("ordinary,blok", "Unknown arm 'blok'; there are ordinary, block"),
        ("", "Unknown arm ''"),
        ("block,block", "named twice"),
        ("ordinary,matched", "Arm 'matched' is scaled to 'block': name 'block' too"),
    ],
)
def test_a_choice_that_cannot_run_is_refused(names, message):
    with pytest.raises(ConfigError, match=message):
        choose_arms(names, standard_arms())


def test_changed_settings_are_named_with_dots_and_equal_ones_are_not():
    old = {"a": 1, "b": {"c": [1, 2], "d": None}, "e": {"f": 1}}
    assert changed_settings(old, {"e": {"f": 1}, "b": {"c": [1, 2]}, "a": 1}) == []
    new = {"a": 2, "b": {"c": [2, 1], "d": None}, "e": None, "g": 0}
    assert changed_settings(old, new) == ["a", "b.c", "e", "g"]


def test_the_versions_of_the_packages_that_matter_are_told():
    assert {"torch", "transformers", "numpy"} <= package_versions().keys()
