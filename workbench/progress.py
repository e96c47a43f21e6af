"""Progress of long work: a bar with the live alignment on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

from workbench.text import printable

LINE_SECONDS = 5.0


class Progress:
    """Shows how many of the steps of all runs are done, and the alignment of the newest.

    Args:
        total: Steps of all runs together.
        quiet: Show nothing.
    """

    def __init__(self, total: int, *, quiet: bool = False) -> None:
        self.total, self.quiet = total, quiet
        self.steps: dict[str, int] = {}
        self._last_line = 0.0
        interactive = sys.stderr.isatty() and not quiet
        self.bar = tqdm(total=total, unit="step", leave=False) if interactive else None

    def __call__(self, run_id: str, step: int, alignment: float | None) -> None:
        """Take note of a run's newest step and alignment."""
        before = self.steps.get(run_id, 0)
        self.steps[run_id] = step
        name, told = printable(run_id), "" if alignment is None else f" cos {alignment:+.2f}"
        if self.bar is not None:
            self.bar.set_description_str(f"{name}{told}", refresh=False)
            self.bar.update(step - before)
        elif not self.quiet and time.monotonic() - self._last_line > LINE_SECONDS:
            self._last_line = time.monotonic()
            done = sum(self.steps.values())
            print(f"{done}/{self.total} steps, {name} at {step}{told}", file=sys.stderr)

    def __enter__(self) -> "Progress":
        """Start showing."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal clean."""
        if self.bar is not None:
            self.bar.close()
