"""What a run needs to be repeated: frozen, plain values."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

from workbench.errors import ConfigError

InterventionName = Literal["none", "block", "push"]
DirectionName = Literal["reversion", "random", "matched"]
PACKAGES = ("reversion-workbench", "torch", "transformers", "transformer-lens", "numpy")


@dataclass(frozen=True)
class Recipe:
    """The numbers of a fine-tuning; meanings as in `finetune.FineTuning`."""

    steps: int = 100
    learning_rate: float = 3e-5
    batch_size: int = 16
    warmup: int = 3
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    weight_decay: float = 0.0
    clip: float | None = 1.0
    accumulation: int = 1
    measure_at: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Arm:
    """One condition of an experiment: what is done during fine-tuning, along which direction."""

    name: str
    intervention: InterventionName = "none"
    direction: DirectionName = "reversion"
    strength: float = 0.0
    target: float = 0.6
    """Push only: where it stops, in phase gaps."""

    hinge: Literal["prompt", "mean"] = "prompt"
    layers: tuple[int, ...] | None = None
    penalty_batch: int = 32
    match: str | None = None
    """Arm whose auxiliary gradient norm, step by step and seed by seed, this one is scaled to."""


def standard_arms(
    *,
    block: float = 30.0,
    push: float = 3.0,
    target: float = 0.6,
    penalty_batch: int = 32,
    layers: tuple[int, ...] | None = None,
) -> dict[str, Arm]:
    """Return the arms of the main job by name.

    `random` blocks a uniformly random direction, as it is. `matched` blocks a random direction with
    the covariance of the activations, its gradient scaled to the norm that `block`'s had;
    `matched-unscaled` is the same without scaling.

    Args:
        block: Strength of Block, and of the controls.
        push: Strength of Push.
        target: Where Push stops, in phase gaps.
        penalty_batch: Penalty prompts per step.
        layers: Layers to intervene at; by default all.
    """
    shared = {"penalty_batch": penalty_batch, "layers": layers}
    arms = (
        Arm("ordinary"),
        Arm("block", "block", strength=block, **shared),
        Arm("push", "push", strength=push, target=target, **shared),
        Arm("random", "block", "random", strength=block, **shared),
        Arm("matched", "block", "matched", strength=block, match="block", **shared),
        Arm("matched-unscaled", "block", "matched", strength=block, **shared),
    )
    return {arm.name: arm for arm in arms}


def choose_arms(names: str | list[str], arms: dict[str, Arm]) -> tuple[Arm, ...]:
    """Return the arms asked for, in the order in which they can run.

    Args:
        names: Comma-separated, or a list.
        arms: Those there are.

    Raises:
        ConfigError: If a name is unknown, or a matched arm lacks the arm it is matched to.
    """
    wanted = [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
    if unknown := [name for name in wanted if name not in arms]:
        raise ConfigError(f"Unknown arm {unknown[0]!r}; there are {', '.join(arms)}.")
    if len(set(wanted)) < len(wanted):
        raise ConfigError(f"An arm is named twice in {','.join(wanted)!r}.")
    for name in wanted:
        if (other := arms[name].match) is not None and other not in wanted:
            raise ConfigError(f"Arm {name!r} is scaled to {other!r}: name {other!r} too.")
    return tuple(sorted((arms[name] for name in wanted), key=lambda arm: arm.match is not None))


def changed_settings(old: Any, new: Any, name: str = "") -> list[str]:
    """Return the dotted names of the settings that differ; a missing one counts as null."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            changed
            for key in sorted({*old, *new})
            for changed in changed_settings(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if old == new else [name]


def package_versions() -> dict[str, str]:
    """Return the installed versions of the packages that decide a run's numbers."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
