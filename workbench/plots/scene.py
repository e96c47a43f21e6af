"""The scene of the geometry figure: where the phases and the runs of a lineage lie in a plane."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from workbench.errors import ConfigError
from workbench.plane import Placed, Plane, fit_plane
from workbench.plots.readings import Snapshot, snapshots
from workbench.plots.sources import RunSource, run_name, runs_of
from workbench.plots.style import ARMS, counted
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
    """All that have a plane."""

    left_out: tuple[str, ...]
    """What has none: other lineages, or runs that do not fit this one's v_rev."""

    complete: bool
    """Whether the other phases were stored; if not, only aligned and witness are known."""


@dataclass(frozen=True)
class LineageDrifts:
    """What was measured of one lineage."""

    around: Surroundings
    """With v_rev."""

    runs: tuple[Snapshot, ...]
    """Those whose drift has the layers and width of v_rev."""

    drifts: tuple[Float[np.ndarray, "_ layer d_model"], ...]
    """Of each run at its measured steps, in residual-stream units."""

    left_out: int
    """Number of runs that have another v_rev, other layers or another width."""


@dataclass(frozen=True)
class Ground:
    """What scenes are made from, read once."""

    lineages: Mapping[str, LineageDrifts]
    """Those that have a plane."""

    refused: Mapping[str, str]
    """Why others have none."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers of the model that all lineages have."""
        first, *others = [one.around.layers or () for one in self.lineages.values()]
        return tuple(layer for layer in first if all(layer in other for other in others))

    def scene(
        self,
        *,
        layer: int | None = None,
        arms: Sequence[str] | None = None,
        lineage: str | None = None,
    ) -> Scene:
        """Fit the plane of v_rev and the main across direction, and place all in it.

        Args:
            layer: One layer; by default all are stacked in gap units.
            arms: Which to show; by default all. Of a crowd, the plane is fitted to the main job's.
            lineage: Whose; a plane belongs to one. By default the first that has one.

        Raises:
            ConfigError: If a name or layer is unknown, or the lineage has no plane.
        """
        if lineage is not None and lineage in self.refused:
            raise ConfigError(self.refused[lineage])
        names = tuple(self.lineages)
        chosen = _chosen(lineage or names[0], names, "lineage")
        of = self.lineages[chosen]
        known = tuple(dict.fromkeys(map(arm_name, of.runs)))
        shown = known if arms is None else tuple(_chosen(arm, known, "arm") for arm in arms)
        kept = [each for each in zip(of.runs, of.drifts, strict=True) if arm_name(each[0]) in shown]
        kept.sort(key=lambda each: [*ARMS, *shown].index(arm_name(each[0])))
        missing = [f"lineage {name}" for name in self.refused]
        missing += [counted(of.left_out, "run")] if of.left_out else []
        return _scene(kept, of.around, layer, chosen, names, tuple(missing))


def read_ground(source: RunSource) -> Ground:
    """Read all that scenes of a source are made from.

    Args:
        source: A run, several, an experiment's result, or a folder.

    Raises:
        ConfigError: If nothing was measured, or no lineage has a v_rev that fits.
        RunError: If there is no run, or a file cannot be read.
    """
    of_lineage: dict[str, list[Snapshot]] = {}
    for run in snapshots(runs_of(source)):
        if run.measured:
            of_lineage.setdefault(_lineage(run), []).append(run)
    if not of_lineage:
        raise ConfigError("No step of these runs was measured yet.")
    lineages, refused = {}, {}
    for name, runs in of_lineage.items():
        try:
            lineages[name] = _drifts(runs)
        except ConfigError as error:
            refused[name] = str(error)
    if not lineages:
        raise ConfigError(next(iter(refused.values())))
    return Ground(lineages, refused)


def read_scene(
    source: RunSource,
    *,
    layer: int | None = None,
    arms: Sequence[str] | None = None,
    lineage: str | None = None,
) -> Scene:
    """Read a source and return one scene of it, as `Ground.scene` does.

    Raises:
        ConfigError: If nothing was measured, v_rev is not stored, or a name or layer is unknown.
        RunError: If there is no run, or a file cannot be read.
    """
    return read_ground(source).scene(layer=layer, arms=arms, lineage=lineage)


def _drifts(runs: Sequence[Snapshot]) -> LineageDrifts:
    """The drifts of one lineage's runs that fit its v_rev."""
    around = next((run.around for run in runs if run.around.gap is not None), None)
    if around is None or around.unit is None:
        raise ConfigError(
            f"{runs[0].folder}: no v_rev is stored beside this run, so it has no plane; run it "
            "again as `workbench finetune` on a lineage, or in an experiment."
        )
    fitting = [(run, run.drift()) for run in runs if _same(run.around, around)]
    fitting = [each for each in fitting if each[1].shape[1:] == around.unit.shape]
    if not fitting:
        raise ConfigError(
            f"{runs[0].folder}: drift and v_rev differ in their layers or width; are they of the "
            "same model?"
        )
    kept, drifts = zip(*fitting, strict=True)
    return LineageDrifts(around, kept, drifts, len(runs) - len(kept))


def _same(own: Surroundings, around: Surroundings) -> bool:
    """Whether a run has this v_rev, or none of its own."""
    if own is around or own.unit is None or around.unit is None:
        return True
    return own.layers == around.layers and np.array_equal(own.unit, around.unit)


def _scene(
    measured: Sequence[tuple[Snapshot, Float[np.ndarray, "_ _ _"]]],
    around: Surroundings,
    layer: int | None,
    lineage: str,
    lineages: tuple[str, ...],
    left_out: tuple[str, ...],
) -> Scene:
    assert around.unit is not None
    assert around.gap is not None
    assert around.layers is not None
    row = 0 if layer is None else _row(around.layers, layer)
    rows = slice(row, None if layer is None else row + 1)
    main = main_arms([arm_name(run) for run, _ in measured])
    fitted = [drift[:, rows] for run, drift in measured if arm_name(run) in main]
    plane = fit_plane(around.unit[rows], around.gap[rows], fitted)
    return Scene(
        plane=plane,
        tracks=tuple(
            Track(
                run,
                run_name(run),
                arm_name(run),
                np.array([0, *run.measured_steps]),
                plane.project(np.pad(drift[:, rows], ((1, 0), (0, 0), (0, 0)))),
            )
            for run, drift in measured
        ),
        phases=_placed(around, {n: v[rows] for n, v in around.landmarks.items()}, plane),
        roles={"witness": "witness", "aligned": "aligned"} | dict(around.roles),
        layers=around.layers if layer is None else (layer,),
        lineage=lineage,
        lineages=lineages,
        left_out=left_out,
        complete=around.phases is not None,
    )


def _placed(
    around: Surroundings, displaced: Mapping[str, np.ndarray], plane: Plane
) -> dict[str, Placed]:
    """The phases in training order, with the aligned one at the origin."""
    aligned = around.roles.get("aligned", "aligned")
    points = {**displaced, aligned: np.zeros(plane.along.shape)}
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
