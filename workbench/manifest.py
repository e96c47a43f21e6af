"""The manifest of what is finished, a run or an experiment: its files by size and content."""

from pathlib import Path
from typing import Any

from workbench.files import DRAFT, file_hash
from workbench.shape import COUNT, NAME, Each

ENTRIES = Each({"bytes": COUNT, "sha256": NAME})

LATER = ("run.json", "lock", "state", "figures", "ablation", "report.html")
"""What is in no manifest: what goes with the run's end, and what is made of it afterwards."""


def manifest_of(folder: Path, part: str = ".") -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of every file, by its path in the folder of a run or experiment.

    Args:
        folder: Which.
        part: The folder in it that is listed.
    """
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": file_hash(folder / name)}
        for name in names_in(folder, part)
    }


def names_in(folder: Path, part: str = ".") -> list[str]:
    """Return the paths of what `manifest_of` lists."""
    files = [path.relative_to(folder) for path in (folder / part).rglob("*") if path.is_file()]
    kept = [path for path in files if path.parts[0] not in LATER and path.suffix != f".{DRAFT}"]
    return sorted(path.as_posix() for path in kept)


def unlike_manifest(folder: Path, manifest: dict[str, dict[str, Any]]) -> list[str]:
    """Return what is wrong with the files of a folder, each with its path."""
    wrong = []
    for name, told in manifest.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            wrong.append(f"{name!r}: the manifest names a file elsewhere")
        elif not path.is_file():
            wrong.append(f"{path}: is missing")
        elif (size := path.stat().st_size) != told["bytes"]:
            wrong.append(f"{path}: has {size} bytes; when it was finished it had {told['bytes']}")
        elif file_hash(path) != told["sha256"]:
            wrong.append(f"{path}: has other content than when it was finished")
    return wrong
