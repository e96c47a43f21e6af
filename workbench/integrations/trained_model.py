"""A model that somebody else's loop trains: hooked only while it is read or edited."""

import inspect
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
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
        ConfigError: If there is no tokenizer, or an adapter learns prompts and not weights.
    """

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
        self._roots: tuple[nn.Module, ...] = ()
        self._hash: str | None = None

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of the weights only, so that all must read at once."""
        return bool(self._roots)

    def put_in(self, module: nn.Module, device: torch.device) -> None:
        """Take note of what the loop has made of the model: where it is, and whether in parts."""
        self.cfg = replace(self.cfg, device=device)
        self._roots = (_without_compiler(module),) if is_sharded(module) else ()

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Fire hook points while open; then random state and model are the caller's again."""
        with undisturbed():
            self.open()
            try:
                yield
            finally:
                self.close()

    def run_decoder(
        self,
        tokens: Int[Tensor, "batch pos"],
        attention_mask: Int[Tensor, "batch pos"] | None = None,
    ) -> None:
        """Run the blocks; of a sharded model the whole, as only that gathers its parts."""
        if not self._roots:
            return super().run_decoder(tokens, attention_mask)
        inputs = {"input_ids": tokens, "attention_mask": attention_mask, "use_cache": False}
        if "logits_to_keep" in inspect.signature(self.hf.forward).parameters:
            inputs["logits_to_keep"] = 1
        self._roots[0](**inputs)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the weights when it was first asked for."""
        if self._hash is None:
            self._hash = super().fingerprint()
        return self._hash


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
    """Whether processes share the weights of a model among them."""
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import DTensor

    if isinstance(_without_compiler(module), FullyShardedDataParallel):
        return True
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def _without_compiler(module: nn.Module) -> nn.Module:
    """The module below torch.compile, which else would compile what is read."""
    return getattr(module, "_orig_mod", module)


def _tokenizer_of(given: Any) -> PreTrainedTokenizerBase:
    tokenizer = given
    if not isinstance(given, PreTrainedTokenizerBase):
        tokenizer = getattr(given, "tokenizer", None)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ConfigError(
            "Prompts are read with the model's tokenizer: give the Trainer processing_class=…."
        )
    return tokenizer
