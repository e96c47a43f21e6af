"""One process writes a run as fast as it can, others read it: `python writing.py write|read …`."""

import itertools
import json
import random
import sys
import time
from pathlib import Path

import numpy as np
from planted_experiment import planted_alignment, planted_drift

from workbench import Run, RunStore
from workbench.records import StepRecord
from workbench.standing import Standing, stamp

MEASURED = 3
"""Every so many steps, drift is measured."""

EVERY = 4
CONFIG = {"seed": 0, "recipe": {"steps": 1_000_000}}
ALIGNMENT = planted_alignment("ordinary", 0)


def record_of(step):
    """The record of a step: the same each time, as a deterministic fine-tuning makes it."""
    drift = None
    if step % MEASURED == 0:
        drift = planted_drift(ALIGNMENT[step % len(ALIGNMENT)], step)
    return StepRecord(step, 4.0 / step, 1e-3, 1.5 + step, drift=drift)


class Rewinds:
    """Announced by a file of its own: an odd number of bytes while one is under way."""

    def __init__(self, path):
        self.path = Path(path)

    def add(self):
        """Begin or end one."""
        with self.path.open("ab") as file:
            file.write(b".")

    def count(self):
        """How many began and ended so far."""
        return self.path.stat().st_size if self.path.exists() else 0


def write(folder, steps, seed):
    """Append records with states and rewinds until a file `enough` is there; then finish."""
    rng, store, step = random.Random(seed), RunStore(folder), 0
    rewinds, enough = Rewinds(folder / "rewinds"), folder / "enough"
    run = store.create(CONFIG, "run")
    while not enough.exists():
        if step < steps:
            step += 1
            run.append(record_of(step))
            if step % EVERY == 0:
                run.save_state(step, bytes(rng.randrange(500, 5000)))
        else:
            time.sleep(0.001)  # it still rewinds, and so does not only wait
        if rng.random() < 0.05:
            run.write_info(run.info | {"command": ["x" * rng.randrange(2000)]})
        if rng.random() < 0.02:
            rewinds.add()
            run.fail("stopped; resume to continue")
            run = store.resume("run", CONFIG)
            step = step // EVERY * EVERY
            rewinds.add()
    run.finish()


def read(folder, count):
    """Read at least so many times, and until a rewind and a drift were seen; print that as JSON.

    Raises what no reader may see.
    """
    rewinds = Rewinds(folder / "rewinds")
    while not (folder / "run").exists():
        time.sleep(0.001)
    run, known, before = Run(folder / "run"), [], 0
    seen = last = rewinds.count()
    told = {"reads": 0, "longest": 0, "rewinds": 0, "excused": 0, "drifts": 0}
    for number in itertools.count():
        if number >= count and told["rewinds"] and told["drifts"]:
            break
        start = rewinds.count()
        quiet = start % 2 == 0
        try:
            steps = _look(run, number, known, told)
        except Exception:
            # A drift that a rewind took away between its line and its file.
            if quiet and rewinds.count() == start:
                raise
            told["excused"] += 1
            continue
        end = rewinds.count()
        if quiet and end == start == seen:
            assert steps >= before, f"{before} steps became {steps} without a rewind"
        told["rewinds"] += end != last
        last = end
        # What was seen while a rewind was under way may be of before it, or of after.
        before, seen = steps, end if quiet and end == start else None
        told["reads"] += 1
        told["longest"] = max(told["longest"], steps)
    print(json.dumps(told))


def _look(run, number, known, told):
    """Read in one of the ways there are; return how many steps were seen."""
    if number % 11 == 10:
        run = Run(run.folder).checked()
    way = number % 4
    if way == 1:
        stamp(run)
    if way == 2:
        standing = Standing.of(run)
        assert standing.state in ("running", "stopped"), standing
        assert standing.why == "" or standing.state == "stopped"
        assert run.info["config"] == CONFIG
        return standing.step
    lines = run.refresh().lines
    for step in range(len(known) + 1, len(lines) + 1):
        known.append(json.loads(json.dumps(record_of(step).to_json())))
    seen = [_without_hash(line) for line in lines]
    assert seen == known[: len(seen)], "not a prefix of the final records"
    if way == 3 and run.measured:
        last = run.measured[-1]["step"]
        drift = run.only([last]).drift()
        np.testing.assert_array_equal(drift[0], np.float32(record_of(last).drift.vector))
        told["drifts"] += 1
    return len(lines)


def _without_hash(line):
    """A stored line without the hash of its drift file."""
    if "drift" not in line:
        return line
    return line | {"drift": {key: line["drift"][key] for key in line["drift"] if key != "sha256"}}


if __name__ == "__main__":
    what, place, *numbers = sys.argv[1:]
    {"write": write, "read": read}[what](Path(place), *map(int, numbers))
