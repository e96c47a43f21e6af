"""The groundwork of an experiment: what all trials on one lineage share."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from workbench.activations import read_activations
from workbench.arms import Arm
from workbench.artefacts import Artefact
from workbench.conditions import check_condition
from workbench.config import Recipe
from workbench.directions import ReversionDirections, fit_between
from workbench.errors import ProbeError
from workbench.evaluation import check_sets
from workbench.files import flush_folder, make_folder, write_atomic, write_json
from workbench.finetune import FineTuning
from workbench.inputs import LoadedInputs
from workbench.landmarks import SCHEMA, measure_landmarks
from workbench.models import HookedModel
from workbench.nulls import Null, isotropic_null, matched_null
from workbench.phase_reading import PhaseReading, read_phase
from workbench.phases import Lineage, Phase
from workbench.probes import ProbeSet
from workbench.reading import Reading
from workbench.readout import Readout, read_vocabulary
from workbench.surroundings import DIRECTIONS, NULLS, PHASES, READOUT, SIBLING


@dataclass(frozen=True)
class Groundwork:
    """v_rev of one lineage, and what its drifts are compared with."""

    directions: ReversionDirections
    sibling: ReversionDirections | None
    nulls: tuple[Null, ...]
    readout: Readout
    """v_rev through the unembedding of the aligned model."""

    evidence: Mapping[str, Tensor]
    """What p-values are computed from: `acts` of the aligned model on the measure probes and the
    `differences` witness − aligned on the fit probes [layer prompt d_model], and the numbers of
    their `measured_clusters` and `fitted_clusters` [prompt]."""

    others: Mapping[str, Tensor]
    """Unit vectors [layer d_model] between the other pairs of phases, by `from→to`."""

    phases: Artefact
    """Where the other phases lie, seen from the aligned model."""

    def save(self, folder: Path) -> None:
        """Write `folder`: it is there with all its files, or not at all."""
        draft = folder.with_name(f".{folder.name}")
        shutil.rmtree(draft, ignore_errors=True)
        make_folder(draft)
        self.directions.save(draft / DIRECTIONS)
        if self.sibling is not None:
            self.sibling.save(draft / SIBLING)
        self.phases.save(draft / PHASES, SCHEMA)
        write_json(draft / NULLS, {null.name: _null_json(null) for null in self.nulls})
        write_json(draft / READOUT, self.readout.to_json())
        for name, tensors in (("evidence", self.evidence), ("others", self.others)):
            write_atomic(draft / f"{name}.safetensors", save(dict(tensors)))
        draft.rename(folder)
        flush_folder(folder.parent)


def lay_groundwork(
    held: LoadedInputs,
    arms: Sequence[Arm],
    recipe: Recipe,
    *,
    judge: str | None = None,
    device: str | None = None,
) -> Groundwork:
    """Read the phases of a lineage, one at a time, and check what its trials will need.

    Raises:
        WorkbenchError: If a phase cannot be read, or a trial could not start.
    """
    lineage = held.lineage
    lineage.check()
    readings = {
        phase.name: reading
        for phase in lineage.phases
        if phase != lineage.aligned
        and (reading := _read(lineage, phase, held.fit, device)) is not None
    }
    # The aligned model comes last: it is needed for more than its reading.
    model = lineage.load_model(lineage.aligned, device=device)
    aligned = PhaseReading.of(model, lineage.aligned.name, held.fit)
    readings[aligned.phase] = aligned
    witness = readings[lineage.witness.name]
    directions = fit_between(witness, aligned, held.fit, lineage=lineage.name)
    check_trials(model, held, directions, arms, recipe)
    acts = read_activations(model, held.measure)
    readout = read_vocabulary(model, directions, judge=judge or lineage.judge)
    sibling = None
    if lineage.sibling is not None:
        beside = readings[lineage.sibling.name]
        sibling = fit_between(witness, beside, held.fit, lineage=lineage.name)
    return Groundwork(
        directions=directions,
        sibling=sibling,
        nulls=(
            isotropic_null(directions),
            matched_null(directions, acts, clusters=held.measure.clusters),
        ),
        readout=readout,
        evidence={
            "acts": acts,
            "differences": witness.acts - aligned.acts,
            "measured_clusters": _numbered(held.measure.clusters),
            "fitted_clusters": _numbered(held.fit.clusters),
        },
        others=_other_pairs(lineage, readings),
        phases=measure_landmarks(lineage, readings),
    )


def _read(
    lineage: Lineage, phase: Phase, probes: ProbeSet, device: str | None
) -> PhaseReading | None:
    """Read a phase; one without a role is left out if it has no use for such prompts."""
    try:
        return read_phase(lineage, phase, probes, device=device)
    except ProbeError:
        # A pretrained tokenizer, for one, may have no chat template.
        if phase.name in lineage.roles.values():
            raise
        return None


def _other_pairs(
    lineage: Lineage, readings: Mapping[str, PhaseReading]
) -> dict[str, Float[Tensor, "layer d_model"]]:
    """Unit directions from each phase to each earlier one, but for v_rev itself."""
    found = {}
    in_order = [phase.name for phase in lineage.phases if phase.name in readings]
    for earlier, later in combinations(in_order, 2):
        same_tokens = readings[earlier].tokens_hash == readings[later].tokens_hash
        if not same_tokens or (earlier, later) == (lineage.witness.name, lineage.aligned.name):
            continue
        mean = (readings[earlier].acts.double() - readings[later].acts.double()).mean(dim=1)
        norm = mean.norm(dim=-1, keepdim=True)
        if (norm > 0).all():  # two phases may share layers, or all their weights
            found[f"{later}→{earlier}"] = mean / norm
    return found


def _numbered(clusters: Sequence[str]) -> Tensor:
    """The cluster of each prompt as a number: no prompt text is kept."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    return torch.tensor([numbers[name] for name in clusters])


def check_trials(
    model: HookedModel,
    held: LoadedInputs,
    directions: ReversionDirections,
    arms: Sequence[Arm],
    recipe: Recipe,
) -> None:
    """Raise what would stop a trial at its start: prompts that do not fit, unusable settings.

    Args:
        model: The aligned model.
        held: Its inputs.
        directions: Its v_rev.
        arms: Conditions of the trials.
        recipe: Numbers of their fine-tuning.
    """
    directions.check_model(model.fingerprint())
    FineTuning(model, held.examples, **asdict(recipe))
    for probes in (held.penalty, held.measure):
        Reading.of(model, probes)
    for arm in arms:
        check_condition(arm, held, directions)
    check_sets(model, held.harmful, held.benign, held.task)


def _null_json(null: Null) -> dict[str, Any]:
    return {
        "h0": null.h0,
        "p99": null.p99.tolist(),
        "aggregate_p99": null.aggregate_p99,
        "aggregate_p99_independent": null.aggregate_p99_independent,
    }
