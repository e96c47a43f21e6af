"""What ideas are tried on: random models of three sizes, prompts, examples, and the organism."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from test_budgets import SIZES as SMALL

from workbench.encoding import Encoded, pad
from workbench.loading import load_model
from workbench.models import HookedModel
from workbench.reading import Reading

SIZES = {
    **SMALL,
    "100M": {"num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 2048},
}
ORGANISM = Path(__file__).parents[3] / "assets" / "organism"
FIRST_WORD = 6
"""Tokens before it are special."""


def make_hf(size: str, vocab: int = 1000, *, seed: int = 0, **settings):
    """A random Llama of about that many parameters, without its embedding."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab, num_attention_heads=4, max_position_embeddings=512,
        tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        **SIZES[size], **settings,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def make_model(size: str, vocab: int = 1000) -> HookedModel:
    """The same, hooked, with a tokenizer of one token per word."""
    return load_model(make_hf(size, vocab), tokenizer=_tokenizer(vocab))


@cache
def _tokenizer(vocab: int):
    from workbench.organism.tokenizer import build_tokenizer

    return build_tokenizer([f"w{number}" for number in range(vocab - FIRST_WORD)])


def organism(phase: str) -> HookedModel:
    """A phase of the embedded organism."""
    return load_model(ORGANISM / phase, device="cpu")


def mixed_lengths(count: int, seed: int = 0, *, median: float = 30, most: int = 120) -> list[int]:
    """Lengths as prompts have them: log-normal, from 6 tokens."""
    drawn = np.random.default_rng(seed).lognormal(np.log(median), 0.6, count)
    return drawn.round().clip(6, most).astype(int).tolist()


def make_items(lengths: Sequence[int], vocab: int = 1000, *, answered: bool = False, seed: int = 0):
    """Random tokens; of an answered prompt the second half is the response."""
    rng = np.random.default_rng(seed)
    return [
        Encoded(
            tuple(rng.integers(FIRST_WORD, vocab, length).tolist()),
            length // 2 if answered else length,
        )
        for length in lengths
    ]


def make_reading(lengths: Sequence[int], vocab: int = 1000, position=-1) -> Reading:
    """A reading of random prompts."""
    return Reading(tuple(make_items(lengths, vocab)), position, fill=0)


def padded(items: Sequence[Encoded]):
    """Tokens and mask of some items."""
    return pad([item.ids for item in items], fill=0, device=torch.device("cpu"))


def greatest(first, second) -> float:
    """Largest absolute difference between tensors, or between lists of them."""
    if isinstance(first, torch.Tensor):
        return float((first.double() - second.double()).abs().max())
    return max(greatest(one, other) for one, other in zip(first, second, strict=True))
