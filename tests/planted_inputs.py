"""Every input file of an experiment, beside a planted lineage; and small calls on them."""

import json
import os
import shutil
from pathlib import Path

PROBES, HELD_OUT = 24, 6
BENIGN_PROBES = 12
ARMS = ("ordinary", "block", "matched")
SMALL = ("--steps", "6", "--batch-size", "4", "--learning-rate", "0.001", "--quiet")
"""Options of a fine-tuning that takes a second and visibly moves weights."""


def write_lines(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_inputs(folder, lineage_folder, sentence):
    """Copy the lineage and write the data files beside it: clusters of two, no overlap."""
    shutil.copytree(lineage_folder, folder)

    def rows(start, count, **more):
        return [
            {"prompt": sentence(start + n), "cluster": f"c{start + n // 2}"} | more
            for n in range(count)
        ]

    def answered(start, count):
        return [
            row | {"response": sentence(start + 500 + n)}
            for n, row in enumerate(rows(start, count))
        ]

    probes = rows(10_000, PROBES, kind="harmful") + rows(10_500, BENIGN_PROBES, kind="benign")
    write_lines(folder / "probes.jsonl", probes)
    write_lines(folder / "harmful.jsonl", rows(11_000, HELD_OUT))
    write_lines(folder / "benign.jsonl", answered(12_000, HELD_OUT))
    write_lines(folder / "task.jsonl", answered(13_000, HELD_OUT))
    examples = [
        {key: row[key] for key in ("prompt", "response")} for row in answered(14_000, PROBES)
    ]
    write_lines(folder / "finetune.jsonl", examples)
    return folder


def contents(folder, *patterns):
    """The bytes of all files below `folder` that match, by path; without time and place."""
    found = {}
    for pattern in patterns or ("*",):
        for path in folder.rglob(pattern):
            if path.is_file() and path.name not in ("run.json", "experiment.json"):
                found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def note_flushes(monkeypatch):
    """Return a list that the names of flushed files and folders are added to."""
    flushed = []

    def flush(descriptor):
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    monkeypatch.setattr(os, "fsync", flush)
    return flushed
