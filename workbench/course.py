"""The course of a model over its training: where each phase lies, seen from the aligned one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from workbench.errors import ConfigError, DegenerateDirectionError
from workbench.records import cosine

FLOOR_FACTOR = 10.0
"""A displacement below this many noise floors has no measured direction, as of a drift."""

Means = Mapping[str, Float[np.ndarray, "layer d_model"]]
"""Mean residual stream of phases, by name."""


@dataclass(frozen=True)
class Between:
    """The way from one phase back to another, per layer: v_rev of the two."""

    witness: str
    aligned: str

    unit: Float[np.ndarray, "layer d_model"]
    """Unit vectors from `aligned` to `witness`."""

    gap: Float[np.ndarray, " layer"]
    """Distance of the two means, in residual-stream units."""

    layers: tuple[int, ...]


@dataclass(frozen=True)
class Course:
    """Where every phase lies along and across v_rev, in phase gaps from the aligned one.

    What is read here is geometry, not a test. θ_S is in v_rev and in every displacement, which
    alone makes a cosine of about 0.5 between independent models. And phases on the way from the
    witness to the aligned one share later updates with v_rev: a random walk between the two goes
    from 1 to 0, too. `turning` tells these apart: it is near 1 where training goes straight on,
    near 0 for a random walk, and near −0.5 where phases only scatter about one place.
    """

    lineage: str

    phases: tuple[str, ...]
    """In training order."""

    steps: tuple[int | None, ...]

    layers: tuple[int, ...]

    roles: Mapping[str, str]
    """Phase names of `witness`, `aligned` and, where there is one, `sibling`."""

    along: Float[np.ndarray, "phase layer"]
    """Coordinate along v_rev: 0 is the aligned phase, 1 the witness."""

    across: Float[np.ndarray, "phase layer"]
    """Norm of the part orthogonal to it, in phase gaps."""

    alignment: Float[np.ndarray, "phase layer"]
    """Cosine of the displacement from the aligned phase with v_rev; NaN where undefined."""

    alignment_sibling: Float[np.ndarray, "phase layer"] | None
    """The same with the direction from the sibling to the witness, which θ_S is not in."""

    turning: Float[np.ndarray, "phase layer"]
    """Cosine of the displacement from the phase before with that to the phase after; 1 is straight
    on. NaN at both ends, at the sibling, which is no stage of the way, and where undefined."""

    @property
    def log_steps(self) -> bool:
        """Whether every phase has a step and steps ascend, so that they can be an axis."""
        return all(
            a is not None and b is not None and a < b
            for a, b in pairwise([*self.steps, float("inf")])
        )


def between(means: Means, witness: str, aligned: str, layers: Sequence[int]) -> Between:
    """Return v_rev of two phases.

    Raises:
        DegenerateDirectionError: If their means coincide at some layer.
    """
    difference = means[witness].astype(np.float64) - means[aligned].astype(np.float64)
    gap = np.linalg.norm(difference, axis=-1)
    if same := [layers[row] for row in np.flatnonzero(gap == 0).tolist()]:
        raise DegenerateDirectionError(
            f"Phase means of {witness} and {aligned} coincide at layers {same}: "
            "choose different checkpoints, or other layers."
        )
    return Between(witness, aligned, difference / gap[:, None], gap, tuple(layers))


def trace_course(
    means: Means,
    roles: Mapping[str, str],
    *,
    lineage: str,
    steps: Mapping[str, int | None],
    layers: Sequence[int],
    floor: Float[np.ndarray, " layer"] | None = None,
) -> Course:
    """Return where every phase lies.

    Args:
        means: Of the phases in training order, those of the roles among them.
        roles: Phase names of `witness`, `aligned` and, where there is one, `sibling`.
        lineage: Its name.
        steps: By phase; None for those of no series.
        layers: Of the model that the rows belong to.
        floor: Noise floor of each layer, in residual-stream units; by default none.

    Raises:
        ConfigError: If a role has no mean.
        DegenerateDirectionError: If witness and aligned coincide at some layer.
    """
    for role in ("witness", "aligned"):
        if roles.get(role) not in means:
            raise ConfigError(f"No reading of the {role} {roles.get(role)!r}; read that phase.")
    names, sibling = tuple(means), roles.get("sibling")
    way = between(means, roles["witness"], roles["aligned"], layers)
    floor = np.zeros(len(way.gap)) if floor is None else floor
    start = means[way.aligned].astype(np.float64)
    displaced = np.stack([means[name].astype(np.float64) - start for name in names])
    norm = np.linalg.norm(displaced, axis=-1)
    along = np.einsum("pld,ld->pl", displaced, way.unit)
    across = np.linalg.norm(displaced - along[..., None] * way.unit, axis=-1)
    unknown = norm <= FLOOR_FACTOR * floor
    beside = None
    if sibling in means:
        other = between(means, way.witness, str(sibling), layers).unit
        beside = _defined(cosine(displaced, other), unknown)
    on_way = [place for place, name in enumerate(names) if name != sibling]
    return Course(
        lineage=lineage,
        phases=names,
        steps=tuple(steps.get(name) for name in names),
        layers=tuple(layers),
        roles=dict(roles),
        along=along / way.gap,
        across=across / way.gap,
        alignment=_defined(cosine(displaced, way.unit), unknown),
        alignment_sibling=beside,
        turning=_turning(displaced, on_way, floor),
    )


def _turning(
    displaced: Float[np.ndarray, "phase layer d_model"],
    on_way: Sequence[int],
    floor: Float[np.ndarray, " layer"],
) -> Float[np.ndarray, "phase layer"]:
    turning = np.full(displaced.shape[:2], np.nan)
    for before, here, after in zip(on_way, on_way[1:], on_way[2:], strict=False):
        into, out = displaced[here] - displaced[before], displaced[after] - displaced[here]
        lengths = np.linalg.norm([into, out], axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            turning[here] = np.clip((into * out).sum(axis=-1) / lengths.prod(axis=0), -1, 1)
        turning[here, (lengths <= FLOOR_FACTOR * floor).any(axis=0)] = np.nan
    return turning


def _defined(
    cosines: Float[np.ndarray, "phase layer"], unknown: np.ndarray
) -> Float[np.ndarray, "phase layer"]:
    return np.where(unknown, np.nan, np.clip(cosines, -1, 1))
