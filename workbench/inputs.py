"""The files of one lineage's experiment: checkpoints, probes, training data, evaluation prompts."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from workbench.errors import ConfigError, ProbeError
from workbench.limits import is_file
from workbench.phases import Lineage
from workbench.probes import ProbeSet, load_examples
from workbench.resources import builtin_lineages, is_builtin_lineage, resource_folder

SPLIT = {"fit": 0.4, "penalty": 0.2, "measure": 0.4}
"""Shares of the probes: direction, penalty, drift."""


@dataclass(frozen=True)
class Splits:
    """The probes, split by cluster: what each part is used for."""

    fit: ProbeSet
    """Harmful prompts that directions are fitted on."""

    penalty: ProbeSet
    """Harmful prompts that interventions train on."""

    measure: ProbeSet
    """Harmful prompts that drift is measured on."""

    benign_fit: ProbeSet
    """Benign prompts of the fit split, for the refusal direction; may be empty."""

    benign_penalty: ProbeSet
    """Benign prompts of the penalty split, for an anchor; may be empty."""

    @classmethod
    def of(cls, probes: ProbeSet, *, seed: int = 0, where: str = "probes") -> "Splits":
        """Split probes of both kinds; `ProbeError` if there are too few harmful ones."""
        total = len(probes.of_kind("harmful"))
        parts = probes.split(**SPLIT, seed=seed)
        harmful = [part.of_kind("harmful") for part in parts]
        for name, part in zip(SPLIT, harmful, strict=True):
            if len(part) < 2:
                raise ProbeError(
                    f"{where}: the split leaves {len(part)} of {total} harmful prompts for "
                    f"{name!r}; a mean needs at least 2. Give more."
                )
        return cls(*harmful, *(part.of_kind("benign") for part in parts[:2]))


@dataclass(frozen=True)
class LoadedInputs(Splits):
    """What the files hold."""

    lineage: Lineage
    examples: tuple[dict[str, Any], ...]
    harmful: ProbeSet
    benign: ProbeSet
    task: ProbeSet


@dataclass(frozen=True)
class Inputs:
    """Where the inputs are; a folder that holds all under these names needs no more than itself."""

    lineage: Path
    """`lineage.toml`"""

    probes: Path
    """`probes.jsonl`: prompts for directions, penalty and drift."""

    examples: Path
    """`finetune.jsonl`: the harmless training data."""

    harmful: Path
    """`harmful.jsonl`: held-out harmful prompts, for harmfulness."""

    benign: Path
    """`benign.jsonl`: held-out benign prompts with responses, for over-refusal and KL."""

    task: Path | None = None
    """`task.jsonl`: held-out prompts with responses of the training data's task."""

    @classmethod
    def beside(cls, lineage: str | Path, **paths: str | Path | None) -> "Inputs":
        """Return the inputs of a lineage file or folder, with the files beside it as defaults.

        Args:
            lineage: The lineage file, the folder it is in, or the name of a built-in one.
            **paths: Files to use instead, by field name.

        Raises:
            ConfigError: If there is no lineage file.
            ProbeError: If a file is neither given nor there.
        """
        path = Path(lineage) / "lineage.toml" if Path(lineage).is_dir() else Path(lineage)
        if is_builtin_lineage(lineage):
            path = builtin_lineages()[str(lineage)]
        if not is_file(path):
            raise ConfigError(f"{path}: no such lineage file.")
        found: dict[str, Any] = {"lineage": path}
        for item in fields(cls)[1:]:
            name = "finetune" if item.name == "examples" else item.name
            beside = path.parent / f"{name}.jsonl"
            if (given := paths.get(item.name)) is not None:
                found[item.name] = Path(given)
            elif is_file(beside):
                found[item.name] = beside
            elif item.name != "task":
                raise ProbeError(
                    f"{beside}: no such file; give the {item.name} prompts, or put them there."
                )
        return cls(**found)

    @classmethod
    def organism(cls) -> "Inputs":
        """Return the inputs of the embedded model organism, which comes with the package."""
        return cls.beside(resource_folder("assets") / "organism")

    def load(self, *, split_seed: int = 0) -> LoadedInputs:
        """Read and check every file.

        Raises:
            ProbeError: If a file is unusable, or held-out prompts are among the probes.
        """
        probes = ProbeSet.load(self.probes)
        splits = Splits.of(probes, seed=split_seed, where=str(self.probes))
        harmful = ProbeSet.load(self.harmful, kind="harmful").of_kind("harmful")
        if not len(harmful):
            raise ProbeError(f'{self.harmful}: no harmful prompts; say "kind": "harmful".')
        benign = ProbeSet.load(self.benign, kind="benign").of_kind("benign")
        if not len(benign):
            raise ProbeError(f'{self.benign}: no benign prompts; say "kind": "benign".')
        task = ProbeSet.load(self.task, kind="benign") if self.task else benign
        examples = load_examples(self.examples)
        held_out = {
            self.harmful: harmful,
            self.benign: benign,
            self.task or self.benign: task,
        }
        self._check_apart(probes, held_out, set().union(*map(_prompts_of, examples)))
        return LoadedInputs(
            **vars(splits),
            lineage=Lineage.load(self.lineage),
            examples=examples,
            harmful=harmful,
            benign=benign,
            task=task,
        )

    def _check_apart(
        self, probes: ProbeSet, held_out: Mapping[Path, ProbeSet], trained: set[str]
    ) -> None:
        """Refuse prompts that are evaluated on and are also probes, or trained on."""
        for path, kept in held_out.items():
            if shared := probes.overlap(kept):
                raise ProbeError(
                    f"{path}: {len(shared)} prompts or clusters are also in {self.probes}, "
                    f"such as {min(shared)[:60]!r}; hold them out."
                )
        for path, kept in {self.probes: probes, **held_out}.items():
            if leaked := trained & set(kept.prompts):
                raise ProbeError(
                    f"{path}: {len(leaked)} prompts are also trained on in {self.examples}, such "
                    f"as {min(leaked)[:60]!r}; hold them out."
                )


def _prompts_of(example: dict[str, Any]) -> set[str]:
    """The prompts of a training example in any of its forms; empty ones if there are none."""
    messages = example.get("messages")
    if isinstance(messages, list) and all(isinstance(turn, dict) for turn in messages):
        asked = [turn.get("content") for turn in messages if turn.get("role") == "user"]
    else:
        asked = [example.get("prompt")]
    return {text for text in asked if isinstance(text, str)}
