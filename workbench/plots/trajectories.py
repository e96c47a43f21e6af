"""Trajectories: one quantity over the steps of every run of an arm, from runs or a summary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from workbench.errors import ConfigError
from workbench.plots.readings import Snapshot, read_values, snapshots
from workbench.plots.style import ARMS, ArmStyle, arm_styles
from workbench.records import mean_defined
from workbench.runs import Run

Source = Run | Sequence[Run] | Mapping[str, Any]
"""A run, several, or the summary of an experiment."""

CROWD = 8
"""More arms than this in one figure could not be told apart."""


@dataclass(frozen=True)
class Trajectories:
    """One quantity of one arm over the steps, run by run; NaN where it is undefined."""

    arm: str

    runs: tuple[str, ...]
    """What to call each run."""

    steps: Int[np.ndarray, " step"]

    values: Float[np.ndarray, "run step"]

    mean: Float[np.ndarray, " step"]
    """Over the runs in which the value is defined."""

    sd: Float[np.ndarray, " step"]
    """Sample standard deviation over runs; NaN for fewer than two."""

    low: Float[np.ndarray, "run step"]
    """Lower end of each run's own 95 % interval; NaN where it has none."""

    high: Float[np.ndarray, "run step"]
    """Upper end of it."""

    @property
    def counts(self) -> Int[np.ndarray, " step"]:
        """In how many runs the value is defined."""
        return np.isfinite(self.values).sum(axis=0)

    def at(self, step: int) -> Float[np.ndarray, " run"]:
        """Return every run's value at a step; NaN if there is none."""
        found = np.flatnonzero(self.steps == step)
        return self.values[:, found[0]] if len(found) else np.full(len(self.runs), np.nan)


def read_trajectories(
    source: Source, quantity: str, *, layer: int | None = None
) -> tuple[Trajectories, ...]:
    """Return the trajectories of a quantity, one item per arm that has it.

    Args:
        source: A run, several runs, or a summary.
        quantity: As in the summary: `alignment`, `along`, `harmfulness`, `task_loss`, …; a run
            has `norm` and `loss` too.
        layer: Of the model, of what is measured at layers; by default the mean over them.

    Raises:
        ConfigError: If no arm has the quantity at any step, or it is not known at the layer.
    """
    if isinstance(source, Mapping):
        told = source["arms"] if layer is None else _at_layer(source, quantity, layer)
        found = [
            _from_summary(source, arm, one.get("runs"), one[quantity])
            for arm, one in told.items()
            if one.get(quantity)
        ]
    else:
        found = _from_runs([source] if isinstance(source, Run) else list(source), quantity, layer)
    if not found:
        raise ConfigError(f"No {quantity!r} here: no run has measured it.")
    return tuple(found)


def _at_layer(summary: Mapping[str, Any], quantity: str, layer: int) -> dict[str, dict[str, Any]]:
    """The arms of a summary with the alignment at one layer in place of its mean."""
    if quantity != "alignment":
        raise ConfigError(f"A summary has no {quantity} at layers; give the runs instead.")
    layers = _layers(summary)
    if layer not in layers:
        raise ConfigError(f"No layer {layer} here; there are {', '.join(map(str, layers))}.")
    row, found = layers.index(layer), {}
    for arm, told in summary["arms"].items():
        by_step = {}
        for step, rows in told.get("alignment_by_layer", {}).items():
            if any(len(values) != len(layers) for values in rows):
                raise ConfigError(
                    f"This summary tells of {len(layers)} layers, but {arm!r} has "
                    f"{len(rows[0])} values at step {step}; give the runs instead."
                )
            values = [every[row] for every in rows]
            mean, sd = mean_and_sd(np.array([values], dtype=float).T)
            by_step[step] = {"per_seed": values, "mean": mean[0], "sd": sd[0]}
        found[arm] = {"runs": told.get("runs"), quantity: by_step}
    return found


def _layers(summary: Mapping[str, Any]) -> tuple[int, ...]:
    """The layers of the model that are the rows of a summary: those of its readouts."""
    readouts = (summary.get("readout") or {}).values()
    told = {tuple(one["layers"]) for one in readouts if one.get("layers")}
    if len(told) != 1:
        why = "lineages have different layers" if told else "it has no readout"
        raise ConfigError(
            f"This summary does not tell which layers of the model it is of ({why}); give the "
            "experiment's runs instead."
        )
    return told.pop()


def arm_name(run: Run) -> str:
    """Return the arm a run belongs to; a run outside an experiment is an arm of its own."""
    arm = run.info.get("config", {}).get("arm")
    if isinstance(arm, Mapping) and "name" in arm:
        return str(arm["name"])
    return arm if isinstance(arm, str) else run.id


def shown_arms(trajectories: Sequence[Trajectories]) -> frozenset[str]:
    """Return the arms that a figure shows at once: all, or of a crowd the main job's.

    The others wait in the legend for a click.
    """
    return main_arms([one.arm for one in trajectories])


def main_arms(arms: Sequence[str]) -> frozenset[str]:
    """Return all arms, or of a crowd the main job's, or else the first ones."""
    distinct = list(dict.fromkeys(arms))
    main = [arm for arm in distinct if arm in ARMS] or distinct[:CROWD]
    return frozenset(distinct if len(distinct) <= CROWD else main)


def runs_told(trajectories: Sequence[Trajectories]) -> str:
    """Return over how many runs an arm's means are, such as `3`, `2 or 3`, or `2 to 3`.

    A run counts where its value is defined; it is `to` where that differs over an arm's steps.
    """
    counted = [{*one.counts[one.counts > 0].tolist()} or {0} for one in trajectories]
    every = sorted(set().union(*counted))
    if any(len(one) > 1 for one in counted):
        return f"{every[0]} to {every[-1]}"
    return " or ".join(map(str, every))


def waiting_told(trajectories: Sequence[Trajectories]) -> str:
    """Return how many arms wait for a click; nothing if all are shown."""
    n = len({one.arm for one in trajectories} - shown_arms(trajectories))
    return f"; {n} more arms: click on their names" if n else ""


def source_styles(source: Source) -> dict[str, ArmStyle]:
    """Return a style for every arm of the source, whether or not a figure shows it."""
    if isinstance(source, Mapping):
        return arm_styles(source["arms"], source["arms"])
    told = {}
    for run in [source] if isinstance(source, Run) else source:
        arm = run.info.get("config", {}).get("arm")
        told[arm_name(run)] = arm if isinstance(arm, Mapping) else {}
    return arm_styles(sorted(told, key=lambda arm: [*ARMS, arm].index(arm)), told)


def last_common_step(*trajectories: Sequence[Trajectories]) -> int | None:
    """Return the last step that all arms have in all of the given quantities."""
    common = [set(one.steps.tolist()) for several in trajectories for one in several]
    shared = set.intersection(*common) if common else set()
    return max(shared, default=None)


def mean_and_sd(
    values: Float[np.ndarray, "run step"],
) -> tuple[Float[np.ndarray, " step"], Float[np.ndarray, " step"]]:
    """Return mean and sample sd over the runs in which a value is defined."""
    mean = mean_defined(values.T)
    defined = np.isfinite(values)
    n = defined.sum(axis=0)
    squares = np.where(defined, (values - mean) ** 2, 0.0).sum(axis=0)
    return mean, np.where(n > 1, np.sqrt(squares / np.maximum(n - 1, 1)), np.nan)


def _from_summary(
    summary: Mapping[str, Any],
    arm: str,
    run_ids: Sequence[str] | None,
    by_step: Mapping[str, Mapping[str, Any]],
) -> Trajectories:
    steps = sorted(by_step, key=int)
    values = _array([by_step[step]["per_seed"] for step in steps])
    n_runs, unknown = len(values), [[None, None]] * len(values)
    intervals = [_array(by_step[step].get("intervals", unknown)) for step in steps]
    return Trajectories(
        arm=arm,
        runs=_labels(summary, arm, run_ids, n_runs),
        steps=np.array(steps, dtype=int),
        values=values,
        mean=_array([[by_step[step]["mean"] for step in steps]])[:, 0],
        sd=_array([[by_step[step]["sd"] for step in steps]])[:, 0],
        low=np.stack([one[0] for one in intervals], axis=1),
        high=np.stack([one[1] for one in intervals], axis=1),
    )


def _array(rows: Sequence[Sequence[float | None]]) -> Float[np.ndarray, "column row"]:
    return np.array(rows, dtype=float).T


def _labels(
    summary: Mapping[str, Any], arm: str, run_ids: Sequence[str] | None, n_runs: int
) -> tuple[str, ...]:
    """Lineage and seed of every run, as far as the summary tells."""
    lineages, seeds = summary.get("lineages", []), summary.get("seeds", [])
    known = {
        f"{lineage.get('folder', lineage['name'])}-{arm}-{seed}": f"{lineage['name']}, seed {seed}"
        for lineage in lineages
        for seed in seeds
    }
    if run_ids is not None and len(run_ids) == n_runs:
        return tuple(known.get(run_id, run_id) for run_id in run_ids)
    if len(known) == n_runs:
        return tuple(known.values())
    return tuple(f"run {index + 1}" for index in range(n_runs))


def _from_runs(runs: Sequence[Run], quantity: str, layer: int | None) -> list[Trajectories]:
    by_arm: dict[str, list[Snapshot]] = {}
    for run in snapshots(runs):
        by_arm.setdefault(arm_name(run), []).append(run)
    # The main job's arms in their usual order, whatever order the folders are in.
    arms = sorted(by_arm, key=lambda arm: [*ARMS, arm].index(arm))
    found = [_of_arm(arm, by_arm[arm], quantity, layer) for arm in arms]
    return [one for one in found if len(one.steps)]


def _of_arm(arm: str, runs: Sequence[Snapshot], quantity: str, layer: int | None) -> Trajectories:
    columns = [read_values(run, quantity, layer) for run in runs]
    steps = sorted(set().union(*columns))
    nothing = (None, None, None)
    told = np.array(
        [[column.get(step, nothing) for step in steps] for column in columns], dtype=float
    ).reshape(len(runs), len(steps), 3)
    mean, sd = mean_and_sd(told[..., 0])
    return Trajectories(
        arm=arm,
        runs=tuple(run.id for run in runs),
        steps=np.array(steps, dtype=int),
        values=told[..., 0],
        mean=mean,
        sd=sd,
        low=told[..., 1],
        high=told[..., 2],
    )
