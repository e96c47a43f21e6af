"""What an arm buys and what it costs: dose responses, the Pareto front, the layer sweep."""

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.archive import Statistic
from workbench.arms import base_of

QUANTITIES = ("alignment", "harmfulness", "refusal_log_odds", "task_cost", "over_refusal", "kl")


def dose(arms: Mapping[str, Mapping[str, Any]], last: str) -> dict[str, Any]:
    """Return, for every intervention with two strengths or more, its end as they grow.

    Strength 0 is ordinary fine-tuning. Only positive strengths take part, and no arm that is scaled
    to another, whose strength cancels.

    Args:
        arms: As in the summary, task cost included.
        last: The last step, as the summary's keys have it.
    """
    families: dict[str, list[str]] = {}
    for name, arm in arms.items():
        if arm["intervention"] != "none" and "matching" not in arm and arm["strength"] > 0:
            at = "" if arm["layers"] is None else f"@{'+'.join(map(str, arm['layers']))}"
            families.setdefault(base_of(name) + at, []).append(name)
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
    """Return one row per arm that acts at some layers only, or None if there is none.

    The same arm at all layers stands below them, if it was run.
    """
    swept = {name.partition("@")[0] for name, arm in arms.items() if arm["layers"] is not None}
    rows = [
        {"arm": name, "layers": arm["layers"]}
        | {quantity: _end(arm, quantity, last) for quantity in QUANTITIES}
        for name, arm in arms.items()
        if arm["layers"] is not None or name in swept
    ]
    return {"rows": sorted(rows, key=lambda row: row["layers"] is None)} if swept else None


def _end(arm: Mapping[str, Any], quantity: str, last: str) -> Statistic:
    return arm[quantity] if quantity == "task_cost" else arm[quantity][last]


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] <= other[0] and one[1] <= other[1] and tuple(one) != tuple(other)
