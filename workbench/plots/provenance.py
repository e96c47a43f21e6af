"""The footer of a report: which runs, made from what, with which versions."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from workbench import __version__
from workbench.config import settings_hash
from workbench.plots.style import counted
from workbench.plots.trajectories import arm_name
from workbench.plots.typeset import Table, to_html
from workbench.runs import Run
from workbench.text import printable

HASH_LENGTH = 12


def config_hash(config: Mapping[str, Any]) -> str:
    """Return a short hash of a run's config: equal settings, equal hash."""
    return settings_hash(config)[:HASH_LENGTH]


def provenance_html(runs: Sequence[Run], summary: Mapping[str, Any] | None = None) -> str:
    """Return the footer, all text escaped."""
    infos = [run.info for run in runs]
    parts = [f"Written by reversion workbench {__version__}."]
    if versions := _versions(infos):
        parts.append(f"Runs made with {versions}.")
    if recipes := _distinct(infos, "recipe"):
        parts.append(f"Recipe: {'; or '.join(recipes)}.")
    if inputs := _distinct(infos, "inputs"):
        parts.append(f"Inputs by content: {'; or '.join(inputs)}.")
    if directions := sorted(
        {_short(d) for i in infos if (d := i.get("config", {}).get("directions"))}
    ):
        parts.append(f"Directions by content: {', '.join(directions)}.")
    if summary is not None:
        parts.append(f"Summary schema {summary.get('schema')}.")
    table = Table(
        counted(len(runs), "run"),
        ("run", "arm", "seed", "status", "made", "config hash"),
        tuple(
            (
                run.id,
                arm_name(run),
                str(info.get("config", {}).get("seed", "–")),
                str(info.get("status")) + (f": {info['failure']}" if "failure" in info else ""),
                str(info.get("created", "–")),
                config_hash(info.get("config", {})),
            )
            for run, info in zip(runs, infos, strict=True)
        ),
    )
    told = "".join(f"<p>{html.escape(printable(part))}</p>" for part in parts)
    return f"<footer><h2>Provenance</h2>\n{told}\n{to_html(table)}</footer>"


def _versions(infos: Sequence[Mapping[str, Any]]) -> str:
    """Every package with the versions that were seen, more than one if runs differ."""
    seen: dict[str, set[str]] = {}
    for info in infos:
        for package, version in info.get("versions", {}).items():
            seen.setdefault(package, set()).add(str(version))
    return ", ".join(f"{name} {' and '.join(sorted(found))}" for name, found in seen.items())


def _short(value: Any) -> str:
    """A hash by its first digits, all else as it is."""
    text = str(value)
    is_hash = len(text) >= 32 and set(text) <= set("0123456789abcdef")
    return text[:HASH_LENGTH] if is_hash else text


def _distinct(infos: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """The different values of a mapping in the configs, in words."""
    found = [info.get("config", {}).get(key) for info in infos]
    return list(
        dict.fromkeys(
            ", ".join(
                f"{name} {_short(value)}" for name, value in told.items() if value is not None
            )
            for told in found
            if isinstance(told, Mapping)
        )
    )
