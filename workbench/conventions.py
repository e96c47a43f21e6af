"""What must hold of a model before its residual stream is read: seen in one short forward."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.errors import CheckpointError

TRIAL_TOKENS = 4
UNLIMITED = 1_000_000
"""Context length of a model whose config names none."""

Seen = Sequence[tuple[str, Any]]
"""Hook points in the order in which they fired, with what they saw."""


def context_length(config: Any) -> int:
    """Return how many tokens a model reads."""
    names = ("max_position_embeddings", "max_seq_len")
    return next(filter(None, (getattr(config, name, None) for name in names)), UNLIMITED)


def takes_positions(*modules: nn.Module) -> bool:
    """Whether all of them can be told the positions of their tokens."""
    return all("position_ids" in inspect.signature(one.forward).parameters for one in modules)


def positions_of(mask: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Return how far each token is from the first real one of its row.

    Padding on the right counts on, as without positions: a router gives experts padding, too, and
    what it is would change how the others are rounded.
    """
    leading = (mask.cumsum(dim=1) == 0).sum(dim=1, keepdim=True)
    return (torch.arange(mask.shape[1], device=mask.device) - leading).clamp(min=0)


def trial_batch(d_vocab: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return tokens and mask of a few tokens, these with another last one, and these left-padded.

    The padding takes the place of the last one.
    """
    tokens = torch.arange(TRIAL_TOKENS, device=device).repeat(3, 1)
    tokens[1, -1] += 1
    tokens[2] = tokens[2].roll(1)
    mask = torch.ones_like(tokens)
    mask[2, 0] = 0
    return tokens % d_vocab, mask


def check_stream(name: str, n_layers: int, d_model: int, seen: Seen) -> None:
    """Refuse blocks that a residual stream does not run through, from one to the next.

    Args:
        name: What to call the model in an error.
        n_layers: Its number of blocks.
        d_model: The width of the stream.
        seen: What the hook points saw of `trial_batch`.

    Raises:
        CheckpointError: If a block is left out, repeated, out of order or given something else, if
            something happens to the stream between blocks, or earlier tokens see later ones.
    """
    sides = ("hook_resid_pre", "hook_resid_post")
    expected = [f"blocks.{layer}.{side}" for layer in range(n_layers) for side in sides]
    if [point for point, _ in seen] != expected:
        raise _refusal(name, "its blocks do not run once each, in their order")
    for point, value in seen:
        if not isinstance(value, Tensor) or value.shape != (3, TRIAL_TOKENS, d_model):
            found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise _refusal(name, f"{point} is {found}, no stream [batch pos {d_model}]")
    for (_, left), (point, entered) in zip(seen[1:-1:2], seen[2::2], strict=True):
        # In the row with padding some families are NaN in float64.
        if not torch.equal(left[:2].cpu(), entered[:2].cpu()):
            raise _refusal(name, f"{point} is not what left the block before")
    last = seen[-1][1]
    if not same_but_rounding(last[0, :-1], last[1, :-1]):
        raise _refusal(name, "what its tokens are depends on the tokens after them")


def pads_left(seen: Seen) -> bool:
    """Whether padding on the left changes nothing; a recurrence may read it in spite of the mask.

    Args:
        seen: What the hook points saw of `trial_batch`.
    """
    last = seen[-1][1]
    return same_but_rounding(last[0, :-1], last[2, 1:])


def same_but_rounding(
    one: Float[Tensor, "*rows width"], other: Float[Tensor, "*rows width"]
) -> bool:
    """Whether two computations of the same vectors differ by rounding alone."""
    tolerance = 0.03 if one.dtype in (torch.float16, torch.bfloat16) else 1e-3
    distance = (one.double() - other.double()).norm(dim=-1)
    return bool((distance <= tolerance * one.double().norm(dim=-1)).all())


def _refusal(name: str, reason: str) -> CheckpointError:
    return CheckpointError(f"{name}: {reason}; this architecture is not supported.")


def seeing(seen: list[tuple[str, Any]], point: str) -> Any:
    """Return a hook that notes what a hook point sees."""

    def look(value: Any, hook: Any) -> None:  # noqa: ARG001
        seen.append((point, value))

    return look
