"""Sizes of a checkpoint's files and of the model they promise, looked at before either is read."""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, PretrainedConfig

from workbench.errors import CheckpointError
from workbench.limits import (
    MAX_CONFIG_BYTES,
    MAX_INDEX_BYTES,
    MAX_LAYERS,
    MAX_TOKENIZER_BYTES,
    MB,
    brief,
    check_size,
    is_folder,
    is_there,
)

TEXTS = ("*.json", "*.jinja", "*.txt", "*.model", "*/*.jinja", "*.py")
"""Files that the loaders read whole."""

WEIGHTS = ("*.safetensors", "*.bin")
SETTINGS = (
    *("config.json", "generation_config.json", "adapter_config.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "preprocessor_config.json", "processor_config.json"),
)
LARGEST = {
    MAX_LAYERS: ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers"),
    2**13: ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    2**16: ("num_attention_heads", "num_key_value_heads", "n_head", "n_heads", "num_heads"),
    2**20: (
        *("hidden_size", "n_embd", "d_model", "dim", "head_dim", "word_embed_proj_dim"),
        *("intermediate_size", "n_inner", "ffn_dim", "d_ff", "moe_intermediate_size"),
    ),
    2**24: ("vocab_size", "type_vocab_size"),
    2**30: ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"),
}
"""What the sizes in a config may be at most; what is met is a hundredth."""

MAX_EXPERTS = 2**18
"""Layers times experts."""

PACKED = 16
"""A byte of a file holds no more weights than this, however they are quantised."""

SPARE = 2**28
"""Numbers that a model may have beyond those in its files: tables that it makes itself."""


def check_files(folder: Path) -> None:
    """Refuse files that are none, or too large to be what they are called.

    Raises:
        CheckpointError: If there is one, or one that unpacks to more than it is.
    """
    for path in _matching(folder, TEXTS):
        limit = MAX_TOKENIZER_BYTES
        if path.name in SETTINGS or path.suffix == ".py":
            limit = MAX_CONFIG_BYTES
        elif path.name.endswith(".index.json"):
            limit = MAX_INDEX_BYTES
        check_size(path, limit, CheckpointError)
    for path in _matching(folder, WEIGHTS, there=False):
        check_weights_file(path)


def check_weights_file(path: Path) -> None:
    """Refuse a file of weights that is no plain file, or a packed one.

    Raises:
        CheckpointError: If it is.
    """
    check_size(path, 2**63, CheckpointError)
    size = path.stat().st_size
    if path.suffix == ".safetensors" or not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as file:
            unpacked = sum(part.file_size for part in file.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); copy it again.") from error
    if unpacked > size:  # PyTorch does not compress
        raise CheckpointError(
            f"{path}: {size / MB:,.1f} MB that unpack to {unpacked / MB:,.0f} MB, which no file of "
            "weights does; get the checkpoint as safetensors."
        )


def check_config(told: Any, where: str) -> None:
    """Refuse a config of a model that nobody has, before it is built.

    Args:
        told: What config.json says.
        where: How errors call it.

    Raises:
        CheckpointError: If a size is beyond `LARGEST`.
    """
    for table in _tables(told):
        for limit, names in LARGEST.items():
            for name in names:
                for value in _numbers(table.get(name)):
                    if value > limit:
                        raise CheckpointError(
                            f"{where}: {name} is {brief(value)}, and no model has more than "
                            f"{limit}; config.json is damaged."
                        )
        layers, experts = (
            max((v for name in LARGEST[limit] for v in _numbers(table.get(name))), default=1)
            for limit in (MAX_LAYERS, 2**13)
        )
        if layers * experts > MAX_EXPERTS:
            raise CheckpointError(
                f"{where}: {experts} experts in each of {layers} layers; config.json is damaged."
            )


def check_promise(
    config: PretrainedConfig, folder: Path, where: str, *, trust_remote_code: bool
) -> None:
    """Refuse a config that describes far more weights than there are, before memory is taken.

    Raises:
        CheckpointError: If it does.
    """
    held = sum(path.stat().st_size for path in _matching(folder, WEIGHTS))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    wanted = sum(one.numel() for one in (*model.parameters(), *model.buffers()))
    if wanted > PACKED * held + SPARE:
        raise CheckpointError(
            f"{where}: config.json describes {wanted / 1e6:,.0f} million weights, its files hold "
            f"{held / MB:,.1f} MB; config.json and weights do not belong together."
        )


def check_rank(told: Mapping[str, Any], folder: Path) -> None:
    """Refuse an adapter that says it is of a higher rank than any of its weights.

    Raises:
        CheckpointError: If it does, or its file is damaged.
    """
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        return
    try:
        with safe_open(path, "pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); copy it again.") from error
    pattern = told.get("rank_pattern")
    ranks = [told.get("r"), *(pattern.values() if isinstance(pattern, dict) else ())]
    most = max((size for shape in shapes for size in shape), default=0)
    for rank in ranks:
        if any(number > most for number in _numbers(rank)):
            raise CheckpointError(
                f"{folder}: adapter_config.json says rank {brief(rank)}, no side of its weights is "
                f"over {most}; they do not belong together."
            )


def _matching(folder: Path, patterns: tuple[str, ...], *, there: bool = True) -> list[Path]:
    """Files and what stands in their place; links to nowhere only where `there` is not asked."""
    found = {path for pattern in patterns for path in folder.glob(pattern)}
    return sorted(path for path in found if is_there(path) >= there and not is_folder(path))


def _tables(told: Any) -> Iterator[Mapping[str, Any]]:
    """A config and those in it, such as that of the text model."""
    if isinstance(told, Mapping):
        yield told
        for value in told.values():
            yield from _tables(value)


def _numbers(value: Any) -> Iterator[float]:
    """A number, or the numbers of a list: some families have one for each layer."""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, int | float) and not isinstance(one, bool):
            yield one
