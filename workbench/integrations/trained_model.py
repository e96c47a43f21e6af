"""A model that somebody else's loop trains: hooked only while it is read or edited."""

import inspect
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from workbench.errors import ConfigError
from workbench.models import Chat, HookedModel


class TrainedModel(HookedModel):
    """A `HookedModel` whose torch hooks are on the blocks only within `opened`.

    In between nothing of ours is on the model, and a compiled forward has nothing of ours in it.

    Args:
        module: What the loop calls its model: plain, PEFT's, or sharded or wrapped by a launcher.
        tokenizer: Its tokenizer, or a processor that has one.
        chat: As in `HookedModel`.

    Raises:
        ConfigError: If there is no tokenizer, an adapter learns prompts and not weights, or FSDP 1
            has sharded the weights.
    """

    stops_early = False  # a forward that is sharded or compiled is run to its end

    def __init__(self, module: nn.Module, tokenizer: Any, *, chat: Chat | None = None) -> None:
        hf = unwrapped(module)
        adapter = getattr(hf, "active_peft_config", None)
        if getattr(adapter, "is_prompt_learning", False):
            raise ConfigError(
                "This adapter learns prompts, not weights: the stream that is read has no part of "
                "it. Train LoRA or all weights."
            )
        super().__init__(hf, _tokenizer_of(tokenizer), chat=chat)
        self.close()
        self.sharded = is_sharded(module)
        """Whether each process holds a part of the weights only, so that all must read at once."""

        self._hash: str | None = None
        self._reshard()

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Fire hook points while open; then random state and model are the caller's again."""
        with undisturbed():
            try:
                self.open()
                yield
            finally:
                self.close()
                self._reshard()

    def run_decoder(
        self,
        tokens: Int[Tensor, "batch pos"],
        attention_mask: Int[Tensor, "batch pos"] | None = None,
    ) -> None:
        """Run the blocks; of a sharded model the whole, as only that gathers its parts."""
        if not self.sharded:
            return super().run_decoder(tokens, attention_mask)
        inputs = self.inputs(tokens, attention_mask)
        if "logits_to_keep" in inspect.signature(self.hf.forward).parameters:
            inputs["logits_to_keep"] = 1
        self.hf(**inputs)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the weights when it was first asked for."""
        if self._hash is None:
            self._hash = super().fingerprint()
        return self._hash

    def _reshard(self) -> None:
        """Give back what a forward without backward leaves gathered."""
        if self.sharded:
            for module in self.hf.modules():
                if hasattr(module, "reshard"):
                    module.reshard()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Give torch, its GPU, numpy and Python the random state back that they had."""
    drawn, arrays = random.getstate(), np.random.get_state()
    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    try:
        with torch.random.fork_rng([torch.cuda.current_device()] if on_gpu else []):
            yield
    finally:
        random.setstate(drawn)
        np.random.set_state(arrays)


def unwrapped(module: nn.Module) -> Any:
    """Return the model without what a launcher or a compiler puts around it; PEFT's stays."""
    from accelerate.utils import extract_model_from_parallel

    return extract_model_from_parallel(module)


def is_sharded(module: nn.Module) -> bool:
    """Whether processes share the weights of a model among them.

    Raises:
        ConfigError: If they do so by FSDP 1, whose modules do not show what they hold.
    """
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import DTensor

    if any(isinstance(one, FullyShardedDataParallel) for one in module.modules()):
        raise ConfigError("FSDP 1 hides the weights: use version 2 (fsdp_config={'version': 2}).")
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def _tokenizer_of(given: Any) -> PreTrainedTokenizerBase:
    tokenizer = given
    if not isinstance(given, PreTrainedTokenizerBase):
        tokenizer = getattr(given, "tokenizer", None)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ConfigError(
            "Prompts are read with the model's tokenizer: give the Trainer processing_class=…."
        )
    return tokenizer
