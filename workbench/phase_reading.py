"""One phase read on a probe set, with what identifies it."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from workbench.activations import read_activations
from workbench.models import ReadableModel, check_layers
from workbench.phases import Lineage, Phase
from workbench.probes import ProbeSet
from workbench.reading import Position, Reading


@dataclass(frozen=True)
class PhaseReading:
    """Activations of a phase, and the hashes of what they were read from."""

    phase: str
    acts: Float[Tensor, "layer prompt d_model"]
    weights_hash: str
    tokens_hash: str
    """Of token ids and read positions: phases can only be compared where these agree."""

    layers: tuple[int, ...]
    truncated: int = 0
    """Number of prompts that were cut to the model's context."""

    @classmethod
    def of(
        cls,
        model: ReadableModel,
        phase: str,
        probes: ProbeSet,
        *,
        position: Position = -1,
        layers: list[int] | None = None,
    ) -> "PhaseReading":
        """Read a phase that is loaded; arguments as in `read_activations`."""
        layers = check_layers(layers, model.cfg.n_layers)
        reading = Reading.of(model, probes, position)
        acts = read_activations(model, reading, layers=layers)
        return cls(
            phase,
            acts,
            model.fingerprint(),
            reading.fingerprint(),
            tuple(layers),
            reading.truncated,
        )


def read_phase(
    lineage: Lineage,
    phase: Phase,
    probes: ProbeSet,
    *,
    position: Position = -1,
    layers: list[int] | None = None,
    device: str | None = None,
) -> PhaseReading:
    """Load one phase, read it and let it go."""
    model = lineage.load_model(phase, device=device)
    return PhaseReading.of(model, phase.name, probes, position=position, layers=layers)
