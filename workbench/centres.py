"""Centres: where full ablation puts the coordinate along a direction, read from a model."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.directions import ReversionDirections
from workbench.encoding import Encoded, fill_token, pad
from workbench.models import Hook, ReadableModel, resid_post
from workbench.modes import evaluation_mode
from workbench.reading import tokens_per_batch


def mean_coordinates(
    model: ReadableModel, items: Sequence[Encoded], directions: ReversionDirections
) -> Float[Tensor, " layer"]:
    """Return the mean of ⟨h_l, v_l⟩ over all tokens of the items but the first of each.

    In residual-stream units, summed in float64 as it streams by. The first token is left out: in
    many models it is where attention rests, and its stream is of another size than all others.

    Args:
        model: What is read.
        items: Prompts, with or without responses.
        directions: v_l; the result has their layers.
    """
    dtype = torch.promote_types(model.cfg.dtype, torch.float32)
    unit = directions.unit.to(model.cfg.device, dtype)
    total, count = torch.zeros(len(directions.layers), dtype=torch.float64), 0

    def adding(row: int) -> Callable[..., None]:
        def hook(resid: Float[Tensor, "batch pos d_model"], hook: Any) -> None:  # noqa: ARG001
            total[row] += (resid.to(dtype) @ unit[row])[places].double().sum().cpu()

        return hook

    hooks: list[Hook] = [
        (resid_post(layer), adding(row)) for row, layer in enumerate(directions.layers)
    ]
    size = max(1, tokens_per_batch(model.cfg.device) // max(len(item.ids) for item in items))
    with evaluation_mode(model), model.hooks(fwd_hooks=hooks):
        for start in range(0, len(items), size):
            rows = [item.ids for item in items[start : start + size]]
            tokens, mask = pad(rows, fill=fill_token(model), device=model.cfg.device)
            places = (torch.ones_like(tokens) if mask is None else mask).bool()
            places[:, 0] = False
            count += int(places.sum())
            model.run_decoder(tokens, mask)
    return total / count
