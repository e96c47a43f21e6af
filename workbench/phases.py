"""Phases and lineages: named checkpoints of one model, in training order."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from workbench.errors import CheckpointError, ConfigError, PhaseMismatchError
from workbench.loading import load_config, load_model
from workbench.models import Chat, HookedModel, Overflow

MAX_LINEAGE_BYTES = 1_000_000


@dataclass(frozen=True)
class Phase:
    """One training checkpoint of a model."""

    name: str
    model: str
    """Folder or hub id."""

    revision: str | None = None
    """Branch, tag or commit; hub only."""

    dtype: str | None = None
    """Data type to load the weights in; by default the checkpoint's own."""


@dataclass(frozen=True)
class Lineage:
    """The phases of one model in training order, and which of them is who."""

    name: str
    phases: tuple[Phase, ...]
    roles: Mapping[str, str]
    """Phase names of `witness`, `aligned` and, where there is one, `sibling`."""

    chat: Chat | None = None
    judge: str = "rules"
    """Name of the rule that tells refusing from complying answers."""

    overflow: Overflow = "refuse"
    """What happens to texts that are too long for the model."""

    @classmethod
    def load(cls, path: str | Path) -> "Lineage":
        """Read a lineage file (TOML); relative model paths are relative to the file.

        Raises:
            ConfigError: If the file is missing, malformed, or has unknown or missing keys.
        """
        path = Path(path)
        if path.is_dir():
            path = path / "lineage.toml"
        if not path.is_file():
            raise ConfigError(f"{path}: no such lineage file.")
        if path.stat().st_size > MAX_LINEAGE_BYTES:
            raise ConfigError(f"{path}: larger than 1 MB; this is not a lineage file.")
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(f"{path}: not a TOML file: {error}.") from error
        return _lineage_from(data, path)

    def __post_init__(self) -> None:
        """Check roles against phases."""
        names = [phase.name for phase in self.phases]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"Lineage {self.name}: phases named twice: {sorted(twice)}.")
        for role in ("witness", "aligned"):
            if role not in self.roles:
                raise ConfigError(f"Lineage {self.name}: [roles] names no {role}.")
        for role, name in self.roles.items():
            if name not in names:
                raise ConfigError(
                    f"Lineage {self.name}: {role} = {name!r} is not a phase; it has {names}."
                )
        if len(set(self.roles.values())) < len(self.roles):
            raise ConfigError(
                f"Lineage {self.name}: one phase has two roles ({dict(self.roles)}); witness, "
                "aligned and sibling must be different checkpoints."
            )

    def phase(self, name: str) -> Phase:
        """Return the phase called `name`."""
        for phase in self.phases:
            if phase.name == name:
                return phase
        names = [phase.name for phase in self.phases]
        raise ConfigError(f"Lineage {self.name} has no phase {name!r}; it has {names}.")

    @property
    def witness(self) -> Phase:
        """The phase that v_rev points to."""
        return self.phase(self.roles["witness"])

    @property
    def aligned(self) -> Phase:
        """The phase that fine-tuning starts from."""
        return self.phase(self.roles["aligned"])

    @property
    def sibling(self) -> Phase | None:
        """An aligned phase made from the same witness with another alignment seed, if any."""
        return self.phase(self.roles["sibling"]) if "sibling" in self.roles else None

    def load_model(self, phase: Phase, *, device: str | None = None) -> HookedModel:
        """Load one phase; the caller drops it before loading the next."""
        model = load_model(
            phase.model,
            revision=phase.revision,
            dtype=phase.dtype,
            device=device,
            chat=self.chat,
            overflow=self.overflow,
        )
        return model

    def check(self) -> None:
        """Compare the configs of all phases, without reading weights.

        Raises:
            PhaseMismatchError: If two phases differ in architecture, width, depth or vocabulary.
            CheckpointError: If a phase cannot be read.
        """
        first, *others = [(phase, _sizes(phase)) for phase in self.phases]
        for phase, sizes in others:
            for what, value in sizes.items():
                if value != first[1][what]:
                    raise PhaseMismatchError(
                        f"Lineage {self.name}: {what} of {first[0].name} is {first[1][what]}, "
                        f"of {phase.name} {value}; phases must be checkpoints of one model."
                    )


def _sizes(phase: Phase) -> dict[str, Any]:
    config = load_config(phase.model, revision=phase.revision)
    text = config.get_text_config()
    try:
        return {
            "architecture": (config.architectures or [config.model_type])[0],
            "width": text.hidden_size,
            "depth": text.num_hidden_layers,
            "vocabulary": text.vocab_size,
        }
    except AttributeError as error:
        raise CheckpointError(f"{phase.model}: config.json lacks a size ({error}).") from error


def _lineage_from(data: dict[str, Any], path: Path) -> Lineage:
    _known_keys(data, ("name", "chat", "judge", "overflow", "roles", "phase"), str(path))
    tables = data.get("phase", [])
    roles = data.get("roles", {})
    if not isinstance(tables, list) or not tables or not all(isinstance(t, dict) for t in tables):
        raise ConfigError(f"{path}: needs [[phase]] tables, each with name and model.")
    if not isinstance(roles, dict):
        raise ConfigError(f"{path}: [roles] must be a table.")
    _known_keys(roles, ("witness", "aligned", "sibling"), f"{path} [roles]")
    for key, choices in (("chat", get_args(Chat)), ("overflow", get_args(Overflow))):
        if (value := data.get(key)) not in (None, *choices):
            raise ConfigError(f"{path}: {key} = {value!r}; it may be {', '.join(choices)}.")
    _strings({key: data[key] for key in ("name", "judge") if key in data} | roles, str(path))
    return Lineage(
        name=data.get("name", path.parent.name),
        phases=tuple(_phase_from(table, path) for table in tables),
        roles=roles,
        chat=data.get("chat"),
        judge=data.get("judge", "rules"),
        overflow=data.get("overflow", "refuse"),
    )


def _phase_from(table: dict[str, Any], path: Path) -> Phase:
    _known_keys(table, [field.name for field in fields(Phase)], f"{path} [[phase]]")
    _strings(table, f"{path} [[phase]]")
    if missing := {"name", "model"} - table.keys():
        raise ConfigError(f"{path}: a [[phase]] lacks {' and '.join(sorted(missing))}.")
    beside = path.parent / table["model"]
    is_folder = beside.exists() or table["model"].startswith((".", "/"))
    return Phase(**table | {"model": str(beside) if is_folder else table["model"]})


def _known_keys(table: dict[str, Any], known: Any, where: str) -> None:
    if unknown := sorted(set(table) - set(known)):
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; it may have {', '.join(known)}.")


def _strings(table: dict[str, Any], where: str) -> None:
    for key, value in table.items():
        if not isinstance(value, str) or "\0" in value:
            raise ConfigError(f"{where}: {key} must be a string, not {value!r}.")
