"""Every input a user can get wrong: one line on stderr, status 2, no trace, nothing written."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from planted_inputs import read_lines, write_lines
from safetensors.torch import load_file, save_file

from workbench.cli import main


@pytest.fixture
def folder(inputs_folder, tmp_path):
    """The planted inputs, to break."""
    return shutil.copytree(inputs_folder, tmp_path / "planted")


@pytest.fixture
def refused(capfd, tmp_path):
    """Run a command that must fail; return its one line."""

    def run(*argv):
        before = tree(tmp_path)
        capfd.readouterr()
        try:
            status = main([str(part) for part in argv])
        except SystemExit as stop:
            status = stop.code
        out, err = capfd.readouterr()
        assert status == 2, err
        assert err.startswith("workbench: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1, err
        assert err[:-1].isprintable()
        assert argv[0] == "doctor" or not out
        assert tree(tmp_path) == before
        return err

    return run


def tree(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def command(name, folder, out="out"):
    """A call of a command that would work on the planted inputs."""
    options = {
        "directions": ["--out", folder.parent / f"{out}.safetensors"],
        "finetune": ["--out", folder.parent / out, "--steps", "2", "--quiet"],
        "experiment": [
            "--out",
            folder.parent / out,
            "--arms",
            "ordinary",
            "--quiet",
            "--seeds",
            "1",
        ],
        "evaluate": ["--max-new-tokens", "1"],
        "doctor": [],
    }
    return [name, folder, *options[name]]


def change_config(phase, **changes):
    path = phase / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(phase, change):
    path = phase / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def truncate(phase):
    path = phase / "model.safetensors"
    os.truncate(path, path.stat().st_size // 2)


def remove(*patterns):
    def change(phase):
        for pattern in patterns:
            for path in phase.glob(pattern):
                path.unlink()

    return change


def put_nan(phase):
    def change(tensors):
        next(iter(tensors.values())).view(-1)[3] = torch.nan

    change_weights(phase, change)


ALL = ("directions", "finetune", "experiment", "evaluate", "doctor")
READING = ("directions", "finetune", "experiment", "evaluate")
BROKEN_PHASES = {
    "no-folder": (ALL, shutil.rmtree, "helpful"),
    "no-config": (ALL, remove("config.json"), r"helpful: no config\.json"),
    "no-weights": (ALL, remove("*.safetensors"), "helpful: no weights"),
    "truncated": (READING, truncate, "helpful: .*damaged safetensors"),
    "nan": (READING, put_nan, "helpful: weights of .* are not finite"),
    "no-tokenizer": (ALL, remove("tok*", "special*"), "helpful: no tokenizer files"),
    "width": (ALL, lambda phase: change_config(phase, n_embd=64), "width of .* 32, of helpful 64"),
    "depth": (ALL, lambda phase: change_config(phase, n_layer=2), "depth of .* 3, of helpful 2"),
    "vocabulary": (
        ALL,
        lambda phase: change_config(phase, vocab_size=99),
        "vocabulary .* helpful 99",
    ),
}


@pytest.mark.parametrize(
    ("name", "case"),
    [(name, case) for case, (names, *_) in BROKEN_PHASES.items() for name in names],
)
def test_a_broken_phase_is_named(refused, folder, name, case):
    _, breaking, message = BROKEN_PHASES[case]
    breaking(folder / "helpful")
    assert re.search(message, refused(*command(name, folder)))


BROKEN_LINES = {
    "empty": (b"", "empty; give one JSON object per line"),
    "blank": (b"\n \n", "empty"),
    "not-utf8": (b'{"prompt": "a"}\n{"prompt": "\xff"}\n', ":2: not UTF-8"),
    "not-json": (b'{"prompt": "a"}\n\n{"prompt": \n', ":3: not JSON"),
    "no-object": (b'["a"]\n', ":1: must be an object"),
    "binary": (b"\x00\x01\x02\n", ":1: not JSON"),
}
READ_FILES = [
    *(("directions", "probes", case) for case in BROKEN_LINES),
    *(("finetune", file, "not-json") for file in ("probes", "finetune")),
    *(("evaluate", file, "empty") for file in ("harmful", "benign", "task")),
    *(("experiment", file, "not-utf8") for file in ("probes", "finetune", "harmful", "benign")),
    ("experiment", "task", "no-object"),
]


@pytest.mark.parametrize(("name", "file", "case"), READ_FILES)
def test_a_broken_data_file_is_named_with_the_line(refused, folder, name, file, case):
    content, message = BROKEN_LINES[case]
    path = folder / f"{file}.jsonl"
    path.write_bytes(content)
    assert re.search(rf"{file}\.jsonl.*{message}", refused(*command(name, folder)))
    path.unlink()
    if file != "task":
        assert f"{file}.jsonl: no such file" in refused(*command(name, folder))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("directions", "probes"),
        ("finetune", "probes"),
        ("finetune", "finetune"),
        ("experiment", "harmful"),
        ("evaluate", "benign"),
    ],
)
def test_a_prompt_longer_than_the_context_is_shown(refused, folder, name, file):
    path = folder / f"{file}.jsonl"
    rows = read_lines(path)
    for row in rows:  # whatever the split
        row["prompt"] += " bako" * 70
    write_lines(path, rows)
    assert "tokens in '" in (line := refused(*command(name, folder)))
    assert "but the model reads 64" in line


@pytest.mark.parametrize("name", ["directions", "finetune", "experiment"])
@pytest.mark.parametrize("kept", [0, 1])
def test_fewer_than_two_probes_are_refused(refused, folder, name, kept):
    rows = read_lines(folder / "probes.jsonl")
    rows = rows[:kept] + [row | {"kind": "benign"} for row in rows[kept:]]
    write_lines(folder / "probes.jsonl", rows)
    assert re.search(
        f"the split leaves . of {kept} harmful prompts", refused(*command(name, folder))
    )


@pytest.mark.parametrize("name", ["directions", "finetune", "experiment"])
def test_a_witness_equal_to_the_aligned_phase_is_refused(refused, folder, name):
    shutil.copy(folder / "aligned/model.safetensors", folder / "helpful/model.safetensors")
    assert "helpful and aligned have the same weights" in refused(*command(name, folder))


@pytest.mark.parametrize("name", ["directions", "finetune", "experiment", "doctor"])
def test_a_lineage_that_is_missing_or_malformed_is_named(refused, folder, name):
    (folder / "lineage.toml").write_text("roles = 3\n[[phase")
    assert "lineage.toml: not a TOML file" in refused(*command(name, folder))
    argv = [part if part != folder else folder / "none.toml" for part in command(name, folder)]
    assert "none.toml: no such lineage file" in refused(*argv)


def test_an_unknown_intervention_or_layer_is_refused(refused, folder):
    finetune, experiment = command("finetune", folder), command("experiment", folder)
    line = refused(*finetune, "--intervention", "blok")
    assert "Unknown arm 'blok'; there are block, push" in line
    assert "needs runs of" not in line
    assert "Unknown arm 'drift'" in refused(*finetune, "--intervention", "drift")
    line = refused(*finetune, "--intervention", "block,push", "--strength", "1")
    assert "--strength is for one intervention; write several as block:3,cap:0.5" in line
    line = refused(*experiment, "--strength", "0,1")
    assert "--strength and --sweep-layers need --intervention" in line
    line = refused(*experiment, "--arms", "block", "--intervention", "block")
    assert "Give --arms or --intervention, not both" in line
    line = refused(*finetune, "--intervention", "block", "--layers", "1,7")
    assert "no directions at layers [7]; they have [0, 1, 2]" in line
    line = refused(*experiment, "--arms", "ordinary,push", "--layers", "7")
    assert "no directions at layers [7]" in line
    assert "Unknown arm 'blok'" in refused(*experiment, "--arms", "blok")


@pytest.mark.parametrize(
    "options",
    [
        ["--steps", "0"],
        ["--batch-size", "-1"],
        ["--state-every", "0"],
        ["--learning-rate", "nan"],
        ["--learning-rate", "fast"],
        ["--warmup", "-1"],
        ["--schedule", "step"],
        ["--accumulation", "9999"],
        ["--measure-at", "1,b"],
        ["--layers", "x"],
        ["--device", "abacus"],
        ["--unknown"],
    ],
)
@pytest.mark.parametrize("name", ["finetune", "experiment"])
def test_numbers_and_options_that_make_no_sense_are_refused(refused, folder, name, options):
    line = refused(*command(name, folder), *options)
    assert len(line) < 400


def test_strengths_that_are_no_numbers_are_refused(refused, folder):
    finetune = [*command("finetune", folder), "--intervention", "block"]
    assert "strength is nan" in refused(*finetune, "--strength", "nan")
    assert "strength is -1.0" in refused(*finetune, "--strength", "-1")


@pytest.mark.parametrize("name", ["directions", "finetune", "experiment"])
def test_an_output_that_is_used_or_cannot_be_written_is_refused(refused, folder, tmp_path, name):
    used = tmp_path / "used.safetensors"
    used.mkdir()
    (used / "kept").write_text("kept")
    argv = command(name, folder)
    argv[argv.index("--out") + 1] = used
    assert re.search("already used|exists", refused(*argv))
    for out in (used / "kept/below", "/proc/nothing/below", "/proc/nothing"):
        argv[argv.index("--out") + 1] = out
        refused(*argv)


@pytest.mark.parametrize("argv", [["report"], ["experiment", "--recompute"]])
def test_a_folder_without_results_is_named(refused, tmp_path, argv):
    assert str(tmp_path) in refused(*argv, tmp_path)
    assert "none" in refused(*argv, tmp_path / "none")


def test_resuming_an_experiment_needs_its_folder(refused, folder):
    assert "--resume needs --out" in refused("experiment", folder, "--resume")


def test_hostile_names_are_inert_in_the_line(refused, folder, tmp_path):
    escape = "\x1b[31mred\x1b]0;title\x07\nsecond line\r\u202e"
    hostile = tmp_path / escape
    shutil.copytree(folder, hostile)
    (hostile / "helpful/config.json").unlink()
    assert " [31mred ]0;title  second line" in refused(*command("directions", hostile))
    (hostile / "helpful/config.json").write_text("{}")
    rows = read_lines(folder / "probes.jsonl")
    write_lines(folder / "probes.jsonl", [row | {"kind": escape} for row in rows])
    refused(*command("directions", folder))
    refused("directions", folder, "--out", f"{tmp_path}/{escape}/x")
    refused("finetune", folder, "--out", f"{tmp_path}/{escape}")
    refused("experiment", folder, "--arms", escape)
    refused(escape)


@pytest.mark.slow
def test_a_real_process_too_says_one_line_and_debug_adds_the_trace(folder):
    truncate(folder / "helpful")
    call = [sys.executable, "-m", "workbench", *map(str, command("directions", folder))]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    told = subprocess.run(
        [*call, "--debug"], capture_output=True, text=True, env=environment, cwd=folder
    )
    assert told.returncode == 2
    *trace, line = told.stderr.splitlines()
    assert trace[0] == "Traceback (most recent call last):"
    assert re.search(r"workbench: .*helpful: .*damaged safetensors", line)
    assert not (folder.parent / "out.safetensors").exists()
