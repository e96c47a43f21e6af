"""Interventions during fine-tuning: what is added to, or done to, ordinary training.

An `Intervention` says what to do and is immutable; `start` reads what it needs from the aligned
model and returns an `Active` one, which the training loop asks at each step for a change to the
batch, a hook in the training forward, an auxiliary loss, or a change to the optimiser's update. At
strength 0 none is started: training is ordinary, bit for bit. Several compose.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.directions import ReversionDirections
from workbench.encoding import Encoded
from workbench.errors import ConfigError, LayerError, ProbeError
from workbench.models import Hook, HookedModel
from workbench.probes import ProbeSet


class Active:
    """A started intervention; each method is one way to intervene, and does nothing by default.

    Within a step they are called in the order in which they stand here.
    """

    def __init__(self, name: str, generator: torch.Generator) -> None:
        self.name = name
        self.generator = generator
        """The intervention's own randomness, apart from data order and dropout."""

    def mix_batch(self, batch: list[Encoded]) -> list[Encoded]:
        """Return the training batch to use instead of `batch`."""
        return batch

    def before_forward(self, model: HookedModel, items: Sequence[Encoded]) -> None:
        """Read what the hooks need, on the micro-batch that is trained on next, without hooks."""

    def forward_hooks(self) -> list[Hook]:
        """Return hooks for the training forward; they stay on through backward."""
        return []

    def penalty(self, model: HookedModel) -> Float[Tensor, ""] | None:  # noqa: ARG002
        """Return an auxiliary loss to add to the task loss, strength included."""
        return None

    def penalty_scale(self, step: int, gradient_norm: float) -> float:  # noqa: ARG002
        """Return the factor for the auxiliary gradient of this step."""
        return 1.0

    edits_update: ClassVar[bool] = False
    """Whether the next two do anything; if not, the loop keeps no copy of the weights."""

    def before_update(self, model: HookedModel, parameters: Sequence[Tensor]) -> None:
        """Read what `edit_update` needs at the weights before the optimiser's step.

        Args:
            model: At those weights.
            parameters: What is trained of it.
        """

    def edit_update(self, weights: Sequence[Tensor], before: Sequence[Tensor]) -> None:
        """Change the float32 `weights` in place, given what they were `before` the step.

        Both are in the order of `parameters`.
        """


@dataclass(frozen=True)
class Start:
    """What an intervention may read when it starts."""

    model: HookedModel
    """Still the aligned model."""

    generator: torch.Generator
    """Of its own."""

    examples: Sequence[Encoded]
    """What will be trained on."""


def generator_of(seed: int, position: int) -> torch.Generator:
    """Return the randomness of the intervention at `position`, apart from data order and dropout.

    The same in our own loop and in a Trainer, so that the same prompts are drawn.
    """
    return torch.Generator().manual_seed(seed + 1_000_003 * (position + 1))


class Intervention(ABC):
    """What to do during fine-tuning, and how strongly."""

    name: ClassVar[str]
    strength: float

    @abstractmethod
    def start(self, start: Start) -> Active:
        """Read what is needed from the model, still the aligned one; return the active form."""

    @property
    def sources(self) -> tuple[ReversionDirections, ...]:
        """The directions in use, to be checked against the model."""
        return ()

    @property
    def trained_on(self) -> ProbeSet | None:
        """The probes that training sees by way of this, to be kept apart from measured ones."""
        return getattr(self, "probes", None)

    def describe(self) -> dict[str, Any]:
        """Return the settings as JSON values; directions and probes by hash."""
        described = {item.name: getattr(self, item.name) for item in fields(self)}  # type: ignore[arg-type]
        return {"name": self.name} | {key: _described(value) for key, value in described.items()}


def as_list(intervention: Intervention | Sequence[Intervention] | None) -> list[Intervention]:
    """Return the interventions that do something: a list, without those at strength 0."""
    if intervention is None:
        return []
    several = [intervention] if isinstance(intervention, Intervention) else list(intervention)
    return [one for one in several if one.strength != 0]


def check_sources(
    model: HookedModel,
    interventions: Sequence[Intervention],
    probes: ProbeSet | None,
    directions: ReversionDirections | None,
) -> None:
    """Check that what a fine-tuning measures and does fits its model, and that no probes overlap.

    Raises:
        ConfigError: If only one of `probes` and `directions` is given, or a width differs.
        ProvenanceError: If the model's weights are not the aligned ones of the directions.
        ProbeError: If penalty and measured probes overlap.
    """
    if (probes is None) != (directions is None):
        raise ConfigError("Drift needs both probes and directions; give both or neither.")
    sources = [directions, *(source for one in interventions for source in one.sources)]
    if found := [source for source in sources if source is not None]:
        fingerprint = model.fingerprint()
        for source in found:
            source.check_model(fingerprint)
            if (width := source.unit.shape[1]) != model.cfg.d_model:
                raise ConfigError(
                    f"The directions are {width} wide and the model's stream {model.cfg.d_model}; "
                    "take directions of this model's lineage."
                )
    for source in found:
        if probes is not None:
            source.check_probes(probes, "measured")
    for one in interventions:
        penalty = one.trained_on
        if penalty is not None:
            for source in one.sources:
                source.check_probes(penalty, "trained on")
        if probes is not None and penalty is not None and (shared := probes.overlap(penalty)):
            raise ProbeError(
                f"{one.name}: {len(shared)} penalty probes are also measured, such as "
                f"{min(shared)[:60]!r}; split them by cluster."
            )


def check_strength(intervention: Intervention, *, largest: float = math.inf) -> None:
    """Raise `ConfigError` unless the strength is finite, not negative and at most `largest`."""
    name, strength = intervention.name, intervention.strength
    if not 0 <= strength < math.inf:
        raise ConfigError(f"{name}: strength is {strength}; it must not be negative.")
    if strength > largest:
        raise ConfigError(f"{name}: strength is {strength}; it may be at most {largest:g}.")


def chosen_layers(
    name: str, directions: ReversionDirections, layers: Sequence[int] | None
) -> list[int]:
    """Return the layers to act at, in ascending order: those asked for, or all with directions.

    Args:
        name: Of what acts, for the error.
        directions: What it acts along.
        layers: Those asked for.

    Raises:
        LayerError: If a layer has no direction.
    """
    chosen = set(directions.layers if layers is None else layers)
    unknown = sorted(chosen - set(directions.layers))
    if unknown or not chosen:
        raise LayerError(
            f"{name}: no directions at layers {unknown}; they have {list(directions.layers)}."
        )
    return sorted(chosen)


def rows_of(directions: ReversionDirections, layers: Sequence[int]) -> list[int]:
    """Return the rows of `directions` that belong to these layers."""
    return [directions.layers.index(layer) for layer in layers]


def _described(value: Any) -> Any:
    if isinstance(value, ProbeSet):
        return value.fingerprint()
    if isinstance(value, ReversionDirections):
        return value.identity()
    return list(map(_described, value)) if isinstance(value, tuple) else value
