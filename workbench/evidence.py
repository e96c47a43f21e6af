"""Evidence of an experiment against its nulls, computed from stored drifts and readings."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from workbench.archive import Archive, Statistic, read_tensors
from workbench.records import cosine, mean_defined
from workbench.runs import Run
from workbench.significance import significance

ALPHA = 0.01


def run_significance(archive: Archive, runs: Sequence[Run]) -> dict[str, Any] | None:
    """Return, per run, the p-values of every null at every layer and step, and after Holm.

    None if a lineage keeps no readings to test against.
    """
    places = [archive.lineage_folder(run) for run in runs]
    if not runs or not all((place / "evidence.safetensors").is_file() for place in places):
        return None
    told: dict[str, Any] = {}
    found = {}
    for run, place in zip(runs, places, strict=True):
        reversion = read_tensors(place / "directions.safetensors")
        evidence = read_tensors(place / "evidence.safetensors")
        one = significance(
            run.layer_values("alignment"),
            run.drift(),
            reversion["unit"],
            reversion["gap"],
            acts=evidence["acts"],
            differences=evidence["differences"],
            measured_clusters=evidence["measured_clusters"].tolist(),
            fitted_clusters=evidence["fitted_clusters"].tolist(),
            alpha=ALPHA,
        )
        told = {key: one[key] for key in ("alpha", "family", "tests", "draws")}
        found[run.id] = {"nulls": one["nulls"], "resolution": one["resolution"]}
    return told | {"runs": found}


def other_phases(archive: Archive, runs: Sequence[Run]) -> dict[str, Any]:
    """Return how the drift aligns with the directions between other pairs of phases.

    A comparison, not a test: there are too few such directions, and they are not independent.
    """
    files = [archive.lineage_folder(run) / "others.safetensors" for run in runs]
    if not runs or not all(file.is_file() for file in files):
        return {}
    units = [read_tensors(file) for file in files]
    names = [name for name in units[0] if all(name in others for others in units)]
    drifts = [run.drift() for run in runs]
    undefined = [np.isnan(run.layer_values("alignment")) for run in runs]
    found: dict[str, dict[str, dict[str, Statistic]]] = {}
    for name in names:
        columns = [
            mean_defined(np.where(gone, np.nan, cosine(drift, others[name]))).tolist()
            for drift, gone, others in zip(drifts, undefined, units, strict=True)
        ]
        found[name] = {
            "alignment": {
                str(step): archive.statistic(runs, [column[index] for column in columns])
                for index, step in enumerate(archive.plan["measured_steps"])
            }
        }
    return found
