"""The summary of an experiment, computed from its folders alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from workbench.archive import SCHEMA, Archive, read_json, read_tensors
from workbench.blocking import after_blocking
from workbench.comparison import beside_paper
from workbench.config import sealed
from workbench.errors import RunError
from workbench.evidence import other_phases, run_significance
from workbench.files import write_json
from workbench.paper import SOURCE
from workbench.records import SCORE_NAMES, cosine, mean_cosine
from workbench.runs import CONTROL, Run
from workbench.statistic import rank_correlation, resampled_correlation, sign_test
from workbench.tradeoff import dose, layer_sweep, tradeoff

TESTED = ("ordinary", "block", "push")
"""Arms whose drifts are tested against the nulls."""

DEPENDENT = "pairs of one run are dependent; they are counted, not tested"


def summarise(folder: str | Path) -> dict[str, Any]:
    """Compute `summary.json` of an experiment folder from its runs, write it and return it.

    Raises:
        RunError: If the folder holds no experiment, or a run is not finished.
    """
    archive = Archive.open(Path(folder))
    summary = summary_of(archive)
    write_json(archive.folder / "summary.json", summary)
    return summary


def summary_of(archive: Archive) -> dict[str, Any]:
    """Return what `summary.json` must say; nothing is written.

    Raises:
        RunError: If a stored file is damaged.
    """
    try:
        return sealed(_summary(archive))
    except KeyError as error:
        raise RunError(
            f"{archive.folder}: a stored file lacks {error}; it is damaged, or of another version."
        ) from error
    except (ValueError, IndexError, TypeError) as error:
        raise RunError(
            f"{archive.folder}: its files do not fit each other ({error}); see `workbench verify`."
        ) from error


def _summary(archive: Archive) -> dict[str, Any]:
    plan = archive.plan
    arms = {arm["name"]: _arm(archive, arm) for arm in plan["arms"]}
    _add_task_cost(archive, arms)
    ordinary = archive.by_arm.get("ordinary", [])
    tested = [run for name in TESTED for run in archive.by_arm.get(name, [])]
    summary = {
        "schema": SCHEMA,
        "source": SOURCE,
        "lineages": plan["lineages"],
        "seeds": plan["seeds"],
        "steps": plan["recipe"]["steps"],
        "arms": arms,
        "nulls": _nulls(archive, ordinary),
        "significance": run_significance(archive, tested),
        "other_phases": other_phases(archive, ordinary),
        "ordering": _ordering(archive, arms),
        "spearman": _spearman(archive, arms),
        "controls": _controls(arms),
        "after_blocking": after_blocking(archive),
        "readout": _readouts(archive),
        "wall_seconds": plan["wall_seconds"],
    }
    if "ordinary" in arms:
        summary |= {
            "dose": dose(arms, archive.last_step),
            "tradeoff": tradeoff(arms, archive.last_step),
            "layers": layer_sweep(arms, archive.last_step),
        }
    summary["paper"] = beside_paper(summary)
    return summary


def _arm(archive: Archive, about: Mapping[str, Any]) -> dict[str, Any]:
    plan, runs = archive.plan, archive.by_arm[about["name"]]
    arm: dict[str, Any] = {"runs": [run.id for run in runs]}
    arm |= {key: about.get(key) for key in ("intervention", "direction", "strength", "layers")}
    for name in ("alignment", "stacked_alignment"):
        key = "mean_alignment" if name == "alignment" else name
        arm[name] = archive.by_step(runs, lambda run, key=key: _column(run, key))
    if all(lineage["sibling"] for lineage in plan["lineages"]):
        arm["alignment_sibling"] = archive.by_step(
            runs, lambda run: _sibling_alignment(archive, run)
        )
    for name in ("along", "across"):
        arm[name] = archive.by_step(
            runs, lambda run, name=name: run.layer_values(name).mean(axis=1).tolist()
        )
    if about.get("match") is not None:
        arm["matching"] = _matching(archive, runs, archive.by_arm[about["match"]])
    if all((run.folder / CONTROL).is_file() for run in runs):
        arm["control_cosine"] = [_control_cosine(archive, run) for run in runs]
    arm["alignment_by_layer"] = {
        str(step): [run.measured[index]["drift"]["alignment"] for run in runs]
        for index, step in enumerate(plan["measured_steps"])
    }
    for name in SCORE_NAMES:
        arm[name] = {}
        for step in plan["evaluated_steps"]:
            scores = [run.scores()[step][name] for run in runs]
            arm[name][str(step)] = archive.statistic(runs, [score["value"] for score in scores]) | {
                "intervals": [[score["low"], score["high"]] for score in scores]
            }
    return arm


def _column(run: Run, name: str) -> list[float | None]:
    return [line["drift"][name] for line in run.measured]


def _sibling_alignment(archive: Archive, run: Run) -> list[float | None]:
    """Mean over layers of cos(T−S, H−S′), where the alignment itself is defined."""
    unit = read_tensors(archive.lineage_folder(run) / "sibling.safetensors")["unit"]
    return mean_cosine(run.drift(), unit, run.layer_values("alignment"))


def _matching(archive: Archive, runs: Sequence[Run], others: Sequence[Run]) -> dict[str, Any]:
    """How much of the other arm's auxiliary gradient norm a matched arm could apply.

    A control whose hinge is inactive has no gradient to scale: nothing is applied at that step.
    """
    applied, without = [], []
    for run, other in zip(runs, others, strict=True):
        wanted, got = np.array(other.gradient_trace("block")), np.array(run.gradient_trace("block"))
        total, due = float(wanted.sum()), wanted > 0
        applied.append(float(got.sum()) / total if total else None)
        without.append(float((got[due] == 0).mean()) if due.any() else None)
    return {
        "applied": archive.statistic(runs, applied),
        "steps_without": archive.statistic(runs, without),
    }


def _control_cosine(archive: Archive, run: Run) -> list[float]:
    """Cosine of a run's control direction with v_rev, per layer: how much of v_rev it blocks."""
    reversion = read_tensors(archive.lineage_folder(run) / "directions.safetensors")["unit"]
    return cosine(read_tensors(run.folder / CONTROL)["unit"], reversion).tolist()


def _add_task_cost(archive: Archive, arms: dict[str, Any]) -> None:
    """Task cost: the share of ordinary fine-tuning's task gain that an arm loses, per run.

    Undefined where ordinary fine-tuning gained nothing.
    """
    if "ordinary" not in arms:
        return
    last, ordinary = archive.last_step, arms["ordinary"]["task_loss"]
    for name, arm in arms.items():
        costs = []
        for before, usual, mine in zip(
            ordinary["0"]["per_seed"],
            ordinary[last]["per_seed"],
            arm["task_loss"][last]["per_seed"],
            strict=True,
        ):
            gained = None not in (before, usual, mine) and before > usual
            costs.append((mine - usual) / (before - usual) if gained else None)
        arm["task_cost"] = archive.statistic(archive.by_arm[name], costs)


def _nulls(archive: Archive, runs: Sequence[Run]) -> dict[str, Any]:
    """How many run-step pairs of the ordinary arm exceed each null's p99 of the mean alignment."""
    nulls: dict[str, Any] = {}
    for run in runs:
        stored = read_json(archive.lineage_folder(run) / "nulls.json")
        for name, null in stored.items():
            told = nulls.setdefault(
                name,
                {
                    "h0": null["h0"],
                    "pairs": 0,
                    "above_p99": 0,
                    "layer_pairs": 0,
                    "layer_above_p99": 0,
                    "aggregate_p99": [],
                    "note": DEPENDENT,
                },
            )
            aligned = [value for value in _column(run, "mean_alignment") if value is not None]
            told["pairs"] += len(aligned)
            told["above_p99"] += sum(value > null["aggregate_p99"] for value in aligned)
            by_layer = run.layer_values("alignment")
            told["layer_pairs"] += int(np.isfinite(by_layer).sum())
            told["layer_above_p99"] += int((by_layer > np.array(null["p99"])).sum())
            told["aggregate_p99"].append(null["aggregate_p99"])
    return nulls


def _ordering(archive: Archive, arms: dict[str, Any]) -> dict[str, Any] | None:
    """In how many lineage × seed pairs block < ordinary < push holds at the last step.

    Tested is whether it holds in a lineage on the mean over its seeds, which are no replication of
    alignment: by chance, were the three arms exchangeable, in one of six. With one lineage there is
    no test.
    """
    if not {"block", "ordinary", "push"} <= arms.keys():
        return None
    last, found = archive.last_step, {}
    for name in ("alignment", "harmfulness"):
        triples = zip(
            *(arms[arm][name][last]["per_seed"] for arm in ("block", "ordinary", "push")),
            strict=True,
        )
        runs = np.array(list(triples), dtype=float)
        by_lineage = runs.reshape(archive.n_lineages, -1, 3).mean(axis=1)
        holds, in_lineages = _rises(runs), _rises(by_lineage)
        found[name] = {
            "holds": sum(holds),
            "n": len(holds),
            "lineages_hold": sum(in_lineages),
            "lineages": archive.n_lineages,
            "p": sign_test(in_lineages, 1 / 6) if archive.n_lineages > 1 else None,
        }
    return found


def _rises(rows: Float[np.ndarray, "row 3"]) -> list[bool]:
    return [bool((np.diff(row) > 0).all()) for row in rows]


def _spearman(archive: Archive, arms: dict[str, Any]) -> dict[str, Any]:
    """Rank correlation of final alignment and harmfulness, over all runs and within each arm."""
    last = archive.last_step
    x = np.array([arm["alignment"][last]["per_seed"] for arm in arms.values()], dtype=float)
    y = np.array([arm["harmfulness"][last]["per_seed"] for arm in arms.values()], dtype=float)
    r, n = rank_correlation(x, y), int((np.isfinite(x) & np.isfinite(y)).sum())
    if n < 3 or not np.isfinite(r):
        return {"r": None, "n": n, "interval": [None, None]}
    several = archive.n_lineages > 1
    n_groups = archive.n_lineages if several else x.shape[1]
    within = {
        name: (rank_correlation(a, b), resampled_correlation(a[None], b[None], n_groups))
        for name, a, b in zip(arms, x, y, strict=True)
    }
    return {
        "r": r,
        "n": n,
        "interval": resampled_correlation(x, y, n_groups),
        "note": "over all arms; interval resamples "
        f"{'lineages' if several else 'seeds'} of all arms together",
        "within_arms": {name: r if np.isfinite(r) else None for name, (r, _) in within.items()},
        "within_arms_interval": {name: interval for name, (_, interval) in within.items()},
    }


def _controls(arms: Mapping[str, Any]) -> dict[str, Any]:
    """How much each control direction overlaps with v_rev, and how much of the norm it applied."""
    return {
        name: {
            "cosine": arm["control_cosine"],
            "applied": arm["matching"]["applied"] if "matching" in arm else None,
        }
        for name, arm in arms.items()
        if "control_cosine" in arm
    }


def _readouts(archive: Archive) -> dict[str, Any]:
    """The vocabulary readout of every lineage that has one."""
    return {
        name: read_json(folder / "readout.json")
        for name, folder in archive.lineage_folders().items()
        if (folder / "readout.json").is_file()
    }
