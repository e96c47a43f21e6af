"""Checkpoints in and out: what is good loads equal, what is bad is one clear line."""

import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from workbench.errors import CheckpointError, ConfigError
from workbench.loading import load_config, load_model, save_model
from workbench.models import HookedModel
from workbench.sources.scrutiny import check_weights


@pytest.fixture
def folder(tmp_path, lineage):
    """A good checkpoint, to be spoilt."""
    return Path(shutil.copytree(lineage.aligned.model, tmp_path / "checkpoint"))


def refusal(source, **options):
    """Return the message that loading `source` ends with: one line."""
    with pytest.raises(CheckpointError) as caught:
        load_model(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(Path(source)) in message
    return message


def edit_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_saved_model_reloads_to_the_same_weights_and_logits(
    architecture, make_model, tmp_path, tokens
):
    model = make_model(architecture)
    save_model(model, tmp_path)
    reloaded = load_model(tmp_path, device="cpu")
    assert reloaded.fingerprint() == model.fingerprint()
    assert torch.equal(reloaded(tokens), model(tokens))
    assert reloaded.tokenizer.get_vocab() == model.tokenizer.get_vocab()
    assert not reloaded.hf.training


def test_a_trained_model_is_saved_as_trained(make_model, tmp_path, tokens):
    model = make_model("gpt-neox")
    before = model.fingerprint()
    optimiser = torch.optim.SGD(model.hf.parameters(), lr=0.1)
    model(tokens).logsumexp(-1).mean().backward()
    optimiser.step()
    save_model(model, tmp_path)
    reloaded = load_model(str(tmp_path), device="cpu")
    assert reloaded.fingerprint() == model.fingerprint() != before
    assert torch.equal(reloaded(tokens), model(tokens))


def test_saving_notices_that_a_reload_would_compute_something_else(
    make_model, tmp_path, monkeypatch
):
    model = make_model()
    other = make_model(seed=1)
    monkeypatch.setattr("workbench.loading.load_model", lambda *_, **__: other)
    with pytest.raises(CheckpointError, match="other logits when reloaded"):
        save_model(model, tmp_path)


def test_half_precision_loads_as_it_is_and_upcast_keeps_the_fingerprint(make_model, tmp_path):
    half = make_model()
    half.hf.to(torch.bfloat16)
    half.hf.save_pretrained(tmp_path)
    half.tokenizer.save_pretrained(tmp_path)
    assert load_model(tmp_path, device="cpu").cfg.dtype == torch.bfloat16
    upcast = load_model(tmp_path, dtype="float32", device="cpu")
    assert upcast.cfg.dtype == torch.float32
    assert upcast.fingerprint() == half.fingerprint()


def test_objects_in_memory_are_taken_as_they_are(make_hf, tokenizer, tokens):
    hf = make_hf()
    model = load_model(hf, tokenizer=tokenizer)
    assert isinstance(model, HookedModel)
    assert model.hf is hf
    assert load_model(model) is model
    assert torch.equal(model(tokens), hf(input_ids=tokens).logits)
    with pytest.raises(ConfigError, match=r"load_model\(hf, tokenizer="):
        load_model(hf)
    with pytest.raises(ConfigError, match="Cannot load a model from int"):
        load_model(3)


def test_the_chat_format_is_the_tokenizers_where_it_has_one(folder):
    assert load_model(folder).chat == "builtin"
    assert load_model(folder, chat="none").chat == "none"
    edit_json(folder / "tokenizer_config.json", chat_template="{{ messages[0].content }}")
    assert load_model(folder).chat == "tokenizer"


def test_a_config_is_read_without_weights_but_not_without_them_there(folder):
    assert load_config(folder).n_layer == 3
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        load_config(folder)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", r"no config\.json; give a folder of save_pretrained"),
        ("model.safetensors", r"no weights \(\*\.safetensors\)"),
        ("tokenizer.json", "no tokenizer files; save the tokenizer there"),
    ],
)
def test_a_folder_without_a_part_says_which_and_what_to_do(folder, missing, message):
    (folder / missing).unlink()
    assert re.search(message, refusal(folder))


def test_a_folder_that_is_not_there_is_refused_without_asking_the_hub(tmp_path):
    assert "no such folder" in refusal(tmp_path / "nowhere")
    assert "no such folder" in refusal("./nowhere")
    assert "HF_HUB_OFFLINE is set" in refusal("nobody/no-such-model")


def test_truncated_weights_are_called_damaged(folder):
    weights = folder / "model.safetensors"
    blob = weights.read_bytes()
    for length in (0, 5, len(blob) // 2, len(blob) - 1):
        weights.write_bytes(blob[:length])
        assert "damaged" in refusal(folder)


def test_weights_that_are_not_finite_are_named(folder):
    weights = load_file(folder / "model.safetensors")
    for bad in (float("nan"), float("inf")):
        weights["transformer.h.1.mlp.c_fc.weight"][0, 0] = bad
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        message = refusal(folder)
        assert "transformer.h.1.mlp.c_fc.weight" in message
        assert "not finite" in message


def test_weights_of_one_byte_are_looked_at_too(make_hf):
    hf = make_hf("llama-tied")
    packed = hf.model.norm.weight.detach().clamp(-9, 9).to(torch.float8_e4m3fn)
    hf.model.norm.weight = torch.nn.Parameter(packed, requires_grad=False)
    check_weights("it", hf, {})
    hf.model.norm.weight.view(torch.uint8)[0] = 0x7F  # not a number
    with pytest.raises(CheckpointError, match=r"it: weights of model\.norm\.weight are not finite"):
        check_weights("it", hf, {})


@pytest.mark.parametrize("dtype", ["bf16", "int8", torch.int8, "nn"])
def test_a_data_type_that_is_none_is_refused_by_its_name(folder, dtype):
    with pytest.raises(ConfigError, match=r"dtype is .*; it may be float32, bfloat16 or float16"):
        load_model(folder, dtype=dtype)


def test_weights_and_config_that_do_not_belong_together_are_refused(folder):
    edit_json(folder / "config.json", n_layer=4)
    assert "missing keys" in refusal(folder)
    edit_json(folder / "config.json", n_layer=2)
    assert "unexpected keys" in refusal(folder)
    edit_json(folder / "config.json", n_layer=3, n_embd=16)
    assert "mismatched keys" in refusal(folder)


@pytest.mark.parametrize(
    "spoilt",
    ["{", "[]", '{"model_type": "no-such-model"}', "{}", '{"model_type": "gpt2", "n_layer": "x"}'],
)
def test_a_config_that_makes_no_sense_is_refused(folder, spoilt):
    (folder / "config.json").write_text(spoilt)
    assert "config.json" in refusal(folder)


@pytest.mark.parametrize("spoilt", ["", "{", "[]", '{"model": {}}'])
def test_a_damaged_tokenizer_is_refused(folder, spoilt):
    (folder / "tokenizer.json").write_text(spoilt)
    assert "its tokenizer cannot be loaded" in refusal(folder)


@pytest.mark.parametrize(("size", "words"), [(20, "knows 2[0-9] tokens"), (500, "another model")])
def test_a_tokenizer_of_another_model_is_refused(folder, size, words):
    ids = {"<unk>": 0} | {f"word{index}": index for index in range(1, size)}
    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(ids, unk_token="<unk>")), unk_token="<unk>"
    )
    other.save_pretrained(folder)
    assert re.search(words, refusal(folder))


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_in_the_weights_is_refused_and_never_run(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    mark = tmp_path / "executed"
    torch.save({"weights": Malicious(mark)}, folder / "pytorch_model.bin")
    assert "holds code" in refusal(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Malicious(mark), protocol=2))
    assert "holds code" in refusal(folder)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Malicious(mark)))
    assert mark.exists()  # it would have run


def test_plain_bin_weights_still_load(folder, aligned_model, tokens):
    torch.save(aligned_model.hf.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert torch.equal(load_model(folder, device="cpu")(tokens), aligned_model(tokens))
