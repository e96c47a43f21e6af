"""What a command that was stopped says: how far it came, and the command that continues it."""

import shlex
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.stopping import Stopped
from workbench.text import printable

STORES_AT_THE_END = ("calibrate", "convert", "directions", "doctor", "evaluate", "organism")
"""Commands that leave nothing when they are stopped."""


def stop_line(
    stop: KeyboardInterrupt, arguments: Namespace, argv: Sequence[str], *, given: bool
) -> str:
    """Return one line without control characters.

    Args:
        stop: What stopped the command.
        arguments: Of the command.
        argv: As they were typed.
        given: Whether the output folder was among them.
    """
    how = str(stop) if isinstance(stop, Stopped) else str(Stopped(signal.SIGINT))
    if not hasattr(arguments, "resume"):
        left = "; nothing was stored" if arguments.command in STORES_AT_THE_END else ""
        return f"{how}{left}."
    try:
        reached = _reached(arguments.command, Path(arguments.out)) if arguments.out else None
    except (WorkbenchError, OSError) as error:
        reached = f"({error})"
    if reached is None:
        return f"{how}; nothing was stored."
    further = [] if given else ["--out", arguments.out]
    # Whose lock was broken once may be a living writer's the next time.
    kept = [part for part in argv if part != "--break-lock"]
    again = kept if arguments.resume else _with(kept, ["--resume"])
    return f"{how} {printable(reached)}; continue with: {_quoted(_with(again, further))}"


def _reached(command: str, out: Path) -> str | None:
    """How far what is in the folder came; None if nothing is there to continue."""
    if command == "finetune":
        return _run_reached(out) if (out / "run.json").is_file() else None
    if command == "read":
        return _passage_reached(out)
    return _experiment_reached(out)


def _run_reached(folder: Path) -> str:
    from workbench.runs import Run
    from workbench.standing import Standing

    run = Run(folder)
    if (standing := Standing.of(run)).state == "done":
        return "when all steps were done"
    step = run.states.reached()[0]
    return f"after step {step} of {standing.steps}" if step > 0 else "before step 1"


def _experiment_reached(folder: Path) -> str | None:
    if not (folder / "lineages").is_dir():
        return None
    runs = sorted(path.parent for path in folder.glob("runs/[!.]*/run.json"))
    told = {run.name: _run_reached(run) for run in runs}
    begun = [f"{name} {reached}" for name, reached in told.items() if "step " in reached]
    done = f"when {len(told) - len(begun)} runs were done"
    return f"{done}, {', '.join(begun)}" if begun else done


def _passage_reached(folder: Path) -> str | None:
    from workbench.passage import Passage, is_passage

    if not is_passage(folder):
        return None
    passage = Passage(folder)
    return f"when {len(passage.phases)} of {len(passage.plan['phases'])} phases were read"


def _with(argv: Sequence[str], options: Sequence[str]) -> list[str]:
    """The arguments with more options: at the end, unless what follows `--` is none."""
    place = argv.index("--") if "--" in argv else len(argv)
    return [*argv[:place], *options, *argv[place:]]


def _quoted(argv: Sequence[str]) -> str:
    """A command for a shell, which prints as what it is."""
    name = ["workbench"]
    if Path(sys.argv[0]).parts[-2:] == ("workbench", "__main__.py"):
        name = [sys.executable, "-m", "workbench"]
    return " ".join(map(_quote, [*name, *argv]))


def _quote(part: str) -> str:
    if part.isprintable():
        return shlex.quote(part)
    try:
        raw = part.encode("utf-8", "surrogateescape")  # undecodable bytes of file names
    except UnicodeEncodeError:
        raw = part.encode("utf-8", "surrogatepass")
    plain = (
        chr(byte) if 32 <= byte < 127 and chr(byte) not in "\\'" else f"\\x{byte:02x}"
        for byte in raw
    )
    return f"$'{''.join(plain)}'"
