"""The language-model head, run at the tokens whose logits are asked for and nowhere else.

With a vocabulary of 50,000 the head is most of a small model, and of the tokens of a training
example only those of the response are predicted.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.blocks import plain_model
from workbench.models import GuestModel, HookedModel, ReadableModel


def logits_at(
    model: ReadableModel,
    tokens: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"] | None,
    rows: Int[Tensor, " token"],
    columns: Int[Tensor, " token"],
) -> Float[Tensor, "token vocab"]:
    """Return the logits at some tokens of a batch; gradients flow through.

    Args:
        model: A guest runs its whole head.
        tokens: Padded, with their mask.
        mask: None where nothing is padded.
        rows: Which sequence each token is in.
        columns: Where in it.
    """
    if isinstance(model, GuestModel):
        return model(tokens, mask)[rows, columns]
    with head_at(model, tokens, rows, columns) as pick:
        return pick(model.hf(**model.inputs(tokens, mask)).logits)


@contextmanager
def head_at(
    model: HookedModel,
    tokens: Int[Tensor, "batch pos"],
    rows: Int[Tensor, " token"],
    columns: Int[Tensor, " token"],
) -> Iterator[Callable[[Tensor], Tensor]]:
    """While open, a forward of `tokens` runs the head at some of them only.

    Yields what makes [token vocab] of the logits of that forward.
    """
    head, picked = plain_model(model.hf).get_output_embeddings(), []
    if head is None:
        yield lambda logits: logits[rows.to(logits.device), columns.to(logits.device)]
        return

    def before(head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:  # noqa: ARG001
        # Before the head, not after: what follows it (scales, caps) acts on each logit alone.
        resid, *others = args
        picked.append(resid.shape[:2] == tokens.shape)
        some = resid[rows.to(resid.device), columns.to(resid.device)][None] if picked[-1] else resid
        return some, *others

    def pick(logits: Tensor) -> Tensor:
        if picked and picked[-1]:
            return logits[0]
        return logits[rows.to(logits.device), columns.to(logits.device)]

    handle = head.register_forward_pre_hook(before)
    try:
        yield pick
    finally:
        handle.remove()
