"""Vocabulary readout: the tokens a direction favours, as a table; token texts stay text."""

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.plots.style import number
from workbench.plots.typeset import Table
from workbench.text import printable

TOKENS = 5
"""Shown of the top and of the bottom."""

LENGTH = 18
"""Characters shown of a token."""

BLANKS = {" ": "␣", "\n": "↵", "\r": "␍", "\t": "⇥"}
LEAST_P = 1e-4


def readout_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Return one table per lineage: per layer, top and bottom tokens and the preference."""
    return [
        Table(
            f"v_rev through the unembedding, lineage {printable(lineage)}",
            ("layer", "raised most", "lowered most", "preference", "cosine", "p"),
            tuple(_row(told, index) for index in range(len(told["layers"]))),
        )
        for lineage, told in (summary.get("readout") or {}).items()
    ]


def shown_token(text: object) -> str:
    """Return a token's text in quotes, blanks made visible, other unprintable characters as �."""
    visible = "".join(BLANKS.get(c, c if c.isprintable() else "�") for c in str(text)[:LENGTH])
    return f"“{visible}{'…' if len(str(text)) > LENGTH else ''}”"


def _row(told: Mapping[str, Any], index: int) -> tuple[str, ...]:
    p = told["p_value"][index]
    small = p is not None and p < LEAST_P
    return (
        str(told["layers"][index]),
        _tokens(told["top"][index]),
        _tokens(told["bottom"][index]),
        number(told["preference"][index], 2),
        number(told["cosine"][index]),
        f"< {LEAST_P:.4f}" if small else number(p, 4),
    )


def _tokens(tokens: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(
        f"{shown_token(one.get('text', one.get('token')))} {number(one['change'], 2)}"
        for one in tokens[:TOKENS]
    )
