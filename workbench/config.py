"""What a run needs to be repeated: frozen, plain values."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

MEASURED_STEPS = (1, 2, 3, 5, 8, 13, 20, 30, 50, 75, 100)
"""Dense where drift starts, sparse later; the last step is always measured."""

EVALUATED_STEPS = (0, 1, 20, 100)
"""Steps at which behaviour is evaluated; 0 is the aligned model."""

PACKAGES = ("reversion-workbench", "torch", "transformers", "transformer-lens", "numpy", "peft")


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
    lora: int | None = None

    @property
    def measured_steps(self) -> tuple[int, ...]:
        """Steps at which drift is measured, in order; the last step is one of them."""
        wanted = MEASURED_STEPS if self.measure_at is None else self.measure_at
        within = {step for step in wanted if 1 <= step < self.steps}
        return (*sorted(within), self.steps)


def changed_settings(old: Any, new: Any, name: str = "") -> list[str]:
    """Return the dotted names of the settings that differ; a missing one counts as null."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            changed
            for key in sorted({*old, *new})
            for changed in changed_settings(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if old == new else [name]


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Return the SHA-256 of settings, whatever the order of their keys."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def sealed(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON values as they are read again, with their hash as `sha256`."""
    plain = json.loads(json.dumps({key: told[key] for key in told if key != "sha256"}))
    return plain | {"sha256": settings_hash(plain)}


def is_sealed(told: Mapping[str, Any]) -> bool:
    """Whether values say what they said when they were sealed."""
    plain = {key: value for key, value in told.items() if key != "sha256"}
    return told.get("sha256") == settings_hash(plain)


def package_versions() -> dict[str, str]:
    """Return the installed versions of the packages that decide a run's numbers."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
