"""Control directions: what an intervention does when its direction is not v_rev."""

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.directions import ReversionDirections


def random_directions(directions: ReversionDirections, *, seed: int = 0) -> ReversionDirections:
    """Return a uniformly random direction per layer, with the gaps of `directions`.

    Such a direction is nearly inert in a wide model: hardly anything moves along it.
    """
    generator = torch.Generator().manual_seed(seed)
    unit = torch.randn(directions.unit.shape, generator=generator, dtype=torch.float64)
    return directions.with_unit(unit, control="random", control_seed=seed)


def matched_directions(
    directions: ReversionDirections, acts: Float[Tensor, "layer prompt d_model"], *, seed: int = 0
) -> ReversionDirections:
    """Return a random direction per layer with the covariance of the activations over prompts.

    The same Gaussian weights over prompts serve all layers, as in the matched null.

    Args:
        directions: Whose gaps and layers to take over.
        acts: Activations of the aligned model at those layers.
        seed: Of the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(acts.shape[1], generator=generator, dtype=torch.float64)
    centred = acts.double() - acts.double().mean(dim=1, keepdim=True)
    unit = torch.einsum("p,lpd->ld", weights, centred)
    return directions.with_unit(unit, control="matched", control_seed=seed)
