"""What was killed, resumed and lost."""

from dataclasses import dataclass, field


@dataclass
class Counts:
    """What was done, and what was lost."""

    kills: int = 0
    resumes: int = 0
    recomputed: int = 0
    most: int = 0
    """Most steps recomputed after one kill."""

    lost: int = 0
    differing: int = 0
    """Runs that ended in other bits."""

    refused: int = 0
    """Processes that were told of a failing disk."""

    verified: int = 0
    """Times that `verify` looked at what was left, or had become."""

    faults: list[str] = field(default_factory=list)
    """What went wrong, in words."""

    def __str__(self):
        return (
            f"kills {self.kills}, refusals {self.refused}, resumes {self.resumes}, "
            f"verified {self.verified}, "
            f"steps recomputed {self.recomputed} (at most {self.most} at once), "
            f"lost = {self.lost}, differing bits = {self.differing}, faults = {len(self.faults)}"
        )

    def told(self, most=12):
        """The counts, and the first faults."""
        return "\n  ".join([str(self), *self.faults[:most]])
