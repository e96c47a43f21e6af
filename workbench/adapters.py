"""Low-rank adapters: onto a model, and merged into it."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import nn

from workbench.errors import CheckpointError, ConfigError
from workbench.merging import mergeable, shared_head, tuned_layers

Adapter = Literal["merged", "live"]
"""Whether an adapter becomes part of the weights, or stays apart and is what training trains."""

ADDED_TOKENS = re.compile(r"size mismatch for \S*(?:embed|wte|head)\S* .*?Size\(\[(\d+), ")
"""How PyTorch says that an embedding has another number of rows."""


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
        cause = " ".join(str(error).split())
        if more := ADDED_TOKENS.search(cause):
            raise CheckpointError(
                f"{folder}: trained with an embedding of {more[1]} tokens; save the base after "
                f"resize_token_embeddings({more[1]}), and name that as base."
            ) from error
        raise CheckpointError(
            f"{folder}: made for another base than {hf.config.name_or_path} ({cause[:200]})"
        ) from error
    stored, expected = _stored_names(folder), {*peft.get_peft_model_state_dict(whole)}
    # Weights of the base may be stored beside those of the adapter (save_embedding_layers).
    if different := sorted((expected ^ stored) - (stored & {*whole.state_dict()})):
        raise CheckpointError(
            f"{folder}: made for another base than {hf.config.name_or_path}: "
            f"{len(different)} of its weights differ, such as {different[0]}."
        )
    _check_finite(whole, folder)
    if (head := shared_head(whole)) is not None:
        _untie(hf, head)
    if adapter == "live":
        return whole
    with mergeable(whole):
        return whole.merge_and_unload()


@contextmanager
def chosen_trainable(hf: Any, *, lora: int | None, seed: int) -> Iterator[None]:
    """Put a new adapter on if a rank is given; else see that the weights can be trained.

    If what is done while open raises, the new adapter is taken off again.

    Raises:
        ConfigError: If they are quantised or kept elsewhere, and no adapter is on them.
    """
    if any(parameter.device.type == "meta" for parameter in hf.parameters()):
        raise ConfigError(
            "Weights that a device map keeps on disk can be read, not trained; load the model with "
            "a device instead."
        )
    if lora is not None:
        with _taken_off_if_it_fails(hf):
            add_adapter(hf, rank=lora, seed=seed)
            yield
        return
    if (method := quantisation(hf)) is not None and not has_adapter(hf):
        raise ConfigError(
            f"Weights quantised by {method} cannot be trained; train an adapter (lora=8), or load "
            "the model unquantised."
        )
    yield


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
        torch.default_generator.manual_seed(seed)  # PEFT draws on the CPU; a GPU's state is kept
        hf.add_adapter(config)
    for module in hf.modules():
        module.training = False
    for module in training:
        module.training = True
    for _, layer in tuned_layers(hf):
        layer.train(layer.get_base_layer().training)


@contextmanager
def _taken_off_if_it_fails(hf: Any) -> Iterator[None]:
    """If what is done while open raises, give a model that had no adapter its own layers back."""
    if has_adapter(hf):
        yield
        return
    trainable = [(parameter, parameter.requires_grad) for parameter in hf.parameters()]
    try:
        yield
    except BaseException:
        for name, layer in [*tuned_layers(hf)]:
            home, _, own = name.rpartition(".")
            setattr(hf.get_submodule(home), own, layer.get_base_layer())
        for parameter, flag in trainable:
            parameter.requires_grad_(flag)
        vars(hf).pop("peft_config", None)
        hf._hf_peft_config_loaded = False
        raise


def has_adapter(hf: nn.Module) -> bool:
    """Whether an adapter is on the model, apart from its weights."""
    return any(True for _ in tuned_layers(hf))


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
    names = [name for name, _ in tuned_layers(hf)]
    kinds = sorted({name.rpartition(".")[2] for name in names})
    return {"adapters": told, "layers": len(names), "of": kinds}


def _untie(hf: Any, head: nn.Module) -> None:
    """Give the head weights of its own: merged into one, both would change."""
    head.weight = nn.Parameter(head.get_parameter("weight").detach().clone(), requires_grad=False)
    hf.all_tied_weights_keys = {}
    for config in (hf.config, hf.config.get_text_config()):
        config.tie_word_embeddings = False


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
