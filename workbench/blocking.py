"""After blocking: what a blocked fine-tuning did off the direction, from stored runs alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from workbench.archive import Archive, Statistic, read_tensors
from workbench.refit import Refit, refit, shared
from workbench.runs import AFTERMATH, Run
from workbench.statistic import statistic

Array = np.ndarray


def after_blocking(archive: Archive) -> dict[str, Any]:
    """Return, for every arm that blocks along v_rev, what came back in spite of it.

    Per run and layer: `cosine` of the re-fitted v_rev (witness − blocked model) with the old one,
    its `gap` in old phase gaps (1: nothing came back), the displacement `along` and `off` v_rev in
    phase gaps, and `shared`, the share of ordinary fine-tuning's off-direction displacement (same
    lineage and seed) that is there too. `harmfulness_returned` and `log_odds_returned` are shares
    of ordinary fine-tuning's shift of behaviour that are there under blocking.
    """
    ordinary = {_place(run): run for run in archive.by_arm.get("ordinary", [])}
    found = {}
    for arm in archive.plan["arms"]:
        runs = archive.by_arm[arm["name"]]
        acts_on_v_rev = arm["intervention"] == "block" and arm["direction"] == "reversion"
        if not acts_on_v_rev or not all((run.folder / AFTERMATH).is_file() for run in runs):
            continue
        layers = [_layers(archive, run, ordinary.get(_place(run))) for run in runs]
        told: dict[str, Any] = {key: [one[key] for one in layers] for key in layers[0]}
        for key, score in (("harmfulness", "harmfulness"), ("log_odds", "refusal_log_odds")):
            told[f"{key}_returned"] = _returned(archive, runs, ordinary, score)
        found[arm["name"]] = told
    return found


def _place(run: Run) -> tuple[str, int]:
    return run.info["config"]["lineage"], run.info["config"]["seed"]


def _layers(archive: Archive, run: Run, ordinary: Run | None) -> dict[str, Any]:
    reversion = read_tensors(archive.lineage_folder(run) / "directions.safetensors")
    mean = read_tensors(run.folder / AFTERMATH)["mean"]
    told = {key: _numbers(value) for key, value in vars(_refit(reversion, mean)).items()}
    if ordinary is None or not (ordinary.folder / AFTERMATH).is_file():
        return told | {"shared": None}
    usual = read_tensors(ordinary.folder / AFTERMATH)["mean"]
    return told | {"shared": _numbers(shared(mean, usual, reversion["unit"]))}


def _refit(reversion: Mapping[str, Array], mean: Float[Array, "layer d_model"]) -> Refit:
    return refit(reversion["unit"], reversion["gap"], mean)


def _numbers(values: Float[Array, " layer"]) -> list[float | None]:
    """JSON has no NaN: undefined is null."""
    return [float(value) if np.isfinite(value) else None for value in values]


def _returned(
    archive: Archive, runs: Sequence[Run], ordinary: Mapping[tuple[str, int], Run], score: str
) -> Statistic:
    """Share of ordinary's shift since step 0 that is there too, one per lineage.

    Of means over seeds: a single run's shift may be of one prompt. None where ordinary's mean shift
    is not above two standard errors.
    """
    shifts: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        lineage, _ = place = _place(run)
        if place in ordinary:
            start = _score(ordinary[place], 0, score)
            ends = (_score(one, int(archive.last_step), score) for one in (run, ordinary[place]))
            mine, usual = (end - start for end in ends)
            shifts.setdefault(lineage, []).append((mine, usual))
    shares = {lineage: _share(np.array(pairs)) for lineage, pairs in shifts.items()}
    return statistic([*shares.values()], [*shares])


def _share(pairs: Float[Array, "run 2"]) -> float | None:
    mine, usual = pairs.mean(axis=0)
    n = len(pairs)
    noise = 2 * pairs[:, 1].std(ddof=1) / np.sqrt(n) if n > 1 else 0.0
    return float(mine / usual) if abs(usual) > noise else None


def _score(run: Run, step: int, name: str) -> float:
    value = run.scores()[step][name]["value"]
    return np.nan if value is None else float(value)
