"""`workbench organism`: re-create the embedded model organism."""

import shutil
from argparse import Namespace
from pathlib import Path

from workbench.commands.options import tell
from workbench.errors import RunError
from workbench.files import draft_of, flush_tree, make_folder
from workbench.storing import check_writable, writing
from workbench.text import printable


def run(arguments: Namespace) -> None:
    """Re-create the organism's checkpoints, or its data files."""
    from workbench.organism.recipe import build, write_data

    out = Path(arguments.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out}: already used; choose another output folder.")
    check_writable(out)
    make_folder(out.absolute().parent)
    draft, quality = draft_of(out.absolute()), {}
    try:
        with writing(out):
            if arguments.what == "data":
                write_data(draft, arguments.seed)
            else:
                quality = build(draft, arguments.seed, progress=lambda text: tell(arguments, text))
            flush_tree(draft)
            draft.replace(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    told = f"{out}: organism of seed {arguments.seed}" if quality else str(out)
    print(printable(told))
    for phase, measured in quality.items():
        told = ", ".join(f"{name} {value:.1%}" for name, value in measured.items())
        print(f"  {phase:10} {told}")
