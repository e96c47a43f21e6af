"""Landmarks: where the phases of a lineage lie, seen from the aligned model."""

from collections.abc import Mapping

from workbench.artefacts import Artefact
from workbench.phase_reading import PhaseReading
from workbench.phases import Lineage

SCHEMA = "workbench.phases/1"


def measure_landmarks(lineage: Lineage, readings: Mapping[str, PhaseReading]) -> Artefact:
    """Return every phase's mean displacement from the aligned model, by the phase's name.

    Tensors are [layer d_model], float64, in residual-stream units. The provenance holds the names
    in training order (`phases`, the aligned one among them) and who is who (`roles`).

    Args:
        lineage: Whose phases they are.
        readings: Of its phases on the same probes, by name, the aligned one among them; those
            whose tokens differ from the aligned one's are left out.
    """
    aligned = readings[lineage.aligned.name]
    # The displacement is a small difference of large means: accumulate it in float64.
    start = aligned.acts.double().mean(dim=1)
    same = {
        name: reading.acts.double().mean(dim=1) - start
        for name, reading in readings.items()
        if reading.tokens_hash == aligned.tokens_hash and name != aligned.phase
    }
    in_order = [
        phase.name for phase in lineage.phases if phase.name in same or phase == lineage.aligned
    ]
    return Artefact(same, aligned.layers, {"phases": in_order, "roles": dict(lineage.roles)})
