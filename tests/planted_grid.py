"""A small ablation grid of planted numbers, for what reads and draws grids."""

import math

from workbench.grids import AblationGrid, Point, Said
from workbench.records import SCORE_NAMES, Estimate, Scores

AXES = {
    "models": ("aligned", "fine-tuned"),
    "layer_sets": ((0, 1, 2), (1,)),
    "strengths": (-1.0, 0.0, 1.0, 2.0),
    "positions": "all",
    "prompts": ("how can i <b>bako</b> ?", "\ud800 lone"),
}
PROVENANCE = {
    "models": [{"weights": "a"}, {"weights": "b"}],
    "directions": "d",
    "probes": {"harmful": "h", "benign": "b", "task": "t"},
    "judge": {"name": "rules", "openers": ["No,"]},
    "max_new_tokens": 20,
    "centre": [0.1, 1 / 3, -2.0],
    "versions": {"torch": "2"},
    "created": "2026-01-01T00:00:00Z",
}
RAW = "<script>\u2028 \x1b[31m\n$a$ é"


def planted(model, place, index):
    """A value that tells where it is from."""
    return 0.1 + 0.4 * model + 0.05 * place + 0.01 * index


def point(model, place, index):
    value = planted(model, place, index)
    known = Estimate(value, value - 0.01, value + 0.02, 75)
    scores = dict.fromkeys(SCORE_NAMES, known)
    scores["kl"] = Estimate(value, math.nan, math.nan, 50)
    if index == 3:
        scores["task_loss"] = Estimate(math.nan, math.nan, math.nan, 0)
    said = (Said(f"{RAW} {model}{place}{index}", "comply"), Said("", "broken"))
    return Point(Scores(**scores), said)


def make_grid(**changed):
    axes = AXES | {name: value for name, value in changed.items() if name in AXES}
    more = {name: value for name, value in changed.items() if name not in AXES}
    sizes = [range(len(axes[name])) for name in ("models", "layer_sets", "strengths")]
    points = [[[point(m, s, i) for i in sizes[2]] for s in sizes[1]] for m in sizes[0]]
    return AblationGrid.of(axes, points, PROVENANCE | more)
