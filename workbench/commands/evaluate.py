"""`workbench evaluate`: behaviour scores of every phase of a lineage, or of a model."""

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.commands.options import is_lineage
from workbench.evaluation import evaluate
from workbench.loading import load_model
from workbench.phases import Lineage
from workbench.probes import ProbeSet
from workbench.records import SCORE_NAMES, Scores, scores_to_json
from workbench.text import printable


def run(arguments: Namespace) -> None:
    """Print the behaviour scores of every phase of a lineage, or of a model."""
    source = Path(arguments.lineage)
    folder = source if source.is_dir() else source.parent
    beside = folder / "task.jsonl"
    task = arguments.task or (beside if beside.is_file() else None)
    harmful_file = arguments.harmful or folder / "harmful.jsonl"
    harmful = ProbeSet.load(harmful_file, kind="harmful").of_kind("harmful")
    benign = ProbeSet.load(arguments.benign or folder / "benign.jsonl", kind="benign").of_kind(
        "benign"
    )
    options = {
        "task": ProbeSet.load(task, kind="benign") if task else None,
        "judge": arguments.judge or "rules",
        "max_new_tokens": arguments.max_new_tokens,
    }
    models: dict[str, Callable[[], Any]] = {source.name: lambda: load_model(arguments.lineage)}
    if is_lineage(arguments.lineage):
        lineage = Lineage.load(source)
        lineage.check()
        options["judge"] = arguments.judge or lineage.judge
        models = {
            phase.name: lambda phase=phase: lineage.load_model(phase) for phase in lineage.phases
        }
    found = {name: evaluate(load(), harmful, benign, **options) for name, load in models.items()}
    if arguments.json:
        print(json.dumps({name: scores_to_json(scores) for name, scores in found.items()}))
        return
    for name, scores in found.items():
        _show(name, scores)


def _show(name: str, scores: Scores) -> None:
    print(printable(name))
    for score in SCORE_NAMES:
        if (estimate := scores[score]).n:
            interval = f"[{estimate.low:.3f}, {estimate.high:.3f}]"
            told = f"  {score:17} {estimate.value:8.3f}  {interval}  n = {estimate.n}"
            print(told)
