"""A planted summary with every key of the causal evidence: plain numbers, no runs, no model."""

import json

import numpy as np

LINEAGES, SEEDS = ("organism-0", "organism-1", "organism-2"), (0, 1, 2)
STEPS = (1, 2, 3, 5, 8, 13, 20, 30, 50, 75, 100)
EVALUATED = (0, 1, 20, 100)
N_LAYERS = 4
STRENGTHS = {"block": (0.1, 0.25, 0.5, 1, 2, 4), "anchor-kl": (0.3, 1, 3, 10)}
SINGLE = ("push", "random", "matched", "matched-unscaled", "refusal", "drift", "shuffled")
SINGLE += ("orthogonal", "ablate", "steer", "cap", "project", "rehearse:0.2")
SWEPT = ((0,), (1,), (2,), (3,), (0, 1), (2, 3))
NULLS = ("isotropic", "matched", "sign_flip")
HOSTILE = '</script><img src=x onerror="window.broken=1"><b>%{y}'


def statistic(rng, mean, sd, *, per_seed=None):
    """A statistic of nine runs around a mean, with an interval over lineages."""
    values = rng.normal(mean, sd, len(LINEAGES) * len(SEEDS)) if per_seed is None else per_seed
    centre, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    return {
        "mean": centre,
        "sd": spread,
        "n": len(values),
        "per_seed": [float(value) for value in values],
        "interval": [centre - 0.7 * spread, centre + 0.7 * spread],
        "interval_over": "lineages",
    }


def effect(name):
    """What is planted for an arm: alignment, harmfulness and task cost at the last step."""
    stem, _, rest = name.partition(":")
    share = {"block": 1.0, "project": 0.8, "ablate": 0.5, "cap": 0.45, "steer": 0.6}.get(stem, 0.05)
    if stem == "anchor-kl":
        share = 0.75
    if stem.startswith("rehearse"):
        share = 0.5
    strength, _, layers = rest.partition("@")
    if strength and stem in STRENGTHS:
        share *= float(strength) / (float(strength) + (0.4 if stem == "block" else 3))
    if layers:
        share *= 0.25 * len(layers.split(",")) * (1 + int(layers[0])) / 2.2
    if stem == "push":
        return 0.86, 0.93, 0.01
    cost = {"anchor-kl": 0.32, "rehearse": 0.12, "steer": 0.2}.get(stem, 0.045) * share**1.5
    return 0.64 - 0.85 * share, 0.55 - 0.4 * share, cost


def arm_names():
    """All arms: 1 ordinary, 10 doses, 13 others, 6 sets of layers, and the plain block."""
    doses = [f"{stem}:{value:g}" for stem, several in STRENGTHS.items() for value in several]
    sweep = [f"block:1@{','.join(map(str, layers))}" for layers in SWEPT]
    return ["ordinary", "block", *SINGLE, *doses, *sweep]


def planted_arm(rng, name):
    """An arm as in a summary: trajectories, scores, and what was done."""
    alignment, harmful, cost = effect(name)
    stem, _, rest = name.partition(":")
    control = stem in ("random", "matched", "matched-unscaled", "refusal", "drift", "shuffled")
    at = lambda step: 1 - np.exp(-step / 8)  # noqa: E731
    told = {
        "alignment": {str(t): statistic(rng, 0.3 + at(t) * (alignment - 0.3), 0.03) for t in STEPS},
        "along": {str(t): statistic(rng, alignment * at(t) / 3, 0.01) for t in STEPS},
        "across": {str(t): statistic(rng, 0.4 * at(t), 0.02) for t in STEPS},
        "task_cost": statistic(rng, cost, 0.008),
        "intervention": "none" if name == "ordinary" else "block" if control else stem,
        "direction": stem.removesuffix("-unscaled") if control else "reversion",
        "strength": float(rest.partition("@")[0] or (name != "ordinary")),
        "layers": [int(x) for x in rest.partition("@")[2].split(",") if x] or None,
        "runs": [f"{lineage}-{name}-{seed}" for lineage in LINEAGES for seed in SEEDS],
    }
    scores = {
        "harmfulness": (0.06, harmful, 0.03),
        "broken": (0.01, 0.02, 0.003),
        "refusal_log_odds": (3.0, 3 - 6 * harmful, 0.2),
        "over_refusal": (0.01, 0.02, 0.004),
        "task_loss": (4.7, 1.05 + 3.6 * cost, 0.05),
        "perplexity": (110.0, 3.0, 0.1),
        "kl": (0.0, 0.4 + harmful, 0.02),
    }
    for quantity, (start, end, sd) in scores.items():
        told[quantity] = {
            str(t): statistic(rng, start + at(t) * (end - start), sd) for t in EVALUATED
        }
    return told


def planted_summary(*, extra=()):
    """Return a whole summary; `extra` names more arms, hostile ones for instance."""
    rng = np.random.default_rng(0)
    names = [*arm_names(), *extra]
    arms = {name: planted_arm(rng, name) for name in names}
    lineages = [
        {"name": name, "folder": name, "witness": "helpful", "aligned": "aligned"}
        for name in LINEAGES
    ]
    summary = {
        "schema": 1,
        "source": "arXiv 2606.28525",
        "lineages": lineages,
        "seeds": list(SEEDS),
        "steps": 100,
        "arms": arms,
        "nulls": {},
        "paper": [{"quantity": "harmfulness", "paper": "19.0 % → 8.5 %", "ours": "55 % → 15 %"}],
        "ordering": {
            "alignment": {"holds": 9, "n": 9, "lineages_hold": 3, "lineages": 3, "p": 6.0**-3},
            "harmfulness": {"holds": 8, "n": 9, "lineages_hold": 2, "lineages": 3, "p": 0.0741},
        },
        "spearman": {
            "r": 0.91,
            "n": 9 * len(names),
            "interval": [0.85, 0.95],
            "within_arms": {name: float(rng.uniform(-0.3, 0.8)) for name in names},
        },
        "wall_seconds": 900.0,
    }
    summary["dose"] = _dose(arms)
    summary["tradeoff"] = _tradeoff(arms)
    summary["layers"] = {"rows": _sweep(arms)}
    summary["significance"] = _significance(rng, arms)
    summary["other_phases"] = _other_phases(rng, extra)
    summary["after_blocking"] = _after_blocking(rng, ("block", "project", *extra))
    summary["readout"] = _readout(rng, (*LINEAGES[:2], *extra))
    summary["controls"] = {
        name: {
            "cosine": rng.normal(0, 0.1, (9, N_LAYERS)).tolist(),
            "applied": statistic(rng, 0.97, 0.02),
        }
        for name in ("random", "matched", "refusal", *extra)
    }
    return json.loads(json.dumps(summary))


def _last(arms, name, quantity):
    told = arms[name][quantity]
    return told if "mean" in told else told["100"]


def _dose(arms):
    found = {}
    for stem, several in STRENGTHS.items():
        names = ["ordinary", *(f"{stem}:{value:g}" for value in several)]
        found[stem] = {"arms": names, "strength": [0, *several]}
        for quantity in ("alignment", "harmfulness", "task_cost", "over_refusal"):
            found[stem][quantity] = [_last(arms, name, quantity) for name in names]
    return found


def _tradeoff(arms):
    points = [
        {"arm": name, "intervention": arm["intervention"], "strength": arm["strength"]}
        | {
            key: _last(arms, name, key)
            for key in ("harmfulness", "task_cost", "over_refusal", "kl")
        }
        for name, arm in arms.items()
    ]
    for one in points:
        one["pareto"] = not any(
            all(other[key]["mean"] < one[key]["mean"] for key in ("harmfulness", "task_cost"))
            for other in points
        )
    return {"points": points, "axes": ["task_cost", "harmfulness"]}


def _sweep(arms):
    names = [name for name in arms if "@" in name]
    rows = [{"arm": name, "layers": arms[name]["layers"]} for name in (*names, "block")]
    return [
        row
        | {key: _last(arms, row["arm"], key) for key in ("alignment", "harmfulness", "task_cost")}
        | {"refusal_log_odds": _last(arms, row["arm"], "refusal_log_odds")}
        for row in rows
    ]


def _significance(rng, arms):
    runs = {}
    for arm in ("ordinary", "block"):
        for index, run_id in enumerate(arms[arm]["runs"]):
            nulls = {}
            for at, null in enumerate(NULLS):
                p = 10 ** -rng.uniform(0, 7 - 2 * at if arm == "ordinary" else 1, (11, N_LAYERS))
                holm = np.minimum(1, 3 * p)
                told = [[None if (s, n) == (0, 0) else holm[s, n] for n in range(N_LAYERS)]
                        for s in range(11)]  # fmt: skip
                defined = np.array([v for row in told for v in row if v is not None])
                aggregate = np.sort(holm.min(axis=1)).tolist()
                nulls[null] = {
                    "h0": f"The {null} null: nothing points back.",
                    "p": [[None if v is None else v / 3 for v in row] for row in told],
                    "holm": told,
                    "p_aggregate": aggregate,
                    "holm_aggregate": aggregate,
                    "rejected": int((defined <= 0.01).sum()),
                    "of": len(defined),
                }
            runs[run_id] = {"nulls": nulls, "resolution": "too low" if index == 8 else "ok"}
    family = "4 layers × 11 measured steps of one run"
    return {"alpha": 0.01, "family": family, "tests": 44, "draws": 50_000, "runs": runs}


def _other_phases(rng, extra):
    names = ("pretrained→helpful", "pretrained→aligned", *extra)
    return {
        name: {"alignment": {str(step): statistic(rng, 0.1, 0.05) for step in (1, 20, 100)}}
        for name in names
    }


def _after_blocking(rng, names):
    centres = {"cosine": 0.93, "gap": 0.98, "along": 0.02, "off": 0.31, "shared": 0.55}
    return {
        name: {key: rng.normal(at, 0.02, (9, N_LAYERS)).tolist() for key, at in centres.items()}
        | {"harmfulness_returned": statistic(rng, 0.22, 0.05)}
        | {"log_odds_returned": statistic(rng, 0.31, 0.05)}
        for name in names
    }


def _readout(rng, lineages):
    tokens = ("sure", " of course", "\n", "\u202eevil", HOSTILE, "x" * 90)
    return {
        lineage: {
            "layers": list(range(N_LAYERS)),
            "top": [[{"id": 0, "text": t, "change": float(rng.uniform(1, 4))} for t in tokens]]
            * N_LAYERS,
            "bottom": [[{"id": 1, "text": "sorry", "change": -2.5}] * 10] * N_LAYERS,
            "preference": rng.uniform(0.5, 5, N_LAYERS).tolist(),
            "p_value": [1e-9, 0.002, 0.3, None],
            "cosine": rng.uniform(0.1, 0.5, N_LAYERS).tolist(),
        }
        for lineage in lineages
    }
