"""The tables of a TOML file: which keys they may have, and what their values may be."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from workbench.errors import ConfigError


def known_keys(table: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Raise `ConfigError` at a key that means nothing, so that a misspelt one is noticed."""
    if unknown := sorted(set(table) - set(known)):
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; it may have {', '.join(known)}.")


def strings(table: Mapping[str, Any], where: str) -> None:
    """Raise `ConfigError` unless every value is a string."""
    for key, value in table.items():
        if not isinstance(value, str) or "\0" in value:
            raise ConfigError(f"{where}: {key} must be a string, not {value!r}.")


def place(name: str, path: Path) -> str:
    """Return the folder or file `name` relative to the TOML file `path`, or a hub id as it is."""
    beside = path.parent / name
    return str(beside) if beside.exists() or name.startswith((".", "/")) else name
