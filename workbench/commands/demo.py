"""`workbench demo`: the main job on the embedded organism."""

import time
from argparse import Namespace
from dataclasses import replace

from workbench.arms import standard_arms
from workbench.commands.experiment import run_and_report
from workbench.commands.options import tell
from workbench.errors import ConfigError
from workbench.inputs import Inputs


def run(arguments: Namespace) -> None:
    """Run the main job on the embedded organism."""
    from workbench.organism.recipe import DEMO, DEMO_STRENGTHS, MAX_NEW_TOKENS

    if arguments.resume and not arguments.out:
        raise ConfigError("--resume needs --out: the folder of the demo to continue.")
    arguments.out = arguments.out or f"experiments/demo-{time.strftime('%Y%m%d-%H%M%S')}"
    recipe = replace(DEMO, steps=arguments.steps) if arguments.steps else DEMO
    tell(arguments, "Reading the phases of the organism; then one progress for all runs.")
    run_and_report(
        arguments,
        [Inputs.organism()],
        recipe,
        standard_arms(DEMO_STRENGTHS),
        max_new_tokens=MAX_NEW_TOKENS,
        state_every=1,
    )
