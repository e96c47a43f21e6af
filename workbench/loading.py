"""Checkpoints in and out: a folder, the hub or memory to a model with hook points, and back."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from workbench.errors import CheckpointError, ConfigError
from workbench.models import Chat, GuestModel, HookedModel, Overflow, trial_logits

WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt")


def load_model(
    source: Any,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    chat: Chat | None = None,
    overflow: Overflow = "refuse",
    tokenizer: PreTrainedTokenizerBase | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """Return a model that can be read, edited and (if it is a Hugging Face one) fine-tuned.

    Args:
        source: A folder written by `save_pretrained`, a hub id, or an object in memory: a Hugging
            Face model, a `HookedModel`, a `TransformerBridge` or a `HookedTransformer`.
        revision: Branch, tag or commit; hub only.
        dtype: Data type of the weights; by default the checkpoint's own.
        device: Where to put it; by default a GPU if there is one.
        chat: `"builtin"`, `"tokenizer"` or `"none"`; see `HookedModel`.
        overflow: `"refuse"` or `"truncate"` what is too long for the context; see `encode`.
        tokenizer: For a Hugging Face model in memory.
        trust_remote_code: Run code that comes with the checkpoint; only if you trust it.

    Returns:
        A `HookedModel`, or a `GuestModel` around a TransformerLens object.

    Raises:
        CheckpointError: If files are missing or damaged, weights are missing or not finite, or the
            tokenizer does not fit the embedding.
        ConfigError: If the device is not there.
    """
    if isinstance(source, HookedModel | GuestModel):
        return source
    if isinstance(source, PreTrainedModel):
        if tokenizer is None:
            raise ConfigError("A model in memory needs its tokenizer: load_model(hf, tokenizer=…).")
        return HookedModel(source, tokenizer, chat=chat, overflow=overflow)
    if hasattr(source, "hook_dict") and hasattr(source, "cfg"):
        return GuestModel(source, chat=chat, overflow=overflow)
    if not isinstance(source, str | Path):
        raise ConfigError(f"Cannot load a model from {type(source).__name__}.")
    name, options = str(source), {"revision": revision, "trust_remote_code": trust_remote_code}
    if _is_path(source):
        _check_folder(Path(source))
    with _quiet(), _clear_errors(name, "the model"):
        # Shapes that differ are reported with the keys, not as a hint to a log. The declared type
        # is that without output_loading_info, which makes it a pair.
        hf, loaded = AutoModelForCausalLM.from_pretrained(  # type: ignore[reportGeneralTypeIssues]
            name,
            dtype=dtype or "auto",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    with _quiet(), _clear_errors(name, "its tokenizer"):
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(name, **options)
    _check_weights(name, hf, loaded)
    _check_tokenizer(name, hf, tokenizer)
    _put(hf, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return HookedModel(hf, tokenizer, chat=chat, overflow=overflow)


def load_config(source: str | Path, *, revision: str | None = None) -> PretrainedConfig:
    """Return the config of a checkpoint without reading its weights."""
    if _is_path(source):
        _check_folder(Path(source))
    with _quiet(), _clear_errors(str(source), "config.json"):
        return AutoConfig.from_pretrained(str(source), revision=revision)


def save_model(model: HookedModel, folder: str | Path) -> None:
    """Write weights, config and tokenizer as a Hugging Face folder, and check it by reloading.

    Raises:
        CheckpointError: If the reloaded model computes different logits.
    """
    with model.lock, _quiet():
        model.hf.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        expected = trial_logits(model.hf, model.cfg)
    reloaded = load_model(Path(folder), dtype=model.cfg.dtype, device=model.cfg.device)
    actual = trial_logits(reloaded.hf, model.cfg)
    if not torch.equal(expected, actual):
        raise CheckpointError(f"{folder}: the saved model computes other logits when reloaded.")


def _put(hf: PreTrainedModel, device: str | torch.device) -> None:
    try:
        # Its decorator hides the method's self from the type checker.
        hf.to(device).eval()  # type: ignore[reportArgumentType]
    except (RuntimeError, AssertionError) as error:  # unknown, absent, or full
        cause = str(error).partition("\n")[0][:200]
        raise ConfigError(f"The model cannot be put on device {device}: {cause}") from error


def _is_path(source: str | Path) -> bool:
    """Tell a folder from a hub id, also where the folder is missing."""
    return isinstance(source, Path) or source.startswith((".", "/", "~")) or Path(source).exists()


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give a folder of save_pretrained.")
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no config.json; give a folder of save_pretrained.")
    if not any(any(folder.glob(pattern)) for pattern in WEIGHT_PATTERNS):
        raise CheckpointError(f"{folder}: no weights (*.safetensors) beside config.json.")
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise CheckpointError(
            f"{folder}: no tokenizer files; save the tokenizer there with save_pretrained."
        )


def _check_weights(name: str, hf: PreTrainedModel, loaded: dict[str, Any]) -> None:
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        found = loaded.get(problem) or ()
        if keys := sorted(key if isinstance(key, str) else key[0] for key in found):
            raise CheckpointError(
                f"{name}: {problem.replace('_', ' ')} in the weights: {', '.join(keys[:3])}"
                f"{' …' if len(keys) > 3 else ''}; config.json and weights do not belong together."
            )
    for key, parameter in hf.named_parameters():
        if not torch.isfinite(parameter).all():
            raise CheckpointError(f"{name}: weights of {key} are not finite; the file is damaged.")


def _check_tokenizer(name: str, hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    size = len(tokenizer)
    rows = cast(nn.Embedding, hf.get_input_embeddings()).weight.shape[0]
    # Without tokenizer files transformers builds an empty tokenizer and says nothing.
    if size < rows // 2:
        raise CheckpointError(
            f"{name}: tokenizer knows {size} tokens but the embedding has {rows}; "
            "save the model's own tokenizer beside it."
        )
    # Some families pad the tokenizer beyond the embedding, never the ids that text becomes.
    if tokenizer.vocab_size > rows:
        raise CheckpointError(
            f"{name}: tokenizer has {tokenizer.vocab_size} tokens but the embedding only {rows}; "
            "it belongs to another model."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the loader's own progress bars while it works."""
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()


@contextmanager
def _clear_errors(name: str, part: str) -> Iterator[None]:
    """Turn what the loaders raise on bad files into one clear line."""
    try:
        yield
    except SafetensorError as error:
        raise CheckpointError(
            f"{name}: damaged safetensors file ({error}); copy it again."
        ) from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{name}: a .bin file is damaged or holds code beside weights, which is never run; "
            "get the checkpoint as safetensors."
        ) from error
    except Exception as error:  # On a bad file the loaders' own libraries raise anything.
        cause = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(
            f"{name}: {part} cannot be loaded; check the name, or copy the files again ({cause})"
        ) from error
