"""Files that come with the package: the organism's checkpoints, and the notebooks."""

from pathlib import Path

from workbench.errors import ConfigError


def assets_folder() -> Path:
    """Return the folder of assets: inside an installed wheel, beside the package in a checkout.

    Raises:
        ConfigError: If neither holds it.
    """
    package = Path(__file__).parent
    for folder in (package / "assets", package.parent / "assets"):
        if folder.is_dir():
            return folder
    raise ConfigError("The assets are missing from this installation; install the package again.")
