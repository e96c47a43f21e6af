"""Whatever stands in an input file, reading it works or ends in one clear line: soon, no writing.

Every reader is given files that were good and are spoilt: values of other types, keys that are
missing, unknown or twice, deep nesting, NaN, lone surrogates, bytes that are cut off or flipped,
and no plain files. `make test` tries a few of each, the slow tier twenty times as many; the seed
is fixed. The last line of each test under `-s` says how many were tried.
"""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import (
    REFUSED,
    SPECIAL,
    TRIED,
    check_reader,
    json_files,
    objects,
    put,
    safetensors_files,
    spoilt,
    to_json,
    trying,
    values,
)
from hypothesis import given
from hypothesis import strategies as st
from planted_experiment import build_experiment
from planted_grid import make_grid
from planted_surroundings import write_directions, write_phases

from workbench.archive import Archive
from workbench.directions import ReversionDirections
from workbench.exchange import load_directions_from, save_directions_as
from workbench.grids import AblationGrid
from workbench.inputs import Inputs
from workbench.loading import load_config, load_model
from workbench.passage import Passage
from workbench.passage_reading import read_passage
from workbench.phases import Lineage
from workbench.probes import ProbeSet, load_examples
from workbench.sources.source import find_source
from workbench.surroundings import Surroundings

MORE = 20
"""How many times as many files the slow tier tries."""

LINEAGE = {
    "name": "planted",
    "chat": "builtin",
    "judge": "rules",
    "overflow": "refuse",
    "roles": {"witness": "helpful", "aligned": "aligned", "sibling": "sibling"},
    "phase": [
        {"name": "helpful", "model": "helpful", "dtype": "float32"},
        {"name": "aligned", "model": "org/name", "revision": "main", "tokenizer": "helpful"},
        {"name": "sibling", "model": "EleutherAI/pythia-70m", "checkpoint": 3, "base": "x/y"},
    ],
}
SERIES = {
    "roles": {"witness": "step0", "aligned": "s-2"},
    "phase": [
        {"name": "step{step}", "model": "m-{step}", "steps": [0, {"from": 2, "to": 8, "every": 2}]},
        {
            "name": "s-{step}",
            "model": "org/name",
            "revision": "stage1-step{step}-tokens{tokens}B",
            "revisions": ["stage1-step1-tokens5B", "stage1-step2-tokens9B"],
        },
    ],
}
ROWS = [
    {"prompt": "bako belu ?", "kind": "harmful", "cluster": "a", "response": "dina"},
    {"prompt": "fako felu ?", "kind": "benign", "cluster": None},
    {"messages": [{"role": "user", "content": "gina"}, {"role": "assistant", "content": "gomi"}]},
]


def to_toml(value):
    """One line of TOML; what TOML has no word for is left to be refused."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(str(k))} = {to_toml(v)}' for k, v in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(to_toml, value))}]"
    if isinstance(value, float):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"0x{'f' * 9000}" if value > 10**99 else str(value)
    return to_json(value).replace("null", '""')


def toml_files(good):
    def written(value):
        pairs = value.items() if isinstance(value, dict) else [("name", value)]
        return "\n".join(f"{json.dumps(str(k))} = {to_toml(v)}" for k, v in pairs).encode()

    return st.one_of(
        objects(good).map(written),
        objects(good).map(written),
        objects(good).map(written),
        spoilt(written(good)),
        st.binary(max_size=60),
    )


def jsonl_files(good):
    """One row spoilt, or bytes anywhere."""
    lines = [json.dumps(row).encode() for row in good]
    whole = b"\n".join(lines) + b"\n"

    def with_row(place):
        return json_files(good[place]).map(
            lambda row: b"\n".join([*lines[:place], row, *lines[place + 1 :]])
        )

    return st.integers(0, len(good) - 1).flatmap(with_row) | spoilt(whole)


def torch_files(good):
    """What torch saves: other things in it, other bytes."""
    odd = st.one_of(
        values,
        st.sampled_from((torch.ones(2, 8).to_sparse(), torch.ones(8, device="meta"))),
        st.sampled_from((torch.ones(1).expand(10**6, 10**5), torch.ones(8, dtype=torch.complex64))),
        st.sampled_from((torch.tensor(1.0), torch.ones(0), torch.ones(8, 0), torch.ones(2, 2, 8))),
        st.just(torch.ones(8, dtype=torch.bool)),
    )  # fmt: skip
    keys = st.sampled_from((0, 1, -1, True, 10**9, 2**70, "0", "layer_activations", "layer_type"))
    some = st.dictionaries(keys, odd, max_size=3)
    spoilt_parts = st.one_of(
        odd,
        some,
        some.map(lambda more: {"layer_activations": more}),
        some.map(lambda more: good | more if isinstance(good, dict) else more),
        odd.map(lambda place: {"layer_activations": {1: torch.ones(8)}, "layer_type": place}),
    )
    return spoilt_parts.map(torch_bytes) | spoilt(torch_bytes(good))


def torch_bytes(value):
    torch.save(value, buffer := io.BytesIO())
    return buffer.getvalue()


def npz_files(good):
    """Arrays of other kinds under other names; headers that promise too much."""
    arrays = st.sampled_from(
        (
            *(np.ones(8), np.ones(8, int), np.ones((2, 8)), np.ones(0), np.array(1.0)),
            *(np.array(["x" * 99]), np.array([{}], dtype=object), np.ones(8, np.float16)),
            *(np.array([np.nan] * 8), np.ones(8, dtype="c16"), np.ones(2, dtype=[("a", "f8")])),
            *(np.zeros(8), np.ones(8, dtype=">f4"), np.array([np.datetime64("2020")])),
        )
    )
    names = st.sampled_from(
        ("layer.0", "layer.1", "layer.-1", "layer.9999999999", "scale", "a/../b")
    )
    some = st.dictionaries(names, arrays, max_size=3)

    def packed(named):
        np.savez(buffer := io.BytesIO(), **named)
        return buffer.getvalue()

    plain = b"\x93NUMPY\x01\x00v\x00"
    headers = objects({"descr": "<f8", "fortran_order": False, "shape": [8]}).map(
        lambda header: plain + repr(header).encode("utf-8", "replace")[:118].ljust(117) + b"\n"
    )

    def promised(header):
        import zipfile

        with zipfile.ZipFile(buffer := io.BytesIO(), "w") as file:
            file.writestr("layer.0.npy", header + bytes(64))
        return buffer.getvalue()

    return st.one_of(some.map(packed), spoilt(good), headers.map(promised), headers)


@dataclass(frozen=True)
class Reader:
    """What reads a kind of file, and with what that file is replaced."""

    name: str
    folder: Path
    """Where it lies; nothing in it may change."""

    file: Path
    spoilt: st.SearchStrategy[bytes]
    read: Callable[[], Any]


@pytest.fixture(scope="module")
def world(tmp_path_factory, inputs_folder, directions, lineage, splits, make_hf, tokenizer):
    """Good files of every kind, to be copied and spoilt."""
    from peft import LoraConfig, get_peft_model

    root = tmp_path_factory.mktemp("world")
    shutil.copytree(inputs_folder, root / "inputs")
    directions.save(root / "directions.safetensors")
    read_passage(lineage, splits[0], root / "passage", keep="all")
    build_experiment(root / "experiment", arms=("ordinary", "block"), seeds=(0,))
    make_grid().save(root / "grid.json")
    write_directions(root / "experiment" / "lineages" / "l0")
    write_phases(root / "experiment" / "lineages" / "l0")
    readout = {"layers": [0], "top": [], "bottom": [], "preference": [1.0]}
    (root / "experiment" / "lineages" / "l0" / "readout.json").write_text(json.dumps(readout))
    for architecture in ("gpt2", "llama-gqa"):
        make_hf(architecture).save_pretrained(root / architecture)
        tokenizer.save_pretrained(root / architecture)
    options = {"r": 2, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    get_peft_model(make_hf("llama-gqa"), LoraConfig(**options)).save_pretrained(root / "adapter")
    torch.save(make_hf("gpt2").state_dict(), root / "raw.pt")
    for format, suffix in VECTORS.items():
        chosen = [1, 2] if format == "llama.cpp" else None
        path = root / f"{format}{suffix}"
        save_directions_as(directions, path, format=format, layers=chosen)
    return root


VECTORS = {
    "steering-vectors": ".pt",
    "persona-vectors": ".pt",
    "rows": ".pt",
    "llama.cpp": ".gguf",
    "safetensors": ".safetensors",
    "npz": ".npz",
}


def reader_of(name, world, folder):
    """Make a reader in a folder of its own."""
    kind, _, part = name.partition(":")

    def taken(source, to=None):
        source, target = world / source, folder / (to or source)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        return target

    def reader(file, spoilt, read):
        return Reader(name, folder, Path(file), spoilt, read)

    if kind == "lineage":
        file = taken("inputs/lineage.toml", "lineage.toml")
        for phase in ("helpful", "m-0"):
            (folder / phase).mkdir()
        return reader(file, toml_files(SERIES if part else LINEAGE), lambda: read_lineage(file))
    if kind in ("probes", "examples"):
        load = read_probes if kind == "probes" else load_examples
        file = folder / "rows.jsonl"
        file.write_bytes(b"")
        return reader(file, jsonl_files(ROWS[:2] if kind == "probes" else ROWS), lambda: load(file))
    if kind == "inputs":
        file = taken("inputs", "inputs") / f"{part}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        return reader(file, jsonl_files(rows), lambda: Inputs.beside(file.parent).load())
    if kind == "directions":
        file = taken("directions.safetensors")
        return reader(file, files_like(file), lambda: read_directions(file))
    if kind == "vectors":
        return reader(*vectors_of(part, taken(f"{part}{VECTORS[part]}")))
    if kind in ("config", "model", "adapter", "raw"):
        return reader(*model_of(kind, part, world, taken))
    if kind == "passage":
        root = taken("passage")
        file = root / "passage.json" if part == "plan" else next((root / "phases").iterdir())
        return reader(file, files_like(file), lambda: read_all(root))
    if kind == "grid":
        file = taken("grid.json")
        return reader(file, files_like(file), lambda: AblationGrid.load(file).identity())
    root = taken("experiment")
    if kind == "archive":
        file = root / "experiment.json"
        return reader(file, files_like(file), lambda: read_archive(root))
    assert kind == "surroundings"
    file = next((root / "lineages").iterdir()) / part
    where = file.parent
    return reader(file, files_like(file), lambda: Surroundings.at(where).landmarks)


def files_like(file):
    """Spoilt files of JSON or tensors, as a good one is."""
    content = file.read_bytes()
    if file.suffix == ".safetensors":
        return safetensors_files(content)
    return json_files(json.loads(content.decode("utf-8", "surrogatepass")))


def vectors_of(format, file):
    content = file.read_bytes()
    if file.suffix == ".pt":
        files = torch_files(torch.load(file, weights_only=True))
    elif format == "safetensors":
        files = safetensors_files(content)
    else:
        files = npz_files(content) if format == "npz" else spoilt(content)
    read = lambda: load_directions_from(file, format=format)  # noqa: E731
    return file, files, read


def model_of(kind, part, world, taken):
    """Folders of models, of which one file is spoilt."""
    if kind == "raw":
        file, base = taken("raw.pt"), world / "gpt2"
        good = torch.load(file, weights_only=True)
        return file, torch_files(good), lambda: load_model(file, base=base, device="cpu")
    if kind == "config":
        file = taken(part) / "config.json"
        read = lambda: (find_source(file.parent), load_config(file.parent))  # noqa: E731
    elif kind == "adapter":
        file = taken("adapter") / part
        read = lambda: load_model(file.parent, base=world / "llama-gqa", device="cpu")  # noqa: E731
    else:
        file = taken("gpt2") / part
        read = lambda: load_model(file.parent, device="cpu")  # noqa: E731
    return file, files_like(file), read


def read_lineage(file):
    lineage = Lineage.load(file)
    lineage.milestones()
    return lineage.witness, lineage.aligned, lineage.sibling, lineage.phases[0].source


def read_probes(file):
    probes = ProbeSet.load(file)
    return probes.fingerprint(), probes.marks(), probes.split(a=0.5, b=0.5)


def read_directions(file):
    directions = ReversionDirections.load(file)
    directions.identity(), directions.check_probes(ProbeSet.from_prompts(["a"]), "b")
    directions.check_mean("This") if directions.has_mean else directions.with_unit(directions.unit)
    directions.check_model(str(directions.provenance.get("aligned_hash")))


def read_all(folder):
    passage = Passage(folder)
    assert passage.roles is not None
    passage.layers, passage.missing, passage.course()
    for phase in passage.phases:
        passage.acts(phase), passage.provenance(phase)
    passage.directions(passage.roles["witness"], passage.roles["aligned"])


def read_archive(folder):
    archive = Archive.open(folder)
    archive.last_step, archive.n_lineages, archive.lineage_folders()
    for runs in archive.by_arm.values():
        for run in runs:
            archive.lineage_folder(run)
        if runs:
            archive.by_step(runs, lambda run: run.layer_values("along")[:, 0].tolist())


READERS = {
    "lineage": 70,
    "lineage:series": 50,
    "probes": 45,
    "examples": 20,
    "inputs:probes": 10,
    "inputs:finetune": 10,
    "directions": 45,
    "vectors:steering-vectors": 25,
    "vectors:persona-vectors": 8,
    "vectors:rows": 8,
    "vectors:llama.cpp": 20,
    "vectors:safetensors": 20,
    "vectors:npz": 25,
    "config:gpt2": 12,
    "config:llama-gqa": 12,
    "model:config.json": 10,
    "model:generation_config.json": 4,
    "model:tokenizer.json": 12,
    "model:tokenizer_config.json": 8,
    "model:model.safetensors": 6,
    "adapter:adapter_config.json": 8,
    "adapter:adapter_model.safetensors": 4,
    "raw": 6,
    "passage:plan": 20,
    "passage:phase": 16,
    "grid": 20,
    "archive": 12,
    "surroundings:directions.safetensors": 10,
    "surroundings:phases.safetensors": 8,
    "surroundings:nulls.json": 6,
    "surroundings:readout.json": 4,
}
"""How many spoilt files each reader is given in the fast tier: over 500 together."""


def try_files(name, count, world, tmp_path):
    reader = reader_of(name, world, tmp_path)
    found = 0

    @trying(count)
    @given(content=reader.spoilt)
    def check(content):
        nonlocal found
        found += 1
        put(reader.file, content)
        check_reader(name, reader.read, reader.folder)

    check()
    for kind in SPECIAL:
        put(reader.file, kind)
        check_reader(name, reader.read, reader.folder)
    return found


def test_the_fast_tier_tries_500_files_and_the_slow_one_10000():
    assert sum(READERS.values()) >= 500
    assert sum(READERS.values()) * MORE >= 10_000


@pytest.mark.parametrize("name", READERS)
def test_a_spoilt_file_is_read_or_refused_in_one_line(name, world, tmp_path, record_property):
    found = try_files(name, READERS[name], world, tmp_path)
    record_property("tried", found)
    print(f"\n{name}: {found} files tried, {REFUSED[name]} of {TRIED[name]} refused")
    assert found >= READERS[name]
    assert REFUSED[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_twenty_times_as_many(name, world, tmp_path, record_property):
    found = try_files(name, READERS[name] * MORE, world, tmp_path)
    record_property("tried", found)
    print(f"\n{name}: {found} files tried, {REFUSED[name]} of {TRIED[name]} refused")
    assert found >= READERS[name] * MORE


@pytest.mark.parametrize("name", READERS)
def test_a_good_file_is_read(name, world, tmp_path):
    if name.partition(":")[0] in ("probes", "examples"):
        pytest.skip("has no good file")
    reader_of(name, world, tmp_path).read()


ODD = ("a\x1b[2J\x1b]0;owned\x07", "a\nb\r\nc", "\u202eevil", "\udcff", "x" * 5000, "a\0b")


@pytest.mark.parametrize("name", ODD, ids=ascii)
@pytest.mark.parametrize("suffix", [".toml", ".jsonl", ".pt", ".safetensors", ".json", ""])
def test_a_file_with_an_odd_name_is_one_printable_line(name, suffix, tmp_path):
    path = tmp_path / (name + suffix)
    readers = {
        ".toml": Lineage.load,
        ".jsonl": load_examples,
        ".pt": load_directions_from,
        ".safetensors": ReversionDirections.load,
        ".json": AblationGrid.load,
        "": find_source,
    }
    for there in (False, True):
        if there:
            try:
                path.write_bytes(b"?")
            except (OSError, ValueError):
                continue  # no file can be called so
        check_reader("odd", lambda: readers[suffix](path), tmp_path)
