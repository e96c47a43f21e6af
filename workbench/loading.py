"""Checkpoints in and out: a folder, the hub or memory to a model with hook points, and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from workbench.adapters import Adapter, attach_adapter, has_adapter, quantisation
from workbench.conventions import same_but_rounding
from workbench.errors import CheckpointError, ConfigError
from workbench.merging import without_adapter
from workbench.models import Chat, GuestModel, HookedModel, Overflow, trial_logits
from workbench.sources.hub import find_file
from workbench.sources.raw_weights import concrete_class, precision_of, read_state_dict, unwrapped
from workbench.sources.scrutiny import (
    check_precision,
    check_tokenizer,
    check_weights,
    clear_errors,
    put,
    quiet,
)
from workbench.sources.sizes import check_config, check_files, check_promise
from workbench.sources.source import Source, find_source, has_tokenizer, is_path, read_json


def load_model(
    source: Any,
    *,
    revision: str | None = None,
    checkpoint: int | None = None,
    base: str | Path | None = None,
    tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
    adapter: Adapter = "merged",
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    chat: Chat | None = None,
    overflow: Overflow = "refuse",
    trust_remote_code: bool = False,
) -> Any:
    """Return a model that can be read, edited and (if it is a Hugging Face one) fine-tuned.

    Args:
        source: A folder written by `save_pretrained`, a hub id, a folder or hub id of a PEFT
            adapter, a file of raw weights or a state dict, or a model in memory: a Hugging Face or
            PEFT model, a `HookedModel`, a `TransformerBridge` or a `HookedTransformer`.
        revision: Branch, tag or commit; hub only.
        checkpoint: Training step, for families whose revisions are named by it (Pythia,
            stanford-crfm): TransformerLens's `checkpoint_value`.
        base: What an adapter sits on, by default what it names itself; for raw weights, the model
            whose config and tokenizer they have.
        tokenizer: Or where one is, if not with the model.
        adapter: Whether an adapter is `"merged"` into the weights, or stays `"live"`: then it alone
            is trained.
        dtype: Data type of the weights; by default the checkpoint's own, of raw weights the widest.
        device: Where to put it; by default a GPU if there is one.
        device_map: As in transformers, to spread a model over devices for reading; in place of
            `device`.
        chat: `"builtin"`, `"tokenizer"` or `"none"`; see `HookedModel`.
        overflow: `"refuse"` or `"truncate"` what is too long for the context; see `encode`.
        trust_remote_code: Run code that comes with the checkpoint; only if you trust it.

    Returns:
        A `HookedModel`, or a `GuestModel` around a TransformerLens object.

    Raises:
        CheckpointError: If files are missing or damaged, weights are missing or not finite, the
            tokenizer does not fit the embedding, an adapter was made for another base, or the hub
            does not have it.
        ConfigError: If the arguments do not go together, or device or data type are not there.
    """
    if isinstance(source, HookedModel | GuestModel):
        return source
    if _is_hugging_face(source):
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise ConfigError("A model in memory needs its tokenizer: load_model(hf, tokenizer=…).")
        return HookedModel(source, tokenizer, chat=chat, overflow=overflow)
    if hasattr(source, "hook_dict") and hasattr(source, "cfg"):
        return GuestModel(source, chat=chat, overflow=overflow)
    if device is not None and device_map is not None:
        raise ConfigError("Give a device or a device_map, not both.")
    check_precision(dtype)
    found = _find(source, revision=revision, checkpoint=checkpoint, base=base)
    root = found.root
    config = _config_of(root, trust_remote_code)
    if root.commit is None:
        with quiet(), clear_errors(root.described, "config.json"):
            check_promise(
                config, Path(root.place), root.described, trust_remote_code=trust_remote_code
            )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device_map is None and getattr(config, "quantization_config", None) is not None:
        device_map = {"": device}  # packed weights are made where they stay
    options = {
        "dtype": dtype or "auto",
        "device_map": device_map,
        "trust_remote_code": trust_remote_code,
    }
    if found.kind == "weights":
        state = unwrapped(source) if isinstance(source, Mapping) else read_state_dict(found.place)
        hf = _read_raw(found, config, state, options | {"dtype": dtype or precision_of(state)})
    else:
        hf = _read_checkpoint(root, options)
    chosen = _read_tokenizer(found, tokenizer, trust_remote_code)
    check_tokenizer(found.described, hf, chosen)
    for one in found.adapters:
        with quiet(), clear_errors(one.described, "the adapter"):
            last = one is found
            hf = attach_adapter(hf, Path(one.place), adapter=adapter if last else "merged")
    if device_map is None:
        put(hf, device)
    return HookedModel(hf.eval(), chosen, chat=chat, overflow=overflow)


def load_config(
    source: str | Path,
    *,
    revision: str | None = None,
    checkpoint: int | None = None,
    base: str | Path | None = None,
    tokenizer: str | Path | None = None,
) -> PretrainedConfig:
    """Return the config of a checkpoint without reading its weights.

    Arguments and errors are those of `load_model`; files that are missing are noticed already.
    """
    found = find_source(source, revision=revision, checkpoint=checkpoint, base=base)
    _tokenizer_place(found, tokenizer)
    return _config_of(found.root, False)


def save_model(model: HookedModel, folder: str | Path) -> None:
    """Write weights, config and tokenizer as a Hugging Face folder, and check it by reloading.

    A live adapter is saved merged: the folder holds a whole model, as without one.

    Raises:
        CheckpointError: If the reloaded model computes different logits.
        ConfigError: If an adapter is live on quantised weights, which are not written merged.
    """
    if has_adapter(model.hf) and (method := quantisation(model.hf)) is not None:
        raise ConfigError(
            f"{folder}: an adapter on weights quantised by {method} is not saved merged; save it "
            "alone (model.hf.save_pretrained)."
        )
    with model.lock, quiet():
        plain = without_adapter(model.hf)
        plain.save_pretrained(folder)
        expected = trial_logits(plain, model.cfg)
        del plain  # a copy, perhaps: before the reload makes another
        model.tokenizer.save_pretrained(folder)
    reloaded = load_model(Path(folder), dtype=model.cfg.dtype, device=model.cfg.device)
    # Where a file puts weights in memory may decide how a router's experts round.
    if not same_but_rounding(expected, trial_logits(reloaded.hf, model.cfg)):
        raise CheckpointError(f"{folder}: the saved model computes other logits when reloaded.")


def _find(source: Any, **asked: Any) -> Source:
    if isinstance(source, str | Path):
        return find_source(source, **asked)
    if not isinstance(source, Mapping):
        raise ConfigError(f"Cannot load a model from {type(source).__name__}.")
    if asked["base"] is None:
        raise ConfigError(
            "A state dict says nothing of its architecture; name the model whose config and "
            "tokenizer it has: load_model(state, base=…)."
        )
    return Source("The state dict", "weights", base=find_source(asked["base"]))


def _is_hugging_face(source: Any) -> bool:
    """Whether it is a model of transformers, with or without PEFT around it."""
    inner = source.get_base_model() if hasattr(source, "get_base_model") else source
    return isinstance(inner, PreTrainedModel)


def _config_of(root: Source, trust_remote_code: bool) -> PretrainedConfig:
    # Before transformers makes lists as long as a model is deep.
    home = Path(root.place) / "config.json"
    if root.commit is not None and (cached := find_file(root.place, "config.json", root.commit)):
        home = cached.path
    check_config(read_json(home), root.described)
    with quiet(), clear_errors(root.described, "config.json"):
        config = AutoConfig.from_pretrained(
            root.place, revision=root.commit, trust_remote_code=trust_remote_code
        )
    if config.is_encoder_decoder:
        raise CheckpointError(
            f"{root.described}: an encoder-decoder model ({config.model_type}); only decoder-only "
            "models have the residual stream that is read here."
        )
    return config


def _read_checkpoint(root: Source, options: dict[str, Any]) -> Any:
    with quiet(download=root.commit is not None), clear_errors(root.described, "the model"):
        # Shapes that differ are reported with the keys, not as a hint to a log. The declared type
        # is that without output_loading_info, which makes it a pair.
        hf, loaded = AutoModelForCausalLM.from_pretrained(  # type: ignore[reportGeneralTypeIssues]
            root.place,
            revision=root.commit,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    check_weights(root.described, hf, loaded)
    return hf


def _read_raw(
    found: Source, config: PretrainedConfig, state: dict[str, Any], options: dict[str, Any]
) -> Any:
    """Raw weights into a config: by the concrete class, so that what is missing is noticed."""
    with quiet(), clear_errors(found.described, "the weights"):
        hf, loaded = concrete_class(config).from_pretrained(
            None,
            config=config,
            state_dict=state,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    check_weights(found.described, hf, loaded)
    return hf


def _read_tokenizer(
    found: Source, asked: PreTrainedTokenizerBase | str | Path | None, trust_remote_code: bool
) -> PreTrainedTokenizerBase:
    if isinstance(asked, PreTrainedTokenizerBase):
        return asked
    place, revision = _tokenizer_place(found, asked)
    with quiet(), clear_errors(place, "its tokenizer"):
        return AutoTokenizer.from_pretrained(
            place, revision=revision, trust_remote_code=trust_remote_code
        )


def _tokenizer_place(found: Source, asked: str | Path | None) -> tuple[str, str | None]:
    """Where the tokenizer is, and its revision: where asked for, else the topmost that has one."""
    home = found.with_tokenizer
    place, revision = (home.place, home.commit) if asked is None else (str(asked), None)
    if is_path(place):
        if not has_tokenizer(place):
            raise CheckpointError(
                f"{place}: no tokenizer files; save the tokenizer there with save_pretrained, or "
                "name where it is as tokenizer."
            )
        check_files(Path(place))
    return place, revision
