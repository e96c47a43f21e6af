"""Files that come with the package: checkpoints of the organism, lineages, notebooks."""

from pathlib import Path
from typing import Literal

from workbench.errors import ConfigError
from workbench.limits import is_there


def resource_folder(name: Literal["assets", "notebooks"]) -> Path:
    """Return a folder that comes with the package: inside a wheel, beside it in a checkout.

    Raises:
        ConfigError: If neither holds it.
    """
    package = Path(__file__).parent
    # Inside first: beside an installed package, `assets` would be somebody else's.
    for folder in (package / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise ConfigError(f"No {name} folder comes with this installation; install the package again.")


def builtin_lineages() -> dict[str, Path]:
    """Return the lineage files that come with the package, by name."""
    found = (resource_folder("assets") / "lineages").glob("*.toml")
    return {path.stem: path for path in sorted(found, key=lambda path: path.stem)}


def is_builtin_lineage(source: str | Path) -> bool:
    """Tell the bare name of a built-in lineage from a path, which goes first."""
    path = Path(source)
    return len(path.parts) == 1 and not is_there(path) and path.name in builtin_lineages()
