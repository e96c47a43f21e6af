"""Conditions: what an arm does to one fine-tuning on one lineage.

From the arm's name to directions and interventions: control directions, re-fitted directions of
earlier runs, and the trace that an auxiliary gradient is scaled to.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from workbench.activations import read_activations
from workbench.aftermath import Aftermath, off_direction
from workbench.anchors import Anchor
from workbench.arms import Arm
from workbench.controls import (
    drift_directions,
    matched_directions,
    orthogonal_to,
    random_directions,
    refusal_directions,
    shuffled_directions,
)
from workbench.directions import ReversionDirections
from workbench.errors import ConfigError, ProbeError, RunError
from workbench.inputs import Splits
from workbench.interventions import Intervention
from workbench.models import HookedModel
from workbench.penalties import Block, Push
from workbench.probes import ProbeSet
from workbench.projections import ProjectGradient
from workbench.reading import Reading
from workbench.rehearsal import Rehearse, with_own_answers
from workbench.runs import AFTERMATH, CONTROL, Run
from workbench.training_edits import Ablate, Cap, Steer


@dataclass(frozen=True)
class Condition:
    """What one run does, and along what."""

    directions: ReversionDirections
    """v_rev, or the control in its place."""

    further: tuple[ReversionDirections, ...] = ()
    """Re-fitted directions that are blocked too."""

    trace: tuple[float, ...] | None = None
    """Gradient norms to scale the auxiliary gradient to."""

    def save(self, folder: Path, reversion: ReversionDirections) -> None:
        """Keep in the run folder the directions that are not v_rev."""
        if self.directions is not reversion:
            self.directions.save(folder / CONTROL)
        for number, further in enumerate(self.further, 1):
            further.save(folder / f"further-{number}.safetensors")


@dataclass(frozen=True)
class Ground:
    """What every fine-tuning of one lineage starts from."""

    model: HookedModel
    """Still the aligned one when this is made; then it is trained."""

    splits: Splits
    reversion: ReversionDirections
    """v_rev."""

    reading: Reading
    """The fit probes where v_rev was read."""

    acts: Float[Tensor, "layer prompt d_model"]
    """The aligned model's activations there, at the layers of v_rev."""

    @classmethod
    def of(cls, model: HookedModel, splits: Splits, reversion: ReversionDirections) -> "Ground":
        """Read the aligned model on the fit probes."""
        reading = Reading.of(model, splits.fit, reversion.provenance.get("position", -1))
        acts = read_activations(model, reading, layers=[*reversion.layers])
        return cls(model, splits, reversion, reading, acts)

    def aftermath(self) -> Aftermath:
        """Read what a fine-tuning has left on the fit probes by now."""
        layers = self.reversion.layers
        current = read_activations(self.model, self.reading, layers=[*layers])
        provenance = {"prompts": self.reversion.provenance.get("prompts", [])}
        rank = min(4, *current.shape[1:])
        return Aftermath.between(self.acts, current, layers, rank=rank, provenance=provenance)


def set_up(arm: Arm, ground: Ground, seed: int, earlier: Callable[[str], Run]) -> Condition:
    """Find out along what an arm acts.

    Args:
        arm: The condition.
        ground: Where it starts from.
        seed: Of control directions.
        earlier: Gives the finished run of another arm with the same seed.

    Raises:
        RunError: If a run that this one needs is not finished.
        ProbeError: If there are no benign probes for a direction that needs them.
    """
    reversion = ground.reversion
    trace = None if arm.match is None else _finished(earlier, arm.match).gradient_trace("block")
    directions = _directions(arm, ground, seed, earlier)
    if arm.orthogonal:
        directions = orthogonal_to(directions, reversion)
    further: tuple[ReversionDirections, ...] = ()
    if arm.rank > 1 and arm.source is not None:
        source = _finished(earlier, arm.source)
        known = tuple(
            ReversionDirections.load(source.folder / f"further-{number}.safetensors")
            for number in range(1, arm.rank - 1)
        )
        aftermath = Aftermath.load(source.folder / AFTERMATH)
        further = (*known, off_direction(aftermath, reversion, known))
    return Condition(directions, further, trace)


def make_intervention(
    arm: Arm,
    condition: Condition,
    penalty: ProbeSet,
    benign: ProbeSet,
    *,
    max_new_tokens: int = 32,
) -> Intervention | None:
    """Return what an arm does during fine-tuning, or None for nothing.

    Args:
        arm: What to do.
        condition: Along what.
        penalty: The harmful penalty split.
        benign: The benign one, with the aligned model's answers as responses; may be empty.
        max_new_tokens: Length of a rehearsed answer.

    Raises:
        ConfigError: If the intervention is unknown, or a setting makes no sense.
        ProbeError: If the prompts that it needs are missing.
        LayerError: If the directions lack a layer.
    """
    directions, layers = condition.directions, arm.layers
    on_probes: dict[str, Any] = {
        "probes": penalty,
        "layers": layers,
        "batch_size": arm.penalty_batch,
    }
    # A harmful prompt's own response may be compliance: nothing is to hold or rehearse that.
    unanswered = ProbeSet(tuple(replace(probe, response=None) for probe in penalty.probes))
    penalised = on_probes | {"hinge": arm.hinge, "trace": condition.trace}
    match arm.intervention:
        case "none":
            return None
        case "block":
            return Block(directions, arm.strength, further=condition.further, **penalised)
        case "push":
            return Push(directions, arm.strength, target=arm.target, **penalised)
        case "ablate":
            return Ablate(directions, arm.strength, layers=layers)
        case "steer":
            return Steer(directions, arm.strength, layers=layers)
        case "cap":
            return Cap(directions, arm.strength, layers=layers)
        case "project":
            return ProjectGradient(directions, arm.strength, **on_probes)
        case "anchor" if arm.anchor == "weights":
            return Anchor(arm.strength, kind="weights")
        case "anchor":
            probes = unanswered if arm.prompts == "penalty" else _wanted(arm, benign)
            return Anchor(arm.strength, probes=probes, batch_size=arm.penalty_batch)
        case "rehearse":
            return Rehearse(arm.strength, probes=unanswered, max_new_tokens=max_new_tokens)
    raise ConfigError(f"Unknown intervention {arm.intervention!r} in arm {arm.name!r}.")


def answered(arm: Arm, ground: Ground, *, max_new_tokens: int) -> ProbeSet:
    """Return the benign penalty prompts, with the aligned model's answers if the arm needs them."""
    if arm.intervention != "anchor" or arm.anchor != "kl" or arm.prompts != "benign":
        return ground.splits.benign_penalty
    prompts = _wanted(arm, ground.splits.benign_penalty)
    return with_own_answers(ground.model, prompts, max_new_tokens=max_new_tokens)


def check_condition(arm: Arm, splits: Splits, directions: ReversionDirections) -> None:
    """Raise what would stop a run of the arm at its start; no model is run."""
    if arm.direction == "refusal":
        _wanted(arm, splits.benign_fit)
    if arm.direction == "shuffled":
        shuffled_directions(directions, seed=0)
    stand_in = Condition(directions, (directions,) * (arm.rank - 1))
    make_intervention(arm, stand_in, splits.penalty, splits.benign_penalty)


def _directions(
    arm: Arm, ground: Ground, seed: int, earlier: Callable[[str], Run]
) -> ReversionDirections:
    reversion = ground.reversion
    match arm.direction:
        case "random":
            return random_directions(reversion, seed=seed)
        case "matched":
            return matched_directions(reversion, ground.acts, seed=seed)
        case "shuffled":
            return shuffled_directions(reversion, seed=seed)
        case "refusal":
            benign = read_activations(
                ground.model,
                _wanted(arm, ground.splits.benign_fit),
                position=ground.reading.position,
                layers=[*reversion.layers],
            )
            return refusal_directions(reversion, ground.acts, benign)
        case "drift":
            assert arm.source is not None
            source = _finished(earlier, arm.source)
            return drift_directions(reversion, Aftermath.load(source.folder / AFTERMATH))
    return reversion


def _finished(earlier: Callable[[str], Run], arm: str) -> Run:
    run = earlier(arm)
    if run.status != "done":
        raise RunError(f"{run.folder}: {run.status}, but a run needs it finished; resume it first.")
    return run


def _wanted(arm: Arm, benign: ProbeSet) -> ProbeSet:
    if len(benign) < 2:
        raise ProbeError(
            f'Arm {arm.name!r} needs benign probes: add prompts with "kind": "benign" to the '
            "probes file, at least 2 for every part of the split."
        )
    return benign
