"""Trials in processes side by side, which stop after their step and end with the one above them."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from workbench import stopping
from workbench.errors import RunError
from workbench.runs import Run
from workbench.trial import Trial, run_trial

POLL_SECONDS = 0.25

OnProgress = Callable[[str, int, float | None], None]
"""Told run id, step and mean alignment as runs advance."""


def run_in_processes(
    waves: Sequence[Sequence[Trial]], jobs: int, on_progress: OnProgress | None = None
) -> None:
    """Run the trials of each wave side by side, after those of the one before.

    If this process is told to stop, or interrupted, the others end after the step under way.

    Args:
        waves: Groups of trials.
        jobs: How many processes.
        on_progress: Told of every run.

    Raises:
        RunError: If a process was killed.
        WorkbenchError: What stopped a trial, once the others that had begun have ended.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    others = {*multiprocessing.active_children()}
    workers: set[BaseProcess] = set()
    context = multiprocessing.get_context("spawn")
    with (
        stopping.instead(partial(_tell_to_stop, workers)),
        ProcessPoolExecutor(
            jobs, mp_context=context, initializer=_begin, initargs=(threads,)
        ) as pool,
    ):
        for wave in waves:
            try:
                with stopping.blocked():
                    futures = [pool.submit(_run, trial) for trial in wave]
                    workers |= {*multiprocessing.active_children()} - others
                _watch(futures, wave, on_progress)
            except BrokenProcessPool as error:
                stopping.check()
                raise RunError(
                    "A process that ran a trial was killed, perhaps for memory; continue with "
                    "--resume and fewer --jobs."
                ) from error
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    _tell_to_stop(workers)
                pool.shutdown(cancel_futures=True)
                raise


def _begin(threads: int) -> None:
    """Set up a process that runs trials."""
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    stopping.heed_as_worker()


def _end_with_parent() -> None:
    """End at once when the process above is gone: nobody else would, and the run is locked."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _run(trial: Trial) -> str:
    """Run a trial in a process of its own; told to stop, the process ends with the trial."""
    try:
        with stopping.instead(None):
            return run_trial(trial)
    finally:
        if (stop := stopping.asked()) is not None:
            os._exit(128 + stop.number)


def _tell_to_stop(workers: set[BaseProcess]) -> None:
    for worker in workers:
        worker.terminate()


def _watch(
    futures: Sequence[Future], trials: Sequence[Trial], on_progress: OnProgress | None
) -> None:
    """Wait for runs in other processes; what they do is read from their folders."""
    seen: dict[str, int] = {}
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, timeout=POLL_SECONDS)
        for future in done:
            future.result()
        stopping.check()
        for trial in trials if on_progress else ():
            tell(trial, seen, on_progress)


def tell(trial: Trial, seen: dict[str, int], on_progress: OnProgress | None) -> None:
    """Tell how far a run in another process is, by its folder, if it is further than was seen."""
    folder = trial.store / trial.run_id
    if on_progress is None or seen.get(trial.run_id) == trial.recipe.steps:
        return
    lines: list[dict[str, Any]] = []
    with suppress(RunError):  # it is only for the progress
        lines = Run(folder).lines if (folder / "records.jsonl").is_file() else []
    if not lines:
        return
    step = lines[-1]["step"]
    if step > seen.get(trial.run_id, 0):
        measured = [line["drift"]["mean_alignment"] for line in lines if "drift" in line]
        on_progress(trial.run_id, step, measured[-1] if measured else None)
        seen[trial.run_id] = step
