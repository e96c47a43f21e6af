"""`workbench lab`: copies a notebook and opens JupyterLab on it."""

import importlib.util
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from workbench.errors import ConfigError, LabError
from workbench.resources import resource_folder
from workbench.text import printable


def run(arguments: Namespace) -> None:
    """Copy a notebook, unless a copy is there, and open JupyterLab on it."""
    offered = sorted(resource_folder("notebooks").glob("*.ipynb"))
    if arguments.list:
        print("\n".join(path.stem for path in offered))
        return
    kept = _copied(_chosen(arguments.name, offered), Path(arguments.out))
    if not arguments.no_open:
        _open(kept, ["--no-browser"] if arguments.no_browser else [])


def _chosen(name: str | None, offered: Sequence[Path]) -> Path:
    """The notebook with this number, or this in its name; by default the first."""
    wanted = (name or "").removesuffix(".ipynb").lower()
    if wanted.isdecimal():
        found = [path for path in offered if int(path.stem.partition("_")[0]) == int(wanted)]
    else:
        found = [path for path in offered if wanted in path.stem.lower()]
    if len(found) == 1 or (found and name is None):
        return found[0]
    several = f"{name!r} is in the names of {len(found)} notebooks" if found else f"No {name!r}"
    raise ConfigError(f"{several}; there are {', '.join(path.stem for path in offered)}.")


def _copied(notebook: Path, folder: Path) -> Path:
    """The copy in a folder, made if it is not there: it may hold work, and is never replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / notebook.name
    try:
        with copy.open("xb") as file:
            file.write(notebook.read_bytes())
        print(f"{printable(copy)}: copied; it opens with `jupyter lab`")
    except FileExistsError:
        print(f"{printable(copy)}: was there, and is left as it is")
    return copy


def _open(notebook: Path, options: Sequence[str]) -> None:
    """Run JupyterLab until the user ends it."""
    if importlib.util.find_spec("jupyterlab") is None:
        raise LabError("JupyterLab is not installed: pip install jupyterlab.")
    command = [sys.executable, "-m", "jupyterlab", os.fspath(notebook), *options]
    lab = subprocess.Popen(command)
    while True:
        try:
            status = lab.wait()
            break
        except KeyboardInterrupt:  # JupyterLab got it too, and asks whether to end
            continue
    if status:
        raise LabError(
            f"JupyterLab ended with status {status}: see what it says above, or start it yourself "
            f"on {notebook}."
        )
