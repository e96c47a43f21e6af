"""Drift: how far fine-tuning has moved the residual stream from the aligned model."""

from functools import cache

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from workbench.bootstrap import resample_counts
from workbench.directions import ReversionDirections
from workbench.records import FLOOR_FACTOR, Drift

N_RESAMPLES = 200


def measure_drift(
    aligned: Float[Tensor, "layer prompt d_model"],
    current: Float[Tensor, "layer prompt d_model"],
    directions: ReversionDirections,
    *,
    floor: Float[Tensor, " layer"] | None = None,
) -> Drift:
    """Split the mean displacement since the aligned model along and across `directions`.

    Args:
        aligned: Activations of the aligned model, always θ_S, not the previous step.
        current: Activations now, on the same prompts in the same order.
        directions: Fitted at the same layers; its gaps are the unit of the result.
        floor: Noise floor per layer, from `measurement.noise_floor`; by default none.

    Returns:
        The drift, with a 95 % bootstrap interval of the alignment over prompts.
    """
    displacements = current.double() - aligned.double()
    vector = displacements.mean(dim=1)
    projections = einsum(
        displacements, directions.unit, "layer prompt d_model, layer d_model -> layer prompt"
    )
    norm = vector.norm(dim=-1)
    along = projections.mean(dim=1)
    across = (vector - along[:, None] * directions.unit).norm(dim=-1)
    floor = torch.zeros_like(norm) if floor is None else floor
    defined = norm > FLOOR_FACTOR * floor
    undefined = torch.full_like(norm, float("nan"))
    alignment = torch.where(defined, (along / norm).clamp(-1, 1), undefined)
    interval = torch.where(defined, _interval(displacements, projections), undefined)
    return Drift(
        vector=vector.numpy(),
        alignment=alignment.numpy(),
        along=(along / directions.gap).numpy(),
        across=(across / directions.gap).numpy(),
        norm=norm.numpy(),
        interval=interval.T.numpy(),
        projections=(projections / directions.gap[:, None]).numpy(),
        floor=floor.numpy(),
    )


def _interval(
    displacements: Float[Tensor, "layer prompt d_model"],
    projections: Float[Tensor, "layer prompt"],
) -> Float[Tensor, "2 layer"]:
    """Percentile interval of the alignment when prompts are resampled."""
    counts = _counts(displacements.shape[1])
    # Norms of resampled means come from inner products: no [draw, d_model] tensor is made.
    gram = displacements @ displacements.mT
    along = projections @ counts.T
    squared = ((counts @ gram) * counts).sum(dim=-1)
    cosines = along / squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt()
    levels = torch.tensor([0.025, 0.975], dtype=cosines.dtype)
    return torch.quantile(cosines, levels, dim=-1).clamp(-1, 1)


@cache
def _counts(prompts: int) -> Float[Tensor, "draw prompt"]:
    return resample_counts(prompts, N_RESAMPLES).double()
