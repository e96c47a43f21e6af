"""`workbench experiment`: arms × seeds × lineages, and their summary and report."""

import os
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from workbench.arms import DEMO, Arm, choose_arms, dose_names, layer_names, standard_arms
from workbench.commands.options import recipe_of
from workbench.config import Recipe
from workbench.errors import ConfigError
from workbench.inputs import Inputs
from workbench.plots.report import write_report
from workbench.plots.table import table_text
from workbench.progress import Progress
from workbench.storing import check_writable
from workbench.summary import summarise
from workbench.text import printable


def run(arguments: Namespace) -> None:
    """Run arms × seeds × lineages, or sum up again what is stored."""
    if arguments.recompute:
        for folder in map(Path, arguments.lineage):
            check_writable(folder)
            print(table_text(summarise(folder)))
            write_report(folder, folder / "report.html")
        return
    if arguments.resume and not arguments.out:
        raise ConfigError("--resume needs --out: the folder of the experiment to continue.")
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
        {"block": arguments.block, "push": arguments.push},
        target=arguments.target,
        penalty_batch=arguments.penalty_batch,
        layers=arguments.layers,
    )
    arguments.arms = _arm_names(arguments, inputs[0])
    arguments.out = arguments.out or f"experiments/{time.strftime('%Y%m%d-%H%M%S')}"
    run_and_report(
        arguments,
        inputs,
        recipe_of(arguments),
        arms,
        evaluate_at=arguments.evaluate_at,
        max_new_tokens=arguments.max_new_tokens,
        judge=arguments.judge,
        state_every=arguments.state_every,
        save_models=arguments.save_models,
        device=arguments.device,
        on=arguments.on,
        threads=arguments.threads,
    )


def _arm_names(arguments: Namespace, inputs: Inputs) -> str | list[str]:
    """The arms asked for by name, by dose, or layer by layer."""
    if arguments.intervention is None:
        if arguments.strength or arguments.sweep_layers:
            raise ConfigError("--strength and --sweep-layers need --intervention: of what?")
        return arguments.arms or DEMO
    if arguments.arms:
        raise ConfigError("Give --arms or --intervention, not both.")
    names = [name.strip() for name in arguments.intervention.split(",")]
    doses = dose_names(names, arguments.strength) if arguments.strength else ["ordinary", *names]
    if not arguments.sweep_layers:
        return doses
    return ["ordinary", *layer_names(doses[1:], _depth(inputs))]


def _depth(inputs: Inputs) -> int:
    from workbench.phases import Lineage

    return Lineage.load(inputs.lineage).aligned.config().get_text_config().num_hidden_layers


def run_and_report(
    arguments: Namespace,
    inputs: list[Inputs],
    recipe: Recipe,
    arms: dict[str, Arm],
    **options: Any,
) -> None:
    """Run an experiment with the chosen arms, write its report and print its table.

    Args:
        arguments: Names of the arms, number of seeds and jobs, where to, whether to continue what
            is there, and whether to be quiet.
        inputs: Files of each lineage.
        recipe: Numbers of the fine-tuning.
        arms: Those to choose from.
        **options: Of `run_experiment`.
    """
    from workbench.experiment import run_experiment

    chosen = choose_arms(arguments.arms, arms)
    total = len(inputs) * len(chosen) * arguments.seeds * recipe.steps
    with Progress(total, quiet=arguments.quiet) as progress:
        done = run_experiment(
            inputs,
            arms=chosen,
            seeds=tuple(range(arguments.seeds)),
            recipe=recipe,
            # Runs wait for the disk at every record: one more than cores keeps the cores busy.
            jobs=(os.cpu_count() or 1) + 1 if arguments.jobs == 0 else arguments.jobs,
            on_progress=progress,
            out=Path(arguments.out),
            resume=arguments.resume,
            break_lock=arguments.break_lock,
            **options,
        )
    write_report(done.folder, done.folder / "report.html")
    print(table_text(done.summary))
    print(printable(f"{done.folder}/report.html"))
