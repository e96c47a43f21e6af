"""The tables of a TOML file: which keys they may have, and what their values may be."""

import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from workbench.errors import ConfigError
from workbench.limits import brief, is_there, read_bounded

MAX_NUMBER = 2**63
"""TOML's whole numbers have 64 bits."""


STRING = re.compile(r"\"(?:[^\"\\\n]|\\.)*+\"|'[^'\n]*+'")
DOTTED = re.compile(r"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){60}")
"""tomllib's time goes with the square of the parts of a key: a megabyte of dots takes hours."""


def read_toml(path: Path, limit: int) -> dict[str, Any]:
    """Return what a file of at most `limit` bytes holds; `ConfigError` if it is no such file."""
    content = read_bounded(path, limit, ConfigError)
    try:
        text = content.decode("utf-8")
        if DOTTED.search(STRING.sub("k", text)):
            raise ValueError("a key of more than 60 parts")
        data = tomllib.loads(text)
        _check_numbers(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}.") from error
    return data


def known_keys(table: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Raise `ConfigError` at a key that means nothing, so that a misspelt one is noticed."""
    if unknown := sorted(set(table) - set(known)):
        raise ConfigError(
            f"{where}: unknown key {brief(unknown[0])}; it may have {', '.join(known)}."
        )


def strings(table: Mapping[str, Any], where: str) -> None:
    """Raise `ConfigError` unless every value is a string."""
    for key, value in table.items():
        if not isinstance(value, str) or "\0" in value:
            raise ConfigError(f"{where}: {key} must be a string, not {brief(value)}.")


def place(name: str, path: Path) -> str:
    """Return the folder or file `name` relative to the TOML file `path`, or a hub id as it is."""
    beside = path.parent / name
    return str(beside) if is_there(beside) or name.startswith((".", "/")) else name


def _check_numbers(value: Any) -> None:
    """Raise `ValueError` at a number that TOML does not have."""
    if isinstance(value, int) and not -MAX_NUMBER <= value < MAX_NUMBER:
        raise ValueError("a whole number of more than 64 bits")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inner:
        _check_numbers(one)
