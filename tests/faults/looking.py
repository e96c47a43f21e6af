"""What is left of a run, as another process sees it: every file, every line, and `verify`."""

import json
import re

VARY = ("created", "command", "wall_seconds")
"""What may differ in JSON files between runs of the same settings."""


def read_run(folder):
    """Read all that a reader may ask of a run; return its whole lines, as they are stored."""
    from workbench.runs import Run
    from workbench.standing import Standing, stamp

    run = Run(folder).checked()
    standing = Standing.of(run)
    assert standing.state in ("stopped", "done", "failed"), standing
    stamp(run)
    if run.measured:
        assert len(run.drift()) == len(run.projections()) == len(run.measured)
    lines = whole_lines(folder)
    assert [json.loads(line) for line in lines] == run.refresh().lines
    return lines


def whole_lines(folder):
    """The whole lines of a run's records."""
    content = (folder / "records.jsonl").read_bytes()
    return content[: content.rfind(b"\n") + 1].splitlines(keepends=True)


def contents(folder):
    """Every file below a folder, by path; of JSON without what may differ."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if path.name in ("run.json", "experiment.json", "summary.json"):
                told = json.loads(content)
                content = {key: value for key, value in told.items() if key not in VARY}
            elif path.name == "report.html":
                content = len(content) > 10_000  # it tells the time that it took
            found[str(path.relative_to(folder))] = content
        elif not any(path.iterdir()):
            found[f"{path.relative_to(folder)}/"] = b""
    return found


def faults_of(folder):
    """What `verify` finds wrong in a folder; nothing if nothing has begun there."""
    from workbench.errors import RunError
    from workbench.verification import verify

    try:
        return verify(folder).faults
    except RunError as error:
        if "neither a run, nor" in str(error):
            return []
        raise


def listed(log):
    """Operations in a log, without the random names of drafts, which differ from run to run."""
    return re.sub(r"\.[0-9a-f]{12}\.tmp", ".N.tmp", log.read_text()).splitlines()


def last_line(told):
    """The last line that a process printed."""
    return (told.strip().splitlines() or [""])[-1][-300:]
