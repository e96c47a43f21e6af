"""Memory on paper, 1B to 70B: `python tests/benchmarks/memory.py` prints the table of README.md.

What is counted and what is estimated is in `workbench/footprint.py`; the estimates are held against
measured peaks in `tests/test_footprint.py`.
"""

import torch
from transformers import LlamaConfig, Qwen2Config

from workbench.footprint import Footprint
from workbench.reading import TOKENS_PER_BATCH

PROMPTS = 2000
SIZES = {
    "Llama 3.2 1B": LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, vocab_size=128256, tie_word_embeddings=True,
    ),
    "Llama 3.2 3B": LlamaConfig(
        hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24,
        num_key_value_heads=8, head_dim=128, vocab_size=128256, tie_word_embeddings=True,
    ),
    "Llama 3.1 8B": LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256,
    ),
    "Qwen2.5 14B": Qwen2Config(
        hidden_size=5120, intermediate_size=13824, num_hidden_layers=48, num_attention_heads=40,
        num_key_value_heads=8, vocab_size=152064,
    ),
    "Qwen2.5 32B": Qwen2Config(
        hidden_size=5120, intermediate_size=27648, num_hidden_layers=64, num_attention_heads=40,
        num_key_value_heads=8, vocab_size=152064,
    ),
    "Llama 3.1 70B": LlamaConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8, vocab_size=128256,
    ),
}  # fmt: skip
HEAD = (
    "model, bfloat16", "weights", f"reading, {TOKENS_PER_BATCH} tokens at once",
    "means kept", f"readings of {PROMPTS:,} prompts", "drift on disk, per measured step",
    "fine-tuning all weights, checkpointed", "with LoRA of rank 16, checkpointed",
)  # fmt: skip


def row(name: str, config: LlamaConfig | Qwen2Config) -> list[str]:
    """Return the line of one model."""
    foot = Footprint.of(config, torch.bfloat16)
    stream = foot.depth * foot.width
    lora = foot.adapters()
    return [
        name,
        gb(foot.weights()),
        gb(foot.reading()),
        f"{8 * stream / 1e6:.1f} MB",
        gb(4 * stream * PROMPTS),
        f"{4 * stream / 1e6:.1f} MB",
        gb(foot.weights() + foot.training(checkpointing=True)),
        gb(foot.weights() + foot.training(lora, checkpointing=True)),
    ]


def gb(number: float) -> str:
    """Return bytes in gigabytes."""
    return f"{number / 1e9:.2g} GB" if number < 1e10 else f"{number / 1e9:.0f} GB"


if __name__ == "__main__":
    print("| " + " | ".join(HEAD) + " |")
    print("|" + "---|" * len(HEAD))
    for name, config in SIZES.items():
        print("| " + " | ".join(row(name, config)) + " |")
