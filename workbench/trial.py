"""One trial of an experiment: one arm with one seed on one lineage, from θ_S to a stored run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from workbench import stopping
from workbench.arms import Arm
from workbench.conditions import Ground, answered, make_intervention, set_up
from workbench.config import Recipe
from workbench.directions import ReversionDirections
from workbench.evaluation import Reference, ask, read_reference
from workbench.files import file_hash, make_folder, write_json
from workbench.finetune import FineTuning
from workbench.inputs import Inputs, LoadedInputs
from workbench.memory import LOADING, enough_memory
from workbench.models import HookedModel
from workbench.questions import Questions
from workbench.recording import (
    OnRecord,
    failing,
    finish,
    keep_model,
    note_machine,
    record_run,
    take_run,
)
from workbench.records import Scores
from workbench.runs import AFTERMATH, Run
from workbench.store import RunStore


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
    stopping.check()
    run = take_run(
        trial.store / trial.run_id, trial.config(), resume=None, break_lock=trial.break_lock
    )
    if run.status == "done":
        return trial.run_id
    with failing(run), enough_memory("in loading or reading", LOADING):
        inputs = trial.inputs.load()
        model = inputs.lineage.load_trainee(trial.recipe, device=trial.device)
        note_machine(run, model)
        ground = Ground.of(model, inputs, ReversionDirections.load(trial.directions))
        questions = _questions(trial, model, inputs)
        reference = read_reference(model, inputs.benign)
        tuning = _start(trial, run, inputs, ground)
        with stopping.later():
            record_run(
                run,
                tuning,
                evaluate=lambda step: _evaluate(run, model, questions, reference, step),
                evaluate_at=trial.evaluate_at,
                state_every=trial.state_every,
                on_record=on_record,
            )
            left = ground.aftermath()
            run.check_writer()
            left.save(run.folder / AFTERMATH)
            if trial.save_model:
                keep_model(run, model)
            finish(run)
    return trial.run_id


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


def _questions(trial: Trial, model: HookedModel, inputs: LoadedInputs) -> Questions:
    """Encode what is asked at every evaluated step."""
    return Questions.of(
        model,
        inputs.harmful,
        inputs.benign,
        task=inputs.task,
        judge=trial.judge,
        max_new_tokens=trial.max_new_tokens,
    )


def _evaluate(
    run: Run, model: HookedModel, questions: Questions, reference: Reference, step: int
) -> Scores:
    """Evaluate, and keep the answers beside the scores."""
    evaluation = ask(model, questions, reference)
    answers = {"harmful": evaluation.harmful_answers, "benign": evaluation.benign_answers}
    path = run.folder / "answers" / f"{step:06d}.json"
    run.check_writer()
    make_folder(path.parent)
    write_json(path, answers)
    return evaluation.scores
