"""Memory that the C library keeps rather than gives back: fewer page faults."""

import ctypes
import multiprocessing
import time

import numpy as np
import torch
from compare import Ratio
from intervals import median_interval

from prototypes.bench import Bench, Outcome
from prototypes.processes import trainer
from prototypes.reading import read
from prototypes.setting import make_model, make_reading, mixed_lengths

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Of glibc's mallopt."""


def keep_pages() -> bool:
    """Take large blocks from the heap, and never give it back; whether the library can."""
    try:
        libc = ctypes.CDLL(None)
        return bool(libc.mallopt(MMAP_MAX, 0) and libc.mallopt(TRIM_THRESHOLD, 2**31 - 1))
    except (OSError, AttributeError):  # no glibc
        return False


def reader(size: str):
    """A reading of prompts in our batches."""
    model = make_model(size)
    reading = make_reading(mixed_lengths({"0.1M": 384, "10M": 128}.get(size, 32)))
    batches, layers = [*reading.batches()], [*range(model.cfg.n_layers)]
    return lambda: read(model, reading, batches, layers)


def work(job: str, size: str, keeping: bool, orders) -> None:
    """In a process of its own: do the job when told, and say what CPU and wall it took."""
    torch.set_num_threads(1)
    kept = keep_pages() if keeping else True
    run = {"training": trainer, "reading": reader}[job](size)
    for _ in range(2):
        run()
    orders.send(kept)
    while orders.recv():
        start = time.process_time(), time.perf_counter()
        run()
        orders.send((time.process_time() - start[0], time.perf_counter() - start[1]))


def pages(bench: Bench) -> None:
    """Idea 14: keep pages, in two processes that work in turn."""
    context = multiprocessing.get_context("spawn")
    for size in bench.sizes("0.1M", "10M", "100M"):
        for job in ("reading", "training"):
            lines = []
            for keeping in (True, False):
                here, there = context.Pipe()
                context.Process(target=work, args=(job, size, keeping, there), daemon=True).start()
                lines.append(here)
            kept = [line.recv() for line in lines]
            if kept[0]:
                _alternate(bench, f"pages kept for given back, {job}, {size}", lines)
            else:
                bench.note(f"pages kept, {job}, {size}", "this C library cannot")
            for line in lines:
                line.send(False)


def _alternate(bench: Bench, name: str, lines) -> None:
    times, start = [], time.perf_counter()
    while time.perf_counter() - start < bench.seconds or len(times) < 3:
        pair = []
        for line in lines:
            line.send(True)
            pair.append(line.recv())
        times.append(pair)
        if len(times) == (3 if bench.quick else 40):
            break
    told = np.array(times)  # round, kept or not, CPU or wall
    ratios = told[:, 0] / told[:, 1]
    cpu, wall = (
        Ratio(
            name, *median_interval(ratios[:, n]), None,
            float(np.median(told[:, 1, n])),
        )
        for n in range(2)
    )  # fmt: skip
    bench.keep(Outcome(name, wall, cpu, rounds=len(times)))
