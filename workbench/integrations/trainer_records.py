"""The records of a training that a Trainer does: each told as it becomes known."""

import json
import math
import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from workbench.drift_files import DriftFiles
from workbench.files import write_atomic
from workbench.records import Auxiliary, Drift, StepRecord
from workbench.runs import Run
from workbench.standing import RESUME


class Records:
    """What is known of the newest step, and the run that it goes to.

    Args:
        run: Locked; None to keep nothing.
        step: The newest that the run holds.
    """

    def __init__(self, run: Run | None = None, step: int = -1) -> None:
        self.run, self.stored = run, step
        self.rate = 0.0
        """Of the step that is under way."""

        self._newest = StepRecord(step, math.nan, 0.0, math.nan)
        if run is not None:
            # An error ends a training without telling its callbacks.
            self._release = weakref.finalize(self, run.fail, f"ended before its time; {RESUME}")

    def note(
        self,
        step: int,
        drift: Drift | None,
        loss: float = math.nan,
        auxiliary: Mapping[str, Auxiliary] | None = None,
    ) -> None:
        """Take note of what there is to know of a step when it is done."""
        record = self._of(step)
        self._newest = replace(
            record,
            drift=record.drift if drift is None else drift,
            loss=record.loss if math.isnan(loss) else loss,
            auxiliary=auxiliary or record.auxiliary,
        )
        if drift is not None or auxiliary:
            self._store()

    def add_logs(self, step: int, logs: Mapping[str, Any]) -> None:
        """Take the loss of a step from what the Trainer logs."""
        if "loss" not in logs:
            return
        record = self._of(step)
        self._newest = replace(
            record,
            loss=float(logs["loss"]) if math.isnan(record.loss) else record.loss,
            gradient_norm=float(logs.get("grad_norm", math.nan)),
        )
        self._store()

    def _of(self, step: int) -> StepRecord:
        if self._newest.step == step:
            return self._newest
        return StepRecord(step, math.nan, self.rate, math.nan)

    def _store(self) -> None:
        """Write the newest step; what was known of it earlier makes way."""
        if self.run is not None:
            write = self.run.amend if self.stored == self._newest.step else self.run.append
            write(self._newest)
            self.stored = self._newest.step

    def finish(self) -> None:
        """End the run."""
        if self.run is not None:
            self._release.detach()
            self.run.finish()


def cut_after(run: Run, step: int) -> None:
    """Drop the records after a step, and a line that was not finished."""
    path = run.folder / "records.jsonl"
    whole = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    write_atomic(path, b"".join(line for line in whole if json.loads(line)["step"] <= step))
    DriftFiles(run.folder / "drift").drop_after(step)
    run.refresh()
