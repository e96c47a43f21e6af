"""Fine-tunings that are killed at random moments, or at each of their file operations."""

import random
import shutil
from pathlib import PurePath

from counting import Counts
from looking import last_line, listed, whole_lines
from operations import KILLS, REFUSALS, SURVIVE


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
            wrong = [_foreign(ended)]
            # What another writer left before this one began may be torn.
            if fault == "ENOSPC" and begun is None:
                wrong.append(_torn(root))
            counts.faults += [f"{what}: {told}" for told in wrong if told is not None]
        elif ended.status != -9:
            counts.faults.append(f"{what}: ended with {ended}")
        else:
            counts.kills += 1
        if fault == "power" and ended.status == -9:
            for survive in SURVIVE:
                left = root.with_name(f"{root.name}.{survive}")
                _check_flushed(left, done[: at - 1], counts, f"{what}, {survive} left")
                subject.finish(left, counts, f"{what}, {survive} left")
                shutil.rmtree(left)
        else:
            subject.finish(root, counts, what)
        shutil.rmtree(root)
    return counts


def every_case(operations, faults=(*KILLS, *REFUSALS, "power"), step=1, first=1):
    """Every n-th operation with each of the faults that it can have, in turn."""
    return [
        (at, fault)
        for at in range(first, len(operations) + 1, step)
        for fault in faults
        if fault != "half" or operations[at - 1].split()[1] == "write"
    ]


def _check_flushed(root, done, counts, what):
    """What was written, flushed, and not taken away again is there after a reboot."""
    for name, sure in flushed_lines(done).items():
        path = root / name
        found = len(whole_lines(path.parent)) if path.exists() else 0
        if found < sure:
            counts.lost += 1
            counts.faults.append(f"{what}: {found} lines of {sure} that had been flushed in {name}")
    for name in flushed_names(done):
        if not (root / name).exists():
            counts.lost += 1
            counts.faults.append(f"{what}: {name}, which had been flushed, is gone")


def flushed_lines(done):
    """How many lines of each run's records are certain, by path; none where some were cut."""
    kinds = {}
    for _, kind, name in map(str.split, done):
        if name.endswith("/records.jsonl") and ".tmp/" not in name:
            kinds.setdefault(name, []).append(kind)
    return {name: told.count("fsync") for name, told in kinds.items() if "truncate" not in told}


def flushed_names(done):
    """Paths that a rename put in place for good: its folder was flushed since, nothing removed."""
    sure, due = set(), set()
    for _, kind, name in map(str.split, done):
        path = PurePath(name)
        if kind in ("rename", "replace"):
            due.add(path)
        elif kind == "fsync":
            flushed = {one for one in due if one.parent == path}
            sure, due = sure | flushed, due - flushed
        elif kind in ("unlink", "rmdir"):
            sure, due = ({one for one in those if one != path} for those in (sure, due))
    # Of a draft's content, where it is renamed to is not told.
    return sorted(str(one) for one in sure if not any(part.startswith(".") for part in one.parts))


def _foreign(ended):
    """What is wrong with how a process with a failing disk ended; None if nothing is."""
    if "Traceback" in ended.told:
        return f"a trace: {last_line(ended.told)}"
    if ended.status not in (0, 2):
        return f"status {ended.status}: {last_line(ended.told)}"
    if ended.status == 2 and not last_line(ended.told).startswith("workbench: "):
        return f"says {last_line(ended.told)!r}"
    return None


def _torn(root):
    """The run that has a line without its end, although its writer was told of the full disk."""
    for path in sorted(root.rglob("records.jsonl")):
        if (content := path.read_bytes()) and not content.endswith(b"\n"):
            return f"a torn line in {path}"
    return None
