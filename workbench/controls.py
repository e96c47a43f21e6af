"""Control directions: what an intervention does when its direction is not v_rev."""

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.aftermath import Aftermath, check_exists, outside
from workbench.directions import ReversionDirections
from workbench.errors import LayerError


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


def refusal_directions(
    directions: ReversionDirections,
    harmful_acts: Float[Tensor, "layer harmful d_model"],
    benign_acts: Float[Tensor, "layer benign d_model"],
) -> ReversionDirections:
    """Return the refusal direction of the aligned model with its sign turned, per layer.

    The refusal direction is mean(harmful) − mean(harmless). This one points from harmful to
    harmless, as v_rev points from refusing to helping: motion along it is what loses refusal.

    Source: arXiv 2406.11717, the difference in means.

    Args:
        directions: Whose gaps and layers to take over.
        harmful_acts: Activations of the aligned model at those layers, where `directions` were
            read, on harmful prompts of the fit split.
        benign_acts: The same on harmless prompts.

    Raises:
        DegenerateDirectionError: If the two means coincide at some layer.
    """
    unit = benign_acts.double().mean(dim=1) - harmful_acts.double().mean(dim=1)
    check_exists(unit, directions.layers, "The refusal direction")
    return directions.with_unit(unit, control="refusal")


def shuffled_directions(directions: ReversionDirections, *, seed: int = 0) -> ReversionDirections:
    """Return, at each layer, v_rev of another layer; the gaps stay those of the layer.

    Every layer's direction is used once and none stays where it was.

    Args:
        directions: What to shuffle.
        seed: Of the shuffle, uniform over all that leave no layer in place.

    Raises:
        LayerError: If there is only one layer.
    """
    n_layers = len(directions.layers)
    if n_layers < 2:
        raise LayerError(
            f"Only layer {directions.layers[0]} has a direction: shuffling needs at least 2 layers."
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.arange(n_layers)
    while (order == torch.arange(n_layers)).any():
        order = torch.randperm(n_layers, generator=generator)
    taken = [directions.layers[row] for row in order.tolist()]
    return directions.with_unit(
        directions.unit[order], control="shuffled", control_seed=seed, control_layers=taken
    )


def drift_directions(directions: ReversionDirections, aftermath: Aftermath) -> ReversionDirections:
    """Return the direction in which ordinary fine-tuning moved the prompts most, per layer.

    The first principal component of the displacements of the fit probes, about zero.

    Args:
        directions: Whose gaps and layers to take over.
        aftermath: Of an ordinary fine-tuning.

    Raises:
        LayerError: If the layers differ.
        DegenerateDirectionError: If nothing moved at some layer.
    """
    aftermath.check_layers(directions)
    return aftermath.direction(aftermath.components[:, 0], directions, "drift")


def orthogonal_to(
    control: ReversionDirections, directions: ReversionDirections
) -> ReversionDirections:
    """Return the part of a control that is orthogonal to `directions`, per layer.

    Raises:
        LayerError: If the layers differ.
        DegenerateDirectionError: If nothing is left at some layer.
    """
    if control.layers != directions.layers:
        raise LayerError(
            f"The control has layers {list(control.layers)}, the directions "
            f"{list(directions.layers)}; make it from the same directions."
        )
    unit = outside(control.unit, [directions])
    name = control.provenance.get("control", "other")
    check_exists(unit, control.layers, f"The part of the {name} direction off v_rev")
    return control.with_unit(unit, control=f"{name}, orthogonal")
