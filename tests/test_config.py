"""Changed settings are named, and so are the versions that decide a run's numbers."""

from workbench.config import changed_settings, package_versions


def test_changed_settings_are_named_with_dots_and_equal_ones_are_not():
    old = {"a": 1, "b": {"c": [1, 2], "d": None}, "e": {"f": 1}}
    assert changed_settings(old, {"e": {"f": 1}, "b": {"c": [1, 2]}, "a": 1}) == []
    new = {"a": 2, "b": {"c": [2, 1], "d": None}, "e": None, "g": 0}
    assert changed_settings(old, new) == ["a", "b.c", "e", "g"]


def test_the_versions_of_the_packages_that_matter_are_told():
    assert {"torch", "transformers", "numpy", "peft"} <= package_versions().keys()
