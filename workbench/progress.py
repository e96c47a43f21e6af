"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

import math
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


class Tally:
    """Shows how many of a known number of things are done, and which was the newest.

    Args:
        total: How many there will be.
        unit: What one of them is called.
        quiet: Show nothing.
    """

    def __init__(self, total: int, unit: str, *, quiet: bool = False) -> None:
        self.total, self.unit, self.quiet, self.done = total, unit, quiet, 0
        self._last_line = -math.inf
        interactive = sys.stderr.isatty() and not quiet
        self.bar = tqdm(total=total, unit=unit, leave=False) if interactive else None

    def __call__(self, name: str) -> None:
        """Take note of one that is done."""
        self.done += 1
        if self.bar is not None:
            self.bar.set_description_str(printable(name), refresh=False)
            self.bar.update()
        elif not self.quiet and time.monotonic() - self._last_line > LINE_SECONDS:
            self._last_line = time.monotonic()
            print(f"{self.done}/{self.total} {self.unit}s, {printable(name)}", file=sys.stderr)

    def tell(self, text: str) -> None:
        """Print a remark that does not disturb the bar, unless asked to be quiet."""
        if not self.quiet:
            tqdm.write(printable(text), file=sys.stderr)

    def __enter__(self) -> "Tally":
        """Start showing."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal clean."""
        if self.bar is not None:
            self.bar.close()
