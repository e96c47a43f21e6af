"""Values of options, from text to what the commands use; nothing heavy is imported."""

import math
import sys
from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any

from workbench.config import Recipe
from workbench.errors import RunError
from workbench.resources import is_builtin_lineage
from workbench.storing import check_writable
from workbench.text import printable


def positive(text: str) -> int:
    """Return a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def whole_numbers(text: str) -> tuple[int, ...]:
    """Return whole numbers given as 1,2,5, in ascending order."""
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} are not whole numbers such as 1,2,5") from None


def numbers(text: str) -> tuple[float, ...]:
    """Return numbers given as 0,0.25,1, in ascending order."""
    try:
        found = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} are not numbers such as 0,0.25,1") from None
    if not all(map(math.isfinite, found)):
        raise ArgumentTypeError(f"{text!r}: every strength must be finite")
    return found


def read_position(text: str) -> Any:
    """Return a read position: an index from the end of the prompt, or the name of another."""
    if text in ("prompt_mean", "response_mean", "content_last", "content_mean"):
        return text
    numbers = whole_numbers(text.replace("−", "-"))
    if len(numbers) != 1 or numbers[0] >= 0:
        raise ArgumentTypeError(f"{text!r}: count from the end, −1 is the last prompt token")
    return numbers[0]


def recipe_of(arguments: Namespace) -> Recipe:
    """Return the numbers of the fine-tuning."""
    return Recipe(
        steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        batch_size=arguments.batch_size,
        warmup=arguments.warmup,
        schedule=arguments.schedule,
        weight_decay=arguments.weight_decay,
        accumulation=arguments.accumulation,
        measure_at=arguments.measure_at,
        lora=arguments.lora,
    )


def splits_of(arguments: Namespace) -> Any:
    """Return the parts of the probes of --probes, or of those beside the lineage."""
    from workbench.inputs import Splits
    from workbench.probes import ProbeSet

    path = probes_file(arguments)
    return Splits.of(ProbeSet.load(path), where=str(path))


def probes_file(arguments: Namespace) -> Path:
    """Return where the probes are: --probes, or beside the lineage."""
    source = Path(arguments.lineage)
    beside = (source if source.is_dir() else source.parent) / "probes.jsonl"
    return Path(arguments.probes or beside)


def new_file(text: str) -> Path:
    """Return where to write a file that is not there yet.

    Raises:
        RunError: If it is, or has no folder, or one that cannot be written.
    """
    path = Path(text)
    if path.exists():
        raise RunError(f"{path}: exists; choose another file, or remove it.")
    if not path.parent.is_dir():
        raise RunError(f"{path.parent}: no such folder; make it first.")
    check_writable(path)
    return path


def is_lineage(text: str) -> bool:
    """Tell a lineage file, its folder or the name of a built-in one from a model."""
    path = Path(text)
    return path.suffix == ".toml" or (path / "lineage.toml").is_file() or is_builtin_lineage(text)


def tell(arguments: Namespace, text: str) -> None:
    """Print a remark on the way, unless asked to be quiet."""
    if not arguments.quiet:
        print(printable(text), file=sys.stderr)
