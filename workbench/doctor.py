"""What is installed, what is missing, and what a lineage needs."""

import platform
from importlib import metadata

import torch

from workbench.loading import load_config
from workbench.phases import Lineage
from workbench.plots.paper.browser import find_browser, missing

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
ADAM_FLOATS = 4
"""Float32 numbers per weight while training: the weight, its gradient, two moments of AdamW."""


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
    """Return what reading and fine-tuning a lineage needs, from its configs alone."""
    from transformers import AutoModelForCausalLM

    lineage.check()
    config = load_config(lineage.aligned.model, revision=lineage.aligned.revision)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    weights = sum(parameter.numel() for parameter in model.parameters())
    return [
        f"{lineage.name}: {len(lineage.phases)} phases of {weights / 1e6:.1f}M parameters, "
        "loaded one at a time",
        f"reading one phase in float32: {_gb(4 * weights)} and the activations of one batch",
        f"fine-tuning all weights: {_gb(4 * ADAM_FLOATS * weights)} and the activations of a batch",
    ]


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
