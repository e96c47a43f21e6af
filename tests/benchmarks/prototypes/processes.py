"""Processes of one thread against threads of one process: training steps per second of wall."""

import multiprocessing
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import numpy as np
import torch
from compare import Ratio
from intervals import median_interval

from prototypes.bench import Bench, Outcome
from prototypes.setting import FIRST_WORD, make_hf

WAYS = {
    "1 process of 1 thread": (1, 1),
    "1 process of 2 threads": (1, 2),
    "2 processes of 1 thread": (2, 1),
    "3 processes of 1 thread": (3, 1),
}
"""Processes, and threads of each."""

PAUSE = 0.02
"""Seconds that a step may wait for the disk, as a run does that stores."""


def trainer(size: str):
    """A plain training step on random tokens."""
    hf = make_hf(size)
    tokens = torch.randint(FIRST_WORD, 1000, (16, 32), generator=torch.Generator().manual_seed(0))
    optimiser = torch.optim.AdamW(hf.parameters(), lr=1e-6, fused=True)

    def step():
        optimiser.zero_grad()
        hf(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        optimiser.step()

    return step


def work(size: str, orders: Connection) -> None:
    """In a process of its own: train for as long as told, and say how many steps a second."""
    step = trainer(size)
    step()
    orders.send(None)
    while (order := orders.recv()) is not None:
        threads, seconds, pause = order
        torch.set_num_threads(threads)
        start, steps = time.perf_counter(), 0
        while (passed := time.perf_counter() - start) < seconds or not steps:
            step()
            time.sleep(pause)
            steps += 1
        passed = time.perf_counter() - start
        orders.send(steps / passed)


class Crew:
    """Processes that train when told."""

    def __init__(self, size: str, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.lines: list[Connection] = []
        self.members: list[BaseProcess] = []
        for _ in range(count):
            here, there = context.Pipe()
            member = context.Process(target=work, args=(size, there), daemon=True)
            member.start()
            self.lines.append(here)
            self.members.append(member)
        for line in self.lines:
            line.recv()

    def steps_per_second(self, count: int, threads: int, seconds: float, pause: float) -> float:
        """Of the first `count` members together."""
        for line in self.lines[:count]:
            line.send((threads, seconds, pause))
        return sum(line.recv() for line in self.lines[:count])

    def leave(self) -> None:
        """End the processes."""
        for line, member in zip(self.lines, self.members, strict=True):
            line.send(None)
            member.join()


def side_by_side(bench: Bench) -> None:
    """Idea 7: who shares two cores best, with and without waiting for the disk."""
    rounds, seconds = (2, 0.5) if bench.quick else (6, bench.seconds / 6)
    for size in bench.sizes("0.1M", "10M", "100M"):
        crew = Crew(size, max(count for count, _ in WAYS.values()))
        try:
            for pause in (0.0, PAUSE):
                rates = {
                    name: np.array([crew.steps_per_second(*way, seconds, pause)])
                    for name, way in WAYS.items()
                }
                for _ in range(rounds - 1):
                    for name, way in WAYS.items():
                        now = crew.steps_per_second(*way, seconds, pause)
                        rates[name] = np.append(rates[name], now)
                _report(bench, size, pause, rates)
        finally:
            crew.leave()


def _report(bench: Bench, size: str, pause: float, rates: dict[str, np.ndarray]) -> None:
    base_name, base = next(iter(rates.items()))
    waiting = f", {pause * 1000:.0f} ms of waiting a step" if pause else ""
    for name, now in rates.items():
        ratios = base / now
        wall = Ratio(
            name,
            *median_interval(ratios),
            None,
            float(np.median(1 / base)),
        )
        bench.keep(
            Outcome(
                f"{name} for {base_name}, time per step{waiting}, {size}", wall,
                told=f"{np.median(now):.3g} steps/s in all", rounds=len(now),
            )
        )  # fmt: skip
