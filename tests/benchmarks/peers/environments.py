"""Install each tool into an environment of its own: `python environments.py [tool …]`.

Each environment is a venv with the exact versions of `requirements/TOOL.txt`, from the package
index; beside it stands TOOL.json with what was installed, or with the line that says why not.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[2]
FOLDER = HERE / ".environments"
REQUIREMENTS = HERE / "requirements"
SHOWN = ("torch", "transformers", "numpy")
"""What every tool's versions are shown of, besides its own."""


@dataclass(frozen=True)
class Environment:
    """Where a tool runs, or why it cannot."""

    name: str
    python: str
    """Its interpreter."""

    packages: dict[str, str] = field(default_factory=dict)
    """What is installed in it; empty if it is not."""

    failure: str | None = None
    """What pip said, if it would not install."""

    def versions(self) -> dict[str, str]:
        """Return the versions of what its requirements name."""
        named = [*SHOWN, *_named(self.name)]
        return {name: self.packages[name] for name in named if name in self.packages}


def names() -> list[str]:
    """Return all environments, the checkout's own first."""
    return ["workbench", *sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))]


def find(name: str) -> Environment:
    """Return an environment as it was installed.

    Raises:
        FileNotFoundError: If this script has not been run for it.
    """
    record = FOLDER / f"{name}.json"
    if not record.exists():
        raise FileNotFoundError(f"{name}: run python {HERE / 'environments.py'} {name} first.")
    return Environment(**json.loads(record.read_text(encoding="utf-8")))


def install(name: str) -> Environment:
    """Make an environment anew and record how that went."""
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    python = folder / "bin" / "python"
    failure = _run([sys.executable, "-m", "venv", folder]) or _run(
        [python, "-m", "pip", "install", "--quiet", *_arguments(name)]
    )
    packages = {} if failure else _packages(python)
    environment = Environment(name, str(python), packages, failure)
    told = json.dumps(asdict(environment), indent=1)
    (FOLDER / f"{name}.json").write_text(told, encoding="utf-8")
    return environment


def _arguments(name: str) -> list[str]:
    if name == "workbench":
        constraints = CHECKOUT / "tests" / "constraints.txt"
        return ["-c", str(constraints), "-e", f"{CHECKOUT}[trainer]"]
    return ["-r", str(REQUIREMENTS / f"{name}.txt")]


def _named(name: str) -> list[str]:
    if name == "workbench":
        return ["reversion-workbench", "transformer-lens"]
    lines = (REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line.split("==")[0].replace("_", "-").lower() for line in lines]


def _run(command: list) -> str | None:
    """Why a command failed, in its own words."""
    done = subprocess.run(command, capture_output=True, text=True, env=_surroundings())
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return " ".join(errors or lines[-1:]) or f"exit status {done.returncode}"


def _packages(python: Path) -> dict[str, str]:
    listing = [python, "-m", "pip", "list", "--format", "json"]
    done = subprocess.run(listing, capture_output=True, text=True, check=True)
    return {
        package["name"].replace("_", "-").lower(): package["version"]
        for package in json.loads(done.stdout)
    }


def _surroundings() -> dict[str, str]:
    """The caller's environment, without what would let one environment see another."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def main() -> None:
    """Install what is named on the command line, or everything, one after another."""
    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or names():
        environment = install(name)
        told = environment.failure or ", ".join(
            f"{package} {version}" for package, version in environment.versions().items()
        )
        print(f"{name}: {told}", flush=True)


if __name__ == "__main__":
    main()
