"""`workbench convert`: directions from and to the files of other tools."""

from argparse import Namespace
from pathlib import Path

from workbench.commands.options import new_file
from workbench.directions import ReversionDirections
from workbench.errors import ConfigError
from workbench.exchange import load_directions_from, save_directions_as
from workbench.text import printable
from workbench.vectors.arrays import is_own


def run(arguments: Namespace) -> None:
    """Write our directions for another tool, or make ours of its file."""
    out = new_file(arguments.out)
    convert = _export if is_own(Path(arguments.source)) else _import
    convert(arguments, out)


def _export(arguments: Namespace, out: Path) -> None:
    if arguments.like:
        raise ConfigError(
            f"{arguments.source}: already the workbench's own; --like is for files of other tools."
        )
    directions = ReversionDirections.load(arguments.source)
    scale = arguments.scale or "gap"
    save_directions_as(
        directions,
        out,
        format=arguments.format,
        scale=scale,
        layers=arguments.layers,
        model_type=arguments.model_type,
    )
    layers = arguments.layers or directions.layers
    length = "1 is one phase gap" if scale == "gap" else "all of length 1"
    print(printable(f"{out}: layers {', '.join(map(str, layers))}; {length}"))
    if len(layers) > 1:
        print("other tools add each layer's vector in full: steer at one layer")


def _import(arguments: Namespace, out: Path) -> None:
    if arguments.scale or arguments.model_type:
        raise ConfigError(
            f"{arguments.source}: another tool's file; --scale and --model-type are for "
            "writing one."
        )
    like = ReversionDirections.load(arguments.like) if arguments.like else None
    directions = load_directions_from(
        arguments.source, format=arguments.format, layers=arguments.layers, like=like
    )
    directions.save(out)
    made = directions.provenance["imported"]
    print(printable(f"{out}: directions from {made['file']} ({made['format']})"))
    print("layer     gap")
    for layer, gap in zip(directions.layers, directions.gap.tolist(), strict=True):
        print(f"{layer:5d} {gap:7.3f}")
    if like is None:
        print("gap is the vector's own length; the aligned model is not known: see --like")
