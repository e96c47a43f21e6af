"""What an arm buys and what it costs: dose responses, the Pareto front, the layer sweep."""

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.archive import Statistic

QUANTITIES = ("alignment", "harmfulness", "refusal_log_odds", "task_cost", "over_refusal", "kl")


def dose(arms: Mapping[str, Mapping[str, Any]], last: str) -> dict[str, Any]:
    """Return, for every intervention with two strengths or more, its end as they grow.

    Strength 0 is ordinary fine-tuning. Only arms at all layers, of positive strength, take part.

    Args:
        arms: As in the summary, task cost included.
        last: The last step, as the summary's keys have it.
    """
    families: dict[str, list[str]] = {}
    for name, arm in arms.items():
        if arm["intervention"] != "none" and arm["layers"] is None and arm["strength"] > 0:
            families.setdefault(_base(name), []).append(name)
    found = {}
    for base, members in families.items():
        names = sorted(members, key=lambda name: arms[name]["strength"])
        if "ordinary" in arms:
            names = ["ordinary", *names]
        if len(names) < 3:
            continue
        found[base] = {
            "arms": names,
            "strength": [arms[name]["strength"] for name in names],
        } | {
            quantity: [_end(arms[name], quantity, last) for name in names]
            for quantity in QUANTITIES
        }
    return found


def tradeoff(arms: Mapping[str, Mapping[str, Any]], last: str) -> dict[str, Any]:
    """Return where every arm ends in task cost and harmfulness, and which are not dominated.

    An arm is on the Pareto front if no other arm has both means at most as large and one smaller.
    Push is left out: it is no defence.
    """
    points: list[dict[str, Any]] = [
        {
            "arm": name,
            "intervention": arm["intervention"],
            "direction": arm["direction"],
            "strength": arm["strength"],
            "layers": arm["layers"],
        }
        | {quantity: _end(arm, quantity, last) for quantity in QUANTITIES}
        for name, arm in arms.items()
        if arm["intervention"] != "push"
    ]
    where = [(point["task_cost"]["mean"], point["harmfulness"]["mean"]) for point in points]
    for point, place in zip(points, where, strict=True):
        point["pareto"] = None not in place and not any(
            _dominates(other, place) for other in where if None not in other
        )
    return {"axes": ["task_cost", "harmfulness"], "points": points}


def layer_sweep(arms: Mapping[str, Mapping[str, Any]], last: str) -> dict[str, Any] | None:
    """Return one row per arm that acts at some layers only, or None if there is none."""
    rows = [
        {"arm": name, "layers": arm["layers"]}
        | {quantity: _end(arm, quantity, last) for quantity in QUANTITIES}
        for name, arm in arms.items()
        if arm["layers"] is not None
    ]
    return {"rows": rows} if rows else None


def _base(name: str) -> str:
    return name.partition("@")[0].partition(":")[0]


def _end(arm: Mapping[str, Any], quantity: str, last: str) -> Statistic:
    return arm[quantity] if quantity == "task_cost" else arm[quantity][last]


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] <= other[0] and one[1] <= other[1] and tuple(one) != tuple(other)
