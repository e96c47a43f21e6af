"""Which run is shown: controls for arm, lineage and seed, and tables nested to follow them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.errors import ConfigError
from workbench.plots.trajectories import arm_name
from workbench.plots.view import Control
from workbench.runs import Run
from workbench.text import printable

PARTS = ("arm", "lineage", "seed")


@dataclass(frozen=True)
class Selection:
    """Runs laid out along controls: by arm, lineage and seed if they fill that grid, else singly.

    A control with a single option is left out.
    """

    controls: tuple[Control, ...]
    runs: tuple[Run, ...]
    """In the order of the options, the last control's changing fastest."""

    @classmethod
    def of(cls, runs: Sequence[Run], *, first_arm: str = "ordinary") -> "Selection":
        """Lay runs out.

        Args:
            runs: At least one.
            first_arm: The arm that is chosen at first, if it is there.

        Raises:
            ConfigError: If there is no run.
        """
        if not runs:
            raise ConfigError("No run to choose from: none was measured yet.")
        told = [_parts(run) for run in runs]
        options = [list(dict.fromkeys(column)) for column in zip(*told, strict=True)]
        cells: dict[tuple[str, ...], Run] = dict(zip(told, runs, strict=True))
        size = len(options[0]) * len(options[1]) * len(options[2])
        if not len(cells) == len(runs) == size:
            return cls((Control("run", "run", "select", distinct_names(runs)),), tuple(runs))
        ordered = tuple(
            cells[arm, lineage, seed]
            for arm in options[0]
            for lineage in options[1]
            for seed in options[2]
        )
        return cls(
            tuple(
                Control(
                    part,
                    part,
                    "select",
                    tuple(map(printable, offered)),
                    offered.index(first_arm) if first_arm in offered else 0,
                )
                for part, offered in zip(PARTS, options, strict=True)
                if len(offered) > 1
            ),
            ordered,
        )

    @property
    def by(self) -> tuple[str, ...]:
        """Names of the controls that together choose the run."""
        return tuple(control.name for control in self.controls)

    def table(self, value: Callable[[Run], Any]) -> Any:
        """Return what `value` gives of every run, nested along the controls."""
        return _nested(self.runs, self.controls, value)


def distinct_names(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return what to call runs, in plain text: their names, those that are equal by folder too.

    Of two experiments, `first/organism-ordinary-0` and `second/organism-ordinary-0`.
    """
    homes = [run.folder.resolve().parent.parent.parts for run in runs]
    names = [run.id for run in runs]
    for depth in range(1, max(map(len, homes), default=0)):
        equal = {name for name, n in Counter(names).items() if n > 1}
        names = [
            "/".join((*home[-depth:], run.id)) if name in equal else name
            for run, home, name in zip(runs, homes, names, strict=True)
        ]
    return tuple(map(printable, names))


def _nested(runs: Sequence[Run], controls: Sequence[Control], value: Callable[[Run], Any]) -> Any:
    if not controls:
        return value(runs[0])
    each = len(runs) // len(controls[0].options)
    parts = [runs[start : start + each] for start in range(0, len(runs), each)]
    return [_nested(part, controls[1:], value) for part in parts]


def _parts(run: Run) -> tuple[str, str, str]:
    config = run.info.get("config", {})
    return arm_name(run), str(config.get("lineage", "")), str(config.get("seed", ""))
