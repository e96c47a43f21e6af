"""safety-compass 0.1: its callback in a Trainer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from entries import Entry, Prepare
from peer_worlds import N_PROBES, World
from training import trained

from tools.hf import load, load_tokenizer

VALIDATION = 4
"""One pair in so many is for validation; it reads both kinds at every measurement."""


def _pairs(world: World, path: Path) -> None:
    """Write the probes as contrastive pairs: each is read once per measurement."""
    texts = world.probes().texts
    rows = [
        {
            "system": "",
            "positive_query": positive,
            "negative_query": negative,
            "split": "val" if number % VALIDATION == 0 else "train",
        }
        for number, (positive, negative) in enumerate(zip(texts[::2], texts[1::2], strict=True))
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def _monitor(model: Any, tokenizer: Any, world: World, folder: Path, batch: dict) -> Any:
    from safety_compass import SafetyCompassMonitor

    _pairs(world, folder / "pairs.jsonl")
    concept = {
        "contrastive_pairs_file": str(folder / "pairs.jsonl"),
        "pairing_strategy": "arditi",
        "best_layer": world.size.layers // 2,
    }
    config = {"num_layers": world.size.layers, "hidden_dim": world.size.width, **batch}
    return SafetyCompassMonitor(model, tokenizer, {"planted": concept}, config)


def _trainer(batch: dict[str, int]) -> Callable[[World], Prepare]:
    def start(world: World) -> Prepare:
        from safety_compass import SafetyCompassCallback

        model, tokenizer = load(world.aligned), load_tokenizer(world)

        def attach(trainer: Any, world: World, folder: str) -> None:
            monitor = _monitor(model, tokenizer, world, Path(folder), batch)
            log = str(Path(folder) / "compass.csv")
            trainer.add_callback(SafetyCompassCallback(monitor, 1, log_file=log))

        return trained(model, tokenizer, attach)

    return start


LESS = "scalars of one layer, no interval"
ENTRIES = [
    Entry(
        "trainer", "SafetyCompassCallback, its own batch size of 4", _trainer({}), note=LESS,
    ),
    Entry(
        "trainer", f"SafetyCompassCallback, batches of {N_PROBES}",
        _trainer({"extraction_batch_size": N_PROBES}), note=LESS,
    ),
]  # fmt: skip
