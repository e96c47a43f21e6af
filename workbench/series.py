"""Series: many checkpoints of one training in one [[phase]] table of a lineage file."""

import re
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from workbench.errors import ConfigError
from workbench.limits import brief, is_there

KEYS = ("steps", "revisions")
"""What makes a table a series: numbers, or the names of revisions."""

MAX_PHASES = 10_000
MAX_REVISION = 100
"""Characters in the name of a revision."""

MAX_PLACEHOLDERS = 3
"""In a pattern: with more, matching a name that does not fit takes minutes."""

PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
IN_A_NAME = re.compile(r"step[-_]?(?P<step>\d+)")
"""Where the step of a revision stands if no pattern says so."""

Single = tuple[dict[str, Any], int | None]
"""The table of one phase, and its step if it is one of a series."""


def expand(table: Mapping[str, Any], root: Path, where: str) -> list[Single]:
    """Return the tables of the single phases that a [[phase]] table stands for, in order.

    A table without `steps` and `revisions` stands for itself. With `steps`, `{step}` in its strings
    becomes each of them. With `revisions`, each is matched with the pattern `revision`, such as
    `stage1-step{step}-tokens{tokens}B`, and the placeholders are what was found there; without a
    pattern the step is the number after "step".

    Args:
        table: As it stands in the file.
        root: What relative folders are relative to.
        where: The file, for errors.

    Raises:
        ConfigError: If steps or patterns are none, do not ascend, or name one phase twice.
    """
    where = f"{where} [[phase]]"
    kinds = [key for key in KEYS if key in table]
    if not kinds:
        for key, value in table.items():
            if isinstance(value, str) and "{step}" in value:
                raise ConfigError(f"{where}: {key} = {value!r} needs steps = […] beside it.")
        return [(dict(table), None)]
    if len(kinds) == 2:
        raise ConfigError(f"{where}: has both steps and revisions; give one of them.")
    shared = {key: value for key, value in table.items() if key not in KEYS}
    if kinds == ["steps"]:
        values = [{"step": step} for step in _steps(table["steps"], where)]
        if not any("{step}" in str(shared.get(key)) for key in ("model", "revision")):
            raise ConfigError(f"{where}: steps need {{step}} in revision or in model.")
    else:
        values = _from_revisions(table["revisions"], shared.pop("revision", None), where)
        shared["revision"] = "{revision}"
    _check_ascending([value["step"] for value in values], where)
    filled = [_filled(shared, value, where) for value in values]
    _check_names(filled, where)
    return [(one, value["step"]) for one, value in zip(_folders(filled, root), values, strict=True)]


def _steps(told: Any, where: str) -> list[int]:
    """The numbers of a list, of a range such as {from = 0, to = 8, every = 2}, or of both."""
    steps: list[int] = []
    for item in told if isinstance(told, list) else [told]:
        if isinstance(item, dict):
            steps += _range(item, where)
        elif isinstance(item, int) and not isinstance(item, bool) and item >= 0:
            steps.append(item)
        else:
            raise ConfigError(
                f"{where}: {brief(item)} is no step; give numbers from 0 on, or "
                "{from = …, to = …, every = …}."
            )
        _check_count(len(steps), where)
    if not steps:
        raise ConfigError(f"{where}: steps = [] names no checkpoint; give at least one.")
    return steps


def _range(told: Mapping[str, Any], where: str) -> range:
    values = [told.get(key) for key in ("from", "to", "every")]
    first, last, every = (
        value if isinstance(value, int) and not isinstance(value, bool) else -1 for value in values
    )
    if set(told) != {"from", "to", "every"} or first < 0 or last < first or every < 1:
        raise ConfigError(
            f"{where}: {brief(dict(told))} is no range of steps; it needs from, to (not below it) "
            "and every (at least 1)."
        )
    _check_count((last - first) // every + 1, where)
    return range(first, last + 1, every)


def _from_revisions(told: Any, pattern: Any, where: str) -> list[dict[str, Any]]:
    """What each placeholder is in every revision of a list."""
    if not isinstance(told, list) or not told or not all(isinstance(one, str) for one in told):
        raise ConfigError(f"{where}: revisions must be a list of strings.")
    _check_count(len(told), where)
    expected = IN_A_NAME if pattern is None else _matching(pattern, where)
    values = []
    for revision in told:
        if len(revision) > MAX_REVISION:
            raise ConfigError(
                f"{where}: revision {brief(revision)} has more than {MAX_REVISION} characters."
            )
        found = expected.search(revision) if pattern is None else expected.fullmatch(revision)
        if found is None:
            raise ConfigError(
                f"{where}: revision {revision!r} does not match "
                f"{brief(pattern or 'step{step}')}; say where its step stands, such as "
                "revision = 'stage1-step{step}-tokens{tokens}B'."
            )
        numbers = found.groupdict()
        values.append(numbers | {"step": int(numbers["step"]), "revision": revision})
    return values


def _matching(pattern: Any, where: str) -> re.Pattern[str]:
    """The expression that a pattern stands for: digits for {step}, anything for the others."""
    names = PLACEHOLDER.findall(pattern) if isinstance(pattern, str) else []
    if len(names) > MAX_PLACEHOLDERS:
        raise ConfigError(f"{where}: revision has more than {MAX_PLACEHOLDERS} placeholders.")
    known = all(name.isidentifier() and name != "revision" for name in names)
    if "step" not in names or not known or len({*names}) < len(names):
        raise ConfigError(
            f"{where}: revision = {brief(pattern)} must hold {{step}} once, and each other "
            "placeholder once, such as {tokens}."
        )
    parts = PLACEHOLDER.split(pattern)
    text = "".join(
        re.escape(part) if place % 2 == 0
        else rf"(?P<{part}>{'[0-9]+' if part == 'step' else '.+?'})"
        for place, part in enumerate(parts)
    )  # fmt: skip
    return re.compile(text)


def _filled(table: Mapping[str, Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    def fill(found: re.Match[str]) -> str:
        if (name := found[1]) not in values:
            known = ", ".join(f"{{{one}}}" for one in values)
            raise ConfigError(f"{where}: unknown placeholder {{{name}}}; it may have {known}.")
        return str(values[name])

    return {
        key: PLACEHOLDER.sub(fill, value) if isinstance(value, str) else value
        for key, value in table.items()
    }


def _folders(tables: list[dict[str, Any]], root: Path) -> list[dict[str, Any]]:
    """Where one checkpoint is a folder all are: one that is missing is no hub id."""
    models = [table.get("model") for table in tables]
    if not any(isinstance(model, str) and is_there(root / model) for model in models):
        return tables
    return [
        table | {"model": str(root / model)} if isinstance(model, str) else table
        for table, model in zip(tables, models, strict=True)
    ]


def _check_ascending(steps: list[int], where: str) -> None:
    for earlier, later in pairwise(steps):
        if later <= earlier:
            raise ConfigError(
                f"{where}: step {later} comes after {earlier}; steps must ascend, none twice."
            )


def _check_names(tables: list[dict[str, Any]], where: str) -> None:
    [(name, count)] = Counter(str(table.get("name")) for table in tables).most_common(1)
    if count > 1 and "name" in tables[0]:
        raise ConfigError(
            f"{where}: {count} checkpoints of a series are named {name!r}; put {{step}} into name."
        )


def _check_count(count: int, where: str) -> None:
    if count > MAX_PHASES:
        raise ConfigError(
            f"{where}: stands for more than {MAX_PHASES} checkpoints; take larger steps."
        )
