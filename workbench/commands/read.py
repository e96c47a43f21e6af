"""`workbench read`: the mean readings of every phase of a lineage, and the way they make."""

from argparse import Namespace
from collections.abc import Callable

import numpy as np

from workbench.commands.options import probes_file
from workbench.course import Course
from workbench.errors import CheckpointError, ConfigError, DegenerateDirectionError, RunError
from workbench.passage import Passage
from workbench.passage_reading import read_passage
from workbench.phases import Lineage
from workbench.plots.style import number
from workbench.probes import ProbeSet
from workbench.progress import Tally
from workbench.records import mean_defined
from workbench.text import printable

MOST_ROWS = 24
"""Phases in the table; of more, some are left out, never one with a role."""

CAUTION = (
    "means over layers; in phase gaps, 0 is the aligned phase and 1 the witness. A random walk "
    "between the two has these coordinates, too, but a turning near 0."
)
SHARED = "Shared endpoint not separated: the lineage has no sibling."


def run(arguments: Namespace) -> None:
    """Read every phase that is not there yet, and print where they lie."""
    lineage = Lineage.load(arguments.lineage)
    probes = ProbeSet.load(probes_file(arguments))
    if arguments.kind != "all":
        probes = probes.of_kind(arguments.kind)
    with Tally(len(lineage.phases), "phase", quiet=arguments.quiet) as tally:
        passage = read_passage(
            lineage,
            probes,
            arguments.out,
            position=arguments.position,
            layers=None if arguments.layers is None else list(arguments.layers),
            keep=arguments.keep,
            device=arguments.device,
            resume=arguments.resume,
            break_lock=arguments.break_lock,
            on_phase=_telling(tally),
        )
    print(printable(f"{arguments.out}: {len(passage.phases)} of {len(lineage.phases)} phases"))
    _show(passage)
    if passage.missing and not (arguments.skip_missing and passage.phases):
        names = list(passage.missing)
        raise CheckpointError(
            f"{len(names)} of {len(lineage.phases)} phases could not be read "
            f"({', '.join(names[:3])}{' …' if len(names) > 3 else ''}): "
            f"{passage.missing[names[0]].rstrip('.')}. Mend them and continue with --resume, or "
            "take what there is with --skip-missing."
        )


def _telling(tally: Tally) -> Callable[[str, str | None], None]:
    def told(name: str, why: str | None) -> None:
        tally(name)
        if why is not None:
            tally.tell(f"{name} is left out: {why}")

    return told


def _show(passage: Passage) -> None:
    try:
        course = passage.course()
    except (ConfigError, DegenerateDirectionError, RunError) as error:
        print(printable(f"no course: {error}"))
        return
    print("phase                         along   across   cosine  sibling  turning")
    columns = [mean_defined(values) for values in (course.along, course.across, course.alignment)]
    beside = course.alignment_sibling
    columns.append(np.full(len(course.phases), np.nan) if beside is None else mean_defined(beside))
    columns.append(mean_defined(course.turning))
    for place in _shown(course):
        told = " ".join(f"{number(float(column[place]), 3):>8}" for column in columns)
        print(f"{printable(course.phases[place])[:26]:26} {told}")
    print(CAUTION if beside is not None else f"{CAUTION} {SHARED}")


def _shown(course: Course) -> list[int]:
    """Which phases the table shows: spread over all, those with a role among them."""
    count = len(course.phases)
    spread = np.linspace(0, count - 1, min(count, MOST_ROWS)).round().astype(int).tolist()
    named = [course.phases.index(n) for n in course.roles.values() if n in course.phases]
    return sorted({*spread, *named})
