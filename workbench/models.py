"""HookedModel: TransformerLens hook points on an untouched Hugging Face model.

The Hugging Face model is never converted: torch hooks on its decoder blocks fire `HookPoint`s named
as in TransformerLens, so reading, editing, training and saving act on the original weights.
"""

import copy
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint
from transformers import PreTrainedTokenizerBase

from workbench.blocks import (
    BlockHookPoints,
    find_blocks,
    firing_post,
    firing_pre,
    input_device,
    plain_model,
)
from workbench.conventions import (
    check_stream,
    context_length,
    pads_left,
    positions_of,
    seeing,
    takes_positions,
    trial_batch,
)
from workbench.errors import CheckpointError, ConfigError, LayerError
from workbench.fingerprints import weights_hash
from workbench.merging import without_adapter
from workbench.modes import evaluation_mode
from workbench.turns import turns_of

Chat = Literal["builtin", "tokenizer", "none"]
"""How a prompt becomes a conversation: our own template, the tokenizer's, or not at all."""

Overflow = Literal["refuse", "truncate"]
"""What happens to a text of more tokens than the model reads: an error, or it is cut and told."""

Hook = tuple[str | Callable[..., Any], Callable[..., Any]]
"""The name of a hook point, or what picks some, and what is called there: as in TransformerLens."""


@dataclass(frozen=True)
class ModelConfig:
    """The sizes of a model, under TransformerLens's names."""

    n_layers: int
    d_model: int
    d_vocab: int
    n_ctx: int
    architecture: str
    device: torch.device
    dtype: torch.dtype


class HookedModel(HookedRootModule):
    """An untouched Hugging Face model with TransformerLens hook points on its residual stream.

    Hook points are `blocks.{layer}.hook_resid_pre` and `blocks.{layer}.hook_resid_post`; `hooks`,
    `run_with_hooks` and `run_with_cache` are TransformerLens's own. All else takes turns with other
    threads by itself; call these within `with model.lock:` while one trains the model.

    Args:
        hf: A causal language model of transformers, or PEFT around one; training it through this
            class trains it itself.
        tokenizer: Its tokenizer.
        chat: How prompts become conversations. By default the tokenizer's template if it has one,
            else the built-in one.
        overflow: What happens to texts that are too long for the context; see `encode`.

    Raises:
        CheckpointError: If the block list is not found, no residual stream runs through it, or
            hooking changed what the model computes.
    """

    stops_early = True  # an exception may end a forward: see `read_batch`

    def __init__(
        self,
        hf: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        chat: Chat | None = None,
        overflow: Overflow = "refuse",
    ) -> None:
        super().__init__()
        self.hf, self.lock = hf, turns_of(hf)
        self.tokenizer, self.overflow = tokenizer, overflow
        self.chat: Chat = chat or ("tokenizer" if tokenizer.chat_template else "builtin")
        decoder_blocks = find_blocks(hf)
        config = hf.config.get_text_config()
        self.cfg = ModelConfig(
            n_layers=len(decoder_blocks),
            d_model=config.hidden_size,
            d_vocab=cast(nn.Embedding, hf.get_input_embeddings()).weight.shape[0],
            n_ctx=context_length(config),
            architecture=type(plain_model(hf)).__name__,
            device=input_device(hf),
            dtype=hf.dtype,
        )
        self.places_tokens = takes_positions(plain_model(hf), hf.get_decoder())
        before = trial_logits(hf, self.cfg)
        self.blocks = nn.ModuleList(BlockHookPoints() for _ in decoder_blocks)
        self._handles: list[RemovableHandle] = []
        self.setup()
        try:
            self.open()
            self.pads_left = self._check(before)
        except BaseException:
            self.close()
            raise

    def open(self) -> None:
        """Put the torch hooks that fire the hook points on the blocks, if they are not there."""
        if self._handles:
            return
        points = cast(Iterable[BlockHookPoints], self.blocks)
        for block, own in zip(find_blocks(self.hf), points, strict=True):
            before, after = firing_pre(own.hook_resid_pre), firing_post(own.hook_resid_post)
            self._handles += [
                block.register_forward_pre_hook(before, with_kwargs=True),
                block.register_forward_hook(after),
            ]

    def close(self) -> None:
        """Take the torch hooks off: the Hugging Face model is as it was before, till `open`."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def setup(self) -> None:
        """Name the hook points and leave the modules of the Hugging Face model alone."""
        named = self.blocks.named_modules(prefix="blocks")
        self.hook_dict = {name: point for name, point in named if isinstance(point, HookPoint)}
        self.mod_dict = dict(self.hook_dict)
        for name, point in self.hook_dict.items():
            point.name = name

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        attention_mask: Int[Tensor, "batch pos"] | None = None,
        return_type: Literal["logits"] | None = "logits",
    ) -> Float[Tensor, "batch pos vocab"] | None:
        """Return the logits; with `return_type=None` only run the blocks."""
        if return_type is None:
            return self.run_decoder(tokens, attention_mask)
        return self.hf(**self.inputs(tokens, attention_mask)).logits

    def run_decoder(
        self,
        tokens: Int[Tensor, "batch pos"],
        attention_mask: Int[Tensor, "batch pos"] | None = None,
    ) -> None:
        """Run the blocks without language-model head or key-value cache, for what hooks see."""
        self.hf.get_decoder()(**self.inputs(tokens, attention_mask))

    def inputs(self, tokens: Tensor, mask: Tensor | None) -> dict[str, Any]:
        """Return what the Hugging Face model is called with."""
        if mask is not None and not self.pads_left and not mask[:, 0].all():
            raise ConfigError(
                f"{self.cfg.architecture}: with padding on the left it computes something else; "
                "pad on the right."
            )
        inputs: dict[str, Any] = {"input_ids": tokens, "attention_mask": mask, "use_cache": False}
        if mask is not None and self.places_tokens:
            # Else the families with absolute positions count padding.
            inputs["position_ids"] = positions_of(mask)
        return inputs

    def _check(self, before: Tensor) -> bool:
        """Look at the stream of the trial batch; return whether padding may be on the left."""
        seen: list[tuple[str, Any]] = []
        name = self.cfg.architecture
        look: list[Hook] = [(point, seeing(seen, point)) for point in self.hook_dict]
        with self.hooks(fwd_hooks=look):
            after = trial_logits(self.hf, self.cfg)
        if not torch.isfinite(after).all():
            raise CheckpointError(
                f"{name}: its logits are not finite in {self.cfg.dtype}; load it with another "
                "dtype (float32)."
            )
        check_stream(name, self.cfg.n_layers, self.cfg.d_model, seen)
        if not torch.equal(before, after):
            raise CheckpointError(f"Hooking changed the logits of {name}.")
        return pads_left(seen)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the weights; upcasting a half-precision checkpoint keeps it."""
        return weights_hash(self.hf)

    def to_bridge(self) -> Any:
        """Return a TransformerBridge around a copy of the weights, for heads, patterns and lenses.

        Analysis only: a bridge trains copies of fused projections, so what it learns is not saved.
        """
        with warnings.catch_warnings():  # importing it silences some of transformers'
            from transformer_lens.model_bridge import TransformerBridge

        drawn_on = [self.cfg.device] if self.cfg.device.type == "cuda" else []
        with self.lock, torch.random.fork_rng(drawn_on):  # initial weights are drawn, then replaced
            plain = without_adapter(self.hf)
            duplicate = type(plain)(copy.deepcopy(plain.config))
            duplicate.load_state_dict(plain.state_dict())
            options = {"tokenizer": self.tokenizer, "device": self.cfg.device}
            name = self.hf.config.name_or_path or self.cfg.architecture
            return TransformerBridge.boot_transformers(name, hf_model=duplicate.eval(), **options)


class GuestModel:
    """A user's own `TransformerBridge` or `HookedTransformer`, for reading and editing only."""

    def __init__(
        self, lens_model: Any, *, chat: Chat | None = None, overflow: Overflow = "refuse"
    ) -> None:
        self.lens, self.lock = lens_model, turns_of(lens_model)
        self.overflow: Overflow = overflow
        self.tokenizer = lens_model.tokenizer
        if self.tokenizer is None:
            raise CheckpointError("The TransformerLens model has no tokenizer: give it one first.")
        self.chat: Chat = chat or ("tokenizer" if self.tokenizer.chat_template else "builtin")
        cfg = lens_model.cfg
        self.cfg = ModelConfig(
            n_layers=cfg.n_layers,
            d_model=cfg.d_model,
            d_vocab=cfg.d_vocab,
            n_ctx=cfg.n_ctx,
            architecture=type(lens_model).__name__,
            device=torch.device(cfg.device),
            dtype=cfg.dtype,
        )

    def hooks(self, fwd_hooks: list, bwd_hooks: list = []) -> AbstractContextManager:  # noqa: B006
        """Add hooks while the context is open, as in TransformerLens."""
        return self.lens.hooks(fwd_hooks=fwd_hooks, bwd_hooks=bwd_hooks)

    def run_decoder(self, tokens: Tensor, attention_mask: Tensor | None = None) -> None:
        """Run the model for what its hooks see."""
        self(tokens, attention_mask)

    def __call__(
        self, tokens: Int[Tensor, "batch pos"], attention_mask: Tensor | None = None
    ) -> Float[Tensor, "batch pos vocab"]:
        """Return the logits; the tokens are ours, so nothing is prepended."""
        return self.lens(
            tokens, attention_mask=attention_mask, prepend_bos=False, padding_side="right"
        )

    def fingerprint(self) -> str:
        """Return the SHA-256 of the weights in this layout; it differs from a `HookedModel`'s."""
        return weights_hash(self.lens)


ReadableModel = HookedModel | GuestModel
"""What can be read and edited; only a `HookedModel` can be trained."""


def resid_post(layer: int) -> str:
    """Return the name of the hook point after `layer`."""
    return f"blocks.{layer}.hook_resid_post"


def check_layers(layers: list[int] | None, n_layers: int) -> list[int]:
    """Return the layers asked for (all by default), or raise `LayerError` naming the unknown."""
    if layers is None:
        return list(range(n_layers))
    if unknown := sorted(set(layers) - set(range(n_layers))):
        raise LayerError(f"No layers {unknown} in this model; it has 0 to {n_layers - 1}.")
    return list(layers)


def trial_logits(hf: Any, cfg: ModelConfig) -> Float[Tensor, "batch pos vocab"]:
    """Logits of a few fixed tokens, to see that nothing changed.

    Raises:
        CheckpointError: If the model gives no logits.
    """
    tokens, mask = trial_batch(cfg.d_vocab, cfg.device)
    inputs = {"input_ids": tokens, "attention_mask": mask, "use_cache": False}
    if takes_positions(plain_model(hf), hf.get_decoder()):
        inputs["position_ids"] = positions_of(mask)
    with evaluation_mode(hf):
        logits = getattr(hf(**inputs), "logits", None)
    if logits is None or logits.shape[:2] != tokens.shape:
        raise CheckpointError(
            f"{cfg.architecture}: it gives no logits per token; load a causal language model."
        )
    return logits[:2]  # `pads_left` judges the row with padding
