"""Vocabulary readout: which first tokens a direction favours at the aligned model."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.functional import jvp

from workbench.directions import ReversionDirections
from workbench.encoding import decode, encode, fill_token, special_token
from workbench.errors import ConfigError, LayerError
from workbench.judges import Judge, find_judge
from workbench.models import ReadableModel, resid_post
from workbench.modes import evaluation_mode
from workbench.nulls import isotropic_null


@dataclass(frozen=True)
class TokenChange:
    """What a direction does to the logit of one token."""

    id: int
    text: str
    """As the tokenizer decodes it; data, not to be trusted in a terminal or page."""

    change: float
    """Change of the logit in nats per phase gap, to first order."""


@dataclass(frozen=True)
class Readout:
    """A direction through the final norm and the unembedding, per layer.

    All of it is to first order at the aligned model's mean activation μ: what the logits do when
    the residual stream before the final norm starts to move from μ along the direction.
    """

    layers: tuple[int, ...]
    """The layers of the model that everything else belongs to, in this order."""

    top: tuple[tuple[TokenChange, ...], ...]
    """Per layer the tokens whose logits rise most, the largest change first."""

    bottom: tuple[tuple[TokenChange, ...], ...]
    """Per layer the tokens whose logits fall most, the largest fall first."""

    preference: Float[np.ndarray, " layer"]
    """Change of log(P(engaging) / P(refusing)) of the first token, in nats per phase gap.

    Undefined (NaN), as are cosine and p-value, if the tokenizer begins both alike, so that their
    first tokens tell nothing."""

    cosine: Float[np.ndarray, " layer"]
    """Cosine of the direction with the gradient of that log-ratio."""

    p_value: Float[np.ndarray, " layer"]
    """One-sided p-value of the cosine under the isotropic null: the direction is a random one."""

    engaging: tuple[str, ...]
    """First tokens of engaging openers that the log-ratio counts."""

    refusing: tuple[str, ...]
    """First tokens of refusing openers that the log-ratio counts."""

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; a p-value or cosine that is undefined is None."""
        arrays = {
            name: [float(value) if np.isfinite(value) else None for value in getattr(self, name)]
            for name in ("preference", "cosine", "p_value")
        }
        return {
            "layers": list(self.layers),
            "top": [[asdict(token) for token in row] for row in self.top],
            "bottom": [[asdict(token) for token in row] for row in self.bottom],
            **arrays,
            "engaging": list(self.engaging),
            "refusing": list(self.refusing),
        }


def read_vocabulary(
    model: ReadableModel,
    directions: ReversionDirections,
    *,
    judge: str | Judge = "rules",
    top: int = 10,
    layers: Sequence[int] | None = None,
) -> Readout:
    """Return which tokens a direction favours, and whether engaging ones over refusing ones.

    The direction of layer l is put behind the last block, at μ_l: what follows is the model's own
    final norm, head and soft-capping, differentiated exactly.

    Source: the vocabulary readout of arXiv 2606.28525, later version, reconstructed.

    Args:
        model: The aligned model that `directions` start from.
        directions: v_rev or a control.
        judge: Whose openers to compare: a name or a `Judge`.
        top: Number of tokens at either end.
        layers: Layers to read; by default all that have a direction.

    Raises:
        LayerError: If a layer has no direction.
        ConfigError: If there are not `top` tokens, or the mean of the aligned model is not known.
        ProvenanceError: If the model is another one.
    """
    directions.check_model(model.fingerprint())
    directions.check_mean("The vocabulary readout")
    layers = _checked_layers(directions, layers)
    rows = [directions.layers.index(layer) for layer in layers]
    engaging, refusing = opener_tokens(model, find_judge(judge))
    unit, gap, mean = (getattr(directions, name)[rows] for name in ("unit", "gap", "mean"))
    with evaluation_mode(model, gradients=True):
        changes = gap[:, None] * _logit_changes(model, mean, unit)
        gradient = _log_ratio_gradient(model, mean, engaging, refusing)
    slope = (gradient * unit).sum(dim=-1)
    cosine = (slope / gradient.norm(dim=-1)).numpy()
    ids = range(min(changes.shape[1], len(model.tokenizer)))
    if not 1 <= top <= len(ids):
        raise ConfigError(f"top is {top}; with {len(ids)} tokens it may be 1 to {len(ids)}.")
    ranked = [_ranked(model, row[: len(ids)], top) for row in changes]
    return Readout(
        layers=tuple(layers),
        top=tuple(most for most, _ in ranked),
        bottom=tuple(least for _, least in ranked),
        preference=(gap * slope).numpy(),
        cosine=cosine,
        p_value=isotropic_null(directions).p_value(cosine),
        engaging=tuple(decode(model, [token]) for token in engaging),
        refusing=tuple(decode(model, [token]) for token in refusing),
    )


def opener_tokens(model: ReadableModel, judge: Judge) -> tuple[list[int], list[int]]:
    """Return the first tokens of engaging and of refusing openers, as they follow a prompt.

    Tokens that begin both are left out, and the unknown token; one of the two may then be empty.
    """
    first = [
        {_first_token(model, opener) for opener in openers}
        for openers in (judge.engaging_openers, judge.refusal_openers)
    ]
    neither = (first[0] & first[1]) | {special_token(model.tokenizer, "unk")}
    engaging, refusing = (sorted(tokens - neither) for tokens in first)
    return engaging, refusing


def _first_token(model: ReadableModel, opener: str) -> int:
    # Prompt and response are encoded apart: any prompt will do.
    encoded = encode(model, "How?", opener)
    return encoded.ids[encoded.prompt_length]


def _logit_changes(
    model: ReadableModel,
    mean: Float[Tensor, "layer d_model"],
    unit: Float[Tensor, "layer d_model"],
) -> Float[Tensor, "layer vocab"]:
    """Derivative of the logits at `mean` along `unit`, in nats per residual-stream unit."""
    # By double backward: unlike forward mode, every norm and head supports it.
    point, tangent = (value.to(model.cfg.device, model.cfg.dtype) for value in (mean, unit))
    _, changes = jvp(lambda resid: _first_logits(model, resid), point, tangent)
    assert isinstance(changes, Tensor)
    return changes


def _log_ratio_gradient(
    model: ReadableModel,
    mean: Float[Tensor, "layer d_model"],
    engaging: list[int],
    refusing: list[int],
) -> Float[Tensor, "layer d_model"]:
    """Gradient at `mean` of log(P(engaging) / P(refusing)) of the next token; NaN without both."""
    if not engaging or not refusing:
        return torch.full_like(mean, float("nan"))
    point = mean.to(model.cfg.device, model.cfg.dtype).requires_grad_()
    logits = _first_logits(model, point)
    # The normaliser of the probabilities cancels.
    ratio = logits[:, engaging].logsumexp(dim=1) - logits[:, refusing].logsumexp(dim=1)
    return torch.autograd.grad(ratio.sum(), point)[0].cpu().double()


def _first_logits(
    model: ReadableModel, resid: Float[Tensor, "layer d_model"]
) -> Float[Tensor, "layer vocab"]:
    """Return the logits where the stream after the last block is `resid`, a sequence per row."""

    def replace(own: Float[Tensor, "layer 1 d_model"], hook: Any) -> Tensor:  # noqa: ARG001
        return resid[:, None].to(own.dtype)

    tokens = torch.full((len(resid), 1), fill_token(model), device=model.cfg.device)
    with model.hooks(fwd_hooks=[(resid_post(model.cfg.n_layers - 1), replace)]):
        logits = model(tokens)
    assert logits is not None
    # The softmax of half-precision logits would be good to two digits.
    return logits[:, 0].cpu().double()


def _ranked(
    model: ReadableModel, changes: Float[Tensor, " vocab"], top: int
) -> tuple[tuple[TokenChange, ...], tuple[TokenChange, ...]]:
    """Return the tokens of largest and of smallest change, both from their end."""
    order = changes.argsort(descending=True, stable=True).tolist()
    most, least = (
        tuple(TokenChange(token, decode(model, [token]), changes[token].item()) for token in tokens)
        for tokens in (order[:top], order[: -top - 1 : -1])
    )
    return most, least


def _checked_layers(
    directions: ReversionDirections, layers: Sequence[int] | None
) -> tuple[int, ...]:
    chosen = directions.layers if layers is None else tuple(layers)
    unknown = sorted(set(chosen) - set(directions.layers))
    if unknown or not chosen:
        raise LayerError(f"No directions at layers {unknown}; they have {list(directions.layers)}.")
    return chosen
