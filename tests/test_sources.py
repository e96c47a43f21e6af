"""Whatever form a checkpoint comes in, it loads to the same weights; what does not fit is said."""

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BartConfig, T5Config

from workbench.errors import CheckpointError, ConfigError
from workbench.finetune import FineTuning
from workbench.loading import load_config, load_model, save_model
from workbench.phases import Lineage


@pytest.fixture
def folder(tmp_path, lineage):
    return Path(shutil.copytree(lineage.aligned.model, tmp_path / "checkpoint"))


@pytest.fixture(scope="module")
def expected(lineage):
    return lineage.load_model(lineage.aligned).fingerprint()


def refusal(source, **options):
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        load_model(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def sharded(folder):
    """The same checkpoint in several files."""
    hf = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    hf.save_pretrained(folder, max_shard_size="40KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    return shards


def test_shards_load_as_one_file_does(folder, expected):
    sharded(folder)
    assert load_model(folder).fingerprint() == expected


def test_a_missing_shard_is_named(folder):
    shards = sharded(folder)
    shards[1].unlink()
    assert f"1 of {len(shards)} shards are missing, such as {shards[1].name}" in refusal(folder)
    index = folder / "model.safetensors.index.json"
    for spoilt in ("{", "[]", "{}"):
        index.write_text(spoilt)
        assert "damaged" in refusal(folder)


def test_shards_beside_another_models_single_file_are_refused(folder):
    hf = load_model(folder, device="cpu").hf
    single = (folder / "model.safetensors").read_bytes()
    sharded(folder)
    with torch.no_grad():
        hf.transformer.wte.weight += 1
    hf.save_pretrained(folder, max_shard_size="40KB")
    (folder / "model.safetensors").write_bytes(single)  # what transformers would read
    assert "holds model.safetensors and model.safetensors.index.json" in refusal(folder)


def test_raw_weights_keep_their_precision_whatever_the_config_of_their_base_says(
    folder, tmp_path, make_hf
):
    model = load_model(folder, dtype="bfloat16", device="cpu")
    save_model(model, tmp_path / "half")
    state = make_hf().state_dict()
    torch.save(state, tmp_path / "raw.pt")
    for source in (state, tmp_path / "raw.pt"):
        read = load_model(source, base=tmp_path / "half", device="cpu")
        assert torch.equal(read.hf.transformer.wte.weight, state["transformer.wte.weight"])
    halved = load_model(state, base=tmp_path / "half", dtype="bfloat16", device="cpu")
    assert halved.cfg.dtype == torch.bfloat16


def test_a_pointer_of_git_lfs_is_not_taken_for_weights(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid x")
    assert "run `git lfs pull`" in refusal(folder)


SAVED = {
    "safetensors": lambda state, path: save_file(state, path.with_suffix(".safetensors")),
    "state dict": lambda state, path: torch.save(state, path.with_suffix(".pt")),
    "in a checkpoint": lambda state, path: torch.save(
        {"state_dict": state, "step": 3}, path.with_suffix(".pth")
    ),
    "distributed and compiled": lambda state, path: torch.save(
        {"model": {f"module._orig_mod.{key}": value for key, value in state.items()}},
        path.with_suffix(".bin"),
    ),
}


@pytest.mark.parametrize("form", SAVED)
def test_raw_weights_load_into_the_config_of_their_base(folder, lineage, tmp_path, form, expected):
    state = load_file(folder / "model.safetensors")
    SAVED[form](state, tmp_path / "raw")
    (path,) = tmp_path.glob("raw.*")
    # The base has other weights: only its config and tokenizer count.
    base = lineage.phase("pretrained").model
    model = load_model(path, base=base)
    assert model.fingerprint() == expected != load_model(base).fingerprint()
    assert model.tokenizer.get_vocab() == load_model(base).tokenizer.get_vocab()
    assert load_config(path, base=base).n_layer == 3


def test_a_state_dict_in_memory_loads_as_its_file_does(folder, lineage, expected):
    state = load_file(folder / "model.safetensors")
    base = lineage.phase("pretrained").model
    assert load_model(state, base=base).fingerprint() == expected
    assert "load_model(state, base=…)" in refusal(state)


@pytest.mark.parametrize("architecture", ["gpt-neox", "llama-untied"])
def test_raw_weights_that_lack_the_head_are_refused_and_not_filled_at_random(
    architecture, make_model, tmp_path
):
    from workbench.loading import save_model

    save_model(make_model(architecture), tmp_path / "base")
    state = load_file(tmp_path / "base" / "model.safetensors")
    (head,) = (key for key in state if key.startswith(("lm_head", "embed_out")))
    save_file(
        {key: value for key, value in state.items() if key != head}, tmp_path / "raw.safetensors"
    )
    message = refusal(tmp_path / "raw.safetensors", base=tmp_path / "base")
    assert re.search(r"missing keys in the weights: (lm_head|embed_out)\.weight;", message)
    save_file(state | {"extra": torch.zeros(1)}, tmp_path / "raw.safetensors")
    assert "unexpected keys in the weights: extra" in refusal(
        tmp_path / "raw.safetensors", base=tmp_path / "base"
    )


def test_raw_weights_without_a_base_or_with_code_in_them_are_refused(folder, tmp_path, lineage):
    base = lineage.aligned.model
    raw = tmp_path / "raw.pt"
    torch.save({"w": torch.zeros(1)}, raw)
    assert "say nothing of their architecture" in refusal(raw)
    torch.save({"w": Path("x")}, raw)
    assert "holds code beside weights, which is never run" in refusal(raw, base=base)
    raw.write_bytes(b"nonsense")
    assert "damaged" in refusal(raw, base=base)
    torch.save({"epoch": 3}, raw)
    assert "'epoch' is no tensor" in refusal(raw, base=base)
    torch.save({}, raw)
    assert "no state dict" in refusal(raw, base=base)
    assert "not a file of weights" in refusal(folder / "config.json")
    assert "no such folder" in refusal("checkpoints/step3.safetensors", base=base)
    assert "a whole checkpoint has no base" in refusal(folder, base=base)


@pytest.mark.parametrize("config", [T5Config, BartConfig])
def test_an_encoder_decoder_model_is_refused_before_its_weights_are_read(folder, config):
    small = {"d_model": 32, "num_layers": 2, "encoder_layers": 2, "decoder_layers": 2}
    config(**small).save_pretrained(folder)
    assert "an encoder-decoder model" in refusal(folder)


def test_code_that_comes_with_a_checkpoint_is_not_run(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("raise SystemExit('it was run')")
    assert "needs code that comes with it, which is not run" in refusal(folder)


def test_a_tokenizer_may_be_elsewhere(folder, lineage, expected):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "or name where it is as tokenizer" in refusal(folder)
    home = lineage.phase("helpful").model
    assert load_model(folder, tokenizer=home).fingerprint() == expected
    with pytest.raises(CheckpointError, match="no tokenizer files"):
        load_config(folder)
    assert load_config(folder, tokenizer=home).n_layer == 3


def spread(n_layers):
    """A device map that keeps the middle layer on disk."""
    names = ["wte", "wpe", *(f"h.{layer}" for layer in range(n_layers)), "ln_f"]
    places = {f"transformer.{name}": "cpu" for name in names} | {"lm_head": "cpu"}
    return places | {"transformer.h.1": "disk"}


def test_a_model_that_is_spread_over_devices_is_read_as_one_that_is_not(
    folder, expected, probes, tokens, examples
):
    from workbench.activations import read_activations

    whole = load_model(folder, device="cpu")
    apart = load_model(folder, device_map=spread(3))
    assert any(parameter.device.type == "meta" for parameter in apart.hf.parameters())
    assert apart.cfg.device.type == "cpu"
    assert torch.equal(apart(tokens), whole(tokens))
    assert torch.equal(read_activations(apart, probes), read_activations(whole, probes))
    assert apart.fingerprint() == expected
    with pytest.raises(ConfigError, match="can be read, not trained"):
        FineTuning(apart, examples)
    assert "a device or a device_map" in refusal(folder, device="cpu", device_map="auto")


def test_a_package_that_the_weights_need_is_named(folder):
    if find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed here")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    message = refusal(folder)
    assert "needs a package that is not installed" in message
    assert "bitsandbytes" in message


def test_quantised_weights_are_not_trained_but_an_adapter_on_them_is(
    make_model, examples, tune, tmp_path
):
    model = make_model("llama-tied")
    model.hf.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    with pytest.raises(ConfigError, match=r"quantised by bitsandbytes cannot be trained; .*lora=8"):
        FineTuning(model, examples)
    assert len(list(tune(model, lora=2, steps=1))) == 1
    with pytest.raises(ConfigError, match=r"quantised by bitsandbytes is not saved merged"):
        save_model(model, tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def write_lineage(folder, phases):
    rows = [[f"{key} = {json.dumps(value)}\n" for key, value in one.items()] for one in phases]
    tables = "".join("[[phase]]\n" + "".join(row) for row in rows)
    path = folder / "lineage.toml"
    path.write_text(f'[roles]\nwitness = "a"\naligned = "b"\n{tables}')
    return path


def test_a_lineage_may_hold_raw_weights_and_a_tokenizer_elsewhere(tmp_path, lineage, expected):
    base = Path(shutil.copytree(lineage.phase("pretrained").model, tmp_path / "base"))
    state = load_file(Path(lineage.aligned.model) / "model.safetensors")
    save_file(state, tmp_path / "step9.safetensors")
    bare = Path(shutil.copytree(lineage.phase("helpful").model, tmp_path / "bare"))
    for path in bare.glob("tokenizer*"):
        path.unlink()
    phases = [
        {"name": "a", "model": "bare", "tokenizer": "base"},
        {"name": "b", "model": "step9.safetensors", "base": "base"},
    ]
    held = Lineage.load(write_lineage(tmp_path, phases))
    held.check()
    assert held.load_model(held.aligned).fingerprint() == expected
    assert (
        held.load_model(held.witness).fingerprint()
        == load_model(lineage.phase("helpful").model).fingerprint()
    )
    assert base.is_dir()
    for wrong in ("3", -1, True):
        phases[1]["checkpoint"] = wrong
        with pytest.raises(ConfigError, match="checkpoint must be a whole number"):
            Lineage.load(write_lineage(tmp_path, phases))
    phases[1]["checkpoint"] = 3
    with pytest.raises(ConfigError, match="no rule is known"):
        Lineage.load(write_lineage(tmp_path, phases)).check()
