"""Decoder blocks of a Hugging Face model: where they are, and how they fire hook points."""

from typing import Any

import torch
from torch import nn
from transformer_lens.hook_points import HookPoint

from workbench.errors import CheckpointError


class BlockHookPoints(nn.Module):
    """The hook points of one decoder block."""

    def __init__(self) -> None:
        super().__init__()
        self.hook_resid_pre = HookPoint()
        self.hook_resid_post = HookPoint()


def find_blocks(hf: Any) -> nn.ModuleList:
    """Return the list of decoder blocks: the one as long as the config's layer count.

    Raises:
        CheckpointError: If there is an encoder, or no or several such lists in the decoder.
    """
    name, config = type(hf).__name__, hf.config.get_text_config()
    if hf.config.is_encoder_decoder:
        raise CheckpointError(
            f"{name}: an encoder-decoder, whose prompt and answer are in different streams; "
            "take a causal language model."
        )
    n_layers = getattr(config, "num_hidden_layers", None)
    lists = _outermost_lists(hf.get_decoder(), n_layers)
    if len(lists) != 1:
        raise CheckpointError(
            f"{name}: found {len(lists)} lists of {n_layers} blocks in its decoder, "
            "expected one; this architecture is not supported."
        )
    return lists[0]


def plain_model(hf: Any) -> Any:
    """Return the model itself, without PEFT's around it."""
    return hf.get_base_model() if hasattr(hf, "get_base_model") else hf


def input_device(hf: Any) -> torch.device:
    """Return the device where tokens enter; weights may be spread, or kept elsewhere meanwhile."""
    hook = getattr(hf.get_input_embeddings(), "_hf_hook", None)
    place = getattr(hook, "execution_device", None)
    return hf.device if place is None else torch.device(place)


def firing_pre(point: HookPoint) -> Any:
    """Return a forward pre-hook, with keywords, that fires `point` on what enters a block."""

    def fire(block: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if _is_idle(point):
            return None
        if not args and "hidden_states" not in kwargs:
            raise CheckpointError(
                f"{type(block).__name__}: the stream is neither its first argument nor its "
                "hidden_states; this architecture is not supported."
            )
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


def _outermost_lists(module: nn.Module, length: int | None) -> list[nn.ModuleList]:
    """All lists of `length` modules with parts of their own that are not within another list."""
    lists = []
    for child in module.children():
        if not isinstance(child, nn.ModuleList):
            lists += _outermost_lists(child, length)
        elif len(child) == length and all(any(block.children()) for block in child):
            lists.append(child)
    return lists


def _is_idle(point: HookPoint) -> bool:
    """Whether nobody listens at a hook point; calling it would only cost time."""
    return not (
        point._forward_hooks
        or point._forward_pre_hooks
        or point._backward_hooks
        or point._backward_pre_hooks
    )
