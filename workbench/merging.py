"""What the weights of a model are with its low-rank adapter in them."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from workbench.errors import CheckpointError

PREFIX = "base_model.model."
"""What PEFT puts before the names of the model that it is around."""


def merged_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield name and value of every weight, in order of names, as if adapters had been merged.

    A model without an adapter yields its own parameters; one with an adapter those of the model
    that merging makes of it, to the same bits. It stays as it is: one layer at a time is copied,
    and one that is kept on disk is read.

    Raises:
        CheckpointError: If an adapter on a model in memory changes the embedding or the head alone,
            and they are one weight; or if its own weights are tied.
    """
    tuned = dict(tuned_layers(model))
    if tuned and shared_head(model) is not None:
        raise CheckpointError(
            "The adapter changes the embedding or the head, which are one weight in this model, so "
            "it cannot be merged: save it, and load its folder."
        )
    inside = tuple(f"{name}." for name in tuned)
    places = {
        name: (model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])
        for name, _ in model.named_parameters()
        if not (inside and name.startswith(inside))
    }
    known: set[int] = set()
    for name, layer in tuned.items():
        for inner, weight in _own_layer(layer).named_parameters():
            if id(weight) not in known:  # else the head, of one weight with the embedding
                known.add(id(weight))
                places[f"{name}.{inner}"] = (layer, inner)
    plain = {_plain_name(name): name for name in places}
    merged: tuple[Any, Any] = (None, None)
    for shown in sorted(plain):
        home, inner = places[plain[shown]]
        if plain[shown].startswith(inside) and inside:
            if merged[0] is not home:  # weight and bias of a layer come one after the other
                merged = home, _merged_layer(home)
            home = merged[1]
        yield shown, _value(home, inner)


def saved_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield, in order of names, the buffers that a checkpoint holds: what is no parameter.

    Such are a router's bias in DeepSeek-V3, and the packed weights of GPTQ and AWQ.
    """
    found = {
        _plain_name(f"{name}.{key}"): buffer
        for name, module in model.named_modules()
        for key, buffer in module.named_buffers(recurse=False)
        if key not in module._non_persistent_buffers_set
    }
    yield from sorted(found.items())


def without_adapter(hf: Any) -> Any:
    """Return a plain copy of a model with its adapter in the weights; itself if it has none."""
    if not any(tuned_layers(hf)):
        return hf
    inner = hf.get_base_model() if hasattr(hf, "get_base_model") else hf
    with torch.device("meta"):
        plain = type(inner)(inner.config).to(hf.dtype)
    plain = plain.to_empty(device=hf.device)
    plain.tie_weights()
    parameters = dict(plain.named_parameters())
    buffers = {_plain_name(name): buffer for name, buffer in inner.named_buffers()}
    with torch.no_grad():
        for name, weight in merged_weights(hf):
            parameters.pop(name).copy_(weight)
        for name, buffer in plain.named_buffers():
            buffer.copy_(buffers[name])
    assert not parameters, "the merged weights are those of the plain model"
    plain.generation_config = deepcopy(inner.generation_config)
    return plain.eval()


def tuned_layers(hf: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the layers that adapters act on; nothing is imported to find that there are none."""
    if "peft" not in sys.modules:
        return
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    for name, module in hf.named_modules():
        if isinstance(module, BaseTunerLayer | ModulesToSaveWrapper):
            yield name, module


def shared_head(hf: Any) -> nn.Module | None:
    """The head, if an adapter changes it or the embedding alone and they are one weight."""
    inner = hf.get_base_model() if hasattr(hf, "get_base_model") else hf
    ends = [inner.get_input_embeddings(), inner.get_output_embeddings()]
    tuned = [layer for _, layer in tuned_layers(inner)]
    changed = [any(end is layer for layer in tuned) for end in ends]
    if ends[1] is None or not any(changed):
        return None
    before, after = (
        (layer.original_module if hasattr(layer, "modules_to_save") else layer.get_base_layer())
        if changes
        else layer
        for layer, changes in zip(ends, changed, strict=True)
    )
    saved = all(hasattr(end, "modules_to_save") for end in ends)
    together = saved and _own_layer(ends[0]).weight is _own_layer(ends[1]).weight
    return None if together or before.weight is not after.weight else after


def _plain_name(name: str) -> str:
    """What a weight or buffer is called in the model that merging makes."""
    return re.sub(
        r"\.(base_layer|token_adapter|original_module)(?=\.)", "", name.removeprefix(PREFIX)
    )


def _value(home: nn.Module, name: str) -> Tensor:
    weight = home.get_parameter(name).detach()
    if weight.device.type != "meta":
        return weight
    from accelerate.utils import align_module_device

    with align_module_device(home, torch.device("cpu")):
        return home.get_parameter(name).detach().clone()


@contextmanager
def mergeable(module: nn.Module) -> Iterator[None]:
    """Say in one line that PEFT cannot merge what is merged while this is open."""
    try:
        yield
    except NotImplementedError as error:
        raise CheckpointError(
            f"{type(module).__name__}: PEFT cannot merge an adapter into weights of this kind."
        ) from error


def _own_layer(layer: Any) -> nn.Module:
    """The layer whose weights remain when an adapter is merged into them."""
    if hasattr(layer, "modules_to_save"):
        return layer.modules_to_save[layer.active_adapters[0]]
    return layer.get_base_layer()


def _merged_layer(layer: Any) -> nn.Module:
    """A copy of a layer with the adapter in its weights."""
    if hasattr(layer, "modules_to_save"):
        return _own_layer(layer)
    try:
        copy = deepcopy(layer)
    except RuntimeError as error:  # a factor that is computed of another layer's
        raise CheckpointError(
            "The adapter's own weights are tied (ensure_weight_tying): load it merged."
        ) from error
    with mergeable(layer):
        copy.merge()  # as merge_and_unload does
    return copy.get_base_layer()
