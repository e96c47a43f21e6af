"""`workbench organism`: re-create the embedded model organism."""

import shutil
from argparse import Namespace
from pathlib import Path

from workbench.commands.options import tell
from workbench.errors import RunError
from workbench.storing import check_writable, writing
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
    check_writable(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.absolute().with_name(f".{out.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with writing(out):
            quality = build(draft, arguments.seed, progress=lambda text: tell(arguments, text))
            draft.replace(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    print(printable(f"{out}: organism of seed {arguments.seed}"))
    for phase, measured in quality.items():
        told = ", ".join(f"{name} {value:.1%}" for name, value in measured.items())
        print(f"  {phase:10} {told}")
