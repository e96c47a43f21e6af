"""Fine-tunings that are killed, looked at, resumed, and compared with one left in peace."""

import re
import subprocess
import sys
import time
from pathlib import Path

from looking import contents, faults_of, last_line, listed, read_run, whole_lines
from nursery import Ended, environment

STEPS = 6
RUN = "run"
"""Name of the run in each store."""

RECIPE = ("--steps", f"{STEPS}", "--batch-size", "4", "--learning-rate", "0.001", "--save-model")
ARMS = {
    "ordinary": (),
    "block": ("--intervention", "block"),
    "push": ("--intervention", "push", "--strength", "0.5"),
    "anchor-kl": ("--intervention", "anchor-kl"),
    "anchor-weights": ("--intervention", "anchor-weights"),
    "rehearse": ("--intervention", "rehearse"),
    "project": ("--intervention", "project"),
    "ablate": ("--intervention", "ablate"),
    "composed": ("--intervention", "block:3,anchor-penalty"),
    "accumulated": ("--accumulation", "2", "--schedule", "cosine", "--weight-decay", "0.1"),
    "lora": ("--lora", "2"),
}
"""Options of `finetune`; the planted model has dropout in its config, so that all arms drop out."""


class Subject:
    """A fine-tuning of the planted lineage, to be started and resumed in any store.

    Args:
        nursery: Where processes come from.
        inputs: Folder of the lineage.
        arm: One of `ARMS`.
        every: Steps between training states.
        folder: For stores.
    """

    def __init__(self, nursery, inputs, arm, folder, *, every=2, options=()):
        self.arm, self.every, self.folder = arm, every, Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.argv = (
            "finetune", str(inputs), *RECIPE, *ARMS[arm], "--state-every", f"{every}", *options,
        )  # fmt: skip
        self._nursery = nursery
        self._first, self._again = self._primed(), self._primed("--resume")
        self._leave_in_peace(RUN)
        self.lines = whole_lines(self.folder / "whole" / RUN)
        assert len(self.lines) == STEPS

    def _leave_in_peace(self, name):
        """Make what the others are compared with."""
        self.name, whole, log = name, self.store("whole"), self.folder / "operations.txt"
        started = time.monotonic()
        ended = self.start(whole, log=log).wait()
        self.seconds = time.monotonic() - started
        assert ended.status == 0, ended.told
        self.operations = listed(log)
        self.whole = contents(whole / name)

    def flushed(self, count):
        """The number of the operation that made so many records durable."""
        flush = f"fsync {self.name}/records.jsonl"
        operations = enumerate(self.operations, 1)
        return [number for number, one in operations if one.endswith(flush)][count - 1]

    def store(self, name):
        """A new, empty store."""
        root = self.folder / name
        root.mkdir(parents=True)
        return root

    def start(self, root, **faults):
        """Do what comes next in a store: begin the run, or resume it."""
        begun = (root / self.name).exists()
        return (self._again if begun else self._first).start(root=root, **faults)

    def take_over(self, root, **faults):
        """Resume a run although another process writes it."""
        return self._primed("--resume", "--break-lock").start(root=root, **faults)

    def _primed(self, *options):
        out = ("--out", str(self.folder / "elsewhere" / RUN))
        return self._nursery.prime((*self.argv, *out, *options))

    def finish(self, root, counts, what):
        """Look at what is left, resume it, and note what is not as it should be.

        Args:
            root: Store.
            counts: Where to note it.
            what: How it came to be, in words.
        """
        found = self.look(root, counts, what)
        self.verify(root, counts, f"{what}, not resumed yet")
        counts.resumes += (root / self.name).exists()
        ended = self.start(root).wait()
        if ended.status != 0:
            counts.faults.append(f"{what}: not resumed ({ended.status}): {last_line(ended.told)}")
            return
        self.note_recomputed(found, ended.told, counts, what)
        self.verify(root, counts, what)
        self.compare(root, counts, what)

    def verify(self, root, counts, what):
        """Let `verify` look at what is there; a stopped run is as sound as a finished one."""
        if (root / self.name).exists():
            counts.verified += 1
            counts.faults += [f"{what}: verify: {one}" for one in faults_of(root / self.name)]

    def look(self, root, counts, what):
        """Read what is left, as another process would; return its whole lines."""
        if not (root / RUN).exists():
            return []
        try:
            lines = read_run(root / RUN)
        except Exception as error:
            counts.faults.append(f"{what}: not readable: {type(error).__name__}: {error}")
            return []
        if lines != self.lines[: len(lines)]:
            counts.lost += 1
            counts.faults.append(f"{what}: {len(lines)} lines are not those of the whole run")
        return lines

    def note_recomputed(self, found, told, counts, what):
        """Count the steps that were made again."""
        # The first record is told at once; without one, the run was finished.
        first = re.search(rf"/{STEPS} steps, {RUN} at (\d+)", told)
        after = int(first[1]) - 1 if first else len(found)
        again = len(found) - after
        counts.recomputed += max(0, again)
        counts.most = max(counts.most, again)
        if again > self.every:
            counts.lost += 1
            counts.faults.append(f"{what}: {again} steps recomputed of {len(found)}")

    def compare(self, root, counts, what):
        """Compare every file with those of the whole run; nothing else is in the store."""
        found = contents(root / self.name)
        if names := sorted(path.name for path in root.iterdir() if path.name != self.name):
            counts.faults.append(f"{what}: left in the store: {names[:4]}")
        if found != self.whole:
            counts.differing += 1
            names = sorted(
                name
                for name in found.keys() | self.whole.keys()
                if found.get(name) != self.whole.get(name)
            )
            counts.faults.append(f"{what}: other files than the whole run: {names[:4]}")

    def shoot(self, root, rng, counts, *, interpreter=False):
        """Start or resume a run, and kill it at a random moment; return whether it was killed.

        Args:
            root: Store.
            rng: Of the moment: a time after the folder is there, or the number of an operation.
            counts: Where to count.
            interpreter: Start a Python for it.
        """
        before = self.look(root, counts, "before a kill")
        if not interpreter and rng.random() < 0.5:
            at = rng.randint(1, len(self.operations))
            fault = rng.choice(("before", "after", "half"))
            what = f"{self.arm} killed {fault} operation {at}"
            ended = self.start(root, at=at, fault=fault).wait()
        else:
            delay = rng.uniform(0, 2.0 * self.seconds if interpreter else self.seconds)
            what = f"{self.arm} killed after {delay:.4f} s"
            ended = self._shoot_later(root, delay, interpreter)
        if ended.status != -9:
            if ended.status != 0:
                counts.faults.append(f"{what}: {ended}")
            return False
        counts.kills += 1
        after = self.look(root, counts, what)
        if len(after) < len(before) - self.every:
            counts.lost += 1
            counts.faults.append(f"{what}: {len(before)} lines became {len(after)}")
        return True

    def _shoot_later(self, root, delay, interpreter):
        """Kill a process some time after its run folder is there; return how it ended."""
        if interpreter:
            argv = [*self.argv, "--out", str(root / RUN)]
            resume = ["--resume"] if (root / RUN).exists() else []
            records = root / RUN / "records.jsonl"
            was = records.stat().st_mtime_ns if records.exists() else None
            process = subprocess.Popen(
                [sys.executable, "-m", "workbench", *argv, *resume],
                env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            while process.poll() is None:
                if records.exists() and records.stat().st_mtime_ns != was:
                    break
                time.sleep(0.001)
            time.sleep(delay)
            process.kill()
            return Ended(process.wait(), "")
        job = self.start(root)
        while not (root / RUN).exists() and job.alive():
            time.sleep(0.0005)
        time.sleep(delay)
        job.kill()
        return job.wait()


class Command(Subject):
    """Another command, started and resumed by the same arguments.

    Args:
        nursery: Where processes come from.
        argv: The command; its output folder is added.
        folder: For stores.
    """

    def __init__(self, nursery, argv, folder):
        self.arm, self.folder = argv[0], Path(folder)
        self._nursery, self.argv = nursery, [*map(str, argv), "--resume", "--out"]
        self._leave_in_peace("out")

    def start(self, root, **faults):
        """Begin or continue."""
        return self._nursery.start([*self.argv, root / self.name], root=root, **faults)

    def look(self, root, counts, what):
        """Read every run that is there."""
        for path in sorted((root / self.name).glob("runs/[!.]*/run.json")):
            try:
                read_run(path.parent)
            except Exception as error:
                counts.faults.append(f"{what}: not readable: {type(error).__name__}: {error}")
        return []

    def note_recomputed(self, found, told, counts, what):
        """Steps are not counted here."""
