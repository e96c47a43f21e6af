"""What the commands of the command line do; arguments are those that `cli` parses."""

import json
import os
import sys
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.config import Recipe, choose_arms, standard_arms
from workbench.directions import ReversionDirections, fit_directions
from workbench.errors import ConfigError, RunError
from workbench.evaluation import evaluate as evaluate_model
from workbench.experiment import run_experiment
from workbench.files import file_hash
from workbench.finetune import FineTuning
from workbench.inputs import SPLIT, Inputs
from workbench.interventions import Block, Intervention, Push
from workbench.loading import load_model, save_model
from workbench.phases import Lineage
from workbench.plots.report import write_report
from workbench.plots.table import table_text
from workbench.probes import ProbeSet, read_jsonl
from workbench.progress import Progress
from workbench.records import SCORE_NAMES, scores_to_json
from workbench.resources import assets_folder
from workbench.runs import Run, RunStore
from workbench.summary import summarise
from workbench.trial import failing, record_run


def demo(arguments: Namespace) -> None:
    """Run the main job on the embedded organism."""
    from workbench.organism.recipe import DEMO, DEMO_ARMS

    recipe = replace(DEMO, steps=arguments.steps) if arguments.steps else DEMO
    organism = assets_folder() / "organism"
    _say(arguments, f"Fine-tuning the organism in {organism.name}: one bar for all runs.")
    _experiment_and_report(
        arguments,
        [Inputs.beside(organism)],
        recipe,
        standard_arms(**DEMO_ARMS),
        out=Path(arguments.out or f"experiments/demo-{time.strftime('%Y%m%d-%H%M%S')}"),
        max_new_tokens=20,
    )


def experiment(arguments: Namespace) -> None:
    """Run arms × seeds × lineages, or sum up again what is stored."""
    if arguments.recompute:
        for folder in map(Path, arguments.lineage):
            print(table_text(summarise(folder)))
            write_report(folder, folder / "report.html")
        return
    inputs = [
        Inputs.beside(
            lineage,
            probes=arguments.probes,
            examples=arguments.data,
            harmful=arguments.harmful,
            benign=arguments.benign,
            task=arguments.task,
        )
        for lineage in arguments.lineage
    ]
    arms = standard_arms(
        block=arguments.block,
        push=arguments.push,
        target=arguments.target,
        penalty_batch=arguments.penalty_batch,
        layers=_layers(arguments.layers),
    )
    _experiment_and_report(
        arguments,
        inputs,
        _recipe(arguments),
        arms,
        out=Path(arguments.out or f"experiments/{time.strftime('%Y%m%d-%H%M%S')}"),
        max_new_tokens=arguments.max_new_tokens,
        judge=arguments.judge,
        state_every=arguments.state_every,
        save_models=arguments.save_models,
        resume=arguments.resume,
        device=arguments.device,
    )


def directions(arguments: Namespace) -> None:
    """Fit v_rev and save it."""
    lineage = Lineage.load(arguments.lineage)
    probes = _probes(arguments).of_kind("harmful")
    if not arguments.all_probes:
        probes = probes.split(**SPLIT)[0]
    lineage.check()
    out = _free(Path(arguments.out))
    fitted = fit_directions(lineage, probes, position=_position(arguments.position))
    fitted.save(out)
    print(f"{out}: v_rev of {lineage.name} from {len(probes)} prompts")
    print("layer     gap  split-half  interval of the cosine under resampling")
    for row, layer in enumerate(fitted.layers):
        low, high = fitted.interval[row].tolist()
        gap, half = fitted.gap[row].item(), fitted.split_half[row].item()
        print(f"{layer:5d} {gap:7.3f}  {half:10.3f}  {low:.3f} to {high:.3f}")


def finetune(arguments: Namespace) -> None:
    """Fine-tune once and store the run."""
    out, recipe = Path(arguments.out), _recipe(arguments)
    source = Path(arguments.lineage)
    is_lineage = source.suffix == ".toml" or (source / "lineage.toml").is_file()
    tuned = _lineage_parts(arguments) if is_lineage else _model_parts(arguments)
    data = arguments.data or (source if source.is_dir() else source.parent) / "finetune.jsonl"
    examples = [row for _, row in read_jsonl(data)]
    store, described = RunStore(out.parent), tuned["intervention"]
    config = {
        "recipe": vars(recipe),
        "seed": arguments.seed,
        "data": file_hash(Path(data)),
        "model": tuned["model"].fingerprint(),
        "intervention": described.describe() if described else None,
    }
    tuning = FineTuning(examples=examples, seed=arguments.seed, **tuned, **vars(recipe))
    if arguments.resume:
        run = store.resume(out.name, config, break_lock=arguments.break_lock)
    else:
        run = store.create(config, out.name)
    with failing(run), Progress(recipe.steps, quiet=arguments.quiet) as progress:
        record_run(
            run,
            tuning,
            state_every=arguments.state_every,
            on_record=lambda run_id, record: progress(
                run_id, record.step, record.drift.mean_alignment if record.drift else None
            ),
        )
        if arguments.save_model:
            save_model(tuned["model"], run.folder / "model")
    run.finish()
    _print_run(run)


def evaluate(arguments: Namespace) -> None:
    """Print the behaviour scores of every phase of a lineage, or of a model."""
    source = Path(arguments.lineage)
    folder = source if source.is_dir() else source.parent
    harmful = ProbeSet.load(arguments.harmful or folder / "harmful.jsonl", kind="harmful")
    benign = ProbeSet.load(arguments.benign or folder / "benign.jsonl", kind="benign")
    beside = folder / "task.jsonl"
    task_file = arguments.task or (beside if beside.is_file() else None)
    task = ProbeSet.load(task_file, kind="benign") if task_file else None
    models: dict[str, Any] = {source.name: lambda: load_model(arguments.lineage)}
    judge = arguments.judge or "rules"
    if source.suffix == ".toml" or (source / "lineage.toml").is_file():
        lineage = Lineage.load(source)
        judge = arguments.judge or lineage.judge
        models = {
            phase.name: lambda phase=phase: lineage.load_model(phase) for phase in lineage.phases
        }
    found = {
        name: evaluate_model(
            load(), harmful, benign, task=task, judge=judge, max_new_tokens=arguments.max_new_tokens
        )
        for name, load in models.items()
    }
    if arguments.json:
        print(json.dumps({name: scores_to_json(scores) for name, scores in found.items()}))
        return
    for name, scores in found.items():
        print(name)
        for score in SCORE_NAMES:
            if (estimate := scores[score]).n:
                print(f"  {score:17} {estimate.value:8.3f}  "
                      f"[{estimate.low:.3f}, {estimate.high:.3f}]  n = {estimate.n}")


def report(arguments: Namespace) -> None:
    """Write report.html."""
    folder = Path(arguments.folder)
    out = Path(arguments.out or folder / "report.html")
    write_report(folder, out)
    print(out)


def organism(arguments: Namespace) -> None:
    """Re-create the organism's checkpoints, or its data files."""
    from workbench.organism.recipe import build, write_data

    out = Path(arguments.out)
    if out.exists() and any(out.iterdir()):
        raise RunError(f"{out}: already used; choose another output folder.")
    if arguments.what == "data":
        write_data(out, arguments.seed)
        print(out)
        return
    quality = build(out, arguments.seed, progress=lambda text: _say(arguments, text))
    print(f"{out}: organism of seed {arguments.seed}")
    for phase, measured in quality.items():
        told = ", ".join(f"{name} {value:.1%}" for name, value in measured.items())
        print(f"  {phase:10} {told}")


def doctor(arguments: Namespace) -> None:
    """Say what is installed, and what a lineage needs."""
    from workbench.doctor import installed, needed

    for line in installed():
        print(line)
    if arguments.lineage:
        for line in needed(Lineage.load(arguments.lineage)):
            print(line)


def _experiment_and_report(
    arguments: Namespace, inputs: list[Inputs], recipe: Recipe, arms: dict, **options: Any
) -> None:
    if arguments.seeds < 1:
        raise ConfigError(f"--seeds is {arguments.seeds}; it must be at least 1.")
    chosen = choose_arms(arguments.arms, arms)
    seeds = tuple(range(arguments.seeds))
    jobs = arguments.jobs or os.cpu_count() or 1
    total = len(inputs) * len(chosen) * len(seeds) * recipe.steps
    out = options.pop("out")
    with Progress(total, quiet=arguments.quiet) as progress:
        done = run_experiment(
            inputs,
            arms=chosen,
            seeds=seeds,
            recipe=recipe,
            out=out,
            jobs=jobs,
            on_progress=progress,
            **options,
        )
    write_report(done.folder, done.folder / "report.html")
    print(table_text(done.summary))
    print(f"{done.folder}/report.html")


def _lineage_parts(arguments: Namespace) -> dict[str, Any]:
    """Model, probes, directions and intervention for a measured fine-tuning."""
    lineage = Lineage.load(arguments.lineage)
    lineage.check()
    fit, penalty, measure = _probes(arguments).of_kind("harmful").split(**SPLIT)
    fitted = (
        ReversionDirections.load(arguments.direction)
        if arguments.direction
        else fit_directions(lineage, fit)
    )
    return {
        "model": lineage.load_model(lineage.aligned, device=arguments.device),
        "probes": measure,
        "directions": fitted,
        "intervention": _intervention(arguments, fitted, penalty),
    }


def _model_parts(arguments: Namespace) -> dict[str, Any]:
    """A model alone: nothing is measured, and nothing can intervene along a direction."""
    if arguments.intervention != "none":
        raise ConfigError("An intervention needs a direction: give a lineage, not a model.")
    if not arguments.data:
        raise ConfigError("Training a model alone needs --data.")
    return {
        "model": load_model(arguments.lineage, device=arguments.device),
        "intervention": None,
    }


def _intervention(
    arguments: Namespace, fitted: ReversionDirections, penalty: ProbeSet
) -> Intervention | None:
    shared: dict[str, Any] = {
        "strength": arguments.strength,
        "probes": penalty,
        "layers": _layers(arguments.layers),
    }
    if arguments.intervention == "none":
        return None
    if arguments.intervention == "block":
        return Block(fitted, **shared)
    if arguments.intervention == "push":
        return Push(fitted, target=arguments.target, **shared)
    raise ConfigError(
        f"Unknown intervention {arguments.intervention!r}; it may be none, block or push."
    )


def _probes(arguments: Namespace) -> ProbeSet:
    source = Path(arguments.lineage)
    beside = (source if source.is_dir() else source.parent) / "probes.jsonl"
    return ProbeSet.load(arguments.probes or beside)


def _recipe(arguments: Namespace) -> Recipe:
    measure_at = _numbers(arguments.measure_at, "--measure-at")
    return Recipe(
        steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        batch_size=arguments.batch_size,
        warmup=arguments.warmup,
        schedule=arguments.schedule,
        weight_decay=arguments.weight_decay,
        accumulation=arguments.accumulation,
        measure_at=measure_at,
    )


def _layers(text: str | None) -> tuple[int, ...] | None:
    return _numbers(text, "--layers")


def _numbers(text: str | None, option: str) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise ConfigError(f"{option} {text!r}: give whole numbers, such as 1,2,5.") from None


def _position(text: str) -> Any:
    if text in ("prompt_mean", "response_mean"):
        return text
    numbers = _numbers(text.replace("−", "-"), "--position")
    if numbers is None or len(numbers) != 1 or numbers[0] >= 0:
        raise ConfigError(f"--position {text!r}: count from the end, −1 is the last prompt token.")
    return numbers[0]


def _free(path: Path) -> Path:
    if path.exists():
        raise RunError(f"{path}: exists; choose another file, or remove it.")
    if not path.parent.is_dir():
        raise RunError(f"{path.parent}: no such folder; make it first.")
    return path


def _print_run(run: Run) -> None:
    frame = run.records()
    last = frame.iloc[-1]
    told = f"{run.folder}: {len(frame)} steps, loss {last['loss']:.3f}"
    if len(run.measured):
        told += f", alignment {last['mean_alignment']:+.3f}"
    print(told)


def _say(arguments: Namespace, text: str) -> None:
    if not arguments.quiet:
        print(text, file=sys.stderr)
