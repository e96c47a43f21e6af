"""The lines of records.jsonl: what they hold, and what makes a sequence of them."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from workbench.records import SCORE_NAMES
from workbench.shape import COUNT, NAME, NUMBER, NUMBERS, UNDEFINED, Each, Maybe, check_shape

BY_LAYER = ("alignment", "low", "high", "along", "across", "norm")
"""What a measured line tells of every layer."""

DRIFT = {
    "mean_alignment": UNDEFINED,
    "stacked_alignment": UNDEFINED,
    **dict.fromkeys(BY_LAYER, NUMBERS),
    "undefined": COUNT,
    "sha256": NAME,
}
"""The hash is of the drift file."""

ESTIMATE = {"value": UNDEFINED, "low": UNDEFINED, "high": UNDEFINED, "n": COUNT}
LINE = {
    "step": COUNT,
    "loss": UNDEFINED,
    "learning_rate": NUMBER,
    "gradient_norm": UNDEFINED,
    "auxiliary": Maybe(Each({"loss": UNDEFINED, "gradient_norm": UNDEFINED, "scale": UNDEFINED})),
    "drift": Maybe(DRIFT),
    "scores": Maybe(dict.fromkeys(SCORE_NAMES, ESTIMATE)),
}


def check_lines(new: Sequence[Any], before: Sequence[Mapping[str, Any]]) -> None:
    """Raise `ValueError`, naming the line, unless `new` lines can follow those `before`.

    Steps ascend, and all measured lines tell of as many layers.
    """
    last = before[-1]["step"] if before else -1
    layers: int | None = None
    for number, line in enumerate(chain(before, new), 1):
        # Those before were checked; of them the first with a drift tells the number of layers.
        if number <= len(before):
            layers = layers or _layers(line)
            continue
        where = f"line {number}"
        check_shape(line, LINE, where)
        if line["step"] <= last:
            raise ValueError(f"{where}.step is {line['step']} after {last}")
        last = line["step"]
        if (found := _layers(line)) is not None:
            layers = layers or found
            lengths = {len(line["drift"][name]) for name in BY_LAYER}
            if lengths != {layers}:
                raise ValueError(f"{where}.drift is of {sorted(lengths)} layers, not {layers}")


def _layers(line: Mapping[str, Any]) -> int | None:
    return len(line["drift"]["alignment"]) if "drift" in line else None
