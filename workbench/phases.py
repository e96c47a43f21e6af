"""Phases and lineages: named checkpoints of one model, in training order."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from transformers import PretrainedConfig

from workbench.adapters import Adapter
from workbench.config import Recipe
from workbench.errors import CheckpointError, ConfigError, PhaseMismatchError
from workbench.limits import MAX_LINEAGE_BYTES, brief, is_file, is_folder
from workbench.loading import load_config, load_model
from workbench.models import Chat, HookedModel, Overflow
from workbench.resources import builtin_lineages, is_builtin_lineage
from workbench.series import KEYS, expand
from workbench.sources.source import Source, find_source
from workbench.tables import known_keys, place, read_toml, strings

NAMED = 12
"""How many phases an error names."""


@dataclass(frozen=True)
class Phase:
    """One training checkpoint of a model."""

    name: str
    model: str
    """Folder or hub id; of a whole checkpoint or of an adapter, or a file of raw weights."""

    revision: str | None = None
    """Branch, tag or commit; hub only."""

    checkpoint: int | None = None
    """Training step, for families whose revisions are named by it."""

    base: str | None = None
    """What an adapter sits on, by default what it names; whose config raw weights have."""

    tokenizer: str | None = None
    """Where the tokenizer is, if not with the model."""

    dtype: str | None = None
    """Data type to load the weights in; by default the checkpoint's own."""

    step: int | None = None
    """Of the training, where it is one of a series; set by `steps` or `revisions` in the file."""

    def source(self) -> Source:
        """Return what it is made of, without reading weights; errors as of `load_model`."""
        return find_source(
            self.model, revision=self.revision, checkpoint=self.checkpoint, base=self.base
        )

    def config(self) -> PretrainedConfig:
        """Return its config without reading weights; errors as of `load_model`."""
        return load_config(
            self.model,
            revision=self.revision,
            checkpoint=self.checkpoint,
            base=self.base,
            tokenizer=self.tokenizer,
        )


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

        Args:
            path: The file, a folder with `lineage.toml`, or, where there is no such path, the bare
                name of a built-in lineage.

        Raises:
            ConfigError: If the file is missing, malformed, or has unknown or missing keys.
        """
        path = Path(path)
        if is_builtin_lineage(path):
            return cls.builtin(path.name)
        if is_folder(path):
            path = path / "lineage.toml"
        if not is_file(path):
            known = f" Built in are {', '.join(builtin_lineages())}."
            raise ConfigError(
                f"{path}: no such lineage file.{known if len(path.parts) == 1 else ''}"
            )
        return _lineage_from(read_toml(path, MAX_LINEAGE_BYTES), path)

    @classmethod
    def builtin(cls, name: str) -> "Lineage":
        """Read a lineage file that comes with the package; nothing is downloaded by that.

        Raises:
            ConfigError: If there is none of that name; it lists those there are.
        """
        if name not in (known := builtin_lineages()):
            raise ConfigError(f"No lineage {name!r} is built in: {', '.join(known)} are.")
        return cls.load(known[name])

    def __post_init__(self) -> None:
        """Check roles against phases."""
        names = [phase.name for phase in self.phases]
        if twice := sorted(name for name, count in Counter(names).items() if count > 1):
            raise ConfigError(f"Lineage {self.name}: phases named twice: {_few(twice)}.")
        for role in ("witness", "aligned"):
            if role not in self.roles:
                raise ConfigError(f"Lineage {self.name}: [roles] names no {role}.")
        for role, name in self.roles.items():
            if name not in names:
                raise ConfigError(
                    f"Lineage {self.name}: {role} = {name!r} is not a phase; it has {_few(names)}."
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
        raise ConfigError(f"Lineage {self.name} has no phase {name!r}; it has {_few(names)}.")

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

    def load_model(
        self, phase: Phase, *, device: str | None = None, adapter: Adapter = "merged"
    ) -> HookedModel:
        """Load one phase; the caller drops it before loading the next.

        Args:
            phase: Which.
            device: Where to put it.
            adapter: Whether an adapter is merged, for reading, or live, for training.
        """
        return load_model(
            phase.model,
            revision=phase.revision,
            checkpoint=phase.checkpoint,
            base=phase.base,
            tokenizer=phase.tokenizer,
            dtype=phase.dtype,
            adapter=adapter,
            device=device,
            chat=self.chat,
            overflow=self.overflow,
        )

    def load_trainee(self, recipe: Recipe, *, device: str | None = None) -> HookedModel:
        """Load the aligned phase to be fine-tuned.

        If it is an adapter, that is live and trained on; a new one goes on top of it, merged.
        """
        adapter: Adapter = "live" if recipe.lora is None else "merged"
        return self.load_model(self.aligned, device=device, adapter=adapter)

    def check(self, *, every: bool = False) -> None:
        """Compare the configs of the phases, without reading weights.

        Of a series only the first, the last and those with a role are read, as each may be a
        request to the hub; the others are compared when they are read.

        Args:
            every: Compare all phases of a series.

        Raises:
            PhaseMismatchError: If two phases differ in architecture, width, depth or vocabulary.
            CheckpointError: If a phase cannot be read.
        """
        chosen = self.phases if every else self.milestones()
        first, *others = [(phase, _sizes(phase)) for phase in chosen]
        for phase, sizes in others:
            for what, value in sizes.items():
                if value != first[1][what]:
                    raise PhaseMismatchError(
                        f"Lineage {self.name}: {what} of {first[0].name} is {first[1][what]}, "
                        f"of {phase.name} {value}; phases must be checkpoints of one model."
                    )

    def milestones(self) -> list[Phase]:
        """Return the phases with a role, those of no series, and the ends of each series."""
        named = {*self.roles.values()}
        steps = [None, *(phase.step for phase in self.phases), None]
        return [
            phase
            for before, phase, after in zip(steps, self.phases, steps[2:], strict=False)
            if phase.name in named
            or phase.step is None
            or before is None
            or after is None
            or not before < phase.step < after
        ]


def _few(names: list[str]) -> str:
    """Names as they are listed in an error, the middle ones of many left out."""
    if len(names) <= NAMED:
        return str(names)
    return f"{len(names)} phases, {names[:3]} … {names[-1:]}"


def _sizes(phase: Phase) -> dict[str, Any]:
    config = phase.config()
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
    known_keys(data, ("name", "chat", "judge", "overflow", "roles", "phase"), str(path))
    tables = data.get("phase", [])
    roles = data.get("roles", {})
    if not isinstance(tables, list) or not tables or not all(isinstance(t, dict) for t in tables):
        raise ConfigError(f"{path}: needs [[phase]] tables, each with name and model.")
    if not isinstance(roles, dict):
        raise ConfigError(f"{path}: [roles] must be a table.")
    known_keys(roles, ("witness", "aligned", "sibling"), f"{path} [roles]")
    for key, choices in (("chat", get_args(Chat)), ("overflow", get_args(Overflow))):
        if (value := data.get(key)) not in (None, *choices):
            raise ConfigError(f"{path}: {key} = {brief(value)}; it may be {', '.join(choices)}.")
    strings({key: data[key] for key in ("name", "judge") if key in data} | roles, str(path))
    return Lineage(
        name=data.get("name", path.parent.name),
        phases=tuple(
            _phase_from(table, path, step)
            for told in tables
            for table, step in expand(told, path.parent, str(path))
        ),
        roles=roles,
        chat=data.get("chat"),
        judge=data.get("judge", "rules"),
        overflow=data.get("overflow", "refuse"),
    )


def _phase_from(table: dict[str, Any], path: Path, step: int | None = None) -> Phase:
    known = [field.name for field in fields(Phase) if field.name != "step"]
    known_keys(table, [*known, *KEYS], f"{path} [[phase]]")
    checkpoint = table.get("checkpoint", 0)
    if type(checkpoint) is not int or checkpoint < 0:
        raise ConfigError(
            f"{path} [[phase]]: checkpoint must be a whole number, not {brief(checkpoint)}."
        )
    words = {key: value for key, value in table.items() if key != "checkpoint"}
    strings(words, f"{path} [[phase]]")
    if missing := {"name", "model"} - table.keys():
        raise ConfigError(f"{path}: a [[phase]] lacks {' and '.join(sorted(missing))}.")
    places: dict[str, Any] = {
        key: place(table[key], path) for key in ("model", "base", "tokenizer") if key in table
    }
    return Phase(**table | places, step=step)
