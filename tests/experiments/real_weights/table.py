"""The table: `results.json` and `results.md` in the folder of an experiment that `run.sh` made.

    python table.py OUT

Numbers only: no prompt and no answer goes into them.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from workbench.evaluation import estimate_by_cluster
from workbench.probes import ProbeSet
from workbench.records import Estimate, cosine
from workbench.runs import Run
from workbench.statistic import statistic

STEPS = ("1", "20", "100")
QUANTITIES = (
    *("alignment", "alignment_sibling", "along", "across", "harmfulness", "broken"),
    *("refusal_log_odds", "over_refusal", "task_loss", "kl"),
)
IMPERATIVES = "imperative: "
"""Clusters of our own requests in the form of harmful ones begin so."""


def results(out: Path) -> dict[str, Any]:
    """Return what the experiment in `out` measured, as plain numbers."""
    folder = out / "experiment"
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    harmful = ProbeSet.load(out / "prepared" / "harmful.jsonl")
    benign = ProbeSet.load(out / "prepared" / "benign.jsonl", kind="benign")
    told: dict[str, Any] = {
        "lineages": summary["lineages"],
        "seeds": summary["seeds"],
        "steps": summary["steps"],
        "data": json.loads((out / "prepared" / "counts.json").read_text(encoding="utf-8")),
        "paper": summary["paper"],
        "nulls": summary["nulls"],
        "ordering": summary["ordering"],
        "spearman": summary["spearman"],
        "wall_seconds": summary["wall_seconds"],
        "arms": {},
    }
    shares = {}
    for name, arm in summary["arms"].items():
        runs = [Run(folder / "runs" / run) for run in arm["runs"]]
        kept = {quantity: _at_steps(arm[quantity]) for quantity in QUANTITIES if quantity in arm}
        kept["task_cost"] = arm["task_cost"]
        kept["by_layer"] = _by_layer(arm["alignment_by_layer"])
        if "alignment_sibling" in arm:
            kept["sibling_by_layer"] = _sibling_by_layer(folder, summary, runs)
        shares[name] = _shares(runs, harmful.prompts, "harmful", "comply")
        kept["harmfulness_pooled"] = _estimate(shares[name], harmful.clusters)
        refused = _shares(runs, benign.prompts, "benign", "refuse")
        refused_before = _shares(runs, benign.prompts, "benign", "refuse", first=True)
        for kind, wanted in (("instructions", False), ("imperatives", True)):
            chosen = [
                i for i, c in enumerate(benign.clusters) if c.startswith(IMPERATIVES) == wanted
            ]
            clusters = [benign.clusters[i] for i in chosen]
            kept[f"over_refusal_{kind}"] = _estimate(refused[chosen], clusters)
            kept[f"over_refusal_{kind}_before"] = _estimate(refused_before[chosen], clusters)
        told["arms"][name] = kept
    for name, kept in told["arms"].items():
        difference = shares[name] - shares["ordinary"]
        kept["harmfulness_minus_ordinary"] = _estimate(difference, harmful.clusters)
    return told


def _at_steps(by_step: Mapping[str, Any]) -> dict[str, Any]:
    return {step: by_step[step] for step in ("0", *STEPS) if step in by_step}


def _by_layer(by_step: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {
        step: [statistic(values) for values in zip(*by_step[step], strict=True)] for step in STEPS
    }


def _sibling_by_layer(
    folder: Path, summary: Mapping[str, Any], runs: Iterable[Run]
) -> dict[str, list[dict[str, Any]]]:
    """cos(T−S, H−S′) per layer."""
    rows: dict[str, list[list[float]]] = {step: [] for step in STEPS}
    for run in runs:
        lineage = run.info["config"]["lineage"]
        about = next(one for one in summary["lineages"] if one["name"] == lineage)
        sibling = folder / "lineages" / about["folder"] / "sibling.safetensors"
        cosines = cosine(run.drift(), load_file(sibling)["unit"])
        measured = [str(line["step"]) for line in run.measured]
        for step in STEPS:
            rows[step].append(cosines[measured.index(step)].tolist())
    return {
        step: [statistic(values) for values in zip(*found, strict=True)]
        for step, found in rows.items()
    }


def _shares(
    runs: list[Run], prompts: tuple[str, ...], kind: str, verdict: str, *, first: bool = False
) -> np.ndarray:
    """Per prompt, the share of runs whose last (or first) answer got this verdict."""
    counts = np.zeros(len(prompts))
    for run in runs:
        files = sorted((run.folder / "answers").glob("*.json"))
        file = files[0 if first else -1]
        answers = json.loads(file.read_text(encoding="utf-8"))[kind]
        if tuple(prompt for prompt, *_ in answers) != prompts:
            raise SystemExit(f"{file}: answers to other prompts.")
        counts += [said == verdict for *_, said in answers]
    return counts / len(runs)


def _estimate(values: np.ndarray, clusters: Iterable[str]) -> dict[str, float | int]:
    """Mean with a 95 % interval over prompt clusters."""
    found: Estimate = estimate_by_cluster(values, tuple(clusters))
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}


def markdown(told: Mapping[str, Any]) -> str:
    """Return the results as tables in Markdown."""
    arms, runs = told["arms"], len(told["lineages"]) * len(told["seeds"])
    parts = [
        "# Real weights: what was measured\n",
        f"{len(told['lineages'])} alignment seeds × {len(told['seeds'])} fine-tuning seed(s) = "
        f"{runs} runs per arm; mean ± sample sd over runs; [95 % interval over prompt clusters, "
        "the runs' answers averaged]. Written by `table.py`; how it was made is in README.md.\n",
        _table(
            ("arm", "alignment at 1", "at 20", "at 100", "sibling at 100", "along at 100"),
            [
                (
                    name,
                    *(_say(arm["alignment"][step]) for step in STEPS),
                    _say(arm.get("alignment_sibling", {}).get("100")),
                    _say(arm["along"]["100"]),
                )
                for name, arm in arms.items()
            ],
        ),
        _table(
            ("arm", "harmful %", "interval", "minus ordinary", "broken %", "refusal log-odds"),
            [
                (
                    name,
                    _say(arm["harmfulness"]["100"], 100, 1),
                    _interval(arm["harmfulness_pooled"], 100, 1),
                    _difference(arm["harmfulness_minus_ordinary"]) if name != "ordinary" else "",
                    _say(arm["broken"]["100"], 100, 1),
                    _say(arm["refusal_log_odds"]["100"], 1, 2),
                )
                for name, arm in [("before", _before(arms["ordinary"])), *arms.items()]
            ],
        ),
        _table(
            (
                "arm",
                "task loss",
                "task cost %",
                "KL, nats",
                "over-refusal %: instructions",
                "imperatives",
            ),
            [
                (
                    name,
                    _say(arm["task_loss"]["100"]),
                    "" if arm.get("task_cost") is None else _say(arm["task_cost"], 100, 1),
                    _say(arm["kl"]["100"], 1, 4),
                    *(
                        _with_interval(arm.get(f"over_refusal_{kind}"), 100, 1)
                        for kind in ("instructions", "imperatives")
                    ),
                )
                for name, arm in [("before", _before(arms["ordinary"])), *arms.items()]
            ],
        ),
    ]
    for title, key in (
        ("Alignment", "by_layer"),
        ("With the sibling's direction", "sibling_by_layer"),
    ):
        if key not in arms["ordinary"]:
            continue
        layers = range(len(arms["ordinary"][key]["1"]))
        parts.append(f"{title} by layer, per step:\n")
        parts.append(
            _table(
                ("arm", "step", *(f"layer {layer}" for layer in layers)),
                [
                    (name, step, *(_say(arm[key][step][layer], 1, 2) for layer in layers))
                    for name, arm in arms.items()
                    for step in STEPS
                ],
            )
        )
    parts.append("Nulls, ordinary arm (pairs of one run are dependent; counted, not tested):\n")
    parts.append(
        _table(
            ("null", "run-step pairs above p99", "layer-step pairs above p99", "p99 of the mean"),
            [
                (
                    name,
                    f"{null['above_p99']} of {null['pairs']}",
                    f"{null['layer_above_p99']} of {null['layer_pairs']}",
                    f"{min(null['aggregate_p99']):.2f} to {max(null['aggregate_p99']):.2f}",
                )
                for name, null in told["nulls"].items()
            ],
        )
    )
    parts.append("Per lineage at step 100, mean over its seeds:\n")
    parts.append(_per_lineage(told))
    return "\n".join(parts)


def _per_lineage(told: Mapping[str, Any]) -> str:
    n_seeds = len(told["seeds"])
    rows = []
    for name, arm in told["arms"].items():
        for quantity, factor, digits in (("alignment", 1, 3), ("harmfulness", 100, 1)):
            values = np.array(arm[quantity]["100"]["per_seed"], dtype=float).reshape(-1, n_seeds)
            means = (f"{factor * value:.{digits}f}" for value in values.mean(axis=1))
            rows.append((name, quantity + (" %" if factor == 100 else ""), *means))
    return _table(("arm", "quantity", *(one["name"] for one in told["lineages"])), rows)


def _before(arm: Mapping[str, Any]) -> dict[str, Any]:
    """The aligned models: step 0 of any arm."""
    kept = {}
    for name in ("harmfulness", "broken", "refusal_log_odds", "task_loss", "kl"):
        kept[name] = {"100": arm[name]["0"]}
    for kind in ("instructions", "imperatives"):
        kept[f"over_refusal_{kind}"] = arm[f"over_refusal_{kind}_before"]
    return kept | {"harmfulness_pooled": None, "harmfulness_minus_ordinary": None}


def _say(value: Mapping[str, Any] | None, factor: float = 1, digits: int = 3) -> str:
    if value is None or value["mean"] is None:
        return "–"
    mean = f"{factor * value['mean']:.{digits}f}"
    return mean if value["sd"] is None else f"{mean} ± {factor * value['sd']:.{digits}f}"


def _interval(value: Mapping[str, Any] | None, factor: float, digits: int) -> str:
    if value is None:
        return ""
    return f"[{factor * value['low']:.{digits}f}, {factor * value['high']:.{digits}f}]"


def _with_interval(value: Mapping[str, Any] | None, factor: float, digits: int) -> str:
    if value is None:
        return ""
    return f"{factor * value['value']:.{digits}f} {_interval(value, factor, digits)}"


def _difference(value: Mapping[str, Any] | None) -> str:
    # The exact interval of a share that is 0 everywhere is not one of a difference.
    if value is not None and value["value"] == 0 == value["low"]:
        return "0.0"
    return "" if value is None else _with_interval(value, 100, 1)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python table.py OUT")
    source = Path(sys.argv[1])
    found = results(source)
    (source / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (source / "results.md").write_text(markdown(found), encoding="utf-8")
    print(markdown(found))
