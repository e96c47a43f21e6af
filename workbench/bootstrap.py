"""Bootstrap resamples of prompts."""

import torch
from jaxtyping import Float
from torch import Tensor


def resample_counts(prompts: int, draws: int, seed: int = 0) -> Float[Tensor, "draw prompt"]:
    """Return how often each prompt occurs in each bootstrap resample."""
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(prompts, (draws, prompts), generator=generator)
    return torch.zeros(draws, prompts).scatter_add_(1, picks, torch.ones(draws, prompts))
