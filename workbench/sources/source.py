"""Where a model comes from: what a folder, a file or a hub id turns out to hold."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workbench.errors import CheckpointError, ConfigError
from workbench.limits import (
    MAX_CONFIG_BYTES,
    MAX_INDEX_BYTES,
    is_file,
    is_folder,
    is_there,
    parse_json,
    read_bounded,
)
from workbench.sources.hub import checkpoint_revision, fetch_folder, find_file
from workbench.sources.sizes import check_files, check_rank, check_weights_file

Kind = Literal["checkpoint", "adapter", "weights"]

WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin")
RAW_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt")
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
POINTER = b"version https://git-lfs"
"""How a file begins that Git LFS has not fetched yet."""


@dataclass(frozen=True)
class Source:
    """A place that holds a model, or what becomes one together with another."""

    place: str
    """A folder, a file, or a hub id."""

    kind: Kind
    """A whole checkpoint, a PEFT adapter, or a file of raw weights."""

    commit: str | None = None
    """Of the hub's repository."""

    base: "Source | None" = None
    """What an adapter sits on; whose config and tokenizer raw weights have."""

    trained_on: str | None = None
    """What an adapter itself names as its base."""

    @property
    def described(self) -> str:
        """How errors call it."""
        return self.place if self.commit is None else f"{self.place}@{self.commit[:12]}"

    @property
    def composed(self) -> str | None:
        """Say what it is made of, if it is no whole checkpoint."""
        if self.base is None:
            return None
        if self.kind == "weights":
            return f"raw weights {self.place} with the config of {self.base.described}"
        elsewhere = self.trained_on and self.trained_on != self.base.place
        named = f" (it names {self.trained_on})" if elsewhere else ""
        return f"adapter {self.place} on {self.base.described}{named}"

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer is expected there: an adapter may have one, raw weights have none."""
        return self.kind == "checkpoint" or has_tokenizer(self.place)

    @property
    def root(self) -> "Source":
        """The whole checkpoint at the bottom."""
        return self if self.base is None else self.base.root

    @property
    def with_tokenizer(self) -> "Source":
        """The topmost that has one."""
        return self if self.base is None or self.has_tokenizer else self.base.with_tokenizer

    @property
    def adapters(self) -> list["Source"]:
        """The adapters on it, the lowest first."""
        below = [] if self.base is None else self.base.adapters
        return [*below, self] if self.kind == "adapter" else below


def find_source(
    source: str | Path,
    *,
    revision: str | None = None,
    checkpoint: int | None = None,
    base: str | Path | None = None,
) -> Source:
    """Return what `source` holds, without reading weights; arguments as in `load_model`.

    Raises:
        CheckpointError: If there is nothing, or files are missing.
        ConfigError: If revision, checkpoint or base make no sense for it.
    """
    if checkpoint is not None:
        if revision is not None:
            raise ConfigError(f"{source}: give a revision or a checkpoint, not both.")
        revision = checkpoint_revision(str(source), checkpoint)
    if not is_path(source):
        return _on_hub(str(source), revision, base)
    if revision is not None:
        raise ConfigError(
            f"{source}: a folder here has no revisions ({revision!r}); name a hub id."
        )
    path = _expanded(source)
    if is_file(path):
        return _file(path, base)
    if not is_folder(path):
        raise CheckpointError(f"{path}: no such folder; give a folder of save_pretrained.")
    if _is_adapter(path):
        return _adapter(path, base)
    _refuse_base(path, base)
    _check_folder(path)
    return Source(str(path), "checkpoint")


def places_here(source: str | Path, base: str | Path | None = None) -> list[Path]:
    """Return the folders and files here that a model comes from, an adapter's base among them.

    Arguments as in `find_source`; what is on the hub is left out, and nothing is refused.
    """
    places: list[Path] = []
    below: str | Path | None = source
    while below is not None and is_there(place := _expanded(below)):
        if place.resolve() in (other.resolve() for other in places):
            break  # adapters that sit on each other
        places.append(place)
        below, base = base, None
        if below is None and (place / "adapter_config.json").is_file():
            with suppress(CheckpointError):
                named = read_json(place / "adapter_config.json").get("base_model_name_or_path")
                below = None if named is None else _beside(place, str(named))
    return places


def is_path(source: str | Path) -> bool:
    """Tell a folder or file from a hub id, also where it is missing."""
    if isinstance(source, Path) or source.startswith((".", "/", "~")) or is_there(source):
        return True
    return source.endswith(RAW_SUFFIXES)


def has_tokenizer(folder: str | Path) -> bool:
    """Whether a folder here holds the files of a tokenizer."""
    return any(is_file(Path(folder) / file) for file in TOKENIZER_FILES)


def _expanded(source: str | Path) -> Path:
    """A path whose ~ is a home; that of nobody stays as it is."""
    with suppress(RuntimeError):
        return Path(source).expanduser()
    return Path(source)


def _on_hub(repository: str, revision: str | None, base: str | Path | None) -> Source:
    config = find_file(repository, "config.json", revision)
    commit = config.commit if config else revision
    # Some adapters have the config of their base beside theirs.
    if (adapter := find_file(repository, "adapter_config.json", commit)) is not None:
        # Adapters are small: all of it comes at once, and then it is a folder like others.
        patterns = ["adapter_*", "tokenizer*", "*.jinja", "*.txt", "*.json"]
        return _adapter(fetch_folder(repository, adapter.commit, patterns), base)
    if config is None:
        raise CheckpointError(
            f"{repository}: no config.json there; it holds no transformers model."
        )
    _refuse_base(repository, base)
    return Source(repository, "checkpoint", config.commit)


def _file(path: Path, base: str | Path | None) -> Source:
    if path.suffix not in RAW_SUFFIXES:
        raise CheckpointError(f"{path}: not a file of weights ({', '.join(RAW_SUFFIXES)}).")
    if base is None:
        raise ConfigError(
            f"{path}: raw weights say nothing of their architecture; name the model whose config "
            "and tokenizer they have as base."
        )
    _refuse_pointers(path)
    check_weights_file(path)
    under = find_source(base)
    if under.kind != "checkpoint":
        raise ConfigError(f"{base}: the base of raw weights must be a whole checkpoint.")
    return Source(str(path), "weights", base=under)


def _is_adapter(folder: Path) -> bool:
    if not (folder / "adapter_config.json").is_file():
        return False
    whole = [path for path in _weights(folder) if not path.name.startswith("adapter_")]
    if whole and (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder}: holds a whole model and an adapter; move one of them to another folder."
        )
    return True


def _adapter(folder: Path, base: str | Path | None) -> Source:
    told = read_json(folder / "adapter_config.json")
    check_files(folder)
    check_rank(told, folder)
    if not any(folder.glob("adapter_model*")):
        raise CheckpointError(f"{folder}: no adapter_model.safetensors beside adapter_config.json.")
    named = base or told.get("base_model_name_or_path")
    if not named or not isinstance(named, str | Path):
        raise CheckpointError(f"{folder}: the adapter does not name its base; give it as base.")
    below = _beside(folder, named)
    if folder.resolve() in (place.resolve() for place in places_here(below)):
        raise CheckpointError(f"{folder}: the adapter sits on itself; name its base as base.")
    revision = None if base or is_path(named) else told.get("revision")
    try:
        under = find_source(below, revision=revision)
    except CheckpointError as error:
        if base is not None:
            raise
        raise CheckpointError(
            f"{folder}: its base is not to be had; give another place of it as base ({error})"
        ) from error
    itself = told.get("base_model_name_or_path")
    return Source(str(folder), "adapter", base=under, trained_on=itself and str(itself))


def _beside(folder: Path, named: str | Path) -> str | Path:
    """What an adapter names as its base: relative to the adapter, or to where training ran."""
    beside = folder / named
    return beside if is_folder(beside) else named


def _refuse_base(source: str | Path, base: str | Path | None) -> None:
    if base is not None:
        raise ConfigError(f"{source}: a whole checkpoint has no base; leave out {str(base)!r}.")


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no config.json; give a folder of save_pretrained.")
    if not _weights(folder):
        raise CheckpointError(f"{folder}: no weights (*.safetensors) beside config.json.")
    check_files(folder)
    for index in INDICES:
        if (folder / index).is_file():
            if (alone := folder / index.removesuffix(".index.json")).is_file():
                raise CheckpointError(
                    f"{folder}: holds {alone.name} and {index}, one of which is left from another "
                    "save; remove it."
                )
            shards = read_json(folder / index).get("weight_map")
            if not isinstance(shards, dict) or not all(
                isinstance(name, str) for name in shards.values()
            ):
                raise CheckpointError(f"{folder / index}: damaged; copy it again.")
            if missing := sorted({*shards.values()} - {path.name for path in folder.iterdir()}):
                raise CheckpointError(
                    f"{folder}: {len(missing)} of {len({*shards.values()})} shards are missing, "
                    f"such as {missing[0]}; copy them again."
                )
    for path in _weights(folder):
        _refuse_pointers(path)


def _weights(folder: Path) -> list[Path]:
    found = [path for pattern in WEIGHT_PATTERNS for path in sorted(folder.glob(pattern))]
    return [path for path in found if not is_folder(path)]


def _refuse_pointers(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise CheckpointError(f"{path}: a Git LFS pointer, not weights; run `git lfs pull`.")


def read_json(path: Path) -> dict:
    """Return a JSON object of a checkpoint.

    Raises:
        CheckpointError: If it is something else, or damaged.
    """
    limit = MAX_INDEX_BYTES if path.name in INDICES else MAX_CONFIG_BYTES
    content = read_bounded(path, limit, CheckpointError)
    try:
        found = parse_json(content, once=False)  # as the loaders read it
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged ({error}); copy it again.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: damaged (not an object); copy it again.")
    return found
