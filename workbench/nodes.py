"""What a node of a cluster does: see that it is like the others, and run a trial."""

import hashlib
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from workbench import __version__, stopping
from workbench.config import package_versions
from workbench.errors import RunError, causes
from workbench.files import file_hash
from workbench.locks import is_held
from workbench.trial import Trial, run_trial


@dataclass(frozen=True)
class Surety:
    """What has to be so on a node, as it is where the experiment was started."""

    host: str
    versions: Mapping[str, str]
    files: Mapping[Path, str]
    """Their hashes."""

    @classmethod
    def of(cls, trials: Sequence[Trial]) -> "Surety":
        """Take it from this process and the files of the trials."""
        paths = {trial.directions for trial in trials}
        for trial in trials:
            paths |= {path for path in _paths(trial).values() if path}
        # The lock's nonce: the same folder, not one of the same name.
        paths |= {path for trial in trials if (path := trial.store.parent / "lock").is_file()}
        return cls(
            socket.gethostname(), versions(), {path: file_hash(path) for path in sorted(paths)}
        )

    def check(self) -> None:
        """Raise `RunError` if something is not so here."""
        node, here = f"Node {socket.gethostname()}", versions()
        for name in sorted({*self.versions, *here}):
            told, found = (held.get(name, "none") for held in (self.versions, here))
            if told != found:
                raise RunError(
                    f"{node} has {name} {found}, {self.host} {told}: install the same on both."
                )
        for path, wanted in self.files.items():
            seen = "another file" if path.is_file() else "no file"
            if not path.is_file() or file_hash(path) != wanted:
                raise RunError(
                    f"{node} sees {seen} at {path}, unlike {self.host}: the inputs and --out must "
                    "be on storage that every node has at the same place."
                )


def versions() -> dict[str, str]:
    """Return the versions that decide a run's numbers; of this package with its source's hash."""
    told = {name: found.partition("+")[0] for name, found in package_versions().items()}
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return told | {"reversion-workbench": f"{__version__} ({digest.hexdigest()[:8]})"}


def _paths(trial: Trial) -> dict[str, Path | None]:
    return {item.name: getattr(trial.inputs, item.name) for item in fields(trial.inputs)}


def absolute(trial: Trial) -> Trial:
    """Return the trial with paths that mean the same in every process."""
    paths = {name: path.absolute() for name, path in _paths(trial).items() if path}
    return replace(
        trial,
        store=trial.store.absolute(),
        inputs=replace(trial.inputs, **paths),
        directions=trial.directions.absolute(),
    )


def check_here(surety: Surety, locks: Sequence[Path]) -> list[Path]:
    """See that this node is fit; return the locks whose holder ran here and is gone."""
    surety.check()
    return [lock for lock in locks if lock.exists() and not is_held(lock)]


def run_here(trial: Trial, surety: Surety, threads: int, argv: Sequence[str]) -> bool:
    """Run a trial, or what is left of it, on this node; return whether it came to its end.

    It ends before if it is told to stop: interrupted, as Ray does to cancel it, or terminated.
    """
    surety.check()  # the node may have come later
    sys.argv[:] = argv
    torch.set_num_threads(threads)
    with stopping.heeding(worker=True):
        try:
            with stopping.instead(None):
                run_trial(trial)
        except BaseException as error:
            if any(isinstance(cause, KeyboardInterrupt) for cause in causes(error)):
                return False
            raise
    return True
