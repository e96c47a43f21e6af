"""What belongs to the caller: one picture of it before a call, compared with one after."""

import gc
import hashlib
import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from huggingface_hub.utils import are_progress_bars_disabled
from transformers.utils import logging as transformers_logging

COLLECTED = ("open files", "live threads")
"""What may last till garbage is collected."""

LOGGERS = (None, "transformers", "datasets", "huggingface_hub", "peft", "accelerate", "trl")
HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
    "_state_dict_hooks", "_load_state_dict_pre_hooks",
)  # fmt: skip


def process():
    """Everything that a process has one of."""
    shown = {name: logging.getLogger(name) for name in LOGGERS}
    return {
        "torch's random state": digest(torch.get_rng_state()),
        "numpy's random state": repr(np.random.get_state()),
        "Python's random state": hash(random.getstate()),
        "threads of torch": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "gradient mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default data type": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"),
                     torch.is_autocast_cache_enabled()),
        "deterministic algorithms": (torch.are_deterministic_algorithms_enabled(),
                                     torch.is_deterministic_algorithms_warn_only_enabled()),
        "precision of products": torch.get_float32_matmul_precision(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "warnings filters": list(warnings.filters),
        "warnings shown": warnings.showwarning,
        "environment": dict(os.environ),
        "current directory": Path.cwd(),
        "locale": locale.setlocale(locale.LC_ALL),
        "errors of numpy": np.geterr(),
        "signals": [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)],
        "streams": (sys.stdout, sys.stderr, sys.excepthook, threading.excepthook),
        "logging": {n: (one.level, list(one.handlers), one.propagate) for n, one in shown.items()},
        "verbosity of transformers": transformers_logging.get_verbosity(),
        "progress bars": (transformers_logging.is_progress_bar_enabled(),
                          are_progress_bars_disabled()),
        "live threads": sorted(one.name for one in threading.enumerate()),
        "open files": open_files(),
    }  # fmt: skip


def open_files():
    """What the open file descriptors are of; pipes and sockets by their number."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(path.readlink()))
        except FileNotFoundError:  # that of the folder itself
            continue
    return sorted(found)


def of_model(model, *, trains=False):
    """Everything of a hooked, guest or Hugging Face model and its tokenizer that is not a cache."""
    root = getattr(model, "hf", getattr(model, "lens", model))
    named = list(root.named_modules())
    around = {name.removesuffix(".base_layer") for name, _ in named if name.endswith(".base_layer")}
    modules = {plain(name): one for name, one in named if name not in around and is_own(name)}
    parameters = {plain(name): one for name, one in root.named_parameters() if is_own(name)}
    config = getattr(root, "config", None)
    own = getattr(root, "generation_config", None)
    found = {
        "modules": {name: type(one) for name, one in modules.items()},
        "modes": {name: one.training for name, one in modules.items()},
        "forwards": {name for name, one in modules.items() if "forward" in vars(one)},
        "checkpointing": {
            name: one.gradient_checkpointing
            for name, one in modules.items()
            if hasattr(one, "gradient_checkpointing")
        },
        "trainable": {name: one.requires_grad for name, one in parameters.items()},
        "gradients": {name: gradient_of(one) for name, one in parameters.items()},
        "places": {name: (one.dtype, one.device) for name, one in parameters.items()},
        "hooks": {name: hooks_of(one) for name, one in modules.items()},
        "hook points": {name: hooks_of(one) for name, one in points_of(model).items()},
        "level": getattr(model, "context_level", None),
        "config": config and config.to_dict() | {"class": type(config)},
        "attention": config and getattr(config, "_attn_implementation", None),
        "config of generation": own and (id(own), own.to_dict()),
        "lock": getattr(model, "lock", None) and (model.lock._owner, model.lock._depth),
        "tokenizer": of_tokenizer(model.tokenizer) if hasattr(model, "tokenizer") else None,
    }
    if not trains:
        found["weights"] = {name: digest(one) for name, one in root.state_dict().items()}
    return found


def plain(name):
    """What a module or parameter is called where no adapter is on it."""
    return name.replace(".base_layer", "")


def is_own(name):
    return "lora_" not in name


def of_tokenizer(tokenizer):
    return {
        "sides": (tokenizer.padding_side, tokenizer.truncation_side),
        "special": dict(tokenizer.special_tokens_map),
        "template": tokenizer.chat_template,
        "sizes": (len(tokenizer), tokenizer.model_max_length),
        "backend": (tokenizer.backend_tokenizer.padding, tokenizer.backend_tokenizer.truncation),
    }


def gradient_of(parameter):
    return None if parameter.grad is None else (id(parameter.grad), digest(parameter.grad))


def hooks_of(module):
    told = [len(getattr(module, name, ())) for name in HOOKS]
    return [*told, *(len(getattr(module, name, ())) for name in ("fwd_hooks", "bwd_hooks"))]


def points_of(model):
    return getattr(model, "hook_dict", {})


def digest(tensor):
    content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(content).hexdigest()


def differences(before, after):
    """Name what differs, one line each; dicts are looked into."""
    found = []
    for key in before:
        one, other = before[key], after[key]
        if isinstance(one, dict) and isinstance(other, dict):
            names = sorted({*one, *other}, key=str)
            changed = [n for n in names if one.get(n, "absent") != other.get(n, "absent")]
            found += [f"{key}: {n}: {one.get(n)!r} → {other.get(n)!r}" for n in changed]
        elif one != other:
            found.append(f"{key}: {one!r} → {other!r}")
    return [line[:300] for line in found]


@contextmanager
def kept(*models, trains=False, adapts=False):
    """Fail if what is done while open leaves anything of the caller's changed.

    Args:
        *models: Which belong to the caller.
        trains: Whether their weights may change.
        adapts: Whether a new adapter may be on them.
    """
    before = process(), [of_model(one, trains=trains) for one in models]
    yield
    after = process(), [of_model(one, trains=trains) for one in models]
    if any(before[0][name] != after[0][name] for name in COLLECTED):
        gc.collect()
        after = process(), after[1]
    lines = differences(before[0], after[0])
    for one, other in zip(before[1], after[1], strict=True):
        lines += differences(one, other)
    if adapts:  # the base is trained no more
        lines = [line for line in lines if not line.startswith("trainable: ")]
    told = ["The caller's state has changed:", *lines[:12]]
    assert not lines, "\n".join([*told, f"{len(lines)} in all"])
