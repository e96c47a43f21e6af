"""The surroundings of a run: what its drift is seen against, read without torch.

They lie in the lineage's folder of an experiment, or in the folder of a run that stands alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open

from workbench.archive import PLAN, read_json, read_tensors
from workbench.errors import RunError
from workbench.files import file_hash
from workbench.limits import brief, is_file, parse_json, reason
from workbench.runs import Run

DIRECTIONS, SIBLING = "directions.safetensors", "sibling.safetensors"
PHASES, READOUT, NULLS = "phases.safetensors", "readout.json", "nulls.json"
"""Names of the files."""


@dataclass(frozen=True)
class Surroundings:
    """v_rev of a run's lineage and what is known beside it; None where it was not stored."""

    layers: tuple[int, ...] | None = None
    """The layers of the model that all rows, also those of the run's drift, belong to."""

    unit: Float[np.ndarray, "layer d_model"] | None = None
    """v_rev: unit vectors from the aligned model to the witness."""

    gap: Float[np.ndarray, " layer"] | None = None
    """Distance of the two, in residual-stream units."""

    sibling: Float[np.ndarray, "layer d_model"] | None = None
    """Unit vectors from the sibling to the witness."""

    p99: Float[np.ndarray, " layer"] | None = None
    """99th percentile of each layer's alignment under the matched null."""

    readout: Mapping[str, Any] | None = None
    """v_rev through the unembedding, as `Readout.to_json` wrote it."""

    phases: Mapping[str, Float[np.ndarray, "layer d_model"]] | None = None
    """Mean displacement of each other phase from the aligned model on the fit probes, in
    residual-stream units, in training order."""

    roles: Mapping[str, str] = field(default_factory=dict)
    """Phase names of `witness`, `aligned` and, where known, `sibling`."""

    order: tuple[str, ...] = ()
    """Names of the phases in training order, as far as they are known."""

    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What v_rev was made from."""

    @classmethod
    def of(cls, run: Run) -> "Surroundings":
        """Find what surrounds a run.

        Raises:
            RunError: If a file is there but cannot be read.
        """
        return cls.at(home_of(run))

    @classmethod
    def at(cls, folder: Path) -> "Surroundings":
        """Read what lies in a folder."""
        directions, about = _artefact(folder / DIRECTIONS)
        phases, told = _artefact(folder / PHASES)
        provenance, located = about.get("provenance", {}), told.get("provenance", {})
        roles = {name: provenance[name] for name in ("witness", "aligned") if name in provenance}
        known = [roles[name] for name in ("witness", "aligned") if name in roles]
        order = tuple(located.get("phases", known))
        unit, gap = directions.get("unit"), directions.get("gap")
        sibling = _artefact(folder / SIBLING)[0].get("unit")
        _check_rows(folder, {"unit": unit, "sibling": sibling, **phases}, gap)
        p99 = _p99(folder / NULLS)
        if p99 is not None and unit is not None and len(p99) != len(unit):
            raise RunError(f"{folder / NULLS}: p99 of {len(p99)} layers, v_rev has {len(unit)}.")
        layers = None if unit is None else tuple(about.get("layers", range(len(unit))))
        if unit is not None and len(layers or ()) != len(unit):
            raise RunError(
                f"{folder / DIRECTIONS}: names {len(layers or ())} layers, not {len(unit)}."
            )
        return cls(
            layers=layers,
            unit=unit,
            gap=gap,
            sibling=sibling,
            p99=p99,
            readout=read_json(folder / READOUT) if (folder / READOUT).is_file() else None,
            phases={name: phases[name] for name in order if name in phases} or None,
            roles=roles | located.get("roles", {}),
            order=order,
            provenance=provenance,
        )

    @property
    def landmarks(self) -> Mapping[str, Float[np.ndarray, "layer d_model"]]:
        """The phases that were stored, or the witness alone, which v_rev and its gap give."""
        if self.phases is not None:
            return self.phases
        if self.unit is None or self.gap is None:
            return {}
        return {self.roles.get("witness", "witness"): self.gap[:, None] * self.unit}


def surroundings_of(runs: Sequence[Run]) -> list[Surroundings]:
    """Return the surroundings of each run; what several share is read once."""
    homes = [home_of(run) for run in runs]
    read = {home: Surroundings.at(home) for home in dict.fromkeys(homes)}
    return [read[home] for home in homes]


def home_of(run: Run) -> Path:
    """Return the folder with a run's surroundings: its lineage's, or its own if it is alone."""
    config, experiment = run.info["config"], run.folder.resolve().parent.parent
    if is_file(experiment / "experiment.json"):
        for lineage in read_json(experiment / "experiment.json", PLAN)["lineages"]:
            if lineage["name"] == config.get("lineage"):
                return experiment / "lineages" / lineage["folder"]
    # The plan is written last; a run that is under way names its directions by their hash.
    for file in sorted(experiment.glob(f"lineages/[!.]*/{DIRECTIONS}")):
        if file_hash(file) == config.get("directions"):
            return file.parent
    return run.folder


def _artefact(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a file and what it says about them; nothing if there is none."""
    if not path.is_file():
        return {}, {}
    arrays = read_tensors(path)
    try:
        with safe_open(path, "np") as file:
            about = parse_json((file.metadata() or {}).get("workbench", "{}").encode())
        return arrays, _checked(about)
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: cannot be read ({error}).") from error


def _checked(about: Any) -> dict[str, Any]:
    """What a file says of itself, or `TypeError` if it says something else."""
    provenance, layers = about.get("provenance", {}), about.get("layers", [])
    phases, roles = provenance.get("phases", []), provenance.get("roles", {})
    names = [*phases, *roles.values(), provenance.get("witness"), provenance.get("aligned")]
    if not all(name is None or isinstance(name, str) for name in names):
        raise TypeError("a phase has no name")
    if not isinstance(phases, list) or not all(type(layer) is int for layer in layers):
        raise TypeError("layers or phases are none")
    return about


def _check_rows(
    folder: Path, tables: Mapping[str, np.ndarray | None], gap: np.ndarray | None
) -> None:
    """Refuse arrays that do not have one row per layer, or are not of one model."""
    known = {name: table for name, table in tables.items() if table is not None}
    shape = next((table.shape for table in known.values()), () if gap is None else gap.shape)
    wanted = [(name, table, shape) for name, table in known.items()]
    wanted += [] if gap is None else [("gap", gap, shape[:1])]
    for name, array, expected in wanted:
        whole = array.ndim == 1 if name == "gap" else array.ndim == 2
        if array.dtype.kind != "f" or array.shape != expected or not whole:
            raise RunError(
                f"{folder}: {brief(name)} is {array.dtype} of shape {list(array.shape)}, not one "
                "row of numbers per layer of v_rev; it is damaged."
            )


def _p99(path: Path) -> Float[np.ndarray, " layer"] | None:
    matched = read_json(path).get("matched") if path.is_file() else None
    try:
        found = None if matched is None else np.array(matched["p99"], dtype=float)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RunError(f"{path}: cannot be read ({reason(error)}).") from error
    if found is not None and found.ndim != 1:
        raise RunError(f"{path}: p99 is no list of numbers; it is damaged.")
    return found
