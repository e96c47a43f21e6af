"""The paper's headline numbers, which every report prints beside our own."""

from dataclasses import dataclass

SOURCE = "arXiv 2606.28525"


@dataclass(frozen=True)
class Quantity:
    """One published number and what it is called here."""

    key: str
    name: str
    paper: str


QUANTITIES = (
    Quantity("alignment_first", "cos(drift, v_rev) after the first update", "0.429 ± 0.052"),
    Quantity("alignment_20", "cos(drift, v_rev) at step 20", "0.647 ± 0.021"),
    Quantity("isotropic_pairs", "run-step pairs above the p99 of the isotropic null", "24 of 24"),
    Quantity(
        "alignment_blocked",
        "cos at the last step, ordinary → v_rev blocked",
        "0.648 ± 0.009 → −0.211 ± 0.021",
    ),
    Quantity(
        "harmfulness_blocked",
        "harmfulness at the last step, ordinary → blocked",
        "19.0 % ± 4.0 → 8.5 % ± 1.5",
    ),
    Quantity("task_cost", "task cost of blocking", "little (perplexity almost unchanged)"),
    Quantity("ordering", "block < ordinary < push, in alignment and harmfulness", "in every model"),
    Quantity("spearman", "Spearman(alignment, harmfulness) over runs", "0.958"),
)
"""Rows 6 to 8 are from the later version; safety rehearsal (−30 %) is not in the main job."""
