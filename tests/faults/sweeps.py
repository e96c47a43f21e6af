"""Fine-tunings that are killed at random moments, or at each of their file operations."""

import random
import shutil

from counting import Counts
from crashes import RUN
from looking import last_line, listed
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
        return f"a trace: {last_line(ended.told)}"
    if ended.status not in (0, 2):
        return f"status {ended.status}: {last_line(ended.told)}"
    if ended.status == 2 and not last_line(ended.told).startswith("workbench: "):
        return f"says {last_line(ended.told)!r}"
    return None
