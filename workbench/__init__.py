"""The interpretability workbench for how fine-tuning undoes alignment.

Names are loaded on first use: importing this package imports neither torch nor TransformerLens.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "ablated_runs": ("grid_of_run",),
    "ablation": ("ablation_grid", "answer_now"),
    "activations": ("Moments", "read_activations", "read_moments"),
    "aftermath": ("Aftermath", "off_direction"),
    "anchors": ("Anchor",),
    "arms": ("Arm", "choose_arms", "standard_arms"),
    "calibration": ("calibrate",),
    "checkpoints": ("Checkpoint",),
    "config": ("Recipe",),
    "controls": (
        "drift_directions",
        "matched_directions",
        "orthogonal_to",
        "random_directions",
        "refusal_directions",
        "shuffled_directions",
    ),
    "course": ("Course",),
    "directions": ("ReversionDirections", "fit_directions", "fit_directions_from"),
    "drift": ("measure_drift",),
    "editing": ("intervene",),
    "edits": ("ablate", "cap", "steer"),
    "errors": ("WorkbenchError",),
    "evaluation": ("evaluate", "read_reference"),
    "exchange": ("load_directions_from", "save_directions_as"),
    "experiment": ("Experiment", "run_experiment"),
    "finetune": ("FineTuning",),
    "grids": ("AblationGrid", "stored_grids"),
    "inputs": ("Inputs",),
    "integrations.trainer": ("ReversionCallback",),
    "integrations.trainer_interventions": ("ReversionTrainer",),
    "judges": ("Judge",),
    "loading": ("load_model", "save_model"),
    "models": ("HookedModel",),
    "nulls": ("isotropic_null", "matched_null"),
    "passage": ("Passage",),
    "passage_reading": ("read_passage",),
    "penalties": ("Block", "Push"),
    "phases": ("Lineage", "Phase"),
    "plots.paper.export": ("Press", "export"),
    "probes": ("ProbeSet", "load_examples"),
    "projections": ("ProjectGradient",),
    "reading": ("Reading",),
    "readout": ("read_vocabulary",),
    "records": ("Drift", "Scores", "StepRecord"),
    "refit": ("refit",),
    "rehearsal": ("Rehearse", "with_own_answers"),
    "runs": ("Run",),
    "significance": ("holm", "significance"),
    "store": ("RunStore",),
    "training_edits": ("Ablate", "Cap", "Steer"),
    "verification": ("verify",),
    "widgets": (
        "AblationSlider",
        "Geometry",
        "LayerExplorer",
        "LiveFigure",
        "LiveRun",
        "RunComparison",
    ),
}
_HOME = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted([*_HOME, "plots"])


def __getattr__(name: str) -> Any:
    """Import the module that defines `name`."""
    if name == "plots":
        return importlib.import_module("workbench.plots")
    if name in _HOME:
        return getattr(importlib.import_module(f"workbench.{_HOME[name]}"), name)
    raise AttributeError(f"module 'workbench' has no attribute {name!r}")


class _Package(ModuleType):
    """Keeps names that are those of a function and of its module, as `refit`, for the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):  # as an import sets it
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    """List the public names."""
    return [*__all__, "__version__"]
