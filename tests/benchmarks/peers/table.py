"""The table of a benchmark, from its JSON: `python table.py peers.json`."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from intervals import median_interval

OURS = "workbench"
HEAD = (
    "tool", "what is called", "wall, s", "CPU, s", "wall / ours", "CPU / ours", "CPU / limit",
    "peak memory", "difference", "remarks",
)  # fmt: skip


def render(told: dict[str, Any]) -> str:
    """Return all tables as Markdown, with what they were measured on."""
    machine = told["machine"]
    lines = [
        "# Side by side with what one would use instead",
        "",
        f"{told['date']}, commit {told['commit']}; {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_gb']} GB, {machine['system']}, Python {machine['python']}; "
        f"{told['threads']} threads.",
        "",
        "Median over interleaved rounds [lowest, highest]. Ratios are medians of paired rounds "
        "with a 95 % bootstrap interval; above 1 the tool takes longer than ours. From text "
        "compares with from text, tokens with tokens. Peak memory is what one run adds, in a "
        "fresh process. Difference is that of the results, relative to ours.",
        "",
        *_versions(told["environments"]),
    ]
    for block in told["blocks"]:
        lines += ["", f"## {block['job']}, {block['size']}", ""]
        lines += [f"{block['rounds']} rounds, {block['prompts']} prompts.", ""]
        lines += [_line(HEAD), _line("---" for _ in HEAD)]
        lines += [_line(cells) for cells in map(_cells_among(block["rows"]), block["rows"])]
    return "\n".join(lines) + "\n"


def paired(row: dict[str, Any], against: dict[str, Any] | None, clock: str) -> str:
    """Return the ratio of two rows' rounds with its interval."""
    if against is None or against is row or not row[clock] or not against[clock]:
        return "–"
    rounds = min(len(row[clock]), len(against[clock]))
    ratios = np.array(row[clock][:rounds]) / np.array(against[clock][:rounds])
    value, low, high = median_interval(ratios)
    return f"{value:.2f}x [{low:.2f}, {high:.2f}]"


def baseline(rows: list[dict[str, Any]], row: dict[str, Any]) -> dict[str, Any] | None:
    """Return our row that begins with what `row` begins with, tokens or text."""
    ours = [one for one in rows if one["tool"] == OURS and not one["failure"]]
    same = [one for one in ours if one["given"] == row["given"]]
    return next(iter([*same, *ours]), None)


def _cells_among(rows: list[dict[str, Any]]) -> Any:
    limit = next((row for row in rows if row["limit"]), None)

    def cells(row: dict[str, Any]) -> list[str]:
        ours = baseline(rows, row)
        return [
            row["tool"],
            row["entry"] + (" (the limit)" if row["limit"] else ""),
            _spread(row["wall"]),
            _spread(row["cpu"]),
            paired(row, ours, "wall"),
            paired(row, ours, "cpu"),
            paired(row, limit, "cpu"),
            "–" if row["peak"] is None else f"{row['peak'] / 1e6:.0f} MB",
            _difference(row),
            "; ".join(filter(None, [row["failure"], row["note"]])) or "–",
        ]

    return cells


def _spread(seconds: list[float]) -> str:
    if not seconds:
        return "–"
    return f"{np.median(seconds):.3f} [{min(seconds):.3f}, {max(seconds):.3f}]"


def _difference(row: dict[str, Any]) -> str:
    found = row["difference"]
    if found is None:
        return "–"
    told = f"{found['relative']:.0e}"
    if row["compared"] == "but last":
        told += " but the last layer"
    return told if found["same"] else f"**{told}: not the same**"


def _versions(environments: list[dict[str, Any]]) -> list[str]:
    lines = []
    for one in environments:
        versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
        lines.append(f"- {one['name']}: {one['failure'] or versions}")
    return lines


def _line(cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def main() -> None:
    """Write the table beside the JSON."""
    path = Path(sys.argv[1])
    table = render(json.loads(path.read_text(encoding="utf-8")))
    path.with_suffix(".md").write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
