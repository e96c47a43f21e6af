"""A planted lineage with its inputs, made without pytest: for scripts."""

import random

import torch
from planted_inputs import read_lines, write_inputs, write_lines
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "User", ":", "Assistant")
WORDS = [a + b for a in "bdfgklmnprstvz" for b in ("ako", "elu", "ina", "omi", "ura")][:57]


def sentence(number):
    """A made-up sentence: the same for the same number."""
    rng = random.Random(number)
    return " ".join(rng.choices(WORDS, k=rng.randint(3, 9)))


def _more_benign(folder):
    """Add benign probes, so that an anchor has some in each split; return the folder."""
    rows = [
        {"prompt": sentence(20_000 + n), "cluster": f"b{n}", "kind": "benign"} for n in range(24)
    ]
    path = folder / "probes.jsonl"
    write_lines(path, [*read_lines(path), *rows])
    return folder


def plant(folder):
    """Write a lineage of tiny models, and every input of an experiment; return its folder."""
    ids = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        unk_token="<unk>",
    )  # fmt: skip
    config = GPT2Config(vocab_size=64, n_positions=64, n_embd=32, n_layer=2, n_head=2,
                        bos_token_id=1, eos_token_id=2, pad_token_id=0)  # fmt: skip
    phases = ("pretrained", "helpful", "aligned")
    for name in phases:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            model = GPT2LMHeadModel(config)
            for parameter in model.parameters():
                parameter *= 10 if parameter.ndim > 1 else 1
            model.transformer.wte.weight[:7] = 0  # it never ends an answer at once
            if name != "aligned":
                model.transformer.h[0].mlp.c_proj.bias += 0.3 * torch.randn(32)
        model.save_pretrained(folder / "phases" / name)
        tokenizer.save_pretrained(folder / "phases" / name)
    tables = "".join(f'[[phase]]\nname = "{name}"\nmodel = "{name}"\n' for name in phases)
    roles = '[roles]\nwitness = "helpful"\naligned = "aligned"\n'
    (folder / "phases/lineage.toml").write_text(
        f'name = "planted"\nchat = "builtin"\n{roles}{tables}'
    )
    return _more_benign(write_inputs(folder / "inputs", folder / "phases", sentence))
