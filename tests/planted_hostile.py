"""Text that others could have written to harm: in runs, summaries, grids, lineages, and names.

Each piece sets `window.__hacked` where it is taken for markup or script, or steers a terminal, or
closes what it stands in.
"""

import json
import os
import re
import shutil
from dataclasses import replace
from itertools import cycle

import numpy as np
from planted_experiment import build_experiment
from planted_grid import make_grid
from planted_summary import planted_summary

from workbench.config import sealed
from workbench.course import trace_course
from workbench.grids import Said
from workbench.runs import Run
from workbench.store import RunStore

HACK = "window.__hacked=1"
TEXTS = {
    "script": f"<script>{HACK}</script>",
    "script-end": f"</script><script>{HACK}</script>",
    "image": f"<img src=x onerror={HACK}>",
    "svg": f"\"><svg onload={HACK}>",
    "attribute": f"' onmouseover='{HACK}' autofocus onfocus='{HACK}' x='",
    "comment": f"<!--<script>--><img src=x onerror={HACK}>",
    "link": f'<a href="javascript:{HACK}">click</a>',
    "web-link": '<a href="http://127.0.0.1:9/leak" target="_top">click</a>',
    "frame": f"<iframe srcdoc='<script>parent.{HACK}</script>'></iframe>",
    "style": "</style><style>*{background:url(http://127.0.0.1:9/leak)}</style>",
    "bold": "<b>bold</b><br><sub>low</sub><span style='font-size:99px'>big</span>",
    "entity": f"&lt;img src=x onerror={HACK}&gt;&#60;script&#62;",
    "placeholder": "%{customdata} %{y:.2f} {strength} {layer} {told} {0} %s <extra></extra>",
    "mathematics": r"$\int_0^1 x$ \(y\) \[z\] $$\href{javascript:" + HACK + "}{q}$$",
    "code": "`x` ${window.__hacked=1} {{constructor.constructor('window.__hacked=1')()}}",
    "separators": f"a\u2028{HACK}\u2029b\x85c\x0bd\x0ce\x1cf",
    "bidi": "user\u202etxt.exe\u202c \u2066iso\u2069 \u200f",
    "invisible": "zero\u200bwidth\ufeff\u00ad\u2060 \U000e0041tag",
    "nul": "nul\x00inside\x7f\ufffe\uffff",
    "escape": "\x1b[31mred\x1b[2J\x1b[H\x1b]0;title\x07\x1b]8;;http://127.0.0.1:9\x1b\\link\x1b]8;;\x1b\\",
    "c1": "\x9b31mred\x9b2J\x9d0;title\x9c\x90dcs\x9c",
    "lines": "one\rtwo\nthree\r\nfour\tfive\b\b\b",
    "surrogate": "half \ud800 of a pair",
    "byte": "byte \udcff of no UTF-8",
    "latex": r"\input{/etc/passwd} \write18{id} %comment $x$ & # _ ^^M ~ {} \end{table}",
    "traversal": "../../../../etc/x",
    "prototype": "__proto__",
    "date": "2020-01-01",
    "sheet": "=HYPERLINK(\"http://127.0.0.1:9\";\"x\")",
    "long": "x" * 1_000_000,
    "zalgo": "e" + "\u0301" * 500,
}  # fmt: skip
"""By what it tries."""

SHORT = {name: text for name, text in TEXTS.items() if name != "long"}

RAW = f"<!DOCTYPE html><title>raw</title>{TEXTS['image']}{TEXTS['script']}"
"""A page in which the canary fires: what every other page is compared with."""


def inert_terminal(text: str) -> bool:
    """Tell whether every line of it is printable: no control, no override, nothing unseen."""
    return all(line.isprintable() for line in text.split("\n"))


def file_name(text: str) -> str:
    """Return the text as far as a file can be called so: of some bytes, slashes and NUL apart."""
    paired = re.sub(
        "[\ud800-\udc7f\udd00-\udfff]", "?", re.sub(r"[/\0]", "\N{DIVISION SLASH}", text)
    )
    return os.fsdecode(os.fsencode(paired)[:200])


MARKUP = ("script-end", "image", "link", "entity", "placeholder", "mathematics", "escape", "bidi")
"""Those that arms are called by; every arm costs a second."""


def hostile_experiment(folder):
    """Write an experiment whose arms, lineage and run folders, and all that runs hold, are hostile.

    Whatever of the texts is no arm stands in the runs' config, versions and failures.
    """
    arms = tuple(TEXTS[name] for name in MARKUP)
    lineage = TEXTS["attribute"]
    build_experiment(folder, arms=("ordinary", "block", *arms), lineages=(lineage,), seeds=(0,))
    names = {"l0-ordinary-0": file_name(TEXTS["svg"]), "l0-block-0": file_name(TEXTS["script"])}
    plan = json.loads((folder / "experiment.json").read_text(encoding="utf-8"))
    plan["runs"] = [names.get(name, name) for name in plan["runs"]]
    (folder / "experiment.json").write_text(json.dumps(plan))
    for place, run in enumerate(RunStore(folder / "runs")):
        spoil(renamed(run, names.get(run.id, run.id)), list(SHORT.values()), 9 * place)
    stored = (folder / "summary.json").read_text(encoding="utf-8")
    for before, after in names.items():
        stored = stored.replace(json.dumps(before), json.dumps(after))
    (folder / "summary.json").write_text(json.dumps(sealed(json.loads(stored))))
    return folder


def spoil(run, words, place=0):
    """Put hostile text in everything of run.json that may be shown."""
    told = lambda step: words[(place + step) % len(words)]  # noqa: E731
    info = run.info
    config = info["config"] | {
        "recipe": info["config"].get("recipe", {}),
        "inputs": {told(1): told(2), "probes": told(3)},
        "directions": told(4),
        told(5): told(6),
    }
    run.write_info(
        info
        | {
            "status": "failed",
            "failure": told(0),
            "created": told(7),
            "command": [told(8), told(9)],
            "versions": {told(10): told(11)} | info["versions"],
            "config": config,
        }
    )
    return run


def hostile_summary():
    """Return a summary whose every name and text is hostile; arms are called by `MARKUP`."""
    words = list(SHORT.values())
    names = {f"hostile-{name}": TEXTS[name] for name in MARKUP}
    summary = _called(planted_summary(extra=tuple(names)), names)
    pick = cycle(words)
    for lineage in summary["lineages"]:
        lineage |= {"witness": next(pick), "aligned": next(pick)}
    summary["lineages"][0]["name"] = next(pick)
    summary["source"] = next(pick)
    summary["paper"] = [{key: word for key in ("quantity", "paper", "ours")} for word in words]
    summary["spearman"]["note"] = next(pick)
    summary["significance"]["family"] = next(pick)
    for run in summary["significance"]["runs"].values():
        run["resolution"] = next(pick)
        for null in run["nulls"].values():
            null["h0"] = next(pick)
    for lineage in summary["readout"].values():
        for rows in (lineage["top"], lineage["bottom"]):
            rows[:] = [
                [{"id": 0, "text": next(pick), "change": 1.0} for _ in range(5)] for _ in rows
            ]
    for name, arm in summary["arms"].items():
        if name in names.values():
            arm |= {"intervention": name, "direction": next(pick)}
            arm["runs"] = [next(pick) for _ in arm["runs"]]
    for word in words[:6]:
        summary["dose"][word] = summary["dose"]["block"]
    summary["layers"]["rows"][0]["arm"] = next(pick)
    return json.loads(json.dumps(summary))


def _called(told, names):
    """The same with other names, as keys and as values."""
    if isinstance(told, dict):
        return {names.get(key, key): _called(value, names) for key, value in told.items()}
    if isinstance(told, list):
        return [_called(value, names) for value in told]
    return names.get(told, told) if isinstance(told, str) else told


def hostile_grid(**changed):
    """Return an ablation grid of hostile models, prompts, answers and verdicts."""
    words = list(SHORT.values())
    grid = make_grid(
        models=(words[0], words[2]),
        prompts=tuple(words),
        run=words[1],
        arm={"name": words[3], "intervention": words[4], "direction": words[5]},
        judge={"name": words[6], "openers": words},
        **changed,
    )
    said = tuple(Said(word, words[-place]) for place, word in enumerate(words))
    answers = tuple(
        tuple(tuple(said for _ in grid.strengths) for _ in grid.layer_sets) for _ in grid.models
    )
    return replace(grid, answers=answers)


def hostile_course():
    """Return a course whose phases and lineage have hostile names."""
    words = list(SHORT.values())
    rng = np.random.default_rng(0)
    means = {name: rng.normal(size=(3, 8)) for name in words}
    return trace_course(
        means,
        {"witness": words[0], "aligned": words[-1]},
        lineage=words[1],
        steps=dict.fromkeys(words),
        layers=[0, 1, 2],
    )


def renamed(run, name):
    """Move a run to a folder of another name, which may be hostile; return it there."""
    place = run.folder.with_name(file_name(name))
    shutil.move(run.folder, place)
    return Run(place)


WORDS = {name: text for name, text in SHORT.items() if name not in ("surrogate", "byte")}
"""Those that a UTF-8 file can hold."""


def hostile_inputs(folder, source):
    """Copy the planted inputs so that every name and text in them is hostile; return the folder.

    Lineage, phases, their folders, clusters, prompts, responses, and half of the tokens.
    """
    words = list(WORDS.values())
    shutil.copytree(source, folder)
    phases = ("pretrained", "helpful", "aligned", "sibling")
    named = dict(
        zip(phases, (TEXTS[n] for n in ("escape", "bidi", "script-end", "c1")), strict=True)
    )
    text = 'overflow = "truncate"\n' + (folder / "lineage.toml").read_text()
    for place, (phase, name) in enumerate(named.items()):
        (folder / phase).rename(folder / f"{place}{file_name(name)}")
        text = text.replace(f'name = "{phase}"', f"name = {_toml(name)}")
        text = text.replace(f'model = "{phase}"', f"model = {_toml(f'{place}{file_name(name)}')}")
        text = re.sub(
            rf'^(\w+) = "{phase}"', lambda m, n=name: f"{m[1]} = {_toml(n)}", text, flags=re.M
        )
    text = text.replace('name = "planted"', f"name = {_toml(TEXTS['escape'] + TEXTS['lines'])}")
    (folder / "lineage.toml").write_text(text, encoding="utf-8")
    for path in folder.glob("*/tokenizer.json"):
        told = json.loads(path.read_text(encoding="utf-8"))
        known = told["model"]["vocab"]
        told["model"]["vocab"] = {
            f"{word}{words[at % len(words)]}" if at % 2 and at > 8 else word: at
            for word, at in known.items()
        }
        path.write_text(json.dumps(told), encoding="utf-8")
    for path in folder.glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for place, row in enumerate(rows):
            row["prompt"] += words[place % len(words)]
            if "cluster" in row:
                row["cluster"] += words[(place // 2) % len(words)]
            if "response" in row:
                row["response"] += words[(place + 3) % len(words)]
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return folder


def _toml(text):
    """A TOML string: as JSON's, but for characters beyond the first plane and DEL."""
    written = "".join(c if ord(c) > 0xFFFF or c == "" else json.dumps(c)[1:-1] for c in text)
    return '"' + written.replace("\x7f", "\\u007f") + '"'
