"""`workbench finetune`: one fine-tuning, stored as a run."""

from argparse import Namespace
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from workbench import stopping
from workbench.arms import Arm, choose_arms, standard_arms
from workbench.commands.options import is_lineage, recipe_of, splits_of, tell
from workbench.conditions import Ground, answered, make_intervention, set_up
from workbench.directions import ReversionDirections, fit_directions
from workbench.errors import ConfigError
from workbench.files import write_json
from workbench.finetune import FineTuning
from workbench.interventions import Intervention
from workbench.loading import load_model
from workbench.models import HookedModel
from workbench.phases import Lineage
from workbench.probes import ProbeSet, load_examples
from workbench.progress import Progress
from workbench.readout import Readout, read_vocabulary
from workbench.recording import (
    failing,
    finish,
    keep_model,
    note_machine,
    record_run,
    take_run,
)
from workbench.runs import Run
from workbench.store import RunStore
from workbench.storing import check_writable
from workbench.surroundings import DIRECTIONS, READOUT
from workbench.text import printable


@dataclass(frozen=True)
class _Parts:
    """What is fine-tuned, and what is measured and done meanwhile."""

    model: HookedModel
    lineage: str | None = None
    probes: ProbeSet | None = None
    directions: ReversionDirections | None = None
    interventions: tuple[Intervention, ...] = ()
    readout: Readout | None = None

    def save(self, folder: Path) -> None:
        """Keep in the run folder what its drift is seen against."""
        if self.directions is not None:
            self.directions.save(folder / DIRECTIONS)
        if self.readout is not None:
            write_json(folder / READOUT, self.readout.to_json())


def run(arguments: Namespace) -> None:
    """Fine-tune once and store the run."""
    out, recipe = Path(arguments.out), recipe_of(arguments)
    if not arguments.resume:
        RunStore(out.parent).vacant(out.name)
    check_writable(out)
    source = Path(arguments.lineage)
    data = Path(arguments.data or (source if source.is_dir() else source.parent) / "finetune.jsonl")
    examples = load_examples(data)
    _arms(arguments)  # a misspelt one is told before any model is read
    tell(arguments, "Reading the checkpoints; then one progress for all steps.")
    parts = _lineage_parts(arguments) if is_lineage(arguments.lineage) else _model_parts(arguments)
    tuning = FineTuning(
        parts.model,
        examples,
        probes=parts.probes,
        directions=parts.directions,
        intervention=parts.interventions,
        seed=arguments.seed,
        **asdict(recipe),
    )
    config = tuning.config() | {"lineage": parts.lineage}
    run = take_run(out, config, resume=arguments.resume, break_lock=arguments.break_lock)
    if run.status != "done":
        with failing(run):
            _record(arguments, run, tuning, parts)
    _print_run(run)


def _record(arguments: Namespace, run: Run, tuning: FineTuning, parts: _Parts) -> None:
    note_machine(run, parts.model)
    parts.save(run.folder)
    if (step := run.states.reached()[0]) > 0:
        tell(arguments, f"Continuing after step {step}, where the last training state is.")
    with stopping.later(), Progress(tuning.steps, quiet=arguments.quiet) as progress:
        record_run(
            run,
            tuning,
            state_every=arguments.state_every,
            on_record=lambda run_id, record: progress(
                run_id, record.step, record.drift.mean_alignment if record.drift else None
            ),
        )
        if arguments.save_model:
            keep_model(run, tuning.model)
        finish(run)


def _lineage_parts(arguments: Namespace) -> _Parts:
    """Model, probes, directions and intervention for a measured fine-tuning."""
    lineage = Lineage.load(arguments.lineage)
    lineage.check()
    splits = splits_of(arguments)
    fitted = (
        ReversionDirections.load(arguments.direction)
        if arguments.direction
        else fit_directions(lineage, splits.fit, device=arguments.device)
    )
    model = lineage.load_trainee(recipe_of(arguments), device=arguments.device)
    readout = read_vocabulary(model, fitted, judge=lineage.judge) if fitted.has_mean else None
    ground = Ground.of(model, splits, fitted)
    interventions = tuple(_intervention(arm, ground, arguments.seed) for arm in _arms(arguments))
    return _Parts(model, lineage.name, splits.measure, fitted, interventions, readout)


def _arms(arguments: Namespace) -> tuple[Arm, ...]:
    """What to do, written as arms; none for ordinary fine-tuning."""
    if arguments.intervention == "none":
        return ()
    known = standard_arms(target=arguments.target, layers=arguments.layers)
    alone = {name: arm for name, arm in known.items() if name != "ordinary" and not arm.needs}
    chosen = choose_arms(arguments.intervention, alone)
    if arguments.strength is None:
        return chosen
    first, *others = chosen
    if others:
        raise ConfigError("--strength is for one intervention; write several as block:3,cap:0.5.")
    return (replace(first, strength=arguments.strength),)


def _intervention(arm: Arm, ground: Ground, seed: int) -> Intervention:
    def earlier(name: str) -> Run:
        raise ConfigError(f"{arm.name} needs runs of {name}: use `workbench experiment`.")

    condition = set_up(arm, ground, seed, earlier)
    benign = answered(arm, ground, max_new_tokens=32)
    made = make_intervention(arm, condition, ground.splits.penalty, benign)
    assert made is not None
    return made


def _model_parts(arguments: Namespace) -> _Parts:
    """A model alone: nothing is measured, and nothing can intervene along a direction."""
    if arguments.intervention != "none":
        raise ConfigError("An intervention needs a direction: give a lineage, not a model.")
    if not arguments.data:
        raise ConfigError("Training a model alone needs --data.")
    return _Parts(load_model(arguments.lineage, adapter="live", device=arguments.device))


def _print_run(run: Run) -> None:
    frame = run.records()
    last = frame.iloc[-1]
    told = f"{run.folder}: {len(frame)} steps, loss {last['loss']:.3f}"
    if len(run.measured):
        told += f", alignment {last['mean_alignment']:+.3f}"
    print(printable(told))
