"""What the hub holds of a repository: the commit of a revision, and why there is none."""

import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from huggingface_hub import (
    HfApi,
    constants,
    hf_hub_download,
    scan_cache_dir,
    snapshot_download,
)
from huggingface_hub.errors import (
    CacheNotFound,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from workbench.errors import CheckpointError, ConfigError, UnreachableError

CHECKPOINTS = {"EleutherAI/pythia": "step{}", "stanford-crfm/": "checkpoint-{}"}
"""How repositories that begin like this name the revision of a training step."""


@dataclass(frozen=True)
class HubFile:
    """A file of a repository, in the local cache."""

    path: Path
    commit: str
    """The commit that the revision stands for; all else is read from it, too."""


def checkpoint_revision(repository: str, checkpoint: int) -> str:
    """Return the revision of a training step, for families that name them by a rule.

    Raises:
        ConfigError: If the family has no such rule.
    """
    for start, pattern in CHECKPOINTS.items():
        if repository.startswith(start):
            return pattern.format(checkpoint)
    raise ConfigError(
        f"{repository}: no rule is known for how it names the checkpoint of step {checkpoint} "
        f"(only for {', '.join(f'{start}…' for start in CHECKPOINTS)}); give its revision."
    )


def find_file(repository: str, name: str, revision: str | None) -> HubFile | None:
    """Return a small file of a repository, or None if the repository lacks it.

    Raises:
        CheckpointError: If the repository or the revision is not there.
        UnreachableError: If the hub cannot be reached, and the cache does not have it.
    """
    where = repository if revision is None else f"{repository}, revision {revision!r}"
    try:
        path = Path(hf_hub_download(repository, name, revision=revision))
    except HFValidationError as error:
        raise CheckpointError(f"{repository}: neither a folder here nor a hub id.") from error
    except GatedRepoError as error:
        raise CheckpointError(
            f"{repository}: gated; accept its terms on its page on the hub, then log in with "
            "`hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{repository}: neither a folder here nor a repository on the hub; if it is private, "
            "log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(
            f"{where}: no such revision; {_revisions(repository, revision)}"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        if _is_cached(repository, revision):
            return None
        gone = CheckpointError if constants.HF_HUB_OFFLINE else UnreachableError
        raise gone(f"{where}: {_not_cached(repository)}") from error
    except EntryNotFoundError:
        return None
    except (HfHubHTTPError, OSError) as error:
        cause = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{where}: the hub does not give {name} ({cause}).") from error
    return HubFile(path, path.parent.name)


def fetch_folder(repository: str, commit: str, patterns: list[str]) -> Path:
    """Return a folder with those files of a repository whose names are like one of some patterns.

    Raises:
        CheckpointError: If they cannot be fetched.
    """
    try:
        return Path(snapshot_download(repository, revision=commit, allow_patterns=patterns))
    except (HfHubHTTPError, OSError) as error:
        cause = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{repository}: the hub does not give it ({cause}).") from error


def _is_cached(repository: str, revision: str | None) -> bool:
    """Whether the local cache holds files of a revision, so that others are taken for missing."""
    home = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repository, repo_type="model"))
    ref = home / "refs" / (revision or "main")
    commit = ref.read_text(encoding="utf-8") if ref.is_file() else revision
    return commit is not None and (home / "snapshots" / commit).is_dir()


def _revisions(repository: str, revision: str | None) -> str:
    """Say which revisions there are, those with a similar name first."""
    try:
        refs = HfApi().list_repo_refs(repository)
    except (HfHubHTTPError, OSError):
        return "look at the branches and tags on its page."
    names = [ref.name for ref in (*refs.branches, *refs.tags)]
    shown = get_close_matches(revision or "", names, 5, 0.5) or names[:5]
    return f"it has {len(names)}, such as {', '.join(shown)}." if names else "it has none."


def _not_cached(repository: str) -> str:
    """Say why a file that is not in the cache could not be fetched, and what is in the cache."""
    try:
        cached = sorted(
            ref
            for held in scan_cache_dir().repos
            if held.repo_id == repository
            for revision in held.revisions
            for ref in (revision.refs or {revision.commit_hash})
        )
    except (CacheNotFound, ValueError, OSError):  # none, or not a whole one
        cached = []
    held = f" (of this repository it has {', '.join(cached[:5])})" if cached else ""
    if constants.HF_HUB_OFFLINE:
        return (
            f"neither a folder here nor in the local cache{held}, and HF_HUB_OFFLINE is set; unset "
            "it once to download."
        )
    endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT)
    return (
        f"neither a folder here nor in the local cache{held}, and {endpoint} cannot be reached; "
        "check the connection, or give a folder."
    )
