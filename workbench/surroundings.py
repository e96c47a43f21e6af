"""The surroundings of a run: what its drift is seen against, read without torch.

They lie in the lineage's folder of an experiment, or in the folder of a run that stands alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open

from workbench.archive import read_json, read_tensors
from workbench.errors import RunError
from workbench.files import file_hash
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
        provenance = about.get("provenance", {})
        roles = {name: provenance[name] for name in ("witness", "aligned") if name in provenance}
        located = told.get("provenance", {})
        known = [roles[name] for name in ("witness", "aligned") if name in roles]
        order = tuple(located.get("phases", known))
        unit = directions.get("unit")
        return cls(
            layers=None if unit is None else tuple(about.get("layers", range(len(unit)))),
            unit=unit,
            gap=directions.get("gap"),
            sibling=_artefact(folder / SIBLING)[0].get("unit"),
            p99=_p99(folder / NULLS),
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
    config, experiment = run.info.get("config", {}), run.folder.resolve().parent.parent
    if (experiment / "experiment.json").is_file():
        for lineage in read_json(experiment / "experiment.json").get("lineages", ()):
            if lineage["name"] == config.get("lineage"):
                return experiment / "lineages" / lineage.get("folder", lineage["name"])
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
            return arrays, dict(json.loads((file.metadata() or {}).get("workbench", "{}")))
    except (SafetensorError, ValueError, TypeError) as error:
        raise RunError(f"{path}: cannot be read ({error}).") from error


def _p99(path: Path) -> Float[np.ndarray, " layer"] | None:
    matched = read_json(path).get("matched") if path.is_file() else None
    return None if matched is None else np.array(matched["p99"], dtype=float)
