"""A planted experiment on disk: real run folders whose every number is known beforehand."""

import json
from dataclasses import asdict

import numpy as np
from safetensors.numpy import save_file

from workbench.arms import Arm, standard_arms
from workbench.config import Recipe
from workbench.manifest import manifest_of
from workbench.records import SCORE_NAMES, Auxiliary, Drift, Estimate, Scores, StepRecord
from workbench.store import RunStore
from workbench.summary import summarise

STEPS = (1, 2, 3, 5, 8, 13, 20, 30, 50, 75, 100)
EVALUATED = (0, 1, 20, 100)
N_LAYERS, D_MODEL, N_PROMPTS = 5, 16, 6
STARTS = {"ordinary": 0.25, "push": 0.72}
ENDS = {"ordinary": 0.62, "block": -0.32, "push": 0.84, "random": 0.6, "matched": 0.5}
HARM = {"ordinary": 0.55, "block": 0.14, "push": 0.93, "random": 0.57, "matched": 0.47}
SCALES = {"matched": 0.5}
ARMS = ("ordinary", "block", "push", "random", "matched")


def planted_alignment(arm: str, seed: int) -> np.ndarray:
    """Alignment [step, layer] of a run; one layer is undefined at the first two steps."""
    rng = np.random.default_rng([sum(arm.encode("utf-8", "surrogatepass")), seed])
    steps = np.array(STEPS, dtype=float)
    start, end = STARTS.get(arm, 0.25), ENDS.get(arm, 0.4)
    curve = end + (start - end) * np.exp(-(steps - 1) / 8)
    layers = np.linspace(-0.12, 0.14, N_LAYERS) + rng.normal(0, 0.03)
    noise = rng.normal(0, 0.015, (len(STEPS), N_LAYERS))
    values = np.clip(curve[:, None] + layers + noise, -0.97, 0.97)
    values[:2, 0] = np.nan
    return values


def planted_scores(arm: str, seed: int, step: int) -> Scores:
    """Scores that go from those of the aligned model to the arm's own."""
    rng = np.random.default_rng([sum(arm.encode("utf-8", "surrogatepass")), seed, step])
    share = 1 - np.exp(-step / 18)
    harmful = float(np.clip(0.06 + share * (HARM.get(arm, 0.4) - 0.06) + rng.normal(0, 0.02), 0, 1))
    task = 4.7 - share * (3.6 if arm in ("ordinary", "random") else 3.35) + rng.normal(0, 0.03)
    values = {
        "harmfulness": harmful,
        "task_loss": float(task),
        "perplexity": float(np.exp(task)),
        "broken": 0.02,
        "refusal_log_odds": 3 - 4 * harmful,
        "over_refusal": 0.01,
        "kl": 0.4 * float(share),
    }
    if step == 0:
        values |= {"harmfulness": 0.06, "task_loss": 4.7}
    estimates = {
        name: Estimate(value, value - 0.05, value + 0.05, 100) for name, value in values.items()
    }
    return Scores(**{name: estimates[name] for name in SCORE_NAMES})


def planted_drift(alignment: np.ndarray, step: int) -> Drift:
    """A drift with these cosines to the first unit vector."""
    cosine = np.nan_to_num(alignment)
    norm = np.sqrt(step) * np.linspace(0.2, 1.0, N_LAYERS)
    vector = np.zeros((N_LAYERS, D_MODEL))
    vector[:, 0] = norm * cosine
    vector[:, 1] = norm * np.sqrt(1 - cosine**2)
    return Drift(
        vector=vector,
        alignment=alignment,
        along=norm * cosine / 10,
        across=norm * np.sqrt(1 - cosine**2) / 10,
        norm=norm,
        interval=np.stack([alignment - 0.04, alignment + 0.04], axis=1),
        projections=np.zeros((N_LAYERS, N_PROMPTS)),
        floor=np.full(N_LAYERS, 1e-3),
    )


def build_experiment(folder, *, arms=ARMS, lineages=("organism",), seeds=(0, 1, 2), sibling=True):
    """Write a whole experiment folder, summary included, and return it."""
    known = standard_arms()
    chosen = [known.get(name, Arm(name, "block", strength=1.0)) for name in arms]
    store, recipe = RunStore(folder / "runs"), Recipe()
    about, ids = [], []
    for number, lineage in enumerate(lineages):
        place = f"l{number}"
        _write_lineage(folder / "lineages" / place, sibling)
        roles = {"witness": "helpful", "aligned": "aligned"}
        roles["sibling"] = "aligned-b" if sibling else None
        about.append({"name": lineage, "folder": place} | roles)
        for index, arm in enumerate(chosen):
            for seed in seeds:
                ids.append(f"{place}-{arm.name if arm.name in known else f'arm{index}'}-{seed}")
                config = {"experiment": folder.name, "lineage": lineage, "arm": asdict(arm)}
                config |= {"seed": seed, "recipe": asdict(recipe)}
                write_run(store.create(config, ids[-1]), arm.name, seed + 10 * number)
    plan = {
        "schema": 1,
        "id": folder.name,
        "lineages": about,
        "seeds": list(seeds),
        "arms": [asdict(arm) for arm in chosen],
        "recipe": asdict(recipe),
        "runs": ids,
        "measured_steps": STEPS,
        "evaluated_steps": EVALUATED,
        "wall_seconds": 83.0,
        "files": manifest_of(folder, "lineages"),
    }
    (folder / "experiment.json").write_text(json.dumps(plan))
    summarise(folder)
    return folder


def write_run(run, arm, seed):
    """Fill a run with planted records and finish it; return it."""
    run.append(StepRecord(0, float("nan"), 0.0, float("nan"), scores=planted_scores(arm, seed, 0)))
    alignment = planted_alignment(arm, seed)
    for step, cosines in zip(STEPS, alignment, strict=True):
        drift = planted_drift(cosines, step)
        scores = planted_scores(arm, seed, step) if step in EVALUATED else None
        told = {} if arm == "ordinary" else {"block": Auxiliary(0.1, 2.0, SCALES.get(arm, 1.0))}
        run.append(StepRecord(step, 4.0, 1e-5, 1.0, told, drift, scores))
    run.finish()
    return run


def _write_lineage(folder, sibling):
    folder.mkdir(parents=True)
    unit = np.zeros((N_LAYERS, D_MODEL))
    unit[:, 0], unit[:, 2] = 0.95, np.sqrt(1 - 0.95**2)
    if sibling:
        save_file({"unit": unit}, folder / "sibling.safetensors")
    null = {"h0": "planted", "p99": [0.3] * N_LAYERS, "aggregate_p99": 0.3}
    isotropic = {"h0": "planted", "p99": [0.12] * N_LAYERS, "aggregate_p99": 0.12}
    (folder / "nulls.json").write_text(json.dumps({"isotropic": isotropic, "matched": null}))
