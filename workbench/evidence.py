"""Evidence of an experiment against its nulls, computed from stored drifts and readings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from workbench.archive import Archive, Statistic, read_tensors
from workbench.nulls import Null, draws_needed, matched_null
from workbench.records import mean_cosine
from workbench.runs import Run
from workbench.significance import BareDirections, significance

ALPHA = 0.01


def run_significance(archive: Archive, runs: Sequence[Run]) -> dict[str, Any] | None:
    """Return, per run, the p-values of every null at every layer and step, and after Holm.

    None if a lineage keeps no readings to test against.
    """
    places = [archive.lineage_folder(run) for run in runs]
    if not runs or not all((place / "evidence.safetensors").is_file() for place in places):
        return None
    grounds = {place: _Ground.at(place, len(archive.plan["measured_steps"])) for place in {*places}}
    tested = {run.id: grounds[place].test(run) for run, place in zip(runs, places, strict=True)}
    families = dict.fromkeys(one["family"] for one in tested.values())
    return {
        "alpha": ALPHA,
        "family": "; ".join(families),
        "tests": max(one["tests"] for one in tested.values()),
        "draws": max(one["draws"] for one in tested.values()),
        "runs": {
            name: {key: one[key] for key in ("nulls", "resolution", "tests")}
            for name, one in tested.items()
        },
    }


@dataclass(frozen=True)
class _Ground:
    """What the runs of one lineage are tested against; the matched null is drawn once."""

    unit: Float[np.ndarray, "layer d_model"]
    gap: Float[np.ndarray, " layer"]
    differences: Float[np.ndarray, "layer prompt d_model"]
    fitted_clusters: list[int]
    matched: Null

    @classmethod
    def at(cls, place: Path, n_steps: int) -> "_Ground":
        reversion = read_tensors(place / "directions.safetensors")
        evidence = read_tensors(place / "evidence.safetensors")
        draws = draws_needed(n_steps * len(reversion["gap"]), ALPHA)
        clusters = evidence["measured_clusters"].tolist()
        directions = BareDirections(reversion["unit"])
        matched = matched_null(directions, evidence["acts"], clusters=clusters, draws=draws)
        return cls(
            reversion["unit"],
            reversion["gap"],
            evidence["differences"],
            evidence["fitted_clusters"].tolist(),
            matched,
        )

    def test(self, run: Run) -> dict[str, Any]:
        return significance(
            run.layer_values("alignment"),
            run.drift(),
            self.unit,
            self.gap,
            matched=self.matched,
            differences=self.differences,
            fitted_clusters=self.fitted_clusters,
            alpha=ALPHA,
        )


def other_phases(archive: Archive, runs: Sequence[Run]) -> dict[str, Any]:
    """Return how the drift aligns with the directions between other pairs of phases.

    A comparison, not a test: there are too few such directions, and they are not independent.
    """
    files = [archive.lineage_folder(run) / "others.safetensors" for run in runs]
    if not runs or not all(file.is_file() for file in files):
        return {}
    units = [read_tensors(file) for file in files]
    names = [name for name in units[0] if all(name in others for others in units)]
    drifts = [(run.drift(), run.layer_values("alignment")) for run in runs]
    found: dict[str, dict[str, dict[str, Statistic]]] = {}
    for name in names:
        columns = [
            mean_cosine(drift, others[name], alignment)
            for (drift, alignment), others in zip(drifts, units, strict=True)
        ]
        found[name] = {
            "alignment": {
                str(step): archive.statistic(runs, [column[index] for column in columns])
                for index, step in enumerate(archive.plan["measured_steps"])
            }
        }
    return found
