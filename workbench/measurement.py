"""What drift is measured with during a fine-tuning, fixed before its first step."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from workbench.activations import read_activations
from workbench.directions import ReversionDirections
from workbench.drift import measure_drift
from workbench.models import ReadableModel
from workbench.probes import ProbeSet
from workbench.reading import Reading
from workbench.records import Drift


@dataclass(frozen=True)
class Measurement:
    """Prompts, their readings in the aligned model, and the noise of reading them."""

    reading: Reading
    directions: ReversionDirections
    aligned: Float[Tensor, "layer prompt d_model"]
    floor: Float[Tensor, " layer"]

    @classmethod
    def at_start(
        cls, model: ReadableModel, probes: ProbeSet, directions: ReversionDirections
    ) -> "Measurement":
        """Read the aligned model, before anything trains it.

        Raises:
            ProbeError: If a prompt does not fit the model or the directions' read position.
        """
        reading = Reading.of(model, probes, directions.provenance.get("position", -1))
        layers = list(directions.layers)
        aligned = read_activations(model, reading, layers=layers)
        return cls(reading, directions, aligned, noise_floor(model, reading, aligned, layers))

    def drift(self, model: ReadableModel) -> Drift:
        """Return how far the model has moved since."""
        current = read_activations(model, self.reading, layers=list(self.directions.layers))
        return measure_drift(self.aligned, current, self.directions, floor=self.floor)


def noise_floor(
    model: ReadableModel,
    reading: Reading,
    acts: Float[Tensor, "layer prompt d_model"],
    layers: list[int],
) -> Float[Tensor, " layer"]:
    """Return how far the mean reading moves when the same model is read in another batch shape.

    Args:
        model: The model that `acts` was read from, unchanged since.
        reading: What it was read on.
        acts: Its reading in batches of the default shape.
        layers: The layers of `acts`.
    """
    again = read_activations(model, reading, layers=layers, batch_size=other_size(model, reading))
    return (again.double() - acts.double()).mean(dim=1).norm(dim=-1)


def other_size(model: ReadableModel, reading: Reading) -> int:
    """Return a number of prompts per batch at which they are in other batches than by default.

    In the same ones nothing would be rounded otherwise.
    """
    default = max(len(batch.indices) for batch in reading.prepared(None, model.cfg.device))
    return default // 2 or 2
