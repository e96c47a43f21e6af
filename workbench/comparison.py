"""The paper's table with our numbers beside it, in words."""

from collections.abc import Mapping
from typing import Any

from workbench.paper import QUANTITIES


def beside_paper(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a row for each published quantity; in ours, n is lineages × seeds."""
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
    if (r := summary["spearman"]["r"]) is None:
        ours["spearman"] = "undefined (too few runs, or no variation)"
    else:
        ours["spearman"] = f"{r:.3f} (n = {summary['spearman']['n']})"
    return [
        {"quantity": row.name, "paper": row.paper, "ours": ours.get(row.key, "not run")}
        for row in QUANTITIES
    ]


def _say(value: Mapping[str, Any] | None, scale: int = 1) -> str:
    """A mean and its sd, as in the paper; percent if scaled by 100."""
    if value is None:
        return "not measured"
    if value["mean"] is None:
        return "undefined"
    digits, unit = (1, " %") if scale == 100 else (3, "")
    mean = f"{value['mean'] * scale:.{digits}f}".replace("-", "−")
    sd = "" if value["sd"] is None else f" ± {value['sd'] * scale:.{digits}f}"
    return f"{mean}{unit}{sd}"
