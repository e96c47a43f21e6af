"""Raw weights: a state dict in a file, as whoever trained it has saved it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig

from workbench.errors import CheckpointError
from workbench.limits import brief
from workbench.sources.sizes import check_weights_file

WRAPPED_IN = ("state_dict", "model_state_dict", "model", "module")
"""Under which key training scripts keep the state dict in a checkpoint of theirs."""

PREFIXES = ("_orig_mod.", "module.")
"""What DistributedDataParallel and torch.compile put before every name."""


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors or PyTorch file by name; no code in it is run.

    Raises:
        CheckpointError: If it is damaged, holds code, or holds no state dict.
    """
    path = Path(path)
    try:
        check_weights_file(path)
        if path.suffix == ".safetensors":
            return unwrapped(load_file(path), str(path))
        found = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        return unwrapped(found, str(path))
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged ({error}); copy it again.") from error
    except CheckpointError:
        raise
    except Exception as error:  # PyTorch's unpickler raises anything at a damaged file.
        raise CheckpointError(
            f"{path}: damaged, or holds code beside weights, which is never run; save the "
            "state_dict alone, best as safetensors."
        ) from error


def unwrapped(found: Any, where: str = "The state dict") -> dict[str, Tensor]:
    """Return the state dict in what a training script saved: by its keys, without prefixes.

    Raises:
        CheckpointError: If there is none.
    """
    for key in WRAPPED_IN:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not found:
        raise CheckpointError(f"{where}: no state dict in it.")
    state = dict(found)
    if strange := [
        key for key, one in state.items() if not isinstance(one, Tensor) or not isinstance(key, str)
    ]:
        raise CheckpointError(
            f"{where}: {brief(strange[0])} is no tensor; save the state_dict alone."
        )
    for prefix in (*PREFIXES, *PREFIXES):  # one around the other, either way
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def precision_of(state: Mapping[str, Tensor]) -> torch.dtype | str:
    """Return the widest data type of some weights, so that none is rounded."""
    types = {weight.dtype for weight in state.values() if weight.is_floating_point()}
    return max(types, key=lambda dtype: dtype.itemsize, default="auto")


def concrete_class(config: PretrainedConfig) -> Any:
    """Return the class of causal language models that a config belongs to."""
    with torch.device("meta"):
        return type(AutoModelForCausalLM.from_config(config))
