"""Ideas for speed, each as a prototype beside what it would replace.

    python tests/benchmarks/ideas.py [NAME …] [--quick] [--sizes SIZES] [--out FILE]

prints a line per idea and size; what came of them is in IDEAS.md.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

# The checkout that this file is in is what is measured, whatever is installed.
sys.path.insert(1, str(Path(__file__).parents[2]))

from prototypes.bench import Bench

IDEAS = {
    "early-stop": "reading.early_stop",
    "buckets": "reading.buckets",
    "probes-in-training": "reading.probes_in_training_forward",
    "sums": "reading.sums",
    "packing": "packing.packing",
    "stacked": "together.stacked",
    "processes": "processes.side_by_side",
    "compile": "compiling.compiling",
    "bfloat16": "halves.speed",
    "bfloat16-error": "halves.error",
    "decoding": "decoding.decoding",
    "verdicts": "verdicts.verdicts",
    "openers": "openers.openers",
    "optimisers": "stepping.optimisers",
    "loop": "stepping.loop",
    "profile": "profiling.profile",
    "encoding": "texts.encoding",
    "pages": "allocating.pages",
}
"""By name, where each is; one is imported when it is asked for."""


def idea(name: str) -> Callable[[Bench], None]:
    """Return what tries an idea."""
    module, _, function = IDEAS[name].partition(".")
    return getattr(import_module(f"prototypes.{module}"), function)


def main() -> None:
    """Try the ideas asked for."""
    parser = argparse.ArgumentParser(description="Ideas for speed beside what they would replace.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(IDEAS)}")
    parser.add_argument("--quick", action="store_true", help="the smallest size, three rounds")
    parser.add_argument("--sizes", metavar="SIZES", help="comma-separated (default: all)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON to write, and .txt beside")
    parser.add_argument("--seconds", type=float, default=12.0, help="per comparison, about")
    parser.add_argument("--threads", type=int, default=1, help="but for `processes`")
    arguments = parser.parse_args()
    if unknown := sorted({*arguments.names} - {*IDEAS}):
        parser.error(f"no idea {unknown[0]!r}; there are {', '.join(IDEAS)}")
    import torch

    torch.set_num_threads(arguments.threads)
    only = tuple(arguments.sizes.split(",")) if arguments.sizes else None
    bench = Bench(arguments.quick, arguments.seconds, only)
    about = surroundings(arguments.threads)
    print(*(f"{key}: {value}" for key, value in about.items()), sep="; ")
    for name in arguments.names or IDEAS:
        print(f"# {name}", flush=True)
        idea(name)(bench)
        if arguments.out:
            write(arguments.out, about, bench)


def surroundings(threads: int) -> dict[str, str]:
    """Machine, versions, date, commit, and the load before the first idea."""
    from workbench.config import package_versions

    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "commit": described.stdout.strip() or "unknown",
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}, "
        f"{os.cpu_count()} cores, {threads} thread(s)",
        "load": f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown",
        "python": platform.python_version(),
        **package_versions(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


def write(path: Path, about: dict[str, str], bench: Bench) -> None:
    """Write JSON, and the lines as text beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    told = about | {"outcomes": [asdict(outcome) for outcome in bench.outcomes]}
    path.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    lines = [f"{key}: {value}" for key, value in about.items()]
    lines += ["", *map(str, bench.outcomes)]
    path.with_suffix(".txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
