"""The scene of the geometry figure: where the phases and the runs of a lineage lie in a plane."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from workbench.errors import ConfigError
from workbench.plane import Placed, Plane, fit_plane, stacked
from workbench.plots.sources import RunSource, run_name, runs_of
from workbench.plots.style import ARMS
from workbench.plots.trajectories import arm_name, main_arms
from workbench.runs import Run
from workbench.surroundings import Surroundings


@dataclass(frozen=True)
class Track:
    """One run's way through the plane, from the aligned model on."""

    run: Run

    name: str
    """What to call it within its arm."""

    arm: str

    steps: Int[np.ndarray, " step"]
    """Step 0, the aligned model, then the measured ones."""

    placed: Placed
    """[step]."""


@dataclass(frozen=True)
class Scene:
    """All that the figure shows, in phase gaps."""

    plane: Plane

    tracks: tuple[Track, ...]
    """Arm by arm in their usual order."""

    phases: Mapping[str, Placed]
    """Every phase that is known, in training order; the aligned one lies at 0."""

    roles: Mapping[str, str]
    """Phase names of `witness`, `aligned` and perhaps `sibling`."""

    layers: tuple[int, ...]
    """Those that were stacked."""

    lineage: str
    """Whose phases and runs they are."""

    lineages: tuple[str, ...]
    """All that the source has."""

    complete: bool
    """Whether the other phases were stored; if not, only aligned and witness are known."""


def read_scene(
    source: RunSource,
    *,
    layer: int | None = None,
    arms: Sequence[str] | None = None,
    lineage: str | None = None,
) -> Scene:
    """Fit the plane of v_rev and the main across direction, and place all in it.

    Args:
        source: A run, several, an experiment's result, or a folder.
        layer: One layer; by default all are stacked in gap units.
        arms: Which to show; by default all. Of a crowd, the plane is fitted to the main job's.
        lineage: Whose; a plane belongs to one. By default the first run's.

    Raises:
        ConfigError: If nothing was measured, v_rev is not stored, or a name or layer is unknown.
        RunError: If there is no run, or a file cannot be read.
    """
    measured = [run for run in runs_of(source) if run.measured]
    if not measured:
        raise ConfigError("No step of these runs was measured yet.")
    lineages = tuple(dict.fromkeys(_lineage(run) for run in measured))
    chosen = _chosen(lineage or lineages[0], lineages, "lineage")
    runs = [run for run in measured if _lineage(run) == chosen]
    known = tuple(dict.fromkeys(arm_name(run) for run in runs))
    shown = known if arms is None else tuple(_chosen(arm, known, "arm") for arm in arms)
    runs = sorted(
        (run for run in runs if arm_name(run) in shown),
        key=lambda run: [*ARMS, *shown].index(arm_name(run)),
    )
    return _scene(runs, Surroundings.of(runs[0]), layer, chosen, lineages)


def _scene(
    runs: Sequence[Run],
    around: Surroundings,
    layer: int | None,
    lineage: str,
    lineages: tuple[str, ...],
) -> Scene:
    if around.unit is None or around.gap is None or around.layers is None:
        raise ConfigError(
            f"{runs[0].folder}: no v_rev is stored beside this run, so it has no plane; run it "
            "again as `workbench finetune` on a lineage, or in an experiment."
        )
    rows = slice(None) if layer is None else [_row(around.layers, layer)]
    gap = around.gap[rows]

    def stack(vectors: Float[np.ndarray, "*point layer d_model"]) -> np.ndarray:
        if vectors.shape[-2:] != around.unit.shape:  # type: ignore[union-attr]
            raise ConfigError(
                f"{runs[0].folder}: drift and v_rev differ in their layers or width; are they of "
                "the same model?"
            )
        return stacked(vectors[..., rows, :], gap)

    drifts = [stack(run.drift()) for run in runs]
    main = main_arms([arm_name(run) for run in runs])
    fitted = [drift for run, drift in zip(runs, drifts, strict=True) if arm_name(run) in main]
    plane = fit_plane(stack(around.gap[:, None] * around.unit), fitted)
    return Scene(
        plane=plane,
        tracks=tuple(
            Track(
                run,
                run_name(run),
                arm_name(run),
                np.array([0, *run.measured_steps]),
                plane.project(np.vstack([np.zeros_like(drift[:1]), drift])),
            )
            for run, drift in zip(runs, drifts, strict=True)
        ),
        phases=_placed(around, {n: stack(v) for n, v in around.landmarks.items()}, plane),
        roles={"witness": "witness", "aligned": "aligned"} | dict(around.roles),
        layers=around.layers if layer is None else (layer,),
        lineage=lineage,
        lineages=lineages,
        complete=around.phases is not None,
    )


def _placed(
    around: Surroundings, displaced: Mapping[str, np.ndarray], plane: Plane
) -> dict[str, Placed]:
    """The phases in training order, with the aligned one at the origin."""
    aligned = around.roles.get("aligned", "aligned")
    points = {**displaced, aligned: np.zeros_like(plane.along)}
    order = [*(name for name in around.order if name in points), *points]
    return {name: plane.project(points[name]) for name in dict.fromkeys(order)}


def _lineage(run: Run) -> str:
    return str(run.info.get("config", {}).get("lineage"))


def _chosen(name: str, known: Sequence[str], kind: str) -> str:
    if name not in known:
        raise ConfigError(f"No measured run of {kind} {name!r} here; there are {', '.join(known)}.")
    return name


def _row(layers: Sequence[int], layer: int) -> int:
    if layer not in layers:
        raise ConfigError(f"v_rev has no layer {layer}; it has {', '.join(map(str, layers))}.")
    return list(layers).index(layer)
