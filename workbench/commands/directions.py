"""`workbench directions`: fit v_rev per layer and save it."""

from argparse import Namespace

from workbench.commands.options import new_file, probes_file, splits_of
from workbench.directions import ReversionDirections, fit_directions
from workbench.phases import Lineage
from workbench.probes import ProbeSet
from workbench.readout import Readout, read_vocabulary
from workbench.text import printable


def run(arguments: Namespace) -> None:
    """Fit v_rev and save it; on request read it out."""
    out = new_file(arguments.out)
    lineage = Lineage.load(arguments.lineage)
    if arguments.all_probes:
        probes = ProbeSet.load(probes_file(arguments)).of_kind("harmful")
    else:
        probes = splits_of(arguments).fit
    lineage.check()
    fitted = fit_directions(lineage, probes, position=arguments.position)
    readout = _readout(lineage, fitted) if arguments.readout else None
    fitted.save(out)
    print(printable(f"{out}: v_rev of {lineage.name} from {len(probes)} prompts"))
    print("layer     gap  split-half  interval of the cosine under resampling")
    for row, layer in enumerate(fitted.layers):
        low, high = fitted.interval[row].tolist()
        gap, half = fitted.gap[row].item(), fitted.split_half[row].item()
        print(f"{layer:5d} {gap:7.3f}  {half:10.3f}  {low:.3f} to {high:.3f}")
    if readout is not None:
        _show(readout)


def _readout(lineage: Lineage, directions: ReversionDirections) -> Readout:
    model = lineage.load_model(lineage.aligned)
    return read_vocabulary(model, directions, judge=lineage.judge)


def _show(readout: Readout) -> None:
    print("logit changes of the first response token at the aligned model, nats per phase gap")
    for row, layer in enumerate(readout.layers):
        preference, p_value = readout.preference[row], readout.p_value[row]
        told = f"{preference:+.3f}, p = {p_value:.2g}"
        if not readout.engaging or not readout.refusing:
            told = "undefined, as the tokenizer knows no first token of one of them alone"
        print(f"layer {layer}: engaging over refusing {told}")
        for name, tokens in (("up", readout.top[row]), ("down", readout.bottom[row])):
            # As Python writes them: blanks are part of tokens, and control characters are escaped.
            told = "  ".join(f"{token.text!r} {token.change:+.2f}" for token in tokens)
            print(f"  {name:4}  {told}")
