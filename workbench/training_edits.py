"""Training edits: interventions that edit the residual stream in the training forward alone."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.directions import ReversionDirections
from workbench.editing import EditHooks
from workbench.edits import Edit, ablate, cap, steer
from workbench.encoding import Encoded, fill_token, pad
from workbench.errors import ConfigError
from workbench.interventions import (
    Active,
    Intervention,
    Start,
    check_strength,
    chosen_layers,
)
from workbench.models import Hook, HookedModel, resid_post
from workbench.modes import evaluation_mode
from workbench.reading import Reading

POSITIONS = ("all", "prompt", "response")
"""Which tokens of a training example are edited."""

EXAMPLES_READ = 256
"""How many training examples are read at the start, at most: a sample, always the same one."""


@dataclass(frozen=True)
class TrainingEdit(Intervention):
    """An edit in the training forward; the trained model is used and measured without it."""

    directions: ReversionDirections
    strength: float
    layers: tuple[int, ...] | None = None
    """Layers to edit; by default all that the directions have."""

    positions: str = "all"
    """One of `POSITIONS`."""

    def __post_init__(self) -> None:
        """Check the settings."""
        if not math.isfinite(self.strength):
            raise ConfigError(f"{self.name}: strength is {self.strength}; it must be finite.")
        if self.positions not in POSITIONS:
            raise ConfigError(
                f"{self.name}: positions is {self.positions!r}; it must be one of {POSITIONS}."
            )
        chosen_layers(self.name, self.directions, self.layers)

    @property
    def sources(self) -> tuple[ReversionDirections, ...]:
        """The directions in use."""
        return (self.directions,)

    def start(self, start: Start) -> Active:
        """Read what the edit needs at θ_S."""
        return ActiveEdit(self.name, start, self.edit(start), self.positions)

    @abstractmethod
    def edit(self, start: Start) -> Edit:
        """Return the edit, given the model that is still θ_S and the training examples."""


@dataclass(frozen=True)
class Ablate(TrainingEdit):
    """Train with the coordinate along v_l set to m_l + (1−s)(c_l − m_l).

    m_l is the mean of ⟨h_l, v_l⟩ in θ_S over the edited positions of the training examples. With
    several layers and s ≠ 1, c_l comes from an unedited forward of each micro-batch, whose
    gradient flows too; it doubles the cost and is kept without gradient checkpointing. With one
    layer c_l is what arrives there.

    Source: concept ablation fine-tuning, arXiv 2507.16795, centred on θ_S.
    """

    name: ClassVar[str] = "ablate"

    strength: float = 1.0
    """s, not negative; 1 leaves only the mean along the direction."""

    def __post_init__(self) -> None:
        """Check the settings."""
        check_strength(self)
        super().__post_init__()

    def edit(self, start: Start) -> Edit:
        """Read the means m_l."""
        found = read_projections(start, self.directions, self.positions)
        return ablate(
            self.directions,
            strength=self.strength,
            layers=self.layers,
            positions="all",
            centre=found.mean(dim=1),
        )


@dataclass(frozen=True)
class Steer(TrainingEdit):
    """Train with s·g_l·v_l added to the stream after every edited layer, in total.

    Towards the witness for s > 0 (preventative steering: the weights need not go there), away
    from it for s < 0.

    Source: preventative steering, arXiv 2507.21509, in phase gaps.
    """

    name: ClassVar[str] = "steer"

    def edit(self, start: Start) -> Edit:  # noqa: ARG002
        """Return the edit; nothing has to be read."""
        return steer(self.directions, strength=self.strength, layers=self.layers, positions="all")


@dataclass(frozen=True)
class Cap(TrainingEdit):
    """Train with s·relu(⟨h_l, v_l⟩ − τ_l)·v_l taken from the stream.

    τ_l is a quantile of ⟨h_l, v_l⟩ in θ_S over the edited positions of the training examples.
    """

    name: ClassVar[str] = "cap"

    strength: float = 1.0
    """s, not negative; 1 brings what is above τ_l down to it."""

    quantile: float = 0.95
    """Which quantile τ_l is."""

    def __post_init__(self) -> None:
        """Check the settings."""
        check_strength(self)
        if not 0 <= self.quantile <= 1:
            raise ConfigError(f"cap: quantile is {self.quantile}; it must be between 0 and 1.")
        super().__post_init__()

    def edit(self, start: Start) -> Edit:
        """Read the quantiles τ_l."""
        found = read_projections(start, self.directions, self.positions)
        # Unlike torch's, numpy's quantile has no largest size.
        ceiling = torch.from_numpy(np.quantile(found.numpy(), self.quantile, axis=1))
        return cap(
            self.directions,
            strength=self.strength,
            layers=self.layers,
            positions="all",
            ceiling=ceiling,
        )


class ActiveEdit(Active):
    """An edit on the training forward, at some tokens of each example."""

    def __init__(self, name: str, start: Start, edit: Edit, positions: str) -> None:
        super().__init__(name, start.generator)
        self.positions = positions
        self.hooks = EditHooks(start.model, [edit], lambda _, __: self.places)
        self.places: Bool[Tensor, "batch pos"] | None = None
        """Where the next micro-batch is edited; None: everywhere, as padding reaches no loss."""

    def before_forward(self, model: HookedModel, items: Sequence[Encoded]) -> None:
        """Find the places to edit and, if they are needed, the coordinates without edits."""
        if self.positions == "all" and not self.hooks.readers:
            return
        tokens, mask = pad(
            [item.ids for item in items], fill=fill_token(model), device=model.cfg.device
        )
        if self.positions != "all":
            self.places = edited_places(items, self.positions, tokens.device)
        if self.hooks.readers:
            with self.hooks.reading_unedited(model.hf), model.hooks(fwd_hooks=self.forward_hooks()):
                model.run_decoder(tokens, mask)

    def forward_hooks(self) -> list[Hook]:
        """Return the hooks that edit."""
        return self.hooks.forward_hooks()


def edited_places(
    items: Sequence[Encoded], positions: str, device: torch.device
) -> Bool[Tensor, "batch pos"]:
    """Return which tokens of a right-padded batch are edited; padding never is."""
    width = max(len(item.ids) for item in items)
    ends = torch.tensor([[0, item.prompt_length, len(item.ids)] for item in items], device=device)
    first, last = {"all": (0, 2), "prompt": (0, 1), "response": (1, 2)}[positions]
    columns = torch.arange(width, device=device)[None]
    return (ends[:, first, None] <= columns) & (columns < ends[:, last, None])


def read_projections(
    start: Start, directions: ReversionDirections, positions: str
) -> Float[Tensor, "layer token"]:
    """Return ⟨h_l, v_l⟩ of the aligned model at every edited token of a sample of the examples.

    In residual-stream units, in float64 on the CPU, without dropout. The sample is the same for
    every seed, so that seeds differ in training alone.

    Args:
        start: The model and the examples.
        directions: v_l; the result has their layers.
        positions: Which tokens, see `POSITIONS`.
    """
    order = torch.randperm(len(start.examples), generator=torch.Generator().manual_seed(0))
    sample = tuple(start.examples[index] for index in order[:EXAMPLES_READ].tolist())
    reading = Reading(sample, -1, fill_token(start.model))
    with evaluation_mode(start.model):
        return torch.cat(list(_projections(start.model, reading, directions, positions)), dim=1)


def _projections(
    model: HookedModel, reading: Reading, directions: ReversionDirections, positions: str
) -> Iterator[Float[Tensor, "layer token"]]:
    dtype = torch.promote_types(model.cfg.dtype, torch.float32)
    unit = directions.unit.to(model.cfg.device, dtype)
    found: dict[int, Tensor] = {}

    def reader(row: int, layer: int) -> Hook:
        def read(resid: Float[Tensor, "batch pos d_model"], hook: Any) -> None:  # noqa: ARG001
            found[row] = (resid.to(dtype) @ unit[row])[places].cpu().double()

        return resid_post(layer), read

    hooks = [reader(row, layer) for row, layer in enumerate(directions.layers)]
    for indices in reading.batches():
        tokens, mask = reading.tokens(indices, model.cfg.device)
        items = [reading.encoded[index] for index in indices]
        places = edited_places(items, positions, tokens.device)
        with model.hooks(fwd_hooks=hooks):
            model.run_decoder(tokens, mask)
        yield torch.stack([found[row] for row in range(len(hooks))])
