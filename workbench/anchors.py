"""Anchors: auxiliary losses that hold the model at θ_S, in its predictions or in its weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from workbench.encoding import Encoded, encode, fill_token, pad
from workbench.errors import ConfigError, ProbeError
from workbench.interventions import Active, Intervention, Start, check_strength
from workbench.models import HookedModel
from workbench.modes import evaluation_mode
from workbench.probes import ProbeSet

AnchorKind = Literal["kl", "weights"]
"""What is held: the predictions on probes, or the weights."""


@dataclass(frozen=True)
class Anchor(Intervention):
    """Penalise leaving θ_S in any direction, the plain rival of `Block`.

    Kind `kl` adds λ·mean_x KL(θ_S ‖ θ_t) on a fresh minibatch of probes: the mean over a probe's
    teacher-forced response tokens (its end included), or the distribution of the first response
    token where it has no response. On the penalty probes it sees what Block sees: the
    information-matched control. Kind `weights` adds λ·‖θ − θ_S‖² over the trainable parameters,
    those of a LoRA model being its factors. Value and gradient are zero at θ_S.

    Memory: `kl` keeps the log-probabilities of θ_S on the CPU in float32, 4 bytes × response tokens
    (one per probe without response) × vocabulary; `weights` keeps a copy of the trainable
    parameters.

    Source: `weights` is the L2-SP of Li et al. 2018 (arXiv 1802.01483).
    """

    name: ClassVar[str] = "anchor"

    strength: float
    """λ, per nat, or per squared weight."""

    kind: AnchorKind = "kl"
    probes: ProbeSet | None = None
    """Kind `kl` only: prompts that nothing is measured on."""

    batch_size: int = 32
    """Kind `kl` only: probes per step."""

    def __post_init__(self) -> None:
        """Check the settings."""
        check_strength(self)
        if self.kind not in get_args(AnchorKind):
            raise ConfigError(f"anchor: kind is {self.kind!r}; it may be kl or weights.")
        if self.kind == "kl" and not self.probes:
            raise ProbeError("anchor: kind kl needs probes; give it the penalty split.")
        if self.kind == "weights" and self.probes is not None:
            raise ConfigError("anchor: kind weights reads no probes; leave them out.")
        if self.batch_size < 1:
            raise ConfigError(f"anchor: batch_size is {self.batch_size}; it must be positive.")

    def start(self, start: Start) -> Active:
        """Read the predictions or copy the weights of the aligned model."""
        return (ActiveKL if self.kind == "kl" else ActiveWeights)(self, start)


class ActiveKL(Active):
    """An auxiliary loss on how far the predictions on probes have moved from those of θ_S."""

    def __init__(self, settings: Anchor, start: Start) -> None:
        super().__init__(settings.name, start.generator)
        assert settings.probes is not None
        self.settings, model = settings, start.model
        self.items = [
            encode(model, probe.prompt, probe.response) for probe in settings.probes.probes
        ]
        counts = torch.tensor([len(_predicting(item)) for item in self.items])
        self.rows = torch.arange(int(counts.sum())).split(counts.tolist())
        self.aligned = torch.empty(int(counts.sum()), model.cfg.d_vocab)
        """Log-probabilities of θ_S, one row per predicted token, probes one after the other."""
        with evaluation_mode(model):
            for indices in torch.arange(len(self.items)).split(settings.batch_size):
                read = _log_probabilities(model, [self.items[index] for index in indices])
                self.aligned[torch.cat([self.rows[index] for index in indices])] = read.cpu()

    def penalty(self, model: HookedModel) -> Float[Tensor, ""]:
        """Return the loss on a fresh minibatch of probes, without dropout."""
        shuffled = torch.randperm(len(self.items), generator=self.generator)
        indices = shuffled[: self.settings.batch_size].tolist()
        with evaluation_mode(model, gradients=True):
            now = _log_probabilities(model, [self.items[index] for index in indices])
        rows = [self.rows[index] for index in indices]
        aligned = self.aligned[torch.cat(rows)].to(now.device)
        each = functional.kl_div(now, aligned, reduction="none", log_target=True).sum(dim=-1)
        # Every probe counts the same, however long its response.
        share = torch.cat([torch.full((len(row),), 1 / len(row) / len(rows)) for row in rows])
        return self.settings.strength * (share.to(now.device) * each).sum()


class ActiveWeights(Active):
    """An auxiliary loss on how far the trainable parameters have moved from θ_S."""

    def __init__(self, settings: Anchor, start: Start) -> None:
        super().__init__(settings.name, start.generator)
        self.strength = settings.strength
        # Those that are never trained stay at θ_S and add nothing.
        self.aligned = {
            name: parameter.detach().clone()
            for name, parameter in start.model.hf.named_parameters()
            if parameter.requires_grad
        }

    def penalty(self, model: HookedModel) -> Float[Tensor, ""]:
        """Return the loss on all trainable parameters, in float32."""
        parameters = dict(model.hf.named_parameters())
        squares = [
            (parameters[name].float() - aligned.float()).square().sum()
            for name, aligned in self.aligned.items()
        ]
        return self.strength * torch.stack(squares).sum()


def _predicting(item: Encoded) -> range:
    """Positions whose logits are compared: those that predict the response, or its first token."""
    return range(item.prompt_length - 1, max(item.prompt_length, len(item.ids) - 1))


def _log_probabilities(
    model: HookedModel, items: Sequence[Encoded]
) -> Float[Tensor, "token vocab"]:
    tokens, mask = pad(
        [item.ids for item in items], fill=fill_token(model), device=model.cfg.device
    )
    rows = [row for row, item in enumerate(items) for _ in _predicting(item)]
    columns = [column for item in items for column in _predicting(item)]
    return model(tokens, mask)[rows, columns].float().log_softmax(dim=-1)
