"""What the doctor counts is what is there, and what it estimates is near what is measured."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from workbench.blocks import find_blocks
from workbench.footprint import TRAINING_TOKENS, Footprint, free_memory

LLAMA_1B = LlamaConfig(
    hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
    num_key_value_heads=8, head_dim=64, vocab_size=128256, tie_word_embeddings=True,
    max_position_embeddings=131072,
)  # fmt: skip

TOLERANCE = 0.10

PROGRAM = """
import gc, json, sys, torch
import workbench as wb
from transformers import LlamaConfig, LlamaForCausalLM
from workbench.activations import read_moments
from workbench.reading import Reading
from workbench.encoding import Encoded
from workbench.footprint import TRAINING_TOKENS, Footprint
from workbench.organism.tokenizer import build_tokenizer

job, dtype = sys.argv[1], getattr(torch, sys.argv[2])
torch.set_num_threads(1)
size = 16000
config = LlamaConfig(
    hidden_size=768, intermediate_size=2048, num_hidden_layers=8, num_attention_heads=12,
    vocab_size=size, max_position_embeddings=512, tie_word_embeddings=True,
    pad_token_id=0, bos_token_id=1, eos_token_id=2,
)
foot = Footprint.of(config, dtype)
words = [f"w{number}" for number in range(size - 6)]
model = wb.load_model(LlamaForCausalLM(config).to(dtype), tokenizer=build_tokenizer(words))
if job == "checkpointed":
    model.hf.gradient_checkpointing_enable()
    model.hf.train()

def told(key):
    lines = open("/proc/self/status")
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))

gc.collect()
before = told("VmRSS:")
open("/proc/self/clear_refs", "w").write("5")  # the peak begins here
if job == "read":
    ids = torch.randint(6, size, (32, 256)).tolist()
    reading = Reading(tuple(Encoded(tuple(row), 256) for row in ids), -1, 0)
    read_moments(model, reading, batch_size=len(ids))  # the tokens of a GPU's batch
    estimate = foot.reading()
else:
    # Beginning and end token make it 256, of which the first is not predicted.
    texts = [{"text": " ".join(words[n : n + 254])} for n in range(TRAINING_TOKENS // 256)]
    list(wb.FineTuning(model, texts, steps=2, batch_size=len(texts)))
    estimate = foot.training(checkpointing=job == "checkpointed")
print(json.dumps({"measured": told("VmHWM:") - before, "estimate": estimate}))
"""


@pytest.mark.parametrize("name", ["gpt2", "llama-tied", "llama-untied", "olmo2"])
def test_weights_are_counted_without_loading_any(make_hf, name):
    hf = make_hf(name)
    size = Footprint.of(hf.config)
    assert size.parameters == sum(parameter.numel() for parameter in hf.parameters())
    assert size.weights() == 4 * size.parameters
    assert Footprint.of(hf.config, "bfloat16").weights() == 2 * size.parameters
    assert Footprint.of(hf.config, "bfloat16").weights(torch.float32) == 4 * size.parameters


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "gpt-neox"])
def test_adapters_are_as_large_as_those_of_peft(make_hf, name):
    peft = pytest.importorskip("peft")
    hf = make_hf(name)
    size = Footprint.of(hf.config)
    config = peft.LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(hf, config)
    assert size.adapters(3) == adapted.get_nb_trainable_parameters()[0]
    assert len(find_blocks(hf)) == size.depth


def test_the_optimiser_is_as_large_as_it_is(make_model, tune):
    model = make_model("llama-tied")
    tuning = tune(model, steps=1)
    list(tuning)
    moments = [
        value
        for state in tuning._updates.optimiser.state.values()
        for key, value in state.items()
        if key != "step"
    ]
    expected = Footprint.of(model.hf.config).optimiser()
    assert sum(moment.nbytes for moment in moments) == expected


def test_a_model_of_a_billion_weights_is_as_large_as_known():
    size = Footprint.of(LLAMA_1B, "bfloat16")
    assert round(size.parameters / 1e6) == 1236
    assert round(size.weights() / 1e9, 2) == 2.47
    assert round((size.weights() + size.optimiser()) / 1e9, 1) == 17.3
    # The vocabulary is most of a step with gradient checkpointing.
    assert size.logits() > 0.8 * size.activations(checkpointing=True)
    assert size.activations(checkpointing=True) < 0.7 * size.activations()
    assert size.training(size.adapters()) < size.training()
    assert size.reading() < size.weights() < size.training(size.adapters())


def test_a_model_is_as_large_as_its_config_says_whatever_its_dtype():
    config = LlamaConfig(**(LLAMA_1B.to_dict() | {"num_hidden_layers": 1, "dtype": "float16"}))
    assert Footprint.of(config).dtype == torch.float16
    assert Footprint.of(config, "float32").dtype == torch.float32
    with torch.device("meta"):
        assert (
            AutoModelForCausalLM.from_config(config).num_parameters() < LLAMA_1B.vocab_size * 4096
        )


def test_free_memory_is_that_of_this_machine():
    free = free_memory()
    assert ("GPU" in free) == torch.cuda.is_available()
    assert 1e6 < free["RAM"] <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("job", ["read", "train", "checkpointed"])
def test_the_estimate_is_near_what_a_llama_takes(job, dtype, capsys):
    # Else the allocator keeps freed blocks and the peak is its, not ours.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, job, dtype],
        cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = json.loads(done.stdout.splitlines()[-1])
    with capsys.disabled():
        print(
            f"\n{job} {dtype}: {told['measured'] / 1e6:.0f} MB, {told['estimate'] / 1e6:.0f} told"
        )
    assert abs(told["estimate"] / told["measured"] - 1) < TOLERANCE
    assert TRAINING_TOKENS % 256 == 0
