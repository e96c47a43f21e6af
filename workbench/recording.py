"""Record a fine-tuning into a run: store what it yields, and say what ended it."""

import math
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from workbench import stopping
from workbench.errors import ConfigError, DivergedError, RunError, WorkbenchError
from workbench.files import draft_of, flush_folder, flush_tree
from workbench.finetune import FineTuning
from workbench.loading import save_model
from workbench.memory import EVALUATING, TRAINING, enough_memory
from workbench.models import HookedModel
from workbench.records import Scores, StepRecord
from workbench.runs import Run
from workbench.standing import RESUME
from workbench.store import RunStore
from workbench.storing import writing
from workbench.updates import check_state, state_from_bytes, state_to_bytes

OnRecord = Callable[[str, StepRecord], None]
"""Told run id and record of every step."""


def take_run(
    folder: Path, config: Mapping[str, Any], *, resume: bool | None, break_lock: bool = False
) -> Run:
    """Create a run, or take it up where it was left; a stop that is asked for meanwhile waits.

    Args:
        folder: Of the run.
        config: What it needs to be repeated.
        resume: Whether to take up one that is there; None if there is one.
        break_lock: When resuming, take the lock of a writer that is known to be gone.

    Raises:
        RunError: If it is there and not to be resumed, or the other way round, is being written,
            or has other settings.
    """
    store = RunStore(folder.parent)
    with stopping.later(), writing(folder):
        if folder.exists() if resume is None else resume:
            return store.resume(folder.name, config, break_lock=break_lock)
        return store.create(config, folder.name)


def keep_model(run: Run, model: HookedModel) -> None:
    """Save the final model in a run's folder: whole, or not there."""
    kept = run.folder / "model"
    draft = draft_of(kept)
    try:
        with writing(kept):
            save_model(model, draft)
            flush_tree(draft)
            run.check_writer()
            if kept.exists():
                shutil.rmtree(kept)
            draft.rename(kept)
            flush_folder(run.folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def finish(run: Run) -> None:
    """Mark a run done."""
    with writing(run.folder):
        run.finish()


def note_machine(run: Run, model: HookedModel) -> None:
    """Note in run.json where and how the run is made: same bits need the same but for the host."""
    machine = {
        "host": platform.node(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": str(model.cfg.device),
        "dtype": str(model.cfg.dtype),
        "threads": torch.get_num_threads(),
    }
    run.write_info(run.info | {"machine": machine, "command": sys.argv})


@contextmanager
def failing(run: Run) -> Iterator[None]:
    """Mark the run failed, and why, if what is done while open raises."""
    try:
        stopping.check()
        yield
    except stopping.Stopped as stop:
        run.fail(f"{stop} at step {_reached(run)}; {RESUME}")
        raise
    except KeyboardInterrupt:
        run.fail(f"interrupted; {RESUME}")
        raise
    except WorkbenchError as error:
        run.fail(str(error))
        raise
    except Exception as error:
        run.fail(f"{type(error).__name__}: {error}")
        raise


def _reached(run: Run) -> int:
    """The step of the last state; 0 before the first, or where it cannot be read."""
    try:
        return max(run.states.reached()[0], 0)
    except RunError:
        return 0


def record_run(
    run: Run,
    tuning: FineTuning,
    *,
    evaluate: Callable[[int], Scores] | None = None,
    evaluate_at: Sequence[int] = (),
    state_every: int = 10,
    on_record: OnRecord | None = None,
) -> None:
    """Iterate a fine-tuning, or what is left of it, and store what it yields.

    If the fine-tuning is stopped, its state is stored, so that the run can be resumed from there.
    A state that is stored is finite.

    Args:
        run: Where to; if it holds a training state, the fine-tuning continues from there.
        tuning: Just made; with a training state, any that was made with the same arguments.
        evaluate: Gives the scores after a step.
        evaluate_at: Steps to evaluate after; 0 is before the first.
        state_every: Steps between training states.
        on_record: Told every record.

    Raises:
        ConfigError: If the fine-tuning has begun and the run holds no training state.
        DivergedError: If it is not finite; the run keeps its last state, which is.
        OutOfMemoryError: If memory does not suffice.
        StorageError: If something cannot be written.
        Stopped: If a signal stopped it, where signals are heeded.
    """
    if state_every < 1:
        raise ConfigError(f"state_every is {state_every}; it must be at least 1.")
    with stopping.instead(tuning.stop):
        stopping.check()
        if (blob := run.load_state()) is not None:
            tuning.load_state(state_from_bytes(blob))
        elif tuning.step:
            raise ConfigError(
                f"{run.folder}: holds no training state, and this fine-tuning has made "
                f"{tuning.step} steps; make it anew."
            )
        elif evaluate is not None and 0 in evaluate_at:
            run.append(StepRecord(0, math.nan, 0.0, math.nan, scores=_scored(evaluate, 0)))
        for record in _steps(run, tuning):
            if evaluate is not None and record.step in evaluate_at:
                record = replace(record, scores=_scored(evaluate, record.step))
            run.append(record)
            if record.step % state_every == 0 and record.step < tuning.steps:
                _keep_state(run, tuning)
            if on_record is not None:
                on_record(run.id, record)
        if tuning.step < tuning.steps:
            if tuning.step != run.states.reached()[0]:
                _keep_state(run, tuning)
            stopping.check()


def _steps(run: Run, tuning: FineTuning) -> Iterator[StepRecord]:
    """The records of a fine-tuning; what ends it says what the run keeps."""
    steps = iter(tuning)
    while True:
        try:
            with enough_memory(f"in step {tuning.step + 1}", TRAINING):
                record = next(steps, None)
        except DivergedError as error:
            raise _with_kept(run, error) from error
        if record is None:
            return
        yield record


def _keep_state(run: Run, tuning: FineTuning) -> None:
    with enough_memory(f"in copying the training state of step {tuning.step}", TRAINING):
        state = tuning.state()
        try:
            check_state(state, tuning.step)
        except DivergedError as error:
            raise _with_kept(run, error) from error
        with writing(run.folder / "state"):
            run.save_state(tuning.step, state_to_bytes(state))


def _with_kept(run: Run, error: DivergedError) -> DivergedError:
    step = run.states.reached()[0]
    kept = f"keeps its state after step {step}" if step >= 0 else "has no training state yet"
    return DivergedError(
        f"{error} The run {kept}; resumed with the same settings, it would diverge again: begin "
        "anew in another folder."
    )


def _scored(evaluate: Callable[[int], Scores], step: int) -> Scores:
    with enough_memory(f"in evaluating after step {step}", EVALUATING):
        return evaluate(step)
