"""Probe sets: fixed prompts on which every phase is read."""

import hashlib
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from workbench.errors import ProbeError
from workbench.limits import (
    MAX_JSONL_BYTES,
    MAX_LINE_BYTES,
    brief,
    check_size,
    is_file,
    parse_json,
    reason,
)

Kind = Literal["harmful", "benign"]


@dataclass(frozen=True)
class Probe:
    """One prompt, what kind it is, and which near-duplicates it belongs with."""

    prompt: str
    kind: Kind = "harmful"
    cluster: str | None = None
    """Prompts of one cluster never land in two splits; by default a prompt is its own cluster."""

    response: str | None = None
    """A reference answer, for teacher-forced readings and losses."""


@dataclass(frozen=True)
class ProbeSet:
    """Prompts in a fixed order; readings of two models on it are paired."""

    probes: tuple[Probe, ...]

    @classmethod
    def load(cls, path: str | Path, kind: Kind = "harmful") -> "ProbeSet":
        """Read a JSONL file with `prompt` and optionally `kind`, `cluster`, `response` per line.

        Args:
            path: The file.
            kind: Kind of the lines that do not say theirs.

        Raises:
            ProbeError: If the file is missing, empty, not UTF-8 or malformed; it names the line.
        """
        rows = read_jsonl(path)
        return cls(tuple(_probe_from(row, kind, f"{path}:{line}") for line, row in rows))

    @classmethod
    def from_prompts(cls, prompts: Iterable[str], kind: Kind = "harmful") -> "ProbeSet":
        """Return a probe set of these prompts, each its own cluster."""
        return cls(tuple(Probe(prompt, kind) for prompt in prompts))

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self.probes)

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts in order."""
        return tuple(probe.prompt for probe in self.probes)

    @property
    def clusters(self) -> tuple[str, ...]:
        """The cluster of every prompt in order."""
        return tuple(probe.cluster or probe.prompt for probe in self.probes)

    def of_kind(self, kind: Kind) -> "ProbeSet":
        """Return the probes of one kind."""
        return ProbeSet(tuple(probe for probe in self.probes if probe.kind == kind))

    def split(self, *, seed: int = 0, **shares: float) -> tuple["ProbeSet", ...]:
        """Split by cluster, per kind, into sets that share no cluster and no prompt.

        Args:
            seed: Decides which cluster goes where.
            **shares: Name and share of every set, adding up to at most 1; for example
                `fit=0.4, penalty=0.2, measure=0.4`.

        Returns:
            One probe set per share, in the order given.

        Raises:
            ProbeError: If the shares are not a split, or a set would have fewer than 2 prompts.
        """
        if not shares or min(shares.values()) <= 0 or sum(shares.values()) > 1 + 1e-9:
            raise ProbeError(f"Shares {shares} must be positive and add up to at most 1.")
        members: list[list[Probe]] = [[] for _ in shares]
        for groups in _strata(_inseparable(self)):
            for part, probes in zip(members, _deal(groups, shares, seed), strict=True):
                part.extend(probes)
        order = {id(probe): position for position, probe in enumerate(self.probes)}
        for name, part in zip(shares, members, strict=True):
            part.sort(key=lambda probe: order[id(probe)])
            if len(part) < 2:
                raise ProbeError(
                    f"The split leaves {len(part)} of {len(self)} prompts for {name!r}; a mean "
                    "needs at least 2. Give more prompts or a larger share."
                )
        return tuple(ProbeSet(tuple(part)) for part in members)

    def overlap(self, other: "ProbeSet") -> set[str]:
        """Return the prompts and clusters that both sets hold."""
        mine = {*self.prompts, *self.clusters}
        return mine & {*other.prompts, *other.clusters}

    def marks(self) -> set[str]:
        """Return short hashes of the prompts and clusters, to notice overlap without the text."""
        keys = {*self.prompts, *self.clusters}
        return {
            hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16] for key in keys
        }

    def fingerprint(self) -> str:
        """Return the SHA-256 of all prompts, kinds, clusters and responses in order."""
        rows = [vars(probe) for probe in self.probes]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def read_jsonl(path: str | Path) -> list[tuple[int, dict[str, Any]]]:
    """Return the objects of a JSONL file with their line numbers; blank lines are skipped.

    Raises:
        ProbeError: If the file is missing, empty, not UTF-8 or malformed; it names the line.
    """
    path, rows = Path(path), []
    if not is_file(path):
        raise ProbeError(f"{path}: no such file.")
    check_size(path, MAX_JSONL_BYTES, ProbeError)
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise ProbeError(
                        f"{path}:{number}: a line of over 1 MB; this is no JSONL file."
                    )
                if line.strip():
                    rows.append((number, _json_object(line, f"{path}:{number}")))
    except OSError as error:
        raise ProbeError(f"{path}: cannot be read ({reason(error)}).") from error
    if not rows:
        raise ProbeError(f"{path}: empty; give one JSON object per line.")
    return rows


def load_examples(path: str | Path) -> tuple[dict[str, Any], ...]:
    """Return the training examples of a JSONL file, for `FineTuning`.

    Raises:
        ProbeError: If the file is missing, empty, not UTF-8 or malformed; it names the line.
    """
    return tuple(row for _, row in read_jsonl(path))


def _json_object(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = parse_json(line)
    except UnicodeDecodeError as error:
        raise ProbeError(f"{where}: not UTF-8 ({error.reason}); save the file as UTF-8.") from error
    except ValueError as error:
        raise ProbeError(f"{where}: not JSON: {error}.") from error
    if not isinstance(row, dict):
        raise ProbeError(f'{where}: must be an object such as {{"prompt": "…"}}.')
    return row


def _probe_from(row: dict[str, Any], kind: Kind, where: str) -> Probe:
    known = [field.name for field in fields(Probe)]
    if unknown := sorted(set(row) - set(known)):
        raise ProbeError(
            f"{where}: unknown key {brief(unknown[0])}; it may have {', '.join(known)}."
        )
    row = {"kind": kind} | {key: value for key, value in row.items() if value is not None}
    if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise ProbeError(f"{where}: needs a non-empty string under 'prompt'.")
    if row["kind"] not in ("harmful", "benign"):
        raise ProbeError(f"{where}: kind is {brief(row['kind'])}; it may be harmful or benign.")
    for key in ("cluster", "response"):
        if not isinstance(row.get(key, ""), str):
            raise ProbeError(f"{where}: {key!r} must be a string.")
    return Probe(**row)


def _inseparable(probes: ProbeSet) -> list[list[Probe]]:
    """Group the probes that share a cluster or a prompt, also by way of others (union-find)."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for prompt, cluster in zip(probes.prompts, probes.clusters, strict=True):
        parent[root(prompt)] = root(cluster)
    groups: dict[str, list[Probe]] = {}
    for probe in probes.probes:
        groups.setdefault(root(probe.prompt), []).append(probe)
    # Not by root, which depends on the order of the prompts.
    return sorted(groups.values(), key=lambda group: min(p.cluster or p.prompt for p in group))


def _strata(groups: list[list[Probe]]) -> list[list[list[Probe]]]:
    """Sort groups by the kinds in them, so that every set gets its share of each."""
    strata: dict[tuple[Kind, ...], list[list[Probe]]] = {}
    for group in groups:
        strata.setdefault(tuple(sorted({probe.kind for probe in group})), []).append(group)
    return [strata[kinds] for kinds in sorted(strata)]


def _deal(groups: list[list[Probe]], shares: dict[str, float], seed: int) -> list[list[Probe]]:
    """Deal whole groups, in shuffled order, so that each set gets its share of prompts."""
    total = sum(map(len, groups))
    groups = list(groups)
    random.Random(seed).shuffle(groups)
    parts: list[list[Probe]] = [[] for _ in shares]
    for group in groups:
        # The set that is furthest below its share takes the next group.
        missing = [
            share * total - len(part) for share, part in zip(shares.values(), parts, strict=True)
        ]
        if sum(shares.values()) < 1 - 1e-9 and max(missing) <= 0:
            break
        parts[missing.index(max(missing))].extend(group)
    return parts
