"""LaTeX tables: booktabs rules, the summary's numbers, and text that cannot be a command."""

import json
import re

import pytest
from planted_experiment import build_experiment

ARMS = ("ordinary", "block")
HOSTILE = r"\input{/etc/passwd} & 50% #_^~$x$ {a} [b] <θ> 中"


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    place = tmp_path_factory.mktemp("experiments") / "planted"
    folder = build_experiment(place, arms=ARMS, seeds=(0, 1))
    return json.loads((folder / "summary.json").read_text())


def bare(text):
    """Text without the commands and escapes that `escaped` may write."""
    known = r"\\(textbackslash|textasciicircum|textasciitilde|textless|textgreater|textbar)\{\}"
    text = re.sub(known, "", text)
    text = re.sub(r"\\texttt\{U\+[0-9A-F]+\}", "", text)
    text = re.sub(r"\\[{}$&#%_]|\{\[\}|\{\*\}", "", text)
    return re.sub(r"\$[^$]*\$", "", text)


def test_no_text_can_be_a_command():
    from workbench.plots.paper.latex import escaped

    assert not set(bare(escaped(HOSTILE))) & set("\\{}$&#%_^<>")
    assert "U+4E2D" in escaped(HOSTILE)
    assert set(bare(HOSTILE)) & set("\\{}")  # it would have been seen


def test_symbols_are_set_as_mathematics():
    from workbench.plots.paper.latex import escaped

    assert escaped("v_rev") == r"$v_{\mathrm{rev}}$"
    assert escaped("−0.1 ± 0.2") == r"$-$0.1~$\pm$~0.2"
    assert escaped("50 %") == r"50~\%"


def test_the_tables_hold_the_summary_and_every_environment_is_closed(summary):
    from workbench.plots.paper.latex import summary_latex

    text = summary_latex(summary, {"config hash": "ab12\n\\input{x}"})
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 2
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(f"\\{rule}\n") == 2
    mean = summary["arms"]["block"]["alignment"]["100"]["mean"]
    row = next(line for line in text.splitlines() if line.startswith("block &"))
    assert f"{mean:.3f}".lstrip("-") in row
    assert all(any(line.startswith(f"{arm} &") for line in text.splitlines()) for arm in ARMS)
    assert "n = 2 runs per arm: 2 seeds on 1 lineage." in text
    comments = [line for line in text.splitlines() if "input" in line]
    assert comments == [r"% config hash: ab12 \input{x}"]


def test_every_row_has_as_many_cells_as_columns(summary):
    from workbench.plots.paper.latex import summary_latex

    for part in summary_latex(summary, {}).split(r"\begin{tabular}")[1:]:
        rows = [line for line in part.splitlines() if line.endswith(r"\\")]
        assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1


def test_a_table_without_rows_is_nothing():
    from workbench.plots.paper.latex import to_latex
    from workbench.plots.typeset import Table

    assert to_latex(Table("empty", ("a",), ()), label="x") == ""
