"""`workbench directions`: fit v_rev per layer and save it."""

from argparse import Namespace
from pathlib import Path

from workbench.commands.options import probes_of
from workbench.directions import fit_directions
from workbench.errors import RunError
from workbench.inputs import SPLIT
from workbench.phases import Lineage
from workbench.text import printable


def run(arguments: Namespace) -> None:
    """Fit v_rev and save it."""
    out = _free(Path(arguments.out))
    lineage = Lineage.load(arguments.lineage)
    probes = probes_of(arguments).of_kind("harmful")
    if not arguments.all_probes:
        probes = probes.split(**SPLIT)[0]
    lineage.check()
    fitted = fit_directions(lineage, probes, position=arguments.position)
    fitted.save(out)
    print(printable(f"{out}: v_rev of {lineage.name} from {len(probes)} prompts"))
    print("layer     gap  split-half  interval of the cosine under resampling")
    for row, layer in enumerate(fitted.layers):
        low, high = fitted.interval[row].tolist()
        gap, half = fitted.gap[row].item(), fitted.split_half[row].item()
        print(f"{layer:5d} {gap:7.3f}  {half:10.3f}  {low:.3f} to {high:.3f}")


def _free(path: Path) -> Path:
    if path.exists():
        raise RunError(f"{path}: exists; choose another file, or remove it.")
    if not path.parent.is_dir():
        raise RunError(f"{path.parent}: no such folder; make it first.")
    return path
