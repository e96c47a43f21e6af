"""`workbench organism`: re-create the embedded model organism."""

from argparse import Namespace
from pathlib import Path

from workbench.commands.options import tell
from workbench.errors import RunError
from workbench.text import printable


def run(arguments: Namespace) -> None:
    """Re-create the organism's checkpoints, or its data files."""
    from workbench.organism.recipe import build, write_data

    out = Path(arguments.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out}: already used; choose another output folder.")
    if arguments.what == "data":
        write_data(out, arguments.seed)
        print(printable(out))
        return
    quality = build(out, arguments.seed, progress=lambda text: tell(arguments, text))
    print(printable(f"{out}: organism of seed {arguments.seed}"))
    for phase, measured in quality.items():
        told = ", ".join(f"{name} {value:.1%}" for name, value in measured.items())
        print(f"  {phase:10} {told}")
