"""The shape of JSON values: which keys they may and must have, and of which kind each is."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.limits import brief

MAX_INTEGER = 2**63
"""Counts, sizes and steps are below; JSON itself knows no limit."""


@dataclass(frozen=True)
class Kind:
    """What a single value is."""

    name: str
    holds: Callable[[Any], bool]

    def __or__(self, other: "Kind") -> "Kind":
        """Return the kind of what is of either."""
        either = (self.holds, other.holds)
        return Kind(f"{self.name} or {other.name}", lambda value: any(one(value) for one in either))


@dataclass(frozen=True)
class Maybe:
    """A key that may be missing."""

    shape: Any


@dataclass(frozen=True)
class Each:
    """A table whose keys are names, with values of one shape."""

    shape: Any


@dataclass(frozen=True)
class Open:
    """A table with these keys; others may be there and be anything."""

    known: dict[str, Any]


def is_folder_name(name: Any) -> bool:
    """Tell the name of a folder right there from what would lead elsewhere, or nowhere."""
    if not isinstance(name, str) or not name or name.startswith("."):
        return False
    return name.isprintable() and name == Path(name).name and len(name.encode()) < 256


def _is_number(value: Any) -> bool:
    """Whether it is finite; true is no number."""
    if type(value) is float:
        return math.isfinite(value)
    return type(value) is int and abs(value) < MAX_INTEGER


ANY = Kind("any value", lambda _: True)
NULL = Kind("null", lambda value: value is None)
FOLDER = Kind("the name of a folder", is_folder_name)
NAME = Kind("a string", lambda value: isinstance(value, str))
NUMBER = Kind("a number", _is_number)
COUNT = Kind("a count", lambda value: type(value) is int and 0 <= value < MAX_INTEGER)
TRUTH = Kind("true or false", lambda value: isinstance(value, bool))
TABLE = Kind("a table", lambda value: isinstance(value, dict))
UNDEFINED = Kind("a number or null", lambda value: value is None or _is_number(value))
"""A number that may be undefined: JSON has no NaN."""

NUMBERS = Kind(
    "a list of numbers", lambda value: isinstance(value, list) and all(map(UNDEFINED.holds, value))
)
"""Undefined ones may be among them."""

COUNTS = Kind(
    "a list of counts", lambda value: isinstance(value, list) and all(map(COUNT.holds, value))
)
NAMES = Kind(
    "a list of strings", lambda value: isinstance(value, list) and all(map(NAME.holds, value))
)


def check_shape(value: Any, shape: Any, where: str = "") -> None:
    """Raise `ValueError`, naming the place, unless a JSON value has a shape.

    Args:
        value: As `limits.parse_json` gives it.
        shape: A `Kind`; a list of one shape; a dict of keys with their shapes, all needed but for
            `Maybe`, and no others; `Each`; or `Open`, in which there may be others.
        where: What `value` is, with dots between keys.
    """
    if isinstance(shape, Kind):
        if not shape.holds(value):
            raise ValueError(f"{where or 'it'} is {_brief(value)}, not {shape.name}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{where or 'it'} is {_brief(value)}, not a list")
        for index, item in enumerate(value):
            check_shape(item, shape[0], f"{where}[{index}]")
    elif not isinstance(value, dict):
        raise ValueError(f"{where or 'it'} is {_brief(value)}, not a table")
    else:
        _check_table(value, shape, f"{where}." if where else "")


def _check_table(value: dict[str, Any], shape: Any, dot: str) -> None:
    if isinstance(shape, Each):
        for key, item in value.items():
            check_shape(item, shape.shape, f"{dot}{key}")
        return
    keys = shape.known if isinstance(shape, Open) else shape
    if not isinstance(shape, Open) and (unknown := value.keys() - keys.keys()):
        raise ValueError(f"unknown key {dot}{min(unknown)}")
    for key, wanted in keys.items():
        if key in value:
            inner = wanted.shape if isinstance(wanted, Maybe) else wanted
            check_shape(value[key], inner, f"{dot}{key}")
        elif not isinstance(wanted, Maybe):
            raise ValueError(f"{dot}{key} is missing")


def _brief(value: Any) -> str:
    """A value as an error shows it."""
    if isinstance(value, dict):
        return "a table"
    return "a list" if isinstance(value, list) else brief(value)
