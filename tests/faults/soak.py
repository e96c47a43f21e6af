"""One store, one long-lived process, for hours: `python tests/faults/soak.py --minutes 60`.

Over and over, fine-tunings are started, killed, looked at, resumed and reported on in processes of
their own, while this one trains in the background, stops and resumes that, reads, evaluates and
draws. Every minute it prints what it holds; at the end nothing may have grown.
"""

import argparse
import gc
import os
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

if __name__ == "__main__":
    HERE = Path(__file__).resolve().parent
    sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import torch
from crashes import ARMS, RECIPE
from looking import contents, read_run
from nursery import nursery
from worlds import plant

GROWTH = 1.05
"""The most that resident memory may grow by after warming up."""

KEPT = 24
"""Runs kept in the store; older ones are removed."""

STRAYS = ("lock", "state", "*.tmp")
"""Files and folders that no finished run has."""


class Soak:
    """What is repeated, and what is counted.

    Args:
        folder: For inputs and store.
        nursery: Where the other processes come from.
        seed: Of every moment.
    """

    def __init__(self, folder, nursery, seed):
        from workbench import Lineage, ProbeSet, fit_directions
        from workbench.inputs import Splits
        from workbench.probes import load_examples

        self.nursery, self.rng = nursery, random.Random(seed)
        self.inputs, self.store = plant(folder), folder / "store"
        self.store.mkdir()
        self.lineage = Lineage.load(self.inputs)
        self.splits = Splits.of(ProbeSet.load(self.inputs / "probes.jsonl"))
        self.directions = fit_directions(self.lineage, self.splits.fit)
        self.examples = load_examples(self.inputs / "finetune.jsonl")
        self.sets = [
            ProbeSet.load(self.inputs / f"{name}.jsonl", kind=kind)
            for name, kind in (("harmful", "harmful"), ("benign", "benign"), ("task", "benign"))
        ]
        self.model = self.lineage.load_model(self.lineage.aligned)
        self.whole = {}
        self.done = Counter()

    def cycle(self):
        """Everything once."""
        number = self.done["cycles"]
        self.in_other_processes(number)
        self.in_this_process(number)
        self.done["cycles"] += 1
        runs = sorted(self.store.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for old in runs[: max(0, len(runs) - KEPT)]:
            shutil.rmtree(old)

    def in_other_processes(self, number):
        """Start, kill, look, resume, compare and report."""
        arm = sorted(ARMS)[number % len(ARMS)]
        folder = self.store / f"{arm}-{number}"
        argv = ["finetune", self.inputs, *RECIPE, *ARMS[arm], "--state-every", "2", "--quiet"]
        if arm not in self.whole:
            place = self.store / f"whole-{arm}"
            ended = self.nursery.run([*argv, "--out", place])
            assert ended.status == 0, ended.told
            self.whole[arm] = contents(place)
            del self.whole[arm]["run.json"]  # each has a name of its own
        resume = []
        for _ in range(self.rng.choice((1, 2))):
            job = self.nursery.start([*argv, "--out", folder, *resume])
            if self.rng.random() < 0.8:
                while not folder.exists() and job.alive():
                    time.sleep(0.001)
            time.sleep(self.rng.uniform(0, 0.3))
            job.kill()
            self.done["kills"] += job.wait().status == -9
            if folder.exists():
                read_run(folder)
                resume = ["--resume"]
        ended = self.nursery.run([*argv, "--out", folder, *resume])
        assert ended.status == 0, ended.told
        read_run(folder)
        found = contents(folder)
        del found["run.json"]
        assert found == self.whole[arm], [
            name for name in found.keys() | self.whole[arm].keys()
            if found.get(name) != self.whole[arm].get(name)
        ]  # fmt: skip
        for command in ("verify", "report"):
            ended = self.nursery.run([command, folder])
            assert ended.status == 0, ended.told
            self.done[command] += 1
        self.done["resumes"] += bool(resume)

    def in_this_process(self, number):
        """Train in the background, stop and resume; read, edit, evaluate and draw meanwhile."""
        from workbench import (
            FineTuning,
            Reading,
            ablate,
            evaluate,
            intervene,
            read_activations,
            read_reference,
        )  # fmt: skip
        from workbench.background import Background
        from workbench.plots.report import write_report

        tuning = FineTuning(
            self.lineage.load_model(self.lineage.aligned), self.examples, steps=6, batch_size=4,
            learning_rate=1e-3, probes=self.splits.measure, directions=self.directions,
        )  # fmt: skip
        live = Background(tuning, out=self.store / f"live-{number}", state_every=2)
        time.sleep(self.rng.uniform(0, 0.1))
        live.stop()
        acts = read_activations(self.model, Reading.of(self.model, self.splits.measure))
        with intervene(self.model, ablate(self.directions, positions="all")):
            read_activations(self.model, self.splits.measure)
        harmful, benign, task = self.sets
        reference = read_reference(self.model, benign)
        evaluate(self.model, harmful, benign, task=task, judge="rules", reference=reference,
                 max_new_tokens=4)  # fmt: skip
        assert live.wait(60.0)
        if live.resumable:
            live.resume()
            assert live.wait(60.0)
            self.done["continued"] += 1
        assert live.error is None, live.error
        read_run(live.run.folder)
        write_report(live.run.folder, live.run.folder / "report.html")
        again = read_activations(self.model, self.splits.measure)
        assert torch.equal(acts, again), "what was read of a model has changed"
        self.done["live"] += 1

    def held(self):
        """What this process holds, and what lies in the store."""
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        children = {
            child
            for task in Path("/proc/self/task").iterdir()
            for child in (task / "children").read_text().split()
        }
        return {
            "rss": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
            "fds": len([*Path("/proc/self/fd").iterdir()]),
            "threads": threading.active_count(),
            "children": len(children),
            "hooks": hooks_on(self.model),
            "strays": sum(len([*self.store.rglob(name)]) for name in STRAYS),
        }

    def kinds(self):
        """Files in the store, by kind."""
        return dict(Counter(path.suffix or path.name for path in self.store.rglob("*.*")))


def hooks_on(model):
    """How many hooks there are on a model."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules = {id(one): one for root in (model, model.hf) for one in root.modules()}
    return sum(len(getattr(module, kind)) for module in modules.values() for kind in kinds)


def soak(folder, minutes, *, warm, every, seed=0, tell=print):
    """Repeat it for so long; return what was held after warming up, in order.

    Args:
        folder: An empty one.
        minutes: How long.
        warm: Minutes until memory must be flat.
        every: Seconds between lines.
        seed: Of every moment.
        tell: Where lines go.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    with nursery(Path(folder) / "nursery") as opened:
        work = Soak(Path(folder), opened, seed)
        start, told, held = time.monotonic(), 0.0, []
        while (now := time.monotonic() - start) < 60 * minutes or not held:
            work.cycle()
            if now - told < every:
                continue
            told, line = now, work.held()
            if now >= 60 * warm:
                held.append(line)
            numbers = " ".join(f"{key} {value:.4g}" for key, value in line.items())
            tell(f"{now / 60:6.1f} min {numbers} | {dict(work.done)} | {work.kinds()}")
        held.append(work.held())
    return held, work.done


def check(held):
    """Nothing may have grown."""
    first, last = held[0], held[-1]
    for name in ("fds", "threads", "children", "hooks"):
        assert last[name] <= first[name], f"{name}: {first[name]} became {last[name]}"
    assert last["strays"] == 0, f"{last['strays']} stray files in the store"
    half = len(held) // 2
    before = statistics.median(line["rss"] for line in held[: half or 1])
    after = statistics.median(line["rss"] for line in held[half:])
    assert after <= GROWTH * before, f"rss: {before:.0f} MiB became {after:.0f} MiB"
    return f"memory {before:.0f} MiB before, {after:.0f} MiB after; {len(held)} looks; all flat"


def main():
    """Soak, print, and fail if anything has grown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warm = min(10.0, arguments.minutes / 3)
    with tempfile.TemporaryDirectory() as folder:
        held, done = soak(
            folder, arguments.minutes, warm=warm, every=min(60.0, 12 * arguments.minutes),
            seed=arguments.seed, tell=lambda line: print(line, flush=True),
        )  # fmt: skip
        print(f"{check(held)}; {dict(done)}")


if __name__ == "__main__":
    main()
