"""Scrutiny of what is loaded: weights and tokenizer must fit, and every refusal is one line."""

import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from huggingface_hub import utils as hub_utils
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from workbench.errors import CheckpointError, ConfigError


def check_weights(name: str, hf: Any, loaded: dict[str, Any]) -> None:
    """Refuse weights that are missing, too many, of other shapes, or not finite."""
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        found = loaded.get(problem) or ()
        if keys := sorted(key if isinstance(key, str) else key[0] for key in found):
            raise CheckpointError(
                f"{name}: {problem.replace('_', ' ')} in the weights: {', '.join(keys[:3])}"
                f"{' …' if len(keys) > 3 else ''}; config.json and weights do not belong together."
            )
    for key, parameter in hf.named_parameters():
        # Weights that a device map keeps on disk are on meta here: they are read layer by layer.
        if parameter.device.type != "meta" and not _is_finite(parameter):
            raise CheckpointError(f"{name}: weights of {key} are not finite; the file is damaged.")


def check_precision(dtype: str | torch.dtype | None) -> None:
    """Refuse a data type that is none of numbers with a fraction; `"auto"` is the checkpoint's."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    known = isinstance(found, torch.dtype) and found.is_floating_point
    if dtype not in (None, "auto") and not known:
        raise ConfigError(f"dtype is {dtype!r}; it may be float32, bfloat16 or float16.")


def _is_finite(weight: Tensor) -> bool:
    if not weight.numel() or not weight.is_floating_point():
        return True
    # Least and greatest show NaN and infinity, in a thirtieth of the time of looking at each. Of
    # one-byte floats PyTorch says neither.
    ends = torch.aminmax(weight.float() if weight.itemsize == 1 else weight)
    return bool(torch.isfinite(torch.stack(ends)).all())


def check_tokenizer(name: str, hf: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that is empty, or belongs to another model."""
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
def quiet(*, download: bool = False) -> Iterator[None]:
    """Silence the loader's own progress bars while it works, but for downloads on a terminal."""
    enabled = transformers_logging.is_progress_bar_enabled()
    hidden = hub_utils.are_progress_bars_disabled()
    try:
        transformers_logging.disable_progress_bar()
        if download and enabled and not hidden and sys.stderr.isatty():
            hub_utils.enable_progress_bars()
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()
        # Both of these switch the hub's bars, too; where the environment does, they only warn.
        if hidden != hub_utils.are_progress_bars_disabled():
            (hub_utils.disable_progress_bars if hidden else hub_utils.enable_progress_bars)()


@contextmanager
def clear_errors(name: str, part: str) -> Iterator[None]:
    """Turn what the loaders raise on bad files into one clear line."""
    try:
        yield
    except CheckpointError:
        raise
    except SafetensorError as error:
        raise CheckpointError(
            f"{name}: damaged safetensors file ({error}); copy it again."
        ) from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{name}: a .bin file is damaged or holds code beside weights, which is never run; "
            "get the checkpoint as safetensors."
        ) from error
    except ImportError as error:
        cause = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{name}: {part} needs a package that is not installed ({cause})"
        ) from error
    except BaseException as error:  # On a bad file the loaders' own libraries raise anything.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # an interrupt; Rust's panic is no Exception either
        cause = " ".join(str(error).split())[:300] or type(error).__name__
        if "trust_remote_code" in str(error):
            raise CheckpointError(
                f"{name}: needs code that comes with it, which is not run; if you trust it, "
                "load_model(…, trust_remote_code=True)."
            ) from error
        raise CheckpointError(
            f"{name}: {part} cannot be loaded; check the name, or copy the files again ({cause})"
        ) from error


def put(hf: Any, device: str | torch.device) -> None:
    """Put a model on a device; `ConfigError` if that is not there, or full."""
    try:
        hf.to(device).eval()
    except (RuntimeError, AssertionError) as error:  # unknown, absent, or full
        cause = str(error).partition("\n")[0][:200]
        raise ConfigError(f"The model cannot be put on device {device}: {cause}") from error
