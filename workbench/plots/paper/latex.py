"""Tables for a paper: booktabs, all text escaped, nothing else needed."""

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.plots.style import counted
from workbench.plots.table import arms_table, note, paper_table
from workbench.plots.typeset import Table
from workbench.text import printable

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''",
    # After the end of a row both would be read as belonging to it.
    "[": "{[}", "*": "{*}",
    "−": "$-$", "±": r"$\pm$", "→": r"$\to$", "×": r"$\times$", "≤": r"$\leq$", "≥": r"$\geq$",
    "‖": r"$\Vert$", "θ": r"$\theta$", "ρ": r"$\rho$", "α": r"$\alpha$", "λ": r"$\lambda$",
    "δ": r"$\delta$", "′": "$'$", "·": r"$\cdot$", "…": r"\ldots{}", "–": "--", "—": "---",
    "“": "``", "”": "''", "’": "'", "\u00a0": "~",
}  # fmt: skip
"""Characters that LaTeX reads otherwise, or that its usual fonts lack."""

SYMBOLS = {
    "v_rev": r"$v_{\mathrm{rev}}$", "θ_S′": r"$\theta_{S'}$", "θ_S": r"$\theta_S$",
    "θ_H": r"$\theta_H$", "θ_T": r"$\theta_T$", " ± ": "~$\\pm$~", " %": "~\\%",
}  # fmt: skip
"""Symbols of ours, before single characters are looked at."""


def summary_latex(summary: Mapping[str, Any], told: Mapping[str, str]) -> str:
    """Return the paper's numbers beside ours and the table of arms.

    Args:
        summary: Of an experiment.
        told: Where it comes from; written above as comments.
    """
    comments = [f"% {printable(key)}: {printable(value)}" for key, value in told.items()]
    runs = _runs_told(summary)
    tables = [
        to_latex(paper_table(summary), label="tab:paper", note=note(summary), wrapped=True),
        to_latex(arms_table(summary, short=True), label="tab:arms", note=runs),
    ]
    return "\n".join([r"% Needs \usepackage{booktabs}.", *comments, "", *filter(None, tables)])


def to_latex(table: Table, *, label: str, note: str = "", wrapped: bool = False) -> str:
    r"""Return a table environment with booktabs rules; nothing for a table without rows.

    Args:
        table: Of plain text.
        label: For \ref.
        note: Added to the caption.
        wrapped: Break lines in the cells, for columns of prose.
    """
    if not table.rows:
        return ""
    n = len(table.header)
    share = f"p{{{0.92 / n:.2f}\\linewidth}}"
    columns = share * n if wrapped else "l" + "r" * (n - 1)
    caption = " ".join(filter(None, (f"{table.caption}.", note)))
    lines = [
        r"\begin{table}",
        r"\centering\small",
        f"\\caption{{{escaped(caption)}}}",
        f"\\label{{{label}}}",
        f"\\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        r"\toprule",
        _row(table.header),
        r"\midrule",
        *map(_row, table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


def escaped(text: str) -> str:
    """Return plain text as LaTeX: nothing in it is a command, and every character has a glyph."""
    line, out = printable(text), ""
    while line:
        symbol = next((one for one in SYMBOLS if line.startswith(one)), None)
        if symbol:
            out, line = out + SYMBOLS[symbol], line[len(symbol) :]
        else:
            out, line = out + _glyph(line[0]), line[1:]
    return out


def _glyph(character: str) -> str:
    if character in SPECIAL:
        return SPECIAL[character]
    # Beyond Latin-1, the usual fonts of pdfLaTeX have nothing to show.
    return character if ord(character) < 0x100 else rf"\texttt{{U+{ord(character):04X}}}"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(escaped(cell) for cell in cells) + r" \\"


def _runs_told(summary: Mapping[str, Any]) -> str:
    """How many runs a cell is over."""
    counts = {len(arm.get("runs") or ()) for arm in summary["arms"].values()} - {0}
    n = " or ".join(str(count) for count in sorted(counts))
    lineages, seeds = len(summary["lineages"]), len(summary["seeds"])
    return (
        f"n = {n or lineages * seeds} runs per arm: {counted(seeds, 'seed')} on "
        f"{counted(lineages, 'lineage')}."
    )
