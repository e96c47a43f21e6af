"""Trials on a Ray cluster, each task a resumable run in the folder that all nodes see.

This process decides what runs when. A task whose process or node is gone is submitted again and
goes on from the run's last state.
"""

import logging
import os
import re
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench import stopping
from workbench.errors import ConfigError, RunError, WorkbenchError
from workbench.nodes import Surety, absolute, check_here, run_here
from workbench.runs import Run
from workbench.trial import Trial
from workbench.workers import OnProgress, tell

POLL_SECONDS, CONNECT_SECONDS = 0.5, 10.0
CHECK_SECONDS, RETRIES = 300.0, 3
"""What a node may take to import everything, cold and from a network drive; and how often in a row
a run may lose its process at one step and be submitted again."""


@contextmanager
def joined(on: str | None, threads: int | None = None) -> Iterator["Cluster | None"]:
    """Be a member of a Ray cluster that runs already, while open; one joined before is used.

    Args:
        on: `ray`, the cluster on this machine or at RAY_ADDRESS, or `ray://HOST:PORT`, one behind
            a Ray Client; None for no cluster.
        threads: Of a trial, each a CPU of the cluster; by default 1.

    Yields:
        What runs trials there; None where there is no cluster.

    Raises:
        ConfigError: If `on` or `threads` is not such, or Ray is not installed.
        RunError: If there is no such cluster.
    """
    if on is None:
        if threads is not None:
            raise ConfigError("Threads are for a cluster: give --on, or leave --threads out.")
        yield None
        return
    if not re.fullmatch(r"ray(://(\[[\w:.]+\]|[\w.-]+):\d{1,5})?", on, re.ASCII):
        raise ConfigError(
            f"--on {on!r}: it may be ray or ray://HOST:PORT, such as ray://head:10001."
        )
    if (threads := 1 if threads is None else threads) < 1:
        raise ConfigError(f"threads is {threads}; it must be at least 1.")
    ray = _package()
    if ray.is_initialized():
        yield Cluster(ray, threads)
        return
    _join(ray, on)
    try:
        yield Cluster(ray, threads)
    finally:
        with _own_signals():
            ray.shutdown()


def _package() -> Any:
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "A cluster needs Ray: pip install 'reversion-workbench[ray]', here and on its nodes."
        ) from None
    return ray


def _join(ray: Any, on: str) -> None:
    """Connect; for an address where nothing listens Ray itself would wait two minutes."""
    asked = os.environ.get("RAY_ADDRESS") or "auto" if on == "ray" else on
    try:
        if asked == "local":
            raise ConnectionError("RAY_ADDRESS is local, which starts one of its own")
        place = asked.removeprefix("ray://") if "://" in asked else _found(asked)
        host, _, port = place.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        with _own_signals(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(asked, log_to_driver=False, logging_level=logging.CRITICAL)
    except (OSError, ValueError) as error:
        where = f"--on {on}" if asked in ("auto", on) else f"--on {on} (RAY_ADDRESS {asked})"
        raise RunError(
            f"{where}: no Ray cluster answers ({_last(error)}); start one with "
            "`ray start --head` and `ray start --address=HEAD:6379` on its other nodes."
        ) from error
    except (RuntimeError, ImportError, SystemExit) as error:
        raise RunError(f"--on {on}: this Ray cluster cannot be joined ({_last(error)}).") from error


def _found(address: str) -> str:
    """Where this machine's cluster is; `ConnectionError` if none is known."""
    from ray._private.services import canonicalize_bootstrap_address

    return canonicalize_bootstrap_address(address) or address


@contextmanager
def _own_signals() -> Iterator[None]:
    """Let Ray, which takes SIGTERM for itself, not keep it."""
    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not handler and handler is not None:
                signal.signal(number, handler)  # Ray, too, can only in the main thread


class Cluster:
    """A Ray cluster that this process has joined.

    Args:
        ray: The package.
        threads: Of a trial.
    """

    def __init__(self, ray: Any, threads: int) -> None:
        self._ray, self._threads = ray, threads

    def run(
        self, trials: Sequence[Trial], jobs: int | None, on_progress: OnProgress | None = None
    ) -> None:
        """Run trials, each as soon as those that it needs are done.

        If this process is told to stop, or interrupted, they end after the step under way.

        Args:
            trials: All on one device; if that is a GPU, each gets one of the cluster's.
            jobs: How many at once; None for as many as fit.
            on_progress: Told of every run.

        Raises:
            RunError: If no node has room for a trial, one has other versions or does not see the
                files, a run loses its process again and again, or the cluster is gone.
            WorkbenchError: What stopped a trial, once the others that had begun have ended.
        """
        device = trials[0].device or ("cuda" if self._ray.cluster_resources().get("GPU") else "cpu")
        gpus = int(device.startswith("cuda"))  # a task sees its own alone, as the first
        device = "cuda" if gpus else device
        trials = [replace(absolute(trial), device=device) for trial in trials]
        surety = Surety.of(trials)
        options = {"num_cpus": self._threads, "num_gpus": gpus, "max_retries": 0}
        submit = self._ray.remote(**options)(run_here).remote
        try:
            with stopping.later():
                free = self._check_nodes(gpus, surety, trials)
                _Sweep(
                    self._ray,
                    lambda trial: submit(trial, surety, self._threads, sys.argv),
                    [replace(one, break_lock=one.break_lock or one in free) for one in trials],
                ).run(jobs or len(trials), on_progress)
        except ConnectionError as error:
            if isinstance(error, WorkbenchError):
                raise
            raise RunError(f"The Ray cluster is gone ({error}); continue with --resume.") from error

    def _check_nodes(self, gpus: int, surety: Surety, trials: Sequence[Trial]) -> list[Trial]:
        """See that every node that can run a trial is fit; return the trials whose writer is gone.

        Only the node where a writer ran can tell.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        names = {}
        for node in self._ray.nodes():
            has = node["Resources"]
            if node["Alive"] and has.get("CPU", 0) >= self._threads and has.get("GPU", 0) >= gpus:
                names[node["NodeID"]] = node["NodeManagerHostname"]
        if not names:
            wanted = f"{self._threads} CPU" + " and a GPU" * gpus
            raise RunError(f"No node of the cluster has {wanted}, which a trial needs.")
        locks = {_lock(trial): trial for trial in trials if _lock(trial).exists()}
        check = self._ray.remote(num_cpus=0, max_retries=RETRIES)(check_here)
        asked = {}
        for node in names:
            pinned = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
            asked[check.options(scheduling_strategy=pinned).remote(surety, [*locks])] = names[node]
        free, until = [], time.monotonic() + CHECK_SECONDS
        while asked:
            stopping.check()
            answered, _ = self._ray.wait([*asked], timeout=POLL_SECONDS)
            for ref in answered:
                free += [locks[lock] for lock in _answer(self._ray, ref, asked.pop(ref))]
            if asked and time.monotonic() > until:
                raise RunError(f"Node {min(asked.values())} does not answer; see its Ray logs.")
        return free


def _lock(trial: Trial) -> Path:
    return trial.store / trial.run_id / "lock"


def _answer(ray: Any, ref: Any, node: str) -> list[Path]:
    try:
        return ray.get(ref)
    except ray.exceptions.RayError as error:
        if isinstance(cause := getattr(error, "cause", None), WorkbenchError):
            raise cause from None
        raise RunError(f"Node {node} cannot run the workbench ({_last(error)}).") from error


def _last(error: BaseException) -> str:
    """What an error of Ray says in the end; before it may be a trace."""
    return f"{type(error).__name__}: {str(error).strip().rpartition(chr(10))[2]}"


class _Sweep:
    """Trials on their way through a cluster."""

    def __init__(self, ray: Any, submit: Callable[[Trial], Any], trials: list[Trial]) -> None:
        self._ray, self._submit, self._left = ray, submit, trials
        self._under_way: dict[Any, Trial] = {}
        self._done: set[str] = set()
        self._lost: dict[str, tuple[int, int]] = {}
        """By run: at which step it lost its process, and how often in a row."""

    def run(self, jobs: int, on_progress: OnProgress | None) -> None:
        seen: dict[str, int] = {}
        try:
            while self._left or self._under_way:
                stopping.check()
                ready = [one for one in self._left if self._done.issuperset(one.runs.values())]
                for trial in ready[: jobs - len(self._under_way)]:
                    self._left.remove(trial)
                    self._under_way[self._submit(trial)] = trial
                for trial in self._wait():
                    tell(trial, seen, on_progress)
        except BaseException as error:
            with suppress(ConnectionError):
                self._end(at_once=isinstance(error, KeyboardInterrupt))
            raise

    def _wait(self) -> list[Trial]:
        """Wait a little; return the trials that were under way."""
        before = [*self._under_way.values()]
        ended, _ = self._ray.wait([*self._under_way], timeout=POLL_SECONDS)
        for ref in ended:
            trial = self._under_way.pop(ref)
            if (why := self._why_lost(ref)) is None:
                self._done.add(trial.run_id)
            else:
                self._left.insert(0, self._again(trial, why))
        return before

    def _why_lost(self, ref: Any) -> str | None:
        """Why a trial that has ended is not done; raises what stopped it, if that was its own."""
        errors = self._ray.exceptions
        try:
            return None if self._ray.get(ref) else "its node told it to stop"
        except errors.RayTaskError as error:
            raise error.cause from error
        except errors.RayError as error:
            return _last(error)

    def _again(self, trial: Trial, why: str) -> Trial:
        """The trial as it is submitted again, if it has come further since the last time.

        Who wrote it may have been on another node, where nobody can tell whether it is gone; if it
        is not, it writes nothing more (`locks.check_lock`).
        """
        step = -1
        with suppress(RunError):
            step = Run(trial.store / trial.run_id).states.reached()[0]
        before, times = self._lost.get(trial.run_id, (step, 0))
        times = times + 1 if step == before else 1
        self._lost[trial.run_id] = step, times
        if times > RETRIES:
            raise RunError(
                f"{trial.run_id} lost its process {times} times at step {max(step, 0)} ({why}); "
                "see the Ray logs of its node, then continue with --resume."
            )
        return replace(trial, break_lock=True)

    def _end(self, *, at_once: bool) -> None:
        """Wait until what has begun has ended: after its step if `at_once`."""
        for ref, trial in self._under_way.items():
            if at_once or not _lock(trial).exists():
                self._ray.cancel(ref)
        while self._under_way:
            ended, _ = self._ray.wait([*self._under_way], timeout=POLL_SECONDS)
            for ref in ended:
                del self._under_way[ref]
            if not at_once and stopping.asked() is not None:
                return self._end(at_once=True)
