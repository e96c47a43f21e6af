"""Everything that is to be the same again: all arms of an experiment, and ways to fine-tune.

As a program, `python repeated_runs.py INPUTS OUT`, it does all of it in a process of its own, where
whatever must not matter is otherwise than in the tests, and prints what came out as JSON.
"""

import hashlib
import json
import os
import random
import sys
from pathlib import Path

import numpy as np
import torch

VARIANTS = {
    "plain": {},
    "accumulation": {"accumulation": 2},
    "lora": {"lora": 2, "schedule": "cosine"},
    "bfloat16": {"learning_rate": 1e-4},
}


def run_arms(folder, out, *, names="all", reverse=False, seed=0):
    """Run every standard arm; return the hashes of all files of each, by run."""
    from workbench.arms import choose_arms, standard_arms
    from workbench.config import Recipe
    from workbench.experiment import run_experiment
    from workbench.inputs import Inputs

    known = standard_arms({"block": 0.5, "push": 0.5}, penalty_batch=4)
    arms = choose_arms(names, known)
    run_experiment(
        Inputs.beside(folder),
        arms=arms[::-1] if reverse else arms,
        seeds=(seed,),
        recipe=Recipe(steps=2, learning_rate=1e-3, batch_size=4),
        out=out,
        evaluate_at=(),
        max_new_tokens=3,
        save_models=True,
    )
    return {place.name: hashes(place) for place in [*(out / "runs").iterdir(), out / "lineages"]}


def hashes(folder):
    """Hashes of the files below a folder; run.json tells time and machine."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "run.json"
    }


def run_variant(folder, name, *, seed=0):
    """Fine-tune with several interventions at once; return hashes of records and state."""
    from workbench.anchors import Anchor
    from workbench.directions import fit_directions
    from workbench.finetune import FineTuning
    from workbench.inputs import Inputs
    from workbench.penalties import Block
    from workbench.projections import ProjectGradient
    from workbench.rehearsal import Rehearse
    from workbench.training_edits import Ablate, Cap

    held = Inputs.beside(folder).load()
    directions = fit_directions(held.lineage, held.fit)
    model = held.lineage.load_model(held.lineage.aligned)
    if name == "bfloat16":
        directions = directions.with_unit(directions.unit, aligned_hash=None)
        model.hf.to(torch.bfloat16)
        directions.provenance.pop("aligned_hash", None)
    on_probes = {"probes": held.penalty, "batch_size": 3}
    several = [
        Block(directions, 1.0, **on_probes),
        Anchor(1.0, **on_probes),
        ProjectGradient(directions, **on_probes),
        Ablate(directions, 0.5, positions="response"),
        Cap(directions),
        Rehearse(0.5, probes=held.penalty, max_new_tokens=3),
    ]
    small = {"steps": 3, "batch_size": 4, "learning_rate": 1e-3} | VARIANTS[name]
    tuning = FineTuning(
        model,
        held.examples,
        probes=held.measure,
        directions=directions,
        intervention=several,
        seed=seed,
        **small,
    )
    told = [(json.dumps(one.to_json()), drift_bytes(one)) for one in tuning]
    ends = {key: digest(value) for key, value in sorted(tuning.state().items())}
    return {"records": told, "state": ends}


def drift_bytes(record):
    return "" if record.drift is None else hashlib.sha256(record.drift.vector.tobytes()).hexdigest()


def digest(tensor):
    content = tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(content).hexdigest()


def draw(seed):
    """Leave the process's random numbers somewhere else."""
    torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
    torch.rand(seed % 7), np.random.rand(seed % 5), random.random()


def list_backwards():
    """Let folders be listed from their end."""
    listed, scanned = os.listdir, os.scandir

    class Backwards:
        def __init__(self, *place):
            with scanned(*place) as entries:
                self.left = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __iter__(self):
            return iter(self.left)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        close = __exit__

    os.listdir = lambda *place: sorted(listed(*place), reverse=True)
    os.scandir = Backwards


def main():
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    draw(99)
    list_backwards()
    run_variant(folder, "plain", seed=5)  # something else has run before
    found = {
        "hash": hash("a word"),
        "encoding": sys.getfilesystemencoding(),
        "listed": [path.name for path in folder.iterdir()],
        "variants": {name: run_variant(folder, name) for name in reversed(VARIANTS)},
        "arms": run_arms(folder, out, reverse=True),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
