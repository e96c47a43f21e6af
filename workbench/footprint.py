"""How much memory reading and fine-tuning a model take, from its config alone.

Weights, gradients and optimiser are counted. Activations are an estimate for decoders of the usual
blocks (attention without a stored score matrix, a gated MLP). For a Llama of 69M parameters on the
CPU, in float32 and bfloat16, it is within 4 % of the measured peak of a reading and of fine-tuning
with and without gradient checkpointing (`tests/test_footprint.py` asks for 10 %).
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.pytorch_utils import Conv1D

from workbench.blocks import find_blocks
from workbench.reading import TOKENS_PER_BATCH

LORA_RANK = 16
TRAINING_TOKENS = 4096
"""Tokens of a training batch: 16 examples of 256."""

SAVED_WIDTHS, SAVED_MLP_WIDTHS = 11, 4
"""Numbers per token that a block keeps for its gradient, in widths of the stream and of the MLP:
norms, projections and attention; gate, its activation, up and their product."""

READ_WIDTHS, READ_MLP_WIDTHS = 4, 3
"""The same of what is there at once while a block only runs forward."""


@dataclass(frozen=True)
class Footprint:
    """Sizes of a model, and what its uses need in bytes."""

    parameters: int
    adapted: int
    """Inputs and outputs of all linear layers in the blocks: LoRA trains rank times that."""

    width: int
    mlp_width: int
    depth: int
    vocabulary: int
    dtype: torch.dtype
    """Of the weights, as they are loaded."""

    @classmethod
    def of(cls, config: PretrainedConfig, dtype: str | torch.dtype | None = None) -> "Footprint":
        """Return the sizes of a model that is not loaded, in `dtype` or that of its checkpoint."""
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        text = config.get_text_config()
        linear = [m for m in find_blocks(model).modules() if isinstance(m, nn.Linear | Conv1D)]
        width = text.hidden_size
        found = dtype if dtype not in (None, "auto") else text.dtype or config.dtype
        found = getattr(torch, found) if isinstance(found, str) else found
        return cls(
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            adapted=sum(sum(layer.weight.shape) for layer in linear),
            width=width,
            mlp_width=getattr(text, "intermediate_size", None) or 4 * width,
            depth=text.num_hidden_layers,
            vocabulary=text.vocab_size,
            dtype=found or torch.float32,
        )

    def weights(self, dtype: torch.dtype | None = None) -> int:
        """Return the bytes of the weights, in their data type or another."""
        return self.parameters * (dtype or self.dtype).itemsize

    def reading(self, tokens: int = TOKENS_PER_BATCH) -> int:
        """Return the bytes that a reading holds beside the weights while a batch runs."""
        block = READ_WIDTHS * self.width + READ_MLP_WIDTHS * self.mlp_width
        return tokens * block * self.dtype.itemsize

    def adapters(self, rank: int = LORA_RANK) -> int:
        """Return how many parameters LoRA of that rank on all linear layers of the blocks has."""
        return rank * self.adapted

    def optimiser(self, trained: int | None = None) -> int:
        """Return the bytes that AdamW keeps from step to step, in float32.

        Two moments and, of weights in another precision, a master copy.

        Args:
            trained: Number of trained parameters; by default all.
        """
        copies = 2 if self.dtype == torch.float32 else 3
        return 4 * copies * (self.parameters if trained is None else trained)

    def gradients(self, trained: int | None = None) -> int:
        """Return the bytes of the gradients, in the weights' precision and in float32."""
        each = 4 if self.dtype == torch.float32 else 4 + self.dtype.itemsize
        return each * (self.parameters if trained is None else trained)

    def logits(self, tokens: int = TRAINING_TOKENS) -> int:
        """Return the bytes of a loss over the vocabulary: three float32 tables while it is derived.

        Args:
            tokens: Response tokens of the batch.
        """
        return tokens * self.vocabulary * 4 * 3

    def activations(self, tokens: int = TRAINING_TOKENS, *, checkpointing: bool = False) -> int:
        """Return the bytes of a training step's activations and logits, all tokens responses.

        Args:
            tokens: Of the batch, padding included.
            checkpointing: Whether gradient checkpointing keeps only what enters each block.
        """
        block = (
            SAVED_WIDTHS * self.width + SAVED_MLP_WIDTHS * self.mlp_width
        ) * self.dtype.itemsize
        if self.dtype != torch.float32:  # two norms compute in float32
            block += 2 * 4 * self.width
        if not checkpointing:
            return tokens * self.depth * block + self.logits(tokens)
        kept = self.depth * self.width * self.dtype.itemsize
        return tokens * kept + max(self.logits(tokens), tokens * block)

    def training(self, trained: int | None = None, *, checkpointing: bool = False) -> int:
        """Return the bytes of fine-tuning beside the weights, at the peak of a step.

        Args:
            trained: Number of trained parameters; by default all.
            checkpointing: As in `activations`.
        """
        # As gradients come, activations go.
        step = max(self.activations(checkpointing=checkpointing), self.gradients(trained))
        return self.optimiser(trained) + step


def free_memory() -> dict[str, int]:
    """Return the free bytes of the GPU, if there is one, and of the machine's memory."""
    free = {"GPU": torch.cuda.mem_get_info()[0]} if torch.cuda.is_available() else {}
    return free | {"RAM": _free_ram()}


def _free_ram() -> int:
    """What the system says is available, or a container's limit leaves."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        said = next(line for line in lines if line.startswith("MemAvailable:"))
        available = int(said.split()[1]) * 1024
    except (OSError, StopIteration):  # not Linux: all there is
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii")
        used = (group / "memory.current").read_text(encoding="ascii")
        return min(available, int(limit) - int(used))
    except (OSError, ValueError):  # no container, or no limit
        return available
