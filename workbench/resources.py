"""Files that come with the package: the organism's checkpoints, and the notebooks."""

from pathlib import Path
from typing import Literal

from workbench.errors import ConfigError


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
