"""Low-rank adapters: onto a model, merged into it, and what the weights are with them."""

import sys
import warnings
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor, nn

from workbench.errors import CheckpointError, ConfigError

Adapter = Literal["merged", "live"]
"""Whether an adapter becomes part of the weights, or stays apart and is what training trains."""

NAME = "default"
PREFIX = "base_model.model."


def attach_adapter(hf: Any, folder: Path, *, adapter: Adapter) -> Any:
    """Return the model with the adapter of a folder; `hf` is changed in place.

    Raises:
        CheckpointError: If it was made for another base, or is no adapter that can be merged.
        ConfigError: If PEFT is not installed.
    """
    peft = _peft()
    config = peft.PeftConfig.from_pretrained(str(folder))
    if config.is_prompt_learning or isinstance(config, peft.PromptLearningConfig):
        raise CheckpointError(
            f"{folder}: {config.peft_type.value} learns prompts, not weights; only adapters of "
            "weights, such as LoRA, can be read."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is missing is told below
            whole = peft.PeftModel.from_pretrained(hf, str(folder), is_trainable=True)
    except (RuntimeError, ValueError, KeyError) as error:
        cause = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{folder}: made for another base than {hf.config.name_or_path} ({cause})"
        ) from error
    expected = {*peft.get_peft_model_state_dict(whole)}
    if different := sorted(expected ^ _stored_names(folder)):
        raise CheckpointError(
            f"{folder}: made for another base than {hf.config.name_or_path}: "
            f"{len(different)} of its weights differ, such as {different[0]}."
        )
    _check_finite(whole, folder)
    if adapter == "live":
        return whole
    return whole.merge_and_unload()


def choose_trainable(hf: Any, *, lora: int | None, seed: int) -> None:
    """Put a new adapter on if a rank is given; else see that the weights can be trained.

    Raises:
        ConfigError: If they are quantised or kept elsewhere, and no adapter is on them.
    """
    if any(parameter.device.type == "meta" for parameter in hf.parameters()):
        raise ConfigError(
            "Weights that a device map keeps on disk can be read, not trained; load the model with "
            "a device instead."
        )
    if lora is not None:
        add_adapter(hf, rank=lora, seed=seed)
    elif (method := quantisation(hf)) is not None and not has_adapter(hf):
        raise ConfigError(
            f"Weights quantised by {method} cannot be trained; train an adapter (lora=8), or load "
            "the model unquantised."
        )


def add_adapter(hf: Any, *, rank: int, seed: int = 0) -> None:
    """Put a new LoRA adapter on all linear layers but the head; it alone stays trainable.

    It starts as nothing: its second factor is zero, so the model computes what it did. Its scale is
    2 (alpha = 2 · rank).

    Args:
        hf: A Hugging Face model; it is changed in place.
        rank: Of the adapter.
        seed: Of its first factor.

    Raises:
        ConfigError: If the rank is less than 1, an adapter is there already, or PEFT is missing.
    """
    if rank < 1:
        raise ConfigError(f"lora is {rank}; a rank must be at least 1.")
    if has_adapter(hf):
        raise ConfigError(
            "The model has an adapter already: train that, or load it merged to put another on."
        )
    config = _peft().LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    training = [module for module in hf.modules() if module.training]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT tells how it treats GPT-2's layers
        torch.manual_seed(seed)
        hf.add_adapter(config)
    for module in hf.modules():
        module.training = False
    for module in training:
        module.training = True


def has_adapter(hf: nn.Module) -> bool:
    """Whether an adapter is on the model, apart from its weights."""
    return any(True for _ in _tuned(hf))


def quantisation(hf: Any) -> str | None:
    """Return by what method the weights are quantised, or None if they are not."""
    config = getattr(hf.config, "quantization_config", None)
    if config is None:
        return None
    method = config.get("quant_method") if isinstance(config, dict) else config.quant_method
    return str(getattr(method, "value", method))


def described_adapter(hf: nn.Module) -> dict[str, Any] | None:
    """Return what adapter is on a model, as JSON values, or None."""
    if not has_adapter(hf):
        return None
    configs = getattr(hf, "peft_config", {})
    keys = ("peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora")
    told = {
        name: {key: value for key in keys if (value := getattr(config, key, None)) is not None}
        for name, config in configs.items()
    }
    names = [name for name, _ in _tuned(hf)]
    kinds = sorted({name.rpartition(".")[2] for name in names})
    return {"adapters": told, "layers": len(names), "of": kinds}


def merged_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield name and value of every weight, in order of names, as if adapters had been merged.

    A model without an adapter yields its own parameters; one with an adapter those of the model
    that merging makes of it, to the same bits. It stays as it is: one layer at a time is copied,
    and one that is kept on disk is read.
    """
    tuned = dict(_tuned(model))
    inside = tuple(f"{name}." for name in tuned)
    places = {
        name: (model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])
        for name, _ in model.named_parameters()
        if not (inside and name.startswith(inside))
    }
    for name, layer in tuned.items():
        for inner, _ in _plain_layer(layer).named_parameters():
            places[f"{name}.{inner}"] = (layer, inner)
    plain = {name.removeprefix(PREFIX): name for name in places}
    merged: tuple[Any, Any] = (None, None)
    for shown in sorted(plain):
        home, inner = places[plain[shown]]
        if plain[shown].startswith(inside) and inside:
            if merged[0] is not home:  # weight and bias of a layer come one after the other
                merged = home, _merged_layer(home)
            home = merged[1]
        yield shown, _value(home, inner)


def _value(home: nn.Module, name: str) -> Tensor:
    weight = home.get_parameter(name).detach()
    if weight.device.type != "meta":
        return weight
    from accelerate.utils import align_module_device

    with align_module_device(home, torch.device("cpu")):
        return home.get_parameter(name).detach().clone()


def _plain_layer(layer: Any) -> nn.Module:
    """The layer below an adapter, whose weights merging changes."""
    return layer.original_module if hasattr(layer, "modules_to_save") else layer.get_base_layer()


def _merged_layer(layer: Any) -> nn.Module:
    """A copy of a layer with the adapter in its weights."""
    if hasattr(layer, "modules_to_save"):
        return layer.modules_to_save[layer.active_adapters[0]]
    copy = deepcopy(layer)
    copy.merge()  # as merge_and_unload does
    return copy.get_base_layer()


def _tuned(hf: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the layers that adapters act on; nothing is imported to find that there are none."""
    if "peft" not in sys.modules:
        return
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    for name, module in hf.named_modules():
        if isinstance(module, BaseTunerLayer | ModulesToSaveWrapper):
            yield name, module


def _stored_names(folder: Path) -> set[str]:
    path = folder / "adapter_model.safetensors"
    if path.is_file():
        with safe_open(path, "pt") as file:
            return {*file.keys()}
    return {*torch.load(folder / "adapter_model.bin", weights_only=True, map_location="cpu")}


def _check_finite(hf: nn.Module, folder: Path) -> None:
    for name, parameter in hf.named_parameters():
        if parameter.requires_grad and not torch.isfinite(parameter).all():
            raise CheckpointError(f"{folder}: weights of {name} are not finite; it is damaged.")


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            "Adapters need PEFT: pip install 'reversion-workbench[adapters]'"
        ) from error
    return peft
