"""Code that hides in files of weights and vectors, or comes with a checkpoint, is not run.

Every payload touches a file, and is shown to do so where code is run on purpose.
"""

import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from workbench.errors import CheckpointError, ProvenanceError, WorkbenchError
from workbench.exchange import load_directions_from
from workbench.loading import load_config, load_model


class Payload:
    """What touches a file where it is unpickled."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return (open, (self.canary, "w"))


def by_torch(content):
    torch.save(content, buffer := io.BytesIO())
    return buffer.getvalue()


def by_old_torch(content):
    torch.save(content, buffer := io.BytesIO(), _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def as_array(content):
    np.save(buffer := io.BytesIO(), np.array([content], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def as_arrays(content):
    np.savez(buffer := io.BytesIO(), **{"layer.1": np.array([content], dtype=object)})
    return buffer.getvalue()


def packed_array(content):
    """A zip whose member says it holds objects, with the pickle right behind its header."""
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as file:
        file.writestr("layer.1.npy", as_array(content))
    return buffer.getvalue()


PICKLED = (by_torch, by_old_torch, pickle.dumps)
ARRAYS = (as_array, as_arrays, packed_array)


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


@pytest.fixture
def base(lineage):
    return lineage.aligned.model


@pytest.fixture
def folder(base, tmp_path):
    return Path(shutil.copytree(base, tmp_path / "folder"))


def refused(read, *, kind=WorkbenchError):
    """The message that reading ends with: one line."""
    with pytest.raises(kind) as caught:
        read()
    message = str(caught.value)
    assert message.isprintable()
    return message


@pytest.mark.parametrize("write", PICKLED, ids=lambda write: write.__name__)
def test_the_payload_is_one(write, canary, tmp_path):
    (tmp_path / "x").write_bytes(write({"a": Payload(canary)}))
    if write is pickle.dumps:
        pickle.loads((tmp_path / "x").read_bytes())
    else:
        torch.load(tmp_path / "x", weights_only=False)
    assert canary.exists()


@pytest.mark.parametrize("write", ARRAYS, ids=lambda write: write.__name__)
def test_the_payload_is_one_in_arrays(write, canary, tmp_path):
    (tmp_path / "x.npz").write_bytes(write(Payload(canary)))
    stored = np.load(tmp_path / "x.npz", allow_pickle=True)
    list(stored.values()) if hasattr(stored, "values") else stored
    assert canary.exists()


@pytest.mark.parametrize("write", PICKLED, ids=lambda write: write.__name__)
@pytest.mark.parametrize("name", ["v.pt", "v.pth", "v.bin", "v.pkl"])
@pytest.mark.parametrize("format", [None, "steering-vectors", "rows"])
def test_vectors_of_torch_run_nothing(write, name, format, canary, tmp_path):
    vectors = {"layer_activations": {1: Payload(canary)}, "layer_type": "decoder_block"}
    for content in (vectors, Payload(canary)):
        (tmp_path / name).write_bytes(write(content))
        message = refused(lambda: load_directions_from(tmp_path / name, format=format))
        assert "pickled objects are not opened, as they can run code" in message
    assert not canary.exists()


@pytest.mark.parametrize("write", (*ARRAYS, *PICKLED), ids=lambda write: write.__name__)
@pytest.mark.parametrize("name", ["v.npz", "v.safetensors", "v.gguf"])
def test_no_other_file_of_vectors_runs_anything(write, name, canary, tmp_path):
    (tmp_path / name).write_bytes(write(Payload(canary)))
    message = refused(lambda: load_directions_from(tmp_path / name), kind=ProvenanceError)
    assert f"{name}: " in message
    assert not canary.exists()


@pytest.mark.parametrize("write", PICKLED, ids=lambda write: write.__name__)
@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.bin"])
def test_raw_weights_run_nothing(write, name, base, canary, tmp_path):
    (tmp_path / name).write_bytes(write({"state_dict": {"a": Payload(canary)}}))
    message = refused(
        lambda: load_model(tmp_path / name, base=base, device="cpu"), kind=CheckpointError
    )
    assert "holds code beside weights, which is never run; save the state_dict alone" in message
    assert not canary.exists()


@pytest.mark.parametrize("write", PICKLED, ids=lambda write: write.__name__)
def test_a_checkpoint_with_a_pickle_runs_nothing(write, folder, canary):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(write(weights | {"more": Payload(canary)}))
    message = refused(lambda: load_model(folder, device="cpu"), kind=CheckpointError)
    assert "holds code beside weights, which is never run; get the checkpoint as" in message
    assert not canary.exists()
    torch.save(weights, folder / "pytorch_model.bin")
    assert load_model(folder, device="cpu").cfg.n_layers == 3


@pytest.mark.parametrize("write", PICKLED, ids=lambda write: write.__name__)
def test_an_adapter_with_a_pickle_runs_nothing(write, base, canary, tmp_path):
    told = {"peft_type": "LORA", "r": 2, "target_modules": ["c_attn"], "task_type": "CAUSAL_LM"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(told))
    (tmp_path / "adapter_model.bin").write_bytes(write({"a": Payload(canary)}))
    message = refused(lambda: load_model(tmp_path, base=base, device="cpu"), kind=CheckpointError)
    assert "which is never run" in message
    assert not canary.exists()


@pytest.fixture
def with_code(folder, canary, monkeypatch, tmp_path):
    """A checkpoint that brings the code of its config, model and tokenizer."""
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "mods")
    )
    code = f"open({str(canary)!r}, 'w').close()\nraise ValueError('was run')\n"
    (folder / "own.py").write_text(code)

    def spoil(file, kinds, **more):
        told = json.loads((folder / file).read_text())
        told |= {"auto_map": {kind: "own.Own" for kind in kinds}} | more
        (folder / file).write_text(json.dumps(told))
        return folder

    return spoil


def test_code_that_comes_with_a_checkpoint_is_not_run_unless_asked_for(with_code, canary):
    folder = with_code("config.json", ["AutoConfig", "AutoModelForCausalLM"], model_type="own")
    for read in (load_config, load_model):
        message = refused(lambda read=read: read(folder), kind=CheckpointError)
        assert "needs code that comes with it, which is not run; if you trust it" in message
    assert not canary.exists()
    refused(lambda: load_model(folder, trust_remote_code=True), kind=CheckpointError)
    assert canary.exists()


def test_code_beside_a_known_model_is_not_run_either(with_code, canary):
    folder = with_code("config.json", ["AutoConfig", "AutoModelForCausalLM"])
    assert load_model(folder, device="cpu").cfg.n_layers == 3
    assert not canary.exists()


def test_the_code_of_a_tokenizer_is_not_run(with_code, canary):
    folder = with_code("tokenizer_config.json", ["AutoTokenizer"], tokenizer_class="Own")
    told = json.loads((folder / "tokenizer_config.json").read_text())
    told["auto_map"] = {"AutoTokenizer": ["own.Own", "own.Own"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    try:
        load_model(folder, device="cpu")
    except CheckpointError as error:
        assert str(error).isprintable()
    assert not canary.exists()


def test_the_library_that_an_adapter_names_is_not_imported(base, tmp_path, monkeypatch, canary):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evil_library.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
    told = {
        "peft_type": "LORA",
        "r": 2,
        "target_modules": ["c_attn"],
        "base_model_name_or_path": "x",
    }
    told["auto_mapping"] = {"base_model_class": "Evil", "parent_library": "evil_library"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(told))
    shutil.copy(Path(base) / "model.safetensors", tmp_path / "adapter_model.safetensors")
    refused(lambda: load_model(tmp_path, base=base, device="cpu"), kind=CheckpointError)
    assert not canary.exists()
