"""Fine-tunings that are killed, looked at, resumed, and compared with one left in peace."""

import json
import random
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from nursery import Ended, environment
from operations import KILLS, REFUSALS, SURVIVE

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

VARY = ("created", "command", "wall_seconds")
"""What may differ in JSON files between runs of the same settings."""


@dataclass
class Counts:
    """What was done, and what was lost."""

    kills: int = 0
    resumes: int = 0
    recomputed: int = 0
    most: int = 0
    """Most steps recomputed after one kill."""

    lost: int = 0
    differing: int = 0
    """Runs that ended in other bits."""

    refused: int = 0
    """Processes that were told of a failing disk."""

    faults: list[str] = field(default_factory=list)
    """What went wrong, in words."""

    def __str__(self):
        return (
            f"kills {self.kills}, refusals {self.refused}, resumes {self.resumes}, "
            f"steps recomputed {self.recomputed} (at most {self.most} at once), "
            f"lost = {self.lost}, differing bits = {self.differing}, faults = {len(self.faults)}"
        )

    def told(self, most=12):
        """The counts, and the first faults."""
        return "\n  ".join([str(self), *self.faults[:most]])


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
        out = ("--out", str(self.folder / "elsewhere" / RUN))
        self._first = nursery.prime((*self.argv, *out))
        self._again = nursery.prime((*self.argv, *out, "--resume"))
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

    def store(self, name):
        """A new, empty store."""
        root = self.folder / name
        root.mkdir(parents=True)
        return root

    def start(self, root, **faults):
        """Do what comes next in a store: begin the run, or resume it."""
        begun = (root / self.name).exists()
        return (self._again if begun else self._first).start(root=root, **faults)

    def finish(self, root, counts, what):
        """Look at what is left, resume it, and note what is not as it should be.

        Args:
            root: Store.
            counts: Where to note it.
            what: How it came to be, in words.
        """
        found = self.look(root, counts, what)
        counts.resumes += (root / self.name).exists()
        ended = self.start(root).wait()
        if ended.status != 0:
            counts.faults.append(f"{what}: not resumed ({ended.status}): {_last(ended.told)}")
            return
        self.note_recomputed(found, ended.told, counts, what)
        self.compare(root, counts, what)

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
        """Compare every file with those of the whole run."""
        found = contents(root / self.name)
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


def campaign(subjects, kills, seed, *, interpreters=0):
    """Kill so many processes, in chains, over several arms; resume all, and compare.

    Args:
        subjects: The arms.
        kills: How many processes to kill at least.
        seed: Of every moment.
        interpreters: So many of them as Pythons of their own, not forked.
    """
    counts, rng, number = Counts(), random.Random(seed), 0
    while counts.kills < kills:
        subject = subjects[number % len(subjects)]
        root = subject.store(f"killed-{number}")
        number += 1
        for _ in range(rng.choice((1, 1, 2, 3, 4))):
            own = counts.kills < interpreters
            if not subject.shoot(root, rng, counts, interpreter=own) or counts.kills >= kills:
                break
        subject.finish(root, counts, f"{subject.arm} ({root.name})")
        shutil.rmtree(root)
    return counts


def sweep(subject, cases, *, begun=None):
    """Let one operation of a fine-tuning fail, for each of many; resume each, and compare.

    Args:
        subject: The fine-tuning.
        cases: Numbers of operations, and what happens there.
        begun: A store to begin from: then it is the resuming that fails.
    """
    counts = Counts()
    for number, (at, fault) in enumerate(cases):
        root = subject.folder / f"sweep-{number}"
        if begun is None:
            root.mkdir()
        else:
            shutil.copytree(begun, root)
        log = subject.folder / "log.txt"
        ended = subject.start(root, at=at, fault=fault, log=log).wait()
        done = listed(log)
        what = (
            f"{subject.arm} {fault} at {done[at - 1] if at <= len(done) else f'{at}: not reached'}"
        )
        if fault in REFUSALS:
            counts.refused += ended.status != 0
            if (told := _foreign(ended)) is not None:
                counts.faults.append(f"{what}: {told}")
        elif ended.status != -9:
            counts.faults.append(f"{what}: ended with {ended}")
        else:
            counts.kills += 1
        if fault == "power" and ended.status == -9:
            for survive in SURVIVE:
                left = root.with_name(f"{root.name}.{survive}")
                _check_flushed(subject, left, done[: at - 1], counts, f"{what}, {survive} left")
                subject.finish(left, counts, f"{what}, {survive} left")
                shutil.rmtree(left)
        else:
            subject.finish(root, counts, what)
        shutil.rmtree(root)
    return counts


def listed(log):
    """Operations in a log, without process ids and random names, which differ from run to run."""
    text = re.sub(r"\.(\d{2,}|[0-9a-f]{32})(\.tmp)?$", ".N", log.read_text(), flags=re.MULTILINE)
    return re.sub(r"\.new-[0-9a-f]{32}", ".new-N", text).splitlines()


def every_case(operations, faults=(*KILLS, *REFUSALS, "power"), step=1, first=1):
    """Every n-th operation with each of the faults that it can have, in turn."""
    return [
        (at, fault)
        for at in range(first, len(operations) + 1, step)
        for fault in faults
        if fault != "half" or operations[at - 1].split()[1] == "write"
    ]


def _check_flushed(subject, root, done, counts, what):
    """A line whose appending had returned is there after a reboot; without rewinds, all are."""
    if subject.name != RUN or any(one.split()[1] == "truncate" for one in done):
        return
    made = [operation for operation in done if operation.endswith(f"{RUN}/records.jsonl")]
    sure = sum(operation.split()[1] == "fsync" for operation in made)
    found = len(subject.look(root, counts, what))
    if found < sure:
        counts.lost += 1
        counts.faults.append(f"{what}: {found} lines of {sure} that had been flushed")


def _foreign(ended):
    """What is wrong with how a process with a failing disk ended; None if nothing is."""
    if "Traceback" in ended.told:
        return f"a trace: {_last(ended.told)}"
    if ended.status not in (0, 2):
        return f"status {ended.status}: {_last(ended.told)}"
    if ended.status == 2 and not _last(ended.told).startswith("workbench: "):
        return f"says {_last(ended.told)!r}"
    return None


def _last(told):
    return (told.strip().splitlines() or [""])[-1][-300:]


def read_run(folder):
    """Read all that a reader may ask of a run; return its whole lines, as they are stored."""
    from workbench.runs import Run
    from workbench.standing import Standing, stamp

    run = Run(folder).checked()
    standing = Standing.of(run)
    assert standing.state in ("stopped", "done", "failed"), standing
    stamp(run)
    if run.measured:
        assert len(run.drift()) == len(run.projections()) == len(run.measured)
    lines = whole_lines(folder)
    assert [json.loads(line) for line in lines] == run.refresh().lines
    return lines


def whole_lines(folder):
    """The whole lines of a run's records."""
    content = (folder / "records.jsonl").read_bytes()
    return content[: content.rfind(b"\n") + 1].splitlines(keepends=True)


def contents(folder):
    """Every file below a folder, by path; of JSON without what may differ."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if path.name in ("run.json", "experiment.json", "summary.json"):
                told = json.loads(content)
                content = {key: value for key, value in told.items() if key not in VARY}
            elif path.name == "report.html":
                content = len(content) > 10_000  # it tells the time that it took
            found[str(path.relative_to(folder))] = content
        elif not any(path.iterdir()):
            found[f"{path.relative_to(folder)}/"] = b""
    return found
