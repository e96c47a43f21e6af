"""Decoder blocks of a Hugging Face model: where they are, and how they fire hook points."""

from typing import Any

import torch
from torch import nn
from transformer_lens.hook_points import HookPoint
from transformers import PreTrainedModel

from workbench.errors import CheckpointError


def find_blocks(hf: Any) -> nn.ModuleList:
    """Return the list of decoder blocks: the one as long as the config's layer count.

    Raises:
        CheckpointError: If no or several lists of that length exist in the decoder.
    """
    n_layers = hf.config.get_text_config().num_hidden_layers
    lists = [
        module
        for module in hf.get_decoder().children()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    if len(lists) != 1:
        raise CheckpointError(
            f"{type(hf).__name__}: found {len(lists)} lists of {n_layers} blocks in its decoder, "
            "expected one; this architecture is not supported."
        )
    return lists[0]


def plain_model(hf: Any) -> PreTrainedModel:
    """Return the model itself, without PEFT's around it."""
    return hf.get_base_model() if hasattr(hf, "get_base_model") else hf


def input_device(hf: Any) -> torch.device:
    """Return the device where tokens enter; weights may be spread, or kept elsewhere meanwhile."""
    hook = getattr(hf.get_input_embeddings(), "_hf_hook", None)
    place = getattr(hook, "execution_device", None)
    return hf.device if place is None else torch.device(place)


def firing_pre(point: HookPoint) -> Any:
    """Return a forward pre-hook, with keywords, that fires `point` on what enters a block."""

    def fire(block: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:  # noqa: ARG001
        if _is_idle(point):
            return None
        resid = args[0] if args else kwargs["hidden_states"]
        edited = point(resid)
        if edited is resid:
            return None
        return ((edited, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": edited})

    return fire


def firing_post(point: HookPoint) -> Any:
    """Return a forward hook that fires `point` on what leaves a block."""

    def fire(block: nn.Module, args: tuple, output: Any) -> Any:  # noqa: ARG001
        if _is_idle(point):
            return None
        resid = output[0] if isinstance(output, tuple) else output
        edited = point(resid)
        if edited is resid:
            return None
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    return fire


def _is_idle(point: HookPoint) -> bool:
    """Whether nobody listens at a hook point; calling it would only cost time."""
    return not (
        point._forward_hooks
        or point._forward_pre_hooks
        or point._backward_hooks
        or point._backward_pre_hooks
    )
