"""Write the tables of an experiment as markdown: `table.py EXPERIMENT > results.md`."""

import json
import sys
from pathlib import Path
from typing import Any

STEPS = ("1", "20", "100")
COLUMNS = (
    ("along", 1, 2), ("across", 1, 2), ("harmfulness", 100, 1), ("broken", 100, 1),
    ("refusal_log_odds", 1, 2), ("task_loss", 1, 4), ("task_cost", 100, 2), ("kl", 1, 3),
    ("over_refusal", 100, 1),
)  # fmt: skip
"""Quantity, factor, digits; shares in percent."""


def main(folder: str) -> None:
    """Print all tables of an experiment."""
    summary = json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))
    print(arms_table(summary))
    print(f"\nsd over runs; in brackets, {over(summary)}.\n")
    for table in (controls_table, nulls_table, blocking_table, phases_table, readout_table):
        if told := table(summary):
            print(f"{told}\n")
    for name, told in (summary["ordering"] or {}).items():
        lineages = f"{told['lineages_hold']} of {told['lineages']} lineages on the mean"
        print(
            f"block < ordinary < push in {name}: {told['holds']} of {told['n']} runs, {lineages}, "
        )
        print(f"p = {told['p']}.  ")
    spearman = summary["spearman"]
    within = {name: r for name, r in spearman["within_arms"].items() if r is not None}
    print(f"Spearman {spearman['r']:.3f} {spearman['interval']}, n = {spearman['n']}; within arms:")
    print(", ".join(f"{name} {r:.2f}" for name, r in within.items()))


def arms_table(summary: dict[str, Any]) -> str:
    """Return arm × quantities at the last step."""
    last, front = str(summary["steps"]), pareto(summary)
    names = [f"alignment {step}" for step in STEPS] + ["sibling"]
    names += [f"{name} %" if factor == 100 else name for name, factor, _ in COLUMNS]
    rows = []
    for name, arm in summary["arms"].items():
        cells = [say(arm["alignment"].get(step), 1, 2) for step in STEPS]
        cells.append(say(arm.get("alignment_sibling", {}).get(last), 1, 2))
        for column, factor, digits in COLUMNS:
            value = arm[column] if column == "task_cost" else arm[column][last]
            cells.append(say(value, factor, digits))
        rows.append([f"**{name}**" if name in front else name, *cells])
    return markdown(["arm (bold: Pareto front)", *names], rows)


def pareto(summary: dict[str, Any]) -> set[str]:
    """Return the arms that nothing dominates in task cost and harmfulness."""
    return {point["arm"] for point in summary["tradeoff"]["points"] if point["pareto"]}


def controls_table(summary: dict[str, Any]) -> str:
    """Return each control's overlap with v_rev and how much of Block's norm it applied."""
    rows = []
    for name, told in summary["controls"].items():
        largest = [max(abs(value) for value in run) for run in told["cosine"]]
        applied = "as it is" if told["applied"] is None else say(told["applied"], 100, 0) + " %"
        rows.append([name, f"{min(largest):.2f} to {max(largest):.2f}", applied])
    return markdown(["control", "largest cosine with v_rev at a layer, over runs", "applied"], rows)


def nulls_table(summary: dict[str, Any]) -> str:
    """Return what each null rejects after Holm, in the arms that were tested."""
    runs, rows = summary["significance"]["runs"], []
    for arm in {"ordinary", "block", "push"} & summary["arms"].keys():
        for null in ("isotropic", "matched", "sign_flip"):
            told = [runs[run]["nulls"][null] for run in summary["arms"][arm]["runs"]]
            of, k = sum(one["of"] for one in told), sum(one["rejected"] or 0 for one in told)
            steps = [p <= 0.01 for one in told for p in one["holm_aggregate"] if p is not None]
            rows.append([arm, null, f"{k} of {of}", f"{sum(steps)} of {len(steps)}"])
    return markdown(["arm", "null", "layer × step rejected", "mean over layers × step"], rows)


def blocking_table(summary: dict[str, Any]) -> str:
    """Return what came back after blocking, layer by layer, means over runs."""
    rows = []
    for arm, told in summary["after_blocking"].items():
        by_layer = [
            " ".join(f"{sum(layer) / len(layer):.2f}" for layer in zip(*told[key], strict=True))
            for key in ("cosine", "gap", "along", "off", "shared")
        ]
        shares = [say(told[f"{key}_returned"], 100, 0) for key in ("harmfulness", "log_odds")]
        rows.append([arm, *by_layer, *(f"{share} %" for share in shares)])
    heads = ["arm", "cosine of the re-fit", "gap left", "along", "off", "off shared with ordinary"]
    return markdown([*heads, "harmfulness returned", "log-odds returned"], rows)


def phases_table(summary: dict[str, Any]) -> str:
    """Return how the ordinary drift aligns with other pairs of phases."""
    rows = [
        [name, *(say(told["alignment"].get(step), 1, 2) for step in STEPS)]
        for name, told in summary["other_phases"].items()
    ]
    return markdown(["direction", *(f"step {step}" for step in STEPS)], rows)


def readout_table(summary: dict[str, Any]) -> str:
    """Return v_rev in tokens at every layer."""
    rows = []
    for lineage, told in summary["readout"].items():
        for index, layer in enumerate(told["layers"]):
            ends = [
                " ".join(token["text"] for token in told[end][index][:5])
                for end in ("top", "bottom")
            ]
            preference = f"{told['preference'][index]:+.2f} (p = {told['p_value'][index]:.1g})"
            rows.append([lineage, str(layer), *ends, preference])
    return markdown(["lineage", "layer", "raised most", "lowered most", "preference"], rows)


def say(value: dict[str, Any] | None, factor: int, digits: int) -> str:
    """A mean, its sd and its interval."""
    if value is None or value["mean"] is None:
        return "–"
    told = f"{value['mean'] * factor:.{digits}f}"
    if value["sd"] is not None:
        told += f" ± {value['sd'] * factor:.{digits}f}"
    low, high = value["interval"]
    if low is not None:
        told += f" [{low * factor:.{digits}f}, {high * factor:.{digits}f}]"
    return told.replace("-", "−")


def over(summary: dict[str, Any]) -> str:
    """What the intervals are over."""
    several = len(summary["lineages"]) > 1
    return f"95 % t interval over {'lineages' if several else 'seeds'}"


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    """A table in markdown, or nothing without rows."""
    if not rows:
        return ""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
