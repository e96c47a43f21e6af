"""The command line: `workbench demo`, `directions`, `finetune`, `experiment` and the rest.

Parsing imports nothing heavy; each command imports what it needs.
"""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from workbench import __version__, stopping
from workbench.arms import DEMO, standard_arms
from workbench.commands import parsers
from workbench.commands.options import numbers, positive, read_position, whole_numbers
from workbench.config import EVALUATED_STEPS
from workbench.errors import WorkbenchError, causes
from workbench.memory import LOADING, enough_memory
from workbench.text import printable, visible


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status.

    It is 0, 1 for an error that nobody foresaw, 2 for one the user can mend, 128 and the number of
    the signal that stopped it, or 141 when nobody reads the output any more.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(argv)
    if arguments.command == "lab":  # JupyterLab asks for itself what a signal is to end
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return _run(arguments, argv)
    with stopping.heeding(quiet=arguments.quiet):
        return _run(arguments, argv)


def _run(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    given = getattr(arguments, "out", None) is not None
    try:
        with enough_memory(f"in {arguments.command}", LOADING), stopping.instead(None):
            stopping.check()
            import_module(f"workbench.commands.{arguments.command}").run(arguments)
    except BrokenPipeError:  # whoever read the output has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
        return 141
    except KeyboardInterrupt as stop:
        return _stopped(stopping.asked() or stop, arguments, argv, given)
    except Exception as error:
        for cause in causes(error):
            if isinstance(cause, stopping.Stopped):  # something else was made of it
                return _stopped(cause, arguments, argv, given)
        if arguments.debug:
            traceback.print_exc()
        if isinstance(error, WorkbenchError | OSError):
            print(f"workbench: {visible(error)}", file=sys.stderr)
            return 2
        told = visible(f"{type(error).__name__}: {error}")
        print(f"workbench: unexpected {told} (--debug shows the trace)", file=sys.stderr)
        return 1
    return 0


def _stopped(
    stop: KeyboardInterrupt, arguments: argparse.Namespace, argv: Sequence[str], given: bool
) -> int:
    from workbench.commands.continuing import stop_line

    print(f"workbench: {stop_line(stop, arguments, argv, given=given)}", file=sys.stderr)
    return 128 + (stop.number if isinstance(stop, stopping.Stopped) else signal.SIGINT)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all errors here."""

    def error(self, message: str) -> NoReturn:
        """Leave with exit status 2."""
        self.exit(2, f"workbench: {printable(message)}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="workbench",
        description="Study how fine-tuning undoes alignment: directions, drift, interventions.",
    )
    parser.add_argument("--version", action="version", version=f"workbench {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        _demo, _directions, parsers.convert, parsers.read, _finetune, _experiment, parsers.evaluate,
        parsers.report, parsers.export, parsers.verify, parsers.organism, parsers.calibrate,
        parsers.doctor, parsers.lab,
    ):  # fmt: skip
        command = add(commands)
        command.add_argument("--debug", action="store_true", help="show the trace of an error")
        command.add_argument("--quiet", action="store_true", help="no progress, only the result")
    return parser


def _demo(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = commands.add_parser("demo", help="the main job on the embedded organism")
    parser.add_argument("--out", metavar="DIR", help="new folder (default: experiments/demo-TIME)")
    parser.add_argument("--seeds", type=positive, default=3, help="number of seeds (default: 3)")
    parser.add_argument(
        "--steps", type=positive, help="updates per run (default: the recipe's 100)"
    )
    parser.add_argument(
        "--arms",
        help="comma-separated, as of experiment (default: %(default)s)",
        default=DEMO,
    )
    parsers.resumable(parser, "the demo in --out")
    _add_jobs(parser, default=0)
    return parser


def _directions(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = commands.add_parser("directions", help="fit v_rev per layer and save it")
    parser.add_argument("lineage", metavar="LINEAGE", help="lineage.toml or its folder")
    parser.add_argument("--probes", metavar="FILE", help="JSONL of prompts (default: beside it)")
    parser.add_argument("--out", metavar="FILE", required=True, help="safetensors file to write")
    parser.add_argument(
        "--position",
        type=read_position,
        default=-1,
        help="read position: −1, −2, …, prompt_mean, response_mean, content_last or content_mean",
    )
    parser.add_argument(
        "--all-probes",
        action="store_true",
        help="fit on every harmful probe, not only on the fit split",
    )
    parser.add_argument(
        "--readout",
        action="store_true",
        help="also print the tokens that v_rev favours at the aligned model",
    )
    return parser


def _finetune(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = commands.add_parser("finetune", help="one fine-tuning, stored as a run")
    parser.add_argument(
        "lineage",
        metavar="LINEAGE",
        help="lineage.toml, its folder, or a model folder or hub id to train without measuring",
    )
    parser.add_argument("--data", metavar="FILE", help="JSONL of training examples")
    parser.add_argument("--probes", metavar="FILE", help="JSONL of prompts (default: beside it)")
    parser.add_argument(
        "--intervention",
        metavar="NAMES",
        default="none",
        help="none, or comma-separated NAME[:STRENGTH][@LAYERS], which compose (default: none; "
        f"there are {', '.join(name for name, arm in standard_arms().items() if not arm.needs)})",
    )
    parser.add_argument("--strength", type=float, help="of a single intervention")
    parser.add_argument("--target", type=float, default=0.6, help="of push, in phase gaps")
    parser.add_argument(
        "--layers", type=whole_numbers, help="layers to intervene at, such as 2,3 (default: all)"
    )
    parser.add_argument(
        "--direction",
        metavar="FILE",
        help="from `workbench directions` (default: fitted on the fit split)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", metavar="DIR", required=True, help="run folder to make")
    parsers.resumable(parser, "the run in --out")
    parser.add_argument(
        "--save-model",
        action="store_true",
        help="keep the final model as a Hugging Face folder in the run",
    )
    _add_recipe(parser)
    return parser


def _experiment(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = commands.add_parser("experiment", help="arms × seeds × lineages, and their summary")
    parser.add_argument(
        "lineage",
        metavar="LINEAGE",
        nargs="+",
        help="lineage.toml or its folder; with --recompute, the experiment",
    )
    for name in ("probes", "data", "harmful", "benign", "task"):
        parser.add_argument(f"--{name}", metavar="FILE", help="default: beside the lineage")
    parser.add_argument(
        "--arms",
        help="comma-separated NAME[:STRENGTH][@LAYERS], or all "
        f"(default: {DEMO}; there are {', '.join(standard_arms())})",
    )
    parser.add_argument(
        "--intervention",
        metavar="NAMES",
        help="instead of --arms: ordinary fine-tuning and these arms, such as block,anchor-kl",
    )
    parser.add_argument(
        "--strength",
        type=numbers,
        metavar="NUMBERS",
        help="with --intervention: a dose response, such as 0,0.25,0.5,1,2,4",
    )
    parser.add_argument(
        "--sweep-layers",
        action="store_true",
        help="with --intervention: at every single layer, half and third of them",
    )
    parser.add_argument("--block", type=float, default=30.0, help="strength of block")
    parser.add_argument("--push", type=float, default=3.0, help="strength of push")
    parser.add_argument("--target", type=float, default=0.6, help="of push, in phase gaps")
    parser.add_argument(
        "--penalty-batch", type=positive, default=32, help="penalty prompts per step"
    )
    parser.add_argument(
        "--layers", type=whole_numbers, help="layers to intervene at, such as 2,3 (default: all)"
    )
    parser.add_argument("--seeds", type=positive, default=3, help="number of seeds, from 0")
    parser.add_argument("--judge", choices=("rules", "organism"), help="default: the lineage's")
    parser.add_argument("--max-new-tokens", type=positive, default=32, help="length of an answer")
    parser.add_argument(
        "--evaluate-at",
        type=whole_numbers,
        default=EVALUATED_STEPS,
        metavar="STEPS",
        help="steps at which behaviour is evaluated, beside 0 and the last (default: 0,1,20,100)",
    )
    parser.add_argument("--out", metavar="DIR", help="new folder (default: experiments/TIME)")
    parsers.resumable(parser, "the experiment in --out")
    parser.add_argument(
        "--recompute",
        action="store_true",
        help="write summary and report again from the stored runs",
    )
    parser.add_argument("--save-models", action="store_true", help="keep every final model")
    _add_recipe(parser)
    _add_jobs(parser, default=None)
    parsers.clustered(parser)
    return parser


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("fine-tuning")
    group.add_argument("--steps", type=positive, default=100)
    group.add_argument("--learning-rate", type=float, default=3e-5)
    group.add_argument("--batch-size", type=positive, default=16)
    group.add_argument("--warmup", type=int, default=3, help="steps of linear warm-up")
    group.add_argument("--schedule", choices=("constant", "linear", "cosine"), default="constant")
    group.add_argument("--weight-decay", type=float, default=0.0)
    group.add_argument(
        "--lora", type=positive, metavar="RANK", help="train a new adapter, not all weights"
    )
    group.add_argument("--accumulation", type=positive, default=1, help="micro-batches per update")
    group.add_argument(
        "--measure-at",
        type=whole_numbers,
        metavar="STEPS",
        help="such as 1,2,5,20 (default: dense early)",
    )
    group.add_argument(
        "--state-every",
        type=positive,
        default=10,
        metavar="N",
        help="steps between training states: at most N are recomputed",
    )
    group.add_argument("--device", help="cpu, cuda, … (default: a GPU if there is one)")


def _add_jobs(parser: argparse.ArgumentParser, *, default: int | None) -> None:
    told = "1, or with --on as many as fit" if default is None else "one more than cores"
    parser.add_argument(
        "--jobs",
        type=positive,
        default=default,
        help=f"runs side by side, one model each (default: {told})",
    )


if __name__ == "__main__":
    sys.exit(main())
