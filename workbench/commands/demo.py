"""`workbench demo`: the main job on the embedded organism."""

import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from workbench.arms import standard_arms
from workbench.commands.experiment import run_and_report
from workbench.commands.options import tell
from workbench.inputs import Inputs


def run(arguments: Namespace) -> None:
    """Run the main job on the embedded organism."""
    from workbench.organism.recipe import DEMO, DEMO_STRENGTHS, MAX_NEW_TOKENS

    recipe = replace(DEMO, steps=arguments.steps) if arguments.steps else DEMO
    tell(arguments, "Reading the phases of the organism; then one progress for all runs.")
    run_and_report(
        arguments,
        [Inputs.organism()],
        recipe,
        standard_arms(DEMO_STRENGTHS),
        out=Path(arguments.out or f"experiments/demo-{time.strftime('%Y%m%d-%H%M%S')}"),
        max_new_tokens=MAX_NEW_TOKENS,
    )
