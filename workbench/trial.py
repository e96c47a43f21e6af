"""One trial of an experiment: one arm with one seed on one lineage, from θ_S to a stored run."""

import math
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from workbench.arms import Arm
from workbench.conditions import Ground, answered, make_intervention, set_up
from workbench.config import Recipe
from workbench.directions import ReversionDirections
from workbench.errors import ConfigError, WorkbenchError
from workbench.evaluation import Reference, evaluate_answers, read_reference
from workbench.files import file_hash, write_json
from workbench.finetune import FineTuning
from workbench.inputs import Inputs, LoadedInputs
from workbench.loading import save_model
from workbench.models import HookedModel
from workbench.records import Scores, StepRecord
from workbench.runs import AFTERMATH, Run
from workbench.standing import RESUME
from workbench.store import RunStore
from workbench.updates import state_from_bytes, state_to_bytes

OnRecord = Callable[[str, StepRecord], None]


@dataclass(frozen=True)
class Trial:
    """Everything that one run needs; plain values, so that it can be sent to another process."""

    run_id: str
    lineage: str
    store: Path
    inputs: Inputs
    directions: Path
    """The fitted v_rev of the lineage."""

    arm: Arm
    seed: int
    recipe: Recipe
    judge: str
    evaluate_at: tuple[int, ...]
    """Steps at which behaviour is evaluated; 0 is the aligned model."""

    max_new_tokens: int = 32
    state_every: int = 10
    """Steps between training states: at most so many are recomputed after a crash."""

    runs: Mapping[str, str] = field(default_factory=dict)
    """By arm, the runs with the same seed that this one needs ended."""

    save_model: bool = False
    device: str | None = None
    break_lock: bool = False
    """Whether to take a run over from a writer on another machine."""

    def config(self) -> dict[str, Any]:
        """Return what the run needs to be repeated, as JSON values; files by content, not place."""
        settings = asdict(self)
        for local in ("store", "state_every", "device", "break_lock"):
            settings.pop(local)
        paths = {item.name: getattr(self.inputs, item.name) for item in fields(self.inputs)}
        settings["inputs"] = {name: file_hash(path) for name, path in paths.items() if path}
        settings["directions"] = file_hash(self.directions)
        return settings

    def run_of(self, arm: str) -> Run:
        """Return the run of another arm with the same seed."""
        return RunStore(self.store).open(self.runs[arm])


def run_trial(trial: Trial, on_record: OnRecord | None = None) -> str:
    """Run a trial, or what is left of it, and store it; return its run id.

    Raises:
        RunError: If the run exists with other settings or is being written.
        WorkbenchError: What stopped the fine-tuning; the run is marked failed.
    """
    store, config = RunStore(trial.store), trial.config()
    if (trial.store / trial.run_id).exists():
        run = store.resume(trial.run_id, config, break_lock=trial.break_lock)
        if run.status == "done":
            return trial.run_id
    else:
        run = store.create(config, trial.run_id)
    with failing(run):
        inputs = trial.inputs.load()
        model = inputs.lineage.load_trainee(trial.recipe, device=trial.device)
        note_machine(run, model)
        ground = Ground.of(model, inputs, ReversionDirections.load(trial.directions))
        reference = read_reference(model, inputs.benign)
        record_run(
            run,
            _start(trial, run, inputs, ground),
            evaluate=lambda step: _evaluate(trial, run, model, inputs, reference, step),
            evaluate_at=trial.evaluate_at,
            state_every=trial.state_every,
            on_record=on_record,
        )
        ground.aftermath().save(run.folder / AFTERMATH)
        if trial.save_model:
            save_model(model, run.folder / "model")
    run.finish()
    return trial.run_id


def note_machine(run: Run, model: HookedModel) -> None:
    """Note in run.json where and how the run is made: same bits need the same of these."""
    run.write_info(
        run.info
        | {
            "machine": {
                "system": f"{platform.system()} {platform.machine()}",
                "device": str(model.cfg.device),
                "dtype": str(model.cfg.dtype),
                "threads": torch.get_num_threads(),
            },
            "command": sys.argv,
        }
    )


@contextmanager
def failing(run: Run) -> Iterator[None]:
    """Mark the run failed, and why, if what is done while open raises."""
    try:
        yield
    except KeyboardInterrupt:
        run.fail(f"interrupted; {RESUME}")
        raise
    except WorkbenchError as error:
        run.fail(str(error))
        raise
    except Exception as error:
        run.fail(f"{type(error).__name__}: {error}")
        raise


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

    Args:
        run: Where to; if it holds a training state, the fine-tuning continues from there.
        tuning: Just made; with a training state, any that was made with the same arguments.
        evaluate: Gives the scores after a step.
        evaluate_at: Steps to evaluate after; 0 is before the first.
        state_every: Steps between training states.
        on_record: Told every record.

    Raises:
        ConfigError: If the fine-tuning has begun and the run holds no training state.
    """
    if state_every < 1:
        raise ConfigError(f"state_every is {state_every}; it must be at least 1.")
    if (blob := run.load_state()) is not None:
        tuning.load_state(state_from_bytes(blob))
    elif tuning.step:
        raise ConfigError(
            f"{run.folder}: holds no training state, and this fine-tuning has made {tuning.step} "
            "steps; make it anew."
        )
    elif evaluate is not None and 0 in evaluate_at:
        run.append(StepRecord(0, math.nan, 0.0, math.nan, scores=evaluate(0)))
    for record in tuning:
        if evaluate is not None and record.step in evaluate_at:
            record = replace(record, scores=evaluate(record.step))
        run.append(record)
        if record.step % state_every == 0 and record.step < tuning.steps:
            run.save_state(record.step, state_to_bytes(tuning.state()))
        if on_record is not None:
            on_record(run.id, record)
    if tuning.step < tuning.steps and tuning.step != run.states.reached()[0]:
        run.save_state(tuning.step, state_to_bytes(tuning.state()))


def _start(trial: Trial, run: Run, inputs: LoadedInputs, ground: Ground) -> FineTuning:
    """Set the arm up along its directions, keep those, and make the fine-tuning."""
    arm = trial.arm
    condition = set_up(arm, ground, trial.seed, trial.run_of)
    condition.save(run.folder, ground.reversion)
    benign = answered(arm, ground, max_new_tokens=trial.max_new_tokens)
    return FineTuning(
        ground.model,
        inputs.examples,
        probes=inputs.measure,
        directions=ground.reversion,
        seed=trial.seed,
        intervention=make_intervention(
            arm, condition, inputs.penalty, benign, max_new_tokens=trial.max_new_tokens
        ),
        **asdict(trial.recipe),
    )


def _evaluate(
    trial: Trial,
    run: Run,
    model: HookedModel,
    inputs: LoadedInputs,
    reference: Reference,
    step: int,
) -> Scores:
    """Evaluate, and keep the answers beside the scores."""
    evaluation = evaluate_answers(
        model,
        inputs.harmful,
        inputs.benign,
        task=inputs.task,
        judge=trial.judge,
        reference=reference,
        max_new_tokens=trial.max_new_tokens,
    )
    folder = run.folder / "answers"
    folder.mkdir(exist_ok=True)
    write_json(
        folder / f"{step:06d}.json",
        {"harmful": evaluation.harmful_answers, "benign": evaluation.benign_answers},
    )
    return evaluation.scores
