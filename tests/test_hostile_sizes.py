"""Files that would take all memory or time are refused before they are read; large real ones work.

The bombs are read one after the other in a process of its own, whose peak memory is measured.
"""

import io
import json
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from planted_experiment import build_experiment

from workbench.errors import CheckpointError
from workbench.exchange import load_directions_from
from workbench.limits import MAX_JSONL_BYTES, MAX_TOKENIZER_BYTES
from workbench.loading import load_config, load_model
from workbench.phases import Lineage
from workbench.probes import load_examples
from workbench.sources.sizes import check_config

SECONDS, MEGABYTES = 10, 250
"""What one bomb may take at most, and by how much all of them may raise the peak."""

SCRIPT = """
import json, sys, time
from pathlib import Path
from workbench.archive import Archive
from workbench.directions import ReversionDirections
from workbench.errors import WorkbenchError
from workbench.exchange import load_directions_from
from workbench.grids import AblationGrid
from workbench.loading import load_config, load_model
from workbench.passage import Passage
from workbench.phases import Lineage
from workbench.probes import ProbeSet, load_examples
import peft

root = Path(sys.argv[1])
load_model(root / "good", device="cpu")
readers = {
    "lineage": lambda path: Lineage.load(path), "probes": lambda path: ProbeSet.load(path),
    "examples": load_examples, "config": load_config, "grid": AblationGrid.load,
    "model": lambda path: load_model(path, device="cpu"), "archive": Archive.open,
    "adapter": lambda path: load_model(path, base=root / "good", device="cpu"),
    "raw": lambda path: load_model(path, base=root / "good", device="cpu"),
    "passage": Passage, "directions": ReversionDirections.load,
    "vectors": load_directions_from, "rows": lambda path: load_directions_from(path, format="rows"),
}
def peak():
    # Not of getrusage: that starts with the peak of whoever started this process.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000
told = {}
for name, (kind, path) in json.loads(sys.argv[2]).items():
    before, start = peak(), time.monotonic()
    try:
        readers[kind](Path(path))
        said = "read"
    except WorkbenchError as error:
        said = str(error)
    told[name] = [said, time.monotonic() - start, peak() - before]
print(json.dumps(told))
"""


def sparse(path, size=3 * 10**9, start=b""):
    """A file of zeros that takes no room on disk."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)
    return path


def packed(path, member, content):
    """Put a large member into a zip, deflated."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr(member, content)
    return path


def deflated(path, tensors):
    """What torch saves, packed anew: thousands of times smaller."""
    torch.save(tensors, buffer := io.BytesIO())
    with zipfile.ZipFile(buffer) as stored, zipfile.ZipFile(path, "w") as file:
        for part in stored.infolist():
            file.writestr(part.filename, stored.read(part), zipfile.ZIP_DEFLATED, 1)
    return path


def npy_header(shape):
    np.lib.format.write_array_header_1_0(
        buffer := io.BytesIO(), {"descr": "<f8", "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


def tensors_file(path, shape, size):
    """A safetensors file whose header promises a large tensor, zeros in a sparse file."""
    header = {"unit": {"dtype": "F64", "shape": shape, "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    return sparse(path, 8 + len(text) + size, len(text).to_bytes(8, "little") + text)


def gguf_file(path, tensors, fields, more=b""):
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, fields) + more + bytes(64))
    return path


BIG_LIST = struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 0, 2**40)


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_hf, tokenizer):
    root = tmp_path_factory.mktemp("bombs")
    make_hf().save_pretrained(root / "good")
    tokenizer.save_pretrained(root / "good")
    return root


@pytest.fixture(scope="module")
def bombs(root):
    """By name: what reads it, and where it is."""

    def model(name, **changed):
        folder = Path(shutil.copytree(root / "good", root / name))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changed))
        return folder

    def spoilt(name, file, **options):
        folder = model(name)
        sparse(folder / file, **options)
        return folder

    def lineage(name, text):
        path = root / f"{name}.toml"
        path.write_text('[roles]\nwitness = "a"\naligned = "b"\n' + text)
        return path

    adapter = root / "adapter"
    adapter.mkdir()
    told = {"peft_type": "LORA", "r": 10**9, "target_modules": ["c_attn"], "task_type": "CAUSAL_LM"}
    (adapter / "adapter_config.json").write_text(json.dumps(told))
    shutil.copy(root / "good" / "model.safetensors", adapter / "adapter_model.safetensors")
    experiment = build_experiment(root / "experiment", arms=("ordinary",), seeds=(0,))
    sparse(experiment / "experiment.json")
    passage = root / "passage"
    passage.mkdir()
    sparse(passage / "passage.json")
    weights = torch.load(deflated(root / "x.pt", {"w": torch.zeros(5_000_000)}), weights_only=True)
    bin_folder = model("bin")
    (bin_folder / "model.safetensors").unlink()
    deflated(bin_folder / "pytorch_model.bin", weights)
    phase = '[[phase]]\nname = "p{step}"\nmodel = "m{step}"\nsteps = '
    zeros = bytes(400_000_000)
    return {
        "lineage of GBs": ("lineage", sparse(root / "l.toml"), "larger than 1 MB"),
        "a million phases": (
            "lineage",
            lineage("million", '[[phase]]\nname = "a"\nmodel = "b"\n' * 10**6),
            "larger than 1 MB",
        ),
        "steps": (
            "lineage",
            lineage("steps", phase + "{from = 0, to = 1000000000, every = 1}"),
            "stands for more than 10000 checkpoints",
        ),
        "hex": ("lineage", lineage("hex", f"{phase}[0x{'f' * 9000}]"), "more than 64 bits"),
        "dots": ("lineage", lineage("dots", ".".join("a" * 400_000) + " = 1"), "not a TOML file"),
        "a line of 1 GB": ("probes", sparse(root / "p.jsonl", 10**9), "a line of over 1 MB"),
        "examples of TBs": ("examples", sparse(root / "e.jsonl", 10**12), "larger than 16,000 MB"),
        "config": ("config", spoilt("c", "config.json"), "larger than 4 MB"),
        "tokenizer": ("model", spoilt("t", "tokenizer.json"), "larger than 1,000 MB"),
        "template": ("model", spoilt("j", "chat_template.jinja"), "larger than 1,000 MB"),
        "index": ("config", spoilt("i", "model.safetensors.index.json"), "larger than 200 MB"),
        "layers": ("config", model("deep", n_layer=10**6), "n_layer is 1000000, and no model has"),
        "width": ("config", model("wide", n_embd=10**9), "n_embd is 1000000000, and no model has"),
        "vocabulary": ("config", model("many", vocab_size=10**12), "vocab_size is 1000000000000"),
        "inner": ("config", model("in", text_config={"hidden_size": 1e300}), "hidden_size is 1e"),
        "lists": ("config", model("list", n_inner=[1, 10**9]), "n_inner is 1000000000"),
        "experts": (
            "config",
            model("experts", num_hidden_layers=1000, num_experts=8000),
            "8000 experts in each of 1000 layers",
        ),
        "promise": ("model", model("promise", n_layer=300, n_embd=2**17), "million weights, its"),
        "positions": ("model", model("positions", n_positions=2**30), "million weights, its files"),
        "experiment": ("archive", experiment, "larger than 100 MB"),
        "passage": ("passage", passage, "larger than 100 MB"),
        "grid": ("grid", sparse(root / "g.json"), "larger than 100 MB"),
        "rank": ("adapter", adapter, "says rank 1000000000, no side of its weights is over"),
        "npz": ("vectors", packed(root / "z.npz", "layer.0.npy", zeros), "unpacks to 400 MB"),
        "npz promise": (
            "vectors",
            packed(root / "h.npz", "layer.0.npy", b"\x93NUMPY\1\0" + npy_header((10**11,))[8:]),
            "promises shape (100000000000,), more than it has",
        ),
        "pt": ("rows", packed(root / "z.pt", "archive/data/0", zeros), "unpacks to 400 MB"),
        "bin": ("model", bin_folder, "that unpack to 20 MB, which no file of weights does"),
        "raw": ("raw", root / "x.pt", "that unpack to 20 MB, which no file of weights does"),
        "gguf tensors": ("vectors", gguf_file(root / "t.gguf", 2**60, 0), "entries, where"),
        "gguf fields": ("vectors", gguf_file(root / "f.gguf", 0, 2**60), "entries, where"),
        "gguf list": ("vectors", gguf_file(root / "l.gguf", 0, 1, BIG_LIST), "entries, where"),
        "gguf": ("vectors", sparse(root / "b.gguf", start=b"GGUF"), "larger than 256 MB"),
        "header": (
            "directions",
            sparse(root / "h.safetensors", 10**6, (2**63).to_bytes(8, "little")),
            "not a file of directions, or damaged",
        ),
        "directions": (
            "directions",
            tensors_file(root / "d.safetensors", [10**6, 2**14], 2**17 * 10**6),
            "larger than 8,000 MB",
        ),
        "vectors": (
            "vectors",
            tensors_file(root / "v.safetensors", [2, 10**9], 16 * 10**9),
            "larger than 256 MB",
        ),
        "model header": (
            "model",
            spoilt("m", "model.safetensors", size=10**6, start=(2**62).to_bytes(8, "little")),
            "damaged safetensors file",
        ),
    }


@pytest.fixture(scope="module")
def told(root, bombs):
    """What reading each said, how long it took, and by how much it raised the peak."""
    torch.save(torch.ones(1).expand(10**6, 10**5), root / "expanded.pt")
    asked = {name: (kind, str(path)) for name, (kind, path, _) in bombs.items()}
    asked["expanded"] = ("rows", str(root / "expanded.pt"))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(root), json.dumps(asked)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_bomb_is_refused_in_one_line_by_its_size(told, bombs):
    for name, (_, _, message) in bombs.items():
        assert message in told[name][0], f"{name}: {told[name][0]}"
        assert told[name][0].isprintable()
    assert "tensor of shape [1000000, 100000], more than a file of vectors" in told["expanded"][0]


def test_that_takes_neither_time_nor_memory(told):
    slow = {name: seconds for name, (_, seconds, _) in told.items() if seconds > SECONDS}
    assert not slow
    assert sum(growth for _, _, growth in told.values()) < MEGABYTES, sorted(
        (growth, name) for name, (_, _, growth) in told.items()
    )[-3:]


def test_memory_that_is_taken_would_have_been_seen(root):
    line = json.dumps({"a": "x" * 900_000}).encode() + b"\n"
    (root / "many.jsonl").write_bytes(line * 400)
    asked = json.dumps({"many": ("examples", str(root / "many.jsonl"))})
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(root), asked],
        capture_output=True, text=True, timeout=200, check=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    said, _, growth = json.loads(done.stdout.splitlines()[-1])["many"]
    assert said == "read"
    assert growth > MEGABYTES


SEVENTY = dict(hidden_size=8192, num_hidden_layers=80, vocab_size=128256, intermediate_size=28672)


def test_the_configs_of_large_real_models_are_taken(root):
    folder = root / "seventy"
    folder.mkdir()
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **SEVENTY}
    config |= {"num_attention_heads": 64, "num_key_value_heads": 8}
    config["max_position_embeddings"] = 10_485_760
    (folder / "config.json").write_text(json.dumps(config))
    sparse(folder / "model.safetensors", 140 * 10**9, b"{}")
    shutil.copy(root / "good" / "tokenizer.json", folder)
    assert load_config(folder).num_hidden_layers == 80
    check_config({"num_hidden_layers": 61, "n_routed_experts": 384, "hidden_size": 7168}, "Kimi")
    check_config({"n_layer": 1000, "vocab_size": 10**6, "model_max_length": 10**30}, "deep")
    with pytest.raises(CheckpointError, match=r"config\.json describes 70,554 million weights"):
        shutil.copy(root / "good" / "model.safetensors", folder)
        load_model(folder, device="cpu")


@pytest.mark.slow
def test_a_lineage_of_ten_thousand_phases_works(tmp_path):
    text = '[roles]\nwitness = "p1"\naligned = "p2"\n[[phase]]\nname = "p{step}"\n'
    text += 'model = "m{step}"\nsteps = {from = 1, to = 10000, every = 1}\n'
    (tmp_path / "lineage.toml").write_text(text)
    assert len(Lineage.load(tmp_path).phases) == 10_000


@pytest.mark.slow
def test_a_tokenizer_of_100_mb_works(root, tmp_path):
    folder = Path(shutil.copytree(root / "good", tmp_path / "large"))
    content = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(content + b" " * 10**8)
    assert 10**8 < (folder / "tokenizer.json").stat().st_size < MAX_TOKENIZER_BYTES
    assert load_model(folder, device="cpu").tokenizer.get_vocab()


@pytest.mark.slow
def test_a_gigabyte_of_training_examples_works(tmp_path):
    line = json.dumps({"prompt": "a " * 4000, "response": "b " * 1000}).encode() + b"\n"
    with (tmp_path / "examples.jsonl").open("wb") as file:
        for _ in range(100):
            file.write(line * 1000)
    assert 10**9 <= (tmp_path / "examples.jsonl").stat().st_size < MAX_JSONL_BYTES
    assert len(load_examples(tmp_path / "examples.jsonl")) == 100_000


def test_vectors_just_as_large_as_a_models_are_read(tmp_path):
    torch.save(torch.ones(126, 16384), tmp_path / "v.pt")
    assert load_directions_from(tmp_path / "v.pt", format="rows").unit.shape == (126, 16384)
