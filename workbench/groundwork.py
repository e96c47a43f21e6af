"""The groundwork of an experiment: what all trials on one lineage share."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workbench.activations import Reading, read_activations
from workbench.config import Arm, Recipe
from workbench.directions import ReversionDirections, fit_between
from workbench.errors import PhaseMismatchError
from workbench.evaluation import check_sets
from workbench.files import write_json
from workbench.finetune import FineTuning
from workbench.inputs import LoadedInputs
from workbench.models import HookedModel
from workbench.nulls import Null, isotropic_null, matched_null
from workbench.phase_reading import PhaseReading, read_phase
from workbench.trial import make_intervention

DIRECTIONS = "directions.safetensors"


@dataclass(frozen=True)
class Groundwork:
    """v_rev, the direction to the sibling, and the nulls of one lineage."""

    directions: ReversionDirections
    sibling: ReversionDirections | None
    nulls: tuple[Null, ...]

    def save(self, folder: Path) -> None:
        """Write `folder`: it is there with all its files, or not at all."""
        draft = folder.with_name(f".{folder.name}")
        draft.mkdir(parents=True, exist_ok=True)
        self.directions.save(draft / DIRECTIONS)
        if self.sibling is not None:
            self.sibling.save(draft / "sibling.safetensors")
        write_json(draft / "nulls.json", {null.name: _null_json(null) for null in self.nulls})
        draft.rename(folder)


def lay_groundwork(
    held: LoadedInputs, arms: Sequence[Arm], recipe: Recipe, *, device: str | None = None
) -> Groundwork:
    """Read the phases of a lineage, one at a time, and check what its trials will need.

    Raises:
        WorkbenchError: If a phase cannot be read, or a trial could not start.
    """
    lineage = held.lineage
    lineage.check()
    witness = read_phase(lineage, lineage.witness, held.fit, device=device)
    model = lineage.load_model(lineage.aligned, device=device)
    aligned = PhaseReading.of(model, lineage.aligned.name, held.fit)
    directions = fit_between(witness, aligned, held.fit, lineage=lineage.name)
    check_trials(model, held, directions, arms, recipe)
    acts = read_activations(model, held.measure)
    del model  # before the next phase is loaded
    sibling = None
    if lineage.sibling is not None:
        reading = read_phase(lineage, lineage.sibling, held.fit, device=device)
        if reading.layers != aligned.layers:
            raise PhaseMismatchError("The sibling has other layers than the aligned phase.")
        sibling = fit_between(witness, reading, held.fit, lineage=lineage.name)
    matched = matched_null(directions, acts, clusters=held.measure.clusters)
    nulls = (isotropic_null(directions), matched)
    return Groundwork(directions, sibling, nulls)


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
        make_intervention(arm, directions, held.penalty)
    check_sets(model, held.harmful, held.benign, held.task)


def _null_json(null: Null) -> dict[str, Any]:
    return {
        "h0": null.h0,
        "p99": null.p99.tolist(),
        "aggregate_p99": null.aggregate_p99,
        "aggregate_p99_independent": null.aggregate_p99_independent,
    }
