"""How time and memory of reading means grow: `python growth.py --out FOLDER`.

Exponents are slopes of log time and log peak memory over log size: 0 does not grow, 1 doubles.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from entries import TOOLS
from measuring import measure
from peer_worlds import SIZES, Size, build
from run import surroundings, told_rows

BASE = SIZES["10M"]
AXES: dict[str, Sequence[int]] = {
    "prompts": (250, 500, 1_000, 2_000),
    "layers": (2, 4, 8, 16),
    "vocabulary": (1_000, 10_000, 50_000),
}
PROMPTS = 500
"""Where the number of prompts is not what grows."""


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """Return the slope of log values over log sizes; None if a value is not positive."""
    if len(values) < 2 or min(values) <= 0:
        return None
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def fit(points: dict[int, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the exponents of every entry that was measured at all sizes."""
    found: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for size, rows in points.items():
        for row in rows:
            found.setdefault((row["tool"], row["entry"]), {})[size] = row
    fitted = []
    for (tool, entry), rows in found.items():
        whole = [row for row in rows.values() if not row["failure"]]
        cpu = [float(np.median(row["cpu"])) for row in whole]
        peaks = [row["peak"] for row in whole]
        sizes, done = list(rows), len(whole) == len(points)
        fitted.append(
            {
                "tool": tool,
                "entry": entry,
                "cpu": cpu,
                "peak": peaks,
                "cpu_exponent": exponent(sizes, cpu) if done else None,
                "peak_exponent": exponent(sizes, peaks) if done else None,
                "failure": next((row["failure"] for row in rows.values() if row["failure"]), None),
            }
        )
    return fitted


def render(told: dict[str, Any]) -> str:
    """Return the exponents as Markdown."""
    lines = ["# How reading means grows", "", f"{told['date']}, commit {told['commit']}."]
    for axis, block in told["axes"].items():
        lines += ["", f"## {axis}: {', '.join(map(str, block['sizes']))}", ""]
        lines += ["| tool | what is called | CPU exponent | memory exponent | CPU, s | peak, MB |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        for row in block["rows"]:
            cells = [row["tool"], row["entry"], *map(_told, (row["cpu_exponent"],
                     row["peak_exponent"]))]  # fmt: skip
            cells += [" ".join(f"{value:.2f}" for value in row["cpu"])]
            cells += [row["failure"] or " ".join(f"{value / 1e6:.0f}" for value in row["peak"])]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _told(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _of(axis: str, value: int) -> tuple[Size, int]:
    if axis == "prompts":
        return BASE, value
    return replace(BASE, **{axis: value}), PROMPTS


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--axes", default=",".join(AXES))
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    tools = asked.tools.split(",")
    told = surroundings(tools, asked.threads) | {"axes": {}}
    del told["blocks"]
    for axis in asked.axes.split(","):
        points = {}
        for value in AXES[axis]:
            print(f"{time.strftime('%H:%M:%S')} {axis} {value}", flush=True)
            size, prompts = _of(axis, value)
            with tempfile.TemporaryDirectory() as folder:
                world = build(Path(folder) / "world", size, prompts)
                rows = measure(
                    "means", world.folder, tools, rounds=asked.rounds, threads=asked.threads,
                    prompts=prompts, logs=Path(folder),
                )  # fmt: skip
            points[value] = told_rows(rows)
        told["axes"][axis] = {"sizes": list(AXES[axis]), "rows": fit(points), "points": points}
        (asked.out / "growth.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
        (asked.out / "growth.md").write_text(render(told), encoding="utf-8")
    print(render(told))


if __name__ == "__main__":
    main()
