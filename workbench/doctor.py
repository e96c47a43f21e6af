"""What is installed, what is missing, and what a lineage needs."""

import platform
from importlib import metadata

import torch

from workbench.footprint import LORA_RANK, TRAINING_TOKENS, Footprint, free_memory
from workbench.phases import Lineage, Phase
from workbench.plots.paper.browser import find_browser, missing
from workbench.reading import tokens_per_batch

WANTED = (
    ("torch", "models"),
    ("transformers", "models"),
    ("transformer-lens", "hook points"),
    ("plotly", "figures"),
    ("anywidget", "notebook figures"),
    ("jupyterlab", "notebooks"),
    ("kaleido", "figures as PDF, SVG, PNG"),
    ("matplotlib", "the same without a browser"),
)


def installed() -> list[str]:
    """Return one line for every package and program that matters."""
    lines = [f"python {platform.python_version()} on {platform.machine()}"]
    for package, purpose in WANTED:
        try:
            lines.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{package} is missing ({purpose}): pip install {package}")
    lacking = missing()
    lines.append(
        f"{lacking}; until then matplotlib draws" if lacking else f"browser {find_browser()}"
    )
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        lines.append(f"GPU {torch.cuda.get_device_name()}: {_gb(free)} of {_gb(total)} free")
    else:
        lines.append(f"no GPU: models run on {torch.get_num_threads()} CPU threads")
    return lines


def needed(lineage: Lineage) -> list[str]:
    """Return what reading and fine-tuning a lineage needs, from its configs alone, and if it fits.

    Memory beside the weights is an estimate; see `footprint`. Of a series only the ends and the
    phases with a role are looked at.
    """
    lineage.check()
    read = lineage.milestones()
    sizes = {phase.name: _footprint(phase) for phase in read}
    composed = {phase.name: phase.source().composed for phase in read}
    one = sizes[lineage.aligned.name]
    by_dtype: dict[torch.dtype, list[str]] = {}
    for name, size in sizes.items():
        by_dtype.setdefault(size.dtype, []).append(name)
    told = "; ".join(
        f"{_gb(one.weights(dtype))} as {str(dtype).removeprefix('torch.')} ({', '.join(names)})"
        for dtype, names in by_dtype.items()
    )
    largest = max(sizes.values(), key=lambda size: size.weights())
    lora = one.adapters()
    free = free_memory()
    tokens = tokens_per_batch(torch.device("cuda" if "GPU" in free else "cpu"))
    jobs = {
        f"reading one phase: {_gb(largest.weights())} and {_gb(largest.reading(tokens))} for "
        f"batches of {tokens} tokens": largest.weights() + largest.reading(tokens),
        f"fine-tuning all weights: {_gb(_state(one))} {_step(one, None)}": one.weights()
        + one.training(),
        f"fine-tuning with LoRA of rank {LORA_RANK} ({lora / 1e6:.1f}M parameters): "
        f"{_gb(_state(one, lora))} {_step(one, lora)}": one.weights() + one.training(lora),
    }
    return [
        f"{lineage.name}: {len(lineage.phases)} phases of {one.parameters / 1e6:.1f}M parameters, "
        "loaded one at a time",
        *(f"{name}: {what}" for name, what in composed.items() if what),
        f"weights: {told}; {_gb(one.weights(torch.float32))} as float32",
        *(f"{job}; {_fits(total, free)}" for job, total in jobs.items()),
        f"of a training batch of {TRAINING_TOKENS} response tokens the loss over "
        f"{one.vocabulary} tokens of vocabulary takes {_gb(one.logits())}",
    ]


def _footprint(phase: Phase) -> Footprint:
    return Footprint.of(phase.config(), phase.dtype)


def _state(size: Footprint, trained: int | None = None) -> int:
    """Weights, gradients and optimiser: what does not depend on the batch."""
    return size.weights() + size.optimiser(trained) + size.gradients(trained)


def _step(size: Footprint, trained: int | None) -> str:
    """How much a batch adds."""
    with_all, kept = (
        max(0, size.weights() + size.training(trained, checkpointing=c) - _state(size, trained))
        for c in (False, True)
    )
    return (
        f"and {_gb(with_all)} for batches of {TRAINING_TOKENS} tokens ({_gb(kept)} with gradient "
        "checkpointing)"
    )


def _fits(total: int, free: dict[str, int]) -> str:
    """Whether a job fits, for each kind of memory."""
    return ", ".join(
        f"{'fits in' if total <= room else 'does not fit in'} {_gb(room)} of free {kind}"
        for kind, room in free.items()
    )


def _gb(count: int) -> str:
    return f"{count / 1e9:.{2 if count >= 1e8 else 4}f} GB"
