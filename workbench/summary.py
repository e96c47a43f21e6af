"""The summary of an experiment, computed from its folders alone."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from scipy import stats

from workbench.errors import RunError
from workbench.files import write_json
from workbench.paper import QUANTITIES, SOURCE
from workbench.records import SCORE_NAMES, cosine, mean_defined
from workbench.runs import Run, RunStore

SCHEMA = 1
N_RESAMPLES = 2000
DEPENDENT = "pairs of one run are dependent; they are counted, not tested"


def summarise(folder: str | Path) -> dict[str, Any]:
    """Compute `summary.json` of an experiment folder from its runs, write it and return it.

    Raises:
        RunError: If the folder holds no experiment, or a run is not finished.
    """
    folder = Path(folder)
    if not (folder / "experiment.json").is_file():
        raise RunError(f"{folder}: no finished experiment here (no experiment.json).")
    plan = _read_json(folder / "experiment.json")
    if plan.get("schema") != SCHEMA:
        raise RunError(f"{folder}: schema {plan.get('schema')!r}, this version reads {SCHEMA}.")
    store = RunStore(folder / "runs")
    runs = [store.open(run_id) for run_id in plan["runs"]]
    for run in runs:
        if run.status != "done":
            raise RunError(f"{folder}: {run.id} is not finished; continue with --resume.")
        if run.measured_steps.tolist() != plan["measured_steps"]:
            raise RunError(f"{run.folder}: measured at other steps than experiment.json says.")
    by_arm = {
        arm["name"]: [run for run in runs if run.info["config"]["arm"]["name"] == arm["name"]]
        for arm in plan["arms"]
    }
    arms = {name: _arm(folder, plan, members) for name, members in by_arm.items()}
    _add_task_cost(arms, plan)
    summary = {
        "schema": SCHEMA,
        "source": SOURCE,
        "lineages": plan["lineages"],
        "seeds": plan["seeds"],
        "steps": plan["recipe"]["steps"],
        "arms": arms,
        "nulls": _nulls(folder, plan, by_arm.get("ordinary", [])),
        "ordering": _ordering(arms, plan),
        "spearman": _spearman(arms, plan),
        "wall_seconds": plan["wall_seconds"],
    }
    summary["paper"] = _beside_paper(summary)
    write_json(folder / "summary.json", summary)
    return summary


def statistic(values: Sequence[float | None]) -> dict[str, Any]:
    """Return mean, sample sd and count of the defined values, and all of them per run."""
    defined = [value for value in values if value is not None and math.isfinite(value)]
    return {
        "mean": float(np.mean(defined)) if defined else None,
        "sd": float(np.std(defined, ddof=1)) if len(defined) > 1 else None,
        "n": len(defined),
        "per_seed": [None if v is None or not math.isfinite(v) else float(v) for v in values],
    }


def _arm(folder: Path, plan: dict[str, Any], runs: list[Run]) -> dict[str, Any]:
    arm: dict[str, Any] = {"runs": [run.id for run in runs]}
    steps = [str(step) for step in plan["measured_steps"]]
    arm["alignment"] = _by_step(steps, runs, lambda run: _column(run, "mean_alignment"))
    arm["stacked_alignment"] = _by_step(steps, runs, lambda run: _column(run, "stacked_alignment"))
    if all(lineage["sibling"] for lineage in plan["lineages"]):
        arm["alignment_sibling"] = _by_step(
            steps, runs, lambda run: _sibling_alignment(folder, plan, run)
        )
    for name in ("along", "across"):
        arm[name] = _by_step(
            steps, runs, lambda run, name=name: run.layer_values(name).mean(axis=1).tolist()
        )
    if any(run.info["config"].get("matched_run") for run in runs):
        arm["matching"] = _matching(folder, runs)
    if all((run.folder / "control.safetensors").is_file() for run in runs):
        arm["control_cosine"] = [_control_cosine(folder, plan, run) for run in runs]
    arm["alignment_by_layer"] = {
        step: [run.measured[index]["drift"]["alignment"] for run in runs]
        for index, step in enumerate(steps)
    }
    for name in SCORE_NAMES:
        arm[name] = {}
        for step in plan["evaluated_steps"]:
            scores = [run.scores()[step][name] for run in runs]
            arm[name][str(step)] = statistic([score["value"] for score in scores]) | {
                "intervals": [[score["low"], score["high"]] for score in scores]
            }
    return arm


def _by_step(
    steps: list[str], runs: list[Run], column: Callable[[Run], list[float | None]]
) -> dict[str, Any]:
    """Statistics over runs at every measured step, of what `column` gives per run."""
    columns = [column(run) for run in runs]
    return {
        step: statistic([values[index] for values in columns]) for index, step in enumerate(steps)
    }


def _column(run: Run, name: str) -> list[float | None]:
    return [line["drift"][name] for line in run.measured]


def _sibling_alignment(folder: Path, plan: dict[str, Any], run: Run) -> list[float | None]:
    """Mean over layers of cos(T−S, H−S′), where the alignment itself is defined."""
    file = _lineage_folder(folder, plan, run) / "sibling.safetensors"
    cosines = cosine(run.drift(), load_file(file)["unit"])
    undefined = np.isnan(run.layer_values("alignment"))
    return mean_defined(np.where(undefined, np.nan, cosines)).tolist()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path}: cannot be read ({error}).") from error


def _matching(folder: Path, runs: list[Run]) -> dict[str, Any]:
    """How much of the other arm's auxiliary gradient norm a matched arm could apply.

    A control whose hinge is inactive has no gradient to scale: nothing is applied at that step.
    """
    applied, without = [], []
    for run in runs:
        other = Run(folder / "runs" / run.info["config"]["matched_run"])
        wanted, got = np.array(other.gradient_trace("block")), np.array(run.gradient_trace("block"))
        total, due = float(wanted.sum()), wanted > 0
        applied.append(float(got.sum()) / total if total else None)
        without.append(float((got[due] == 0).mean()) if due.any() else None)
    return {"applied": statistic(applied), "steps_without": statistic(without)}


def _control_cosine(folder: Path, plan: dict[str, Any], run: Run) -> list[float]:
    """Cosine of a run's control direction with v_rev, per layer: how much of v_rev it blocks."""
    reversion = load_file(_lineage_folder(folder, plan, run) / "directions.safetensors")["unit"]
    return cosine(load_file(run.folder / "control.safetensors")["unit"], reversion).tolist()


def _lineage_folder(folder: Path, plan: dict[str, Any], run: Run) -> Path:
    name = run.info["config"]["lineage"]
    found = next(lineage["folder"] for lineage in plan["lineages"] if lineage["name"] == name)
    return folder / "lineages" / found


def _add_task_cost(arms: dict[str, Any], plan: dict[str, Any]) -> None:
    """Task cost: the share of ordinary fine-tuning's task gain that an arm loses, per seed."""
    if "ordinary" not in arms:
        return
    last = str(plan["recipe"]["steps"])
    ordinary = arms["ordinary"]["task_loss"]
    for arm in arms.values():
        costs = []
        for before, usual, mine in zip(
            ordinary["0"]["per_seed"],
            ordinary[last]["per_seed"],
            arm["task_loss"][last]["per_seed"],
            strict=True,
        ):
            costs.append((mine - usual) / (before - usual) if before != usual else None)
        arm["task_cost"] = statistic(costs)


def _nulls(folder: Path, plan: dict[str, Any], runs: list[Run]) -> dict[str, Any]:
    """How many run-step pairs of the ordinary arm exceed each null's p99 of the mean alignment."""
    nulls: dict[str, Any] = {}
    for run in runs:
        stored = _read_json(_lineage_folder(folder, plan, run) / "nulls.json")
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


def _ordering(arms: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any] | None:
    """In how many lineage × seed pairs block < ordinary < push holds at the last step."""
    if not {"block", "ordinary", "push"} <= arms.keys():
        return None
    last, found = str(plan["recipe"]["steps"]), {}
    for name in ("alignment", "harmfulness"):
        triples = zip(
            *(arms[arm][name][last]["per_seed"] for arm in ("block", "ordinary", "push")),
            strict=True,
        )
        holds = [None not in triple and triple[0] < triple[1] < triple[2] for triple in triples]
        found[name] = {"holds": sum(holds), "n": len(holds)}
    return found


def _spearman(arms: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    """Rank correlation of final alignment and harmfulness, over all runs and within each arm."""
    last = str(plan["recipe"]["steps"])
    x = np.array([arm["alignment"][last]["per_seed"] for arm in arms.values()], dtype=float)
    y = np.array([arm["harmfulness"][last]["per_seed"] for arm in arms.values()], dtype=float)
    r, n = _rank_correlation(x, y), int((np.isfinite(x) & np.isfinite(y)).sum())
    if n < 3 or not math.isfinite(r):
        return {"r": None, "n": n, "interval": [None, None]}
    unit, groups = "seeds", np.arange(x.shape[1])[:, None]
    if len(plan["lineages"]) > 1:
        unit, groups = "lineages", groups.reshape(len(plan["lineages"]), -1)
    picks = np.random.default_rng(0).integers(len(groups), size=(N_RESAMPLES, len(groups)))
    draws = [
        _rank_correlation(x[:, columns], y[:, columns])
        for columns in groups[picks].reshape(N_RESAMPLES, -1)
    ]
    several = len(groups) > 1
    low, high = np.nanquantile(draws, [0.025, 0.975]) if several else (math.nan, math.nan)
    return {
        "r": r,
        "n": n,
        "interval": [_number(low), _number(high)],
        "note": f"over all arms; interval resamples {unit} of all arms together",
        "within_arms": {
            name: _number(_rank_correlation(*pair)) for name, *pair in zip(arms, x, y, strict=True)
        },
    }


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    defined = np.isfinite(x) & np.isfinite(y)
    if len({*x[defined]}) < 2 or len({*y[defined]}) < 2:
        return math.nan
    return float(stats.spearmanr(x[defined], y[defined]).statistic)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _beside_paper(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The paper's table with our numbers beside it, in words; n is lineages × seeds."""
    arms, last = summary["arms"], str(summary["steps"])
    ordinary, block = arms.get("ordinary"), arms.get("block")
    ours: dict[str, str] = {}
    if ordinary:
        ours["alignment_first"] = _say(ordinary["alignment"].get("1"))
        ours["alignment_20"] = _say(ordinary["alignment"].get("20"))
        isotropic = summary["nulls"]["isotropic"]
        ours["isotropic_pairs"] = f"{isotropic['above_p99']} of {isotropic['pairs']}"
    if ordinary and block:
        for name, scale in (("alignment", 1), ("harmfulness", 100)):
            before, after = (_say(arm[name][last], scale) for arm in (ordinary, block))
            ours[f"{name}_blocked"] = f"{before} → {after}"
        ours["task_cost"] = f"{_say(block['task_cost'], 100)} of the task gain"
    if (ordering := summary["ordering"]) is not None:
        told = (f"{name} {found['holds']} of {found['n']}" for name, found in ordering.items())
        ours["ordering"] = f"{', '.join(told)} seeds"
    if (r := summary["spearman"]["r"]) is not None:
        ours["spearman"] = f"{r:.3f} (n = {summary['spearman']['n']})"
    return [
        {"quantity": row.name, "paper": row.paper, "ours": ours.get(row.key, "not run")}
        for row in QUANTITIES
    ]


def _say(value: dict[str, Any] | None, scale: int = 1) -> str:
    """A mean and its sd, as in the paper; percent if scaled by 100."""
    if value is None:
        return "not measured"
    if value["mean"] is None:
        return "undefined"
    digits, unit = (1, " %") if scale == 100 else (3, "")
    mean = f"{value['mean'] * scale:.{digits}f}".replace("-", "−")
    sd = "" if value["sd"] is None else f" ± {value['sd'] * scale:.{digits}f}"
    return f"{mean}{unit}{sd}"
