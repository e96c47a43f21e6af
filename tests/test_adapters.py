"""Adapters: merged they are the model, live they are what is trained, and new they are nothing."""

import json
import re
import shutil
import weakref
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file

from workbench import merging
from workbench.adapters import add_adapter, attach_adapter, has_adapter
from workbench.directions import fit_directions
from workbench.doctor import needed
from workbench.errors import CheckpointError, ConfigError, ProbeError
from workbench.finetune import FineTuning
from workbench.fingerprints import weights_hash
from workbench.generation import answer
from workbench.loading import load_model, save_model
from workbench.merging import merged_weights
from workbench.models import HookedModel
from workbench.penalties import Block
from workbench.phases import Lineage
from workbench.training_edits import Steer
from workbench.updates import state_from_bytes, state_to_bytes

ARCHITECTURES = ["gpt2", "gpt-neox", "llama-gqa", "gemma2"]


def with_lora(hf, *, seed=0, **options):
    """The model in PEFT's hands, with an adapter that does something."""
    settings = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    torch.manual_seed(seed)
    whole = get_peft_model(hf, LoraConfig(**settings | options))
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            if any(part in name for part in ("lora_B", "lora_embedding_A")):
                parameter.normal_(std=0.3)
            elif any(part in name for part in ("modules_to_save", "trainable_tokens")):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return whole.eval()


@pytest.fixture
def saved(make_model, tmp_path):
    """A base, an adapter on it, and the logits of both together."""

    def save(architecture="llama-gqa", **options):
        base = make_model(architecture)
        save_model(base, tmp_path / "base")
        whole = with_lora(load_model(tmp_path / "base", device="cpu").hf, **options)
        whole.save_pretrained(tmp_path / "adapter")
        tokens = torch.arange(7, 25).view(2, 9)
        with torch.no_grad():
            logits = whole(input_ids=tokens).logits
        assert (logits - base(tokens)).abs().max() > 0.1
        return tmp_path / "adapter", tokens, logits

    return save


def refusal(source, **options):
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        load_model(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_adapter_reads_the_same_merged_and_live(saved, architecture):
    folder, tokens, logits = saved(architecture)
    merged = load_model(folder, device="cpu")
    live = load_model(folder, adapter="live", device="cpu")
    assert torch.equal(live(tokens), logits)
    torch.testing.assert_close(merged(tokens), logits, rtol=1e-4, atol=1e-4)
    assert not has_adapter(merged.hf)
    assert (
        merged.fingerprint()
        == live.fingerprint()
        != load_model(folder.parent / "base").fingerprint()
    )
    assert merged.cfg == live.cfg
    trained = {name for name, value in live.hf.named_parameters() if value.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)


def test_merged_weights_are_those_that_peft_merges_to_the_bit_also_of_saved_modules(make_hf):
    for options in ({}, {"use_rslora": True}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}):
        whole = with_lora(make_hf("llama-untied"), **options)
        ours = {name: value.clone() for name, value in merged_weights(whole)}
        theirs = dict(whole.merge_and_unload().named_parameters())
        assert sorted(ours) == sorted(theirs) == list(ours)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


OF_THE_ENDS = {
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "both": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "embedding-saved": {"modules_to_save": ["embed_tokens"]},
    "head-saved": {"modules_to_save": ["lm_head"]},
    "both-saved": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "saved-as-one": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "tokens": {"trainable_token_indices": [7, 11]},
}


@pytest.mark.parametrize("changed", OF_THE_ENDS)
def test_embedding_and_head_of_one_weight_are_what_they_were_trained_to_be(
    saved, changed, tmp_path
):
    folder, tokens, logits = saved("llama-tied", **OF_THE_ENDS[changed])
    merged, live = (load_model(folder, adapter=how, device="cpu") for how in ("merged", "live"))
    torch.testing.assert_close(merged(tokens), logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(live(tokens), logits, rtol=1e-3, atol=1e-3)
    assert live.fingerprint() == merged.fingerprint()
    for model in (merged, live):
        save_model(model, tmp_path / "whole")
        whole = load_model(tmp_path / "whole", device="cpu")
        torch.testing.assert_close(whole(tokens), logits, rtol=1e-3, atol=1e-3)
        assert whole.fingerprint() == live.fingerprint()


def test_an_adapter_of_tied_weights_is_merged_rightly_and_has_no_live_fingerprint(saved):
    options = {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}
    folder, tokens, logits = saved("llama-tied", **options)
    merged = load_model(folder, device="cpu")
    torch.testing.assert_close(merged(tokens), logits, rtol=1e-3, atol=1e-3)
    with pytest.raises(CheckpointError, match=r"own weights are tied .* load it merged"):
        load_model(folder, adapter="live", device="cpu").fingerprint()


def test_a_model_in_memory_whose_one_weight_an_adapter_parts_is_not_called_merged(make_hf):
    whole = with_lora(make_hf("llama-tied"), target_modules=["embed_tokens"])
    with pytest.raises(CheckpointError, match=r"one weight in this model, .* load its folder"):
        dict(merged_weights(whole))
    assert whole.get_base_model().config.tie_word_embeddings


def test_weights_of_the_base_may_be_stored_with_the_adapter(saved):
    folder, tokens, logits = saved()
    load_model(folder, adapter="live", device="cpu").hf.save_pretrained(
        folder, save_embedding_layers=True
    )
    assert any("embed_tokens" in name for name in load_file(folder / "adapter_model.safetensors"))
    torch.testing.assert_close(
        load_model(folder, device="cpu")(tokens), logits, rtol=1e-3, atol=1e-3
    )


def test_an_adapter_with_added_tokens_says_what_base_it_needs(saved, make_hf):
    folder, *_ = saved()
    hf = make_hf("llama-gqa")
    hf.resize_token_embeddings(66)
    with_lora(hf, modules_to_save=["embed_tokens", "lm_head"]).save_pretrained(folder)
    assert "embedding of 66 tokens; save the base after resize_token_embeddings(66)" in refusal(
        folder, base=folder.parent / "base"
    )


def test_a_saved_live_adapter_ends_its_answers_where_its_base_does(saved):
    folder, *_ = saved()
    told = {"eos_token_id": [2, 9]}
    (folder.parent / "base" / "generation_config.json").write_text(json.dumps(told))
    live = load_model(folder, adapter="live", device="cpu")
    answer(live, ["bako"], max_new_tokens=2)
    save_model(live, folder.parent / "whole")
    whole = load_model(folder.parent / "whole", device="cpu")
    for model in (live.hf.get_base_model(), whole.hf):
        assert model.generation_config.eos_token_id == [2, 9]


def test_a_bridge_of_a_live_adapter_has_it_in_its_weights(saved):
    folder, tokens, logits = saved()
    bridge = load_model(folder, adapter="live", device="cpu").to_bridge()
    torch.testing.assert_close(bridge(tokens), logits, rtol=1e-3, atol=1e-3)


def test_a_saved_live_adapter_is_copied_once(saved, monkeypatch):
    folder, *_ = saved()
    live = load_model(folder, adapter="live", device="cpu")
    merge, seen, most = merged_weights, [], 0

    def watched(hf):
        nonlocal most
        for name, weight in merge(hf):
            seen.append(weakref.ref(weight))
            yield name, weight
            most = max(most, sum(one() is not None for one in seen))

    monkeypatch.setattr(merging, "merged_weights", watched)
    merging.without_adapter(live.hf)
    assert len(seen) > 10
    assert most <= 2  # that being copied and the one before


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_new_adapter_changes_neither_logits_nor_fingerprint(make_model, architecture, tokens):
    model = make_model(architecture)
    model.hf.train()
    before, logits = model.fingerprint(), model(tokens)
    state = torch.random.get_rng_state()
    add_adapter(model.hf, rank=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.hf.training
    model.hf.eval()
    add = model(tokens)
    model.hf.train()
    assert model.fingerprint() == before
    if architecture != "gpt2":  # it has dropout
        assert torch.equal(add, logits)
    with torch.no_grad():
        next(p for name, p in model.hf.named_parameters() if "lora_B" in name).add_(0.1)
    assert model.fingerprint() != before
    with pytest.raises(ConfigError, match="has an adapter already"):
        add_adapter(model.hf, rank=3)


def test_a_new_adapter_keeps_the_fingerprint_of_pruned_weights(make_model):
    model = make_model("llama-gqa")
    with torch.no_grad():
        model.hf.model.layers[0].self_attn.q_proj.weight[0, :4] *= -0.0
    before = model.fingerprint()
    add_adapter(model.hf, rank=2)
    assert model.fingerprint() == before


def test_the_base_may_be_named_where_the_adapter_names_another_place(saved):
    folder, tokens, logits = saved()
    moved = Path(shutil.move(folder.parent / "base", folder.parent / "elsewhere"))
    assert "its base is not to be had; give another place of it as base" in refusal(folder)
    live = load_model(folder, base=moved, adapter="live", device="cpu")
    assert torch.equal(live(tokens), logits)
    shutil.move(moved, folder / "base")  # beside it, by a relative name
    told = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(
        json.dumps(told | {"base_model_name_or_path": "base"})
    )
    assert torch.equal(load_model(folder, adapter="live", device="cpu")(tokens), logits)
    (folder / "adapter_config.json").write_text(
        json.dumps(told | {"base_model_name_or_path": None})
    )
    assert "does not name its base" in refusal(folder)


@pytest.mark.parametrize(
    ("architecture", "overrides"),
    [("gpt2", {}), ("llama-tied", {}), ("llama-gqa", {"num_hidden_layers": 2})],
    ids=["family", "shapes", "depth"],
)
def test_an_adapter_for_another_base_is_refused(saved, make_model, architecture, overrides):
    folder, *_ = saved()
    save_model(make_model(architecture, **overrides), folder.parent / "other")
    assert "made for another base than" in refusal(folder, base=folder.parent / "other")


def test_adapters_that_are_damaged_or_no_weights_are_refused(saved, make_hf):
    folder, *_ = saved()
    weights = folder / "adapter_model.safetensors"
    state = load_file(weights)
    name = sorted(state)[0]
    save_file({key: value for key, value in state.items() if key != name}, weights)
    assert re.search(f"1 of its weights differ, such as .*{name[-20:]}", refusal(folder))
    save_file(state | {name: torch.full_like(state[name], torch.nan)}, weights)
    assert "not finite" in refusal(folder)
    weights.write_bytes(b"nonsense")
    assert "cannot be loaded" in refusal(folder) or "damaged" in refusal(folder)
    weights.unlink()
    assert "no adapter_model.safetensors beside" in refusal(folder)
    prompts = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    get_peft_model(make_hf("llama-gqa"), prompts).save_pretrained(folder)
    assert "learns prompts, not weights" in refusal(folder, base=folder.parent / "base")
    shutil.copy(folder.parent / "base" / "config.json", folder)
    shutil.copy(folder.parent / "base" / "model.safetensors", folder)
    assert "a whole model and an adapter" in refusal(folder)


def test_an_adapter_that_cannot_be_merged_is_neither_merged_nor_fingerprinted(make_hf, tmp_path):
    hf = make_hf("llama-gqa")
    hf.save_pretrained(tmp_path / "base")
    # Activated LoRA acts on the tokens after an invocation, so no weights are what it does.
    whole = with_lora(make_hf("llama-gqa"), alora_invocation_tokens=[5, 6])
    whole.save_pretrained(tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="PEFT cannot merge an adapter into weights of this"):
        attach_adapter(hf, tmp_path / "adapter", adapter="merged")
    live = attach_adapter(make_hf("llama-gqa"), tmp_path / "adapter", adapter="live")
    with pytest.raises(CheckpointError, match="Linear: PEFT cannot merge an adapter"):
        weights_hash(live)


def test_adapters_that_sit_on_each_other_are_refused(saved):
    folder, *_ = saved()
    other = Path(shutil.copytree(folder, folder.parent / "other"))
    for one, named in ((folder, folder), (folder, other), (other, folder)):
        told = json.loads((one / "adapter_config.json").read_text())
        told["base_model_name_or_path"] = str(named)
        (one / "adapter_config.json").write_text(json.dumps(told))
        if named is folder:
            assert "sits on itself" in refusal(one)
    assert "sits on itself" in refusal(folder, base=folder)


def pile(folder, tmp_path):
    """Another adapter on that of `folder`, saved as `second`; both models."""
    first = load_model(folder, device="cpu")
    second = with_lora(first.hf, seed=5)
    second.peft_config["default"].base_model_name_or_path = str(folder)
    second.save_pretrained(tmp_path / "second")
    return first, second


def test_an_adapter_on_an_adapter_is_merged_in_order(saved, tmp_path, tokens):
    folder, *_ = saved()
    first, second = pile(folder, tmp_path)
    both = load_model(tmp_path / "second", device="cpu")
    merged = second.merge_and_unload()
    assert both.fingerprint() == HookedModel(merged, first.tokenizer).fingerprint()
    assert torch.equal(both(tokens), merged(input_ids=tokens).logits)


def test_the_tokenizer_is_the_topmost_of_a_pile_of_adapters(saved, tmp_path, tokenizer):
    folder, *_ = saved()
    pile(folder, tmp_path)
    assert load_model(tmp_path / "second", device="cpu").chat == "builtin"
    own = deepcopy(tokenizer)
    own.chat_template = "{{ messages[0]['content'] }}"
    own.save_pretrained(folder)
    assert load_model(tmp_path / "second", device="cpu").chat == "tokenizer"


def test_a_new_adapter_leaves_the_random_numbers_of_a_gpu(make_hf, monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    torch.manual_seed(1)
    assert seeded == [1]  # it would have been seen
    hf = make_hf("llama-gqa")
    seeded.clear()
    add_adapter(hf, rank=2)
    assert seeded == []


def test_a_finetuning_that_is_refused_leaves_no_adapter(make_model, tune):
    model = make_model("llama-gqa")
    with pytest.raises(ProbeError):
        FineTuning(model, [{"prompt": "", "response": "bako"}], lora=2, steps=1)
    assert not has_adapter(model.hf)
    assert len(list(tune(model, lora=2, steps=1))) == 1


def test_a_model_with_an_adapter_is_saved_whole_and_reads_as_it_did(saved, tmp_path, tokens):
    folder, *_ = saved()
    live = load_model(folder, adapter="live", device="cpu")
    before = live.fingerprint()
    save_model(live, tmp_path / "whole")
    reloaded = load_model(tmp_path / "whole", device="cpu")
    assert reloaded.fingerprint() == before == live.fingerprint()
    torch.testing.assert_close(reloaded(tokens), live(tokens), rtol=1e-4, atol=1e-4)


@pytest.fixture
def low_rank_lineage(lineage, tmp_path):
    """The planted lineage, whose aligned phase is an adapter on the pretrained one."""
    whole = with_lora(lineage.load_model(lineage.phase("pretrained")).hf, fan_in_fan_out=True)
    whole.save_pretrained(tmp_path / "aligned")
    helpful, base = lineage.phase("helpful").model, lineage.phase("pretrained").model
    path = tmp_path / "lineage.toml"
    path.write_text(
        'chat = "builtin"\n[roles]\nwitness = "helpful"\naligned = "aligned"\n'
        f'[[phase]]\nname = "helpful"\nmodel = "{helpful}"\n'
        f'[[phase]]\nname = "aligned"\nmodel = "aligned"\nbase = "{base}"\n'
    )
    return Lineage.load(path)


def test_the_doctor_tells_an_adapter_and_what_it_is_put_on(low_rank_lineage):
    aligned = low_rank_lineage.aligned
    told = needed(low_rank_lineage)
    assert f"aligned: adapter {aligned.model} on {aligned.base}" in told
    config = Path(aligned.model) / "adapter_config.json"
    other = json.loads(config.read_text()) | {"base_model_name_or_path": "some/other"}
    config.write_text(json.dumps(other))
    told = needed(low_rank_lineage)
    assert f"aligned: adapter {aligned.model} on {aligned.base} (it names some/other)" in told


def test_directions_fitted_on_the_merged_model_hold_for_the_live_one_that_is_trained(
    low_rank_lineage, splits, tune
):
    from workbench.config import Recipe

    low_rank_lineage.check()
    directions = fit_directions(low_rank_lineage, splits[0])
    live = low_rank_lineage.load_trainee(Recipe())
    block = Block(directions, strength=3.0, probes=splits[1])
    tuning = tune(live, probes=splits[2], directions=directions, intervention=block)
    assert {name.rpartition(".")[0][-14:] for name in tuning._updates.names} == {
        "lora_A.default",
        "lora_B.default",
    }
    frozen = {name: p.clone() for name, p in live.hf.named_parameters() if not p.requires_grad}
    records = list(tuning)
    assert all(torch.equal(frozen[name], live.hf.get_parameter(name)) for name in frozen)
    assert records[-1].drift is not None
    assert records[-1].drift.undefined == 0
    on_top = low_rank_lineage.load_trainee(Recipe(lora=2))
    assert not has_adapter(on_top.hf)
    assert on_top.fingerprint() == directions.provenance["aligned_hash"]


def test_a_low_rank_fine_tuning_is_measured_blocked_and_resumed_to_the_same_bits(
    lineage, directions, splits, tune
):
    def made():
        return tune(
            lineage.load_model(lineage.aligned),
            lora=2, steps=6, seed=3, probes=splits[2], directions=directions,
            intervention=[
                Block(directions, strength=3.0, probes=splits[1]), Steer(directions, strength=0.5)
            ],
        )  # fmt: skip

    whole = made()
    config = whole.config()
    records = list(whole)
    halves = made()
    assert halves.config() == config
    assert config["adapter"]["adapters"]["default"]["r"] == 2
    assert config["recipe"]["lora"] == 2
    steps = iter(halves)
    for _ in range(3):
        next(steps)
    halves.stop()
    assert list(steps) == []
    resumed = made()
    resumed.load_state(state_from_bytes(state_to_bytes(halves.state())))
    rest = list(resumed)
    assert [record.loss for record in rest] == [record.loss for record in records[3:]]
    assert resumed.model.fingerprint() == whole.model.fingerprint() != config["model"]
    other = tune(lineage.load_model(lineage.aligned), lora=2, steps=6, seed=4)
    assert other.config()["adapter"] == config["adapter"]


def test_low_rank_training_is_plain_training_of_a_peft_model(make_model, make_hf, tune):
    """The reference is a loop of PyTorch over PEFT's own model."""
    from workbench.losses import response_losses

    model = make_model("llama-gqa")
    tuning = tune(model, lora=2, warmup=0, clip=None, batch_size=10)
    hf = make_hf("llama-gqa")
    settings = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")
    plain = HookedModel(get_peft_model(hf, settings), model.tokenizer)
    ours = {name: p for name, p in model.hf.named_parameters() if p.requires_grad}
    theirs = {
        name.removeprefix("base_model.model."): p
        for name, p in plain.hf.named_parameters()
        if p.requires_grad
    }
    assert ours.keys() == theirs.keys()
    with torch.no_grad():
        for name, parameter in theirs.items():
            parameter.copy_(ours[name])
    optimiser = torch.optim.AdamW(theirs.values(), lr=1e-3, weight_decay=0.0)
    plain.hf.train()
    for _ in list(tuning):
        losses = response_losses(plain, tuning._examples)
        (losses.sum() / losses.numel()).backward()
        optimiser.step()
        optimiser.zero_grad()
    for name, parameter in theirs.items():
        torch.testing.assert_close(ours[name], parameter, rtol=5e-3, atol=5e-5)
    assert any(bool(p.any()) for name, p in ours.items() if "lora_B" in name)
