"""What a JSON value may be is checked key by key, and what is wrong is named."""

import pytest

from workbench.limits import parse_json
from workbench.lines import check_lines
from workbench.shape import (
    ANY,
    COUNT,
    COUNTS,
    NAME,
    NAMES,
    NULL,
    NUMBER,
    NUMBERS,
    TABLE,
    UNDEFINED,
    Each,
    Maybe,
    Open,
    check_shape,
)  # fmt: skip

NESTED = {
    "a": COUNT,
    "b": Maybe([{"c": NUMBER}]),
    "d": Each(NAME),
    "e": Open({"f": Maybe(NUMBERS)}),
}
FINE = {"a": 1, "b": [{"c": 0.5}], "d": {"x": "y"}, "e": {"f": [1, None], "more": []}}


def test_a_value_of_the_shape_passes():
    check_shape(FINE, NESTED)
    check_shape({key: value for key, value in FINE.items() if key != "b"}, NESTED)
    check_shape({**FINE, "e": {}}, NESTED)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"a": -1}, "a is -1, not a count"),
        ({"a": True}, "a is True, not a count"),
        ({"a": 2**63}, "a is 9223372036854775808, not a count"),
        ({"b": {}}, "b is a table, not a list"),
        ({"b": [{"c": 1}, {"c": "1"}]}, "b[1].c is '1', not a number"),
        ({"b": [{"c": 1, "z": 1}]}, "unknown key b[0].z"),
        ({"b": [{}]}, "b[0].c is missing"),
        ({"d": {"x": None}}, "d.x is None, not a string"),
        ({"d": []}, "d is a list, not a table"),
        ({"e": {"f": [[1]]}}, "e.f is a list, not a list of numbers"),
        ({"e": {"f": [float("inf")]}}, "e.f is a list, not a list of numbers"),
        ({"z": 1}, "unknown key z"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(change, told):
    with pytest.raises(ValueError) as found:
        check_shape(FINE | change, NESTED)
    assert str(found.value) == told


@pytest.mark.parametrize(
    ("kind", "fine", "wrong"),
    [
        (NULL, [None], [0, ""]),
        (NUMBER, [0, -1, 1.5], [None, True, "1", float("nan"), 2**63]),
        (UNDEFINED, [None, 0.5], [True, float("inf")]),
        (COUNTS, [[], [0, 2]], [[-1], [1.0], 3, [True]]),
        (NAMES, [[], ["a"]], [["a", 1], "a"]),
        (TABLE, [{}], [[], None]),
        (ANY, [None, {}, 1], []),
        (COUNT | NULL, [None, 3], [-1, "a"]),
    ],
)
def test_each_kind_holds_what_it_says_and_nothing_else(kind, fine, wrong):
    assert all(kind.holds(value) for value in fine)
    assert not any(kind.holds(value) for value in wrong)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[" * 100_000, b"1" * 5000, b"\xff", b'{"a": 1, "a": 2}']
)
def test_what_is_no_json_is_a_value_error_and_nothing_else(text):
    with pytest.raises(ValueError):
        parse_json(text)


def line(step, layers=None):
    told = {"step": step, "loss": 1.0, "learning_rate": 0.1, "gradient_norm": None}
    if layers is not None:
        by_layer = dict.fromkeys(
            ("alignment", "low", "high", "along", "across", "norm"), [0.0] * layers
        )
        told["drift"] = {
            "mean_alignment": 0.0,
            "stacked_alignment": None,
            "undefined": 0,
            "sha256": "",
        } | by_layer
    return told


def test_lines_follow_each_other():
    check_lines([line(0), line(1, 3), line(2), line(5, 3)], [])
    check_lines([line(6, 3)], [line(0), line(1, 3), line(5)])


@pytest.mark.parametrize(
    ("new", "before", "told"),
    [
        ([line(1), line(1)], [], "line 2.step is 1 after 1"),
        ([line(1)], [line(0), line(2)], "line 3.step is 1 after 2"),
        ([line(3, 2)], [line(1, 3), line(2)], r"line 3.drift is of \[2\] layers, not 3"),
        ([[]], [], "line 1 is a list, not a table"),
    ],
)
def test_a_line_that_cannot_follow_is_named(new, before, told):
    with pytest.raises(ValueError, match=told):
        check_lines(new, before)
