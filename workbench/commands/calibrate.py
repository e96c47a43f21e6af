"""`workbench calibrate`: how often each null rejects in planted worlds."""

import json
from argparse import Namespace

from workbench.calibration import calibrate, table_text, to_json
from workbench.commands.options import tell


def run(arguments: Namespace) -> None:
    """Simulate the planted worlds and print what each null rejects in them."""
    found = calibrate(
        arguments.simulations,
        seed=arguments.seed,
        tell=lambda world: tell(arguments, f"simulating {world}"),
    )
    print(json.dumps(to_json(found)) if arguments.json else table_text(found))
