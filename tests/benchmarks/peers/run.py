"""Measure all jobs at all sizes with every tool: `python run.py --out FOLDER`.

Install the tools first: `python environments.py`. The JSON is written after every job.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from entries import JOBS, TOOLS
from environments import CHECKOUT, find
from measuring import TOLERANCE, Row, measure
from peer_worlds import SIZES, build
from table import render

ROUNDS = {"0.1M": 9, "10M": 7, "10M-50k": 5, "100M": 3}
PROMPTS = {"100M": 500}


def told_rows(rows: list[Row]) -> list[dict[str, Any]]:
    """Return rows as they are stored, with whether each result is the same as ours."""
    told = [asdict(row) for row in rows]
    for row in told:
        if row["difference"] is not None:
            row["difference"]["same"] = row["difference"]["relative"] <= TOLERANCE
    return told


def surroundings(tools: list[str], threads: int) -> dict[str, Any]:
    """Return where and with what is measured."""
    environments = []
    for tool in tools:
        try:
            found = find(tool)
            failure = f"not installable: {found.failure}" if found.failure else None
            told = {"versions": found.versions(), "failure": failure}
        except FileNotFoundError as error:
            told = {"versions": {}, "failure": str(error)}
        environments.append({"name": tool, **told})
    return {
        "schema": 1,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": _commit(),
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
        },
        "threads": threads,
        "environments": environments,
        "blocks": [],
    }


def write(told: dict[str, Any], out: Path) -> None:
    """Write the JSON and the table made of it."""
    (out / "peers.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    (out / "peers.md").write_text(render(told), encoding="utf-8")


def _commit() -> str:
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def per_size(text: str | None, defaults: dict[str, int]) -> dict[str, int]:
    """Read `9` for all sizes, or `0.1M=9,10M=5` for some."""
    if not text:
        return defaults
    if text.isdigit():
        return dict.fromkeys(SIZES, int(text))
    pairs = (part.split("=") for part in text.split(","))
    return defaults | {size: int(number) for size, number in pairs}


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--rounds", help="for all sizes, or as 0.1M=9,10M=5")
    parser.add_argument("--prompts", help="of 2,000; for all sizes, or as 100M=500")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args(given)
    asked.rounds, asked.prompts = per_size(asked.rounds, ROUNDS), per_size(asked.prompts, PROMPTS)
    return asked


def main() -> None:
    """Measure what the command line asks for."""
    asked = arguments()
    asked.out.mkdir(parents=True, exist_ok=True)
    tools = asked.tools.split(",")
    told = surroundings(tools, asked.threads)
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        for size in asked.sizes.split(","):
            world = build(logs / size, SIZES[size])
            prompts = asked.prompts.get(size, len(world.texts))
            rounds = asked.rounds[size]
            for job in asked.jobs.split(","):
                print(f"{time.strftime('%H:%M:%S')} {job}, {size}", flush=True)
                rows = measure(
                    job, world.folder, tools,
                    rounds=rounds, threads=asked.threads, prompts=prompts, logs=logs, say=_say,
                )  # fmt: skip
                told["blocks"].append(
                    {"job": job, "size": size, "rounds": rounds, "prompts": prompts}
                    | {"rows": told_rows(rows)}
                )
                write(told, asked.out)
    print((asked.out / "peers.md").read_text(encoding="utf-8"))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
