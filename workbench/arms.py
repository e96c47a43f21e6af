"""Arms: the conditions of an experiment, by name.

An arm is written `NAME[:STRENGTH][@LAYERS]`: `block`, `block:0.5`, `anchor-kl:3`, `block@2-3`,
`refusal-scaled`. NAME is one of `standard_arms`; LAYERS are numbers and ranges joined by `+`.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from workbench.errors import ConfigError

InterventionName = Literal[
    "none", "block", "push", "ablate", "steer", "cap", "project", "anchor", "rehearse"
]
DirectionName = Literal["reversion", "random", "matched", "refusal", "drift", "shuffled"]

STRENGTHS: Mapping[str, float] = {
    "block": 30.0,
    "push": 3.0,
    "ablate": 1.0,
    "steer": 1.0,
    "cap": 1.0,
    "project": 1.0,
    "anchor-kl": 10.0,
    "anchor-penalty": 10.0,
    "anchor-weights": 100.0,
    "rehearse": 0.25,
}
"""Strengths where none is given, by arm; controls and subspaces take that of block."""

DEMO = "ordinary,block,push,random,matched"
"""The arms of the main job."""

CONTROLS: Mapping[str, DirectionName] = {
    "random": "random",
    "refusal": "refusal",
    "drift": "drift",
    "shuffled": "shuffled",
}
"""Controls that block another direction as strongly as Block blocks v_rev."""


@dataclass(frozen=True)
class Arm:
    """One condition of an experiment: what is done during fine-tuning, along which direction."""

    name: str
    intervention: InterventionName = "none"
    direction: DirectionName = "reversion"
    strength: float = 0.0
    target: float = 0.6
    """Push only: where it stops, in phase gaps."""

    hinge: Literal["prompt", "mean", "none"] = "prompt"
    layers: tuple[int, ...] | None = None
    penalty_batch: int = 32
    match: str | None = None
    """Arm whose auxiliary gradient norm, step by step and seed by seed, this one is scaled to."""

    orthogonal: bool = False
    """Whether v_rev is projected out of the direction."""

    rank: int = 1
    """Block only: how many directions per layer; those beyond v_rev are re-fitted ones."""

    source: str | None = None
    """Arm that must end first, because its end gives this one its direction."""

    anchor: Literal["kl", "weights"] = "kl"
    prompts: Literal["penalty", "benign"] = "penalty"
    """Anchor only: where it holds the predictions, on the penalty prompts as Block has them or on
    benign ones with the aligned model's own answers."""

    def __post_init__(self) -> None:
        """Refuse a strength that is no number."""
        if not math.isfinite(self.strength):
            raise ConfigError(f"Arm {self.name}: strength is {self.strength}; give a number.")

    @property
    def has_layers(self) -> bool:
        """Whether what it does is done at layers; an anchor and rehearsal hold the whole model."""
        return self.intervention not in ("none", "anchor", "rehearse")

    @property
    def slug(self) -> str:
        """Its name as part of a folder's name."""
        return self.name.replace(":", "=")

    @property
    def needs(self) -> tuple[str, ...]:
        """Arms whose runs must have ended, seed by seed, before this one's can start."""
        return tuple(name for name in (self.match, self.source) if name is not None)


def base_of(name: str) -> str:
    """Return the name of an arm without strength and layers."""
    return name.partition("@")[0].partition(":")[0]


def standard_arms(
    strengths: Mapping[str, float] | None = None,
    *,
    target: float = 0.6,
    penalty_batch: int = 32,
    layers: tuple[int, ...] | None = None,
) -> dict[str, Arm]:
    """Return all arms by name.

    Beside ordinary fine-tuning, `block` and `push`: the rivals `ablate`, `steer`, `cap`, `project`,
    `anchor-kl` (benign prompts), `anchor-penalty` (the prompts that Block trains on),
    `anchor-weights` and `rehearse`; the controls, which block something else: `random` (uniformly
    random), `matched` (random with the covariance of the activations), `refusal`, `drift` (main
    component of ordinary drift), `shuffled` (v_rev of another layer), each as it is and with its
    gradient scaled to block's; `matched-two-sided` (orthogonal to v_rev, never inactive, scaled);
    and `block-rank2`, `block-rank3`, which block re-fitted directions too.

    Args:
        strengths: By arm, in place of `STRENGTHS`.
        target: Where Push stops, in phase gaps.
        penalty_batch: Penalty prompts per step.
        layers: Layers to intervene at; by default all.
    """
    given = {**STRENGTHS, **(strengths or {})}
    if unknown := sorted(set(given) - set(STRENGTHS)):
        raise ConfigError(
            f"No arm {unknown[0]!r} has a strength; these do: {', '.join(STRENGTHS)}."
        )
    block = Arm("block", "block", strength=given["block"])
    matched = replace(block, name="matched", direction="matched", match="block")
    arms = [Arm("ordinary"), block, Arm("push", "push", strength=given["push"], target=target)]
    for name, direction in CONTROLS.items():
        source = "ordinary" if direction == "drift" else None
        control = replace(block, name=name, direction=direction, source=source)
        arms += [control, replace(control, name=f"{name}-scaled", match="block")]
    arms += [
        matched,
        replace(matched, name="matched-unscaled", match=None),
        replace(matched, name="matched-two-sided", orthogonal=True, hinge="none"),
        *(Arm(name, name, strength=given[name]) for name in ("ablate", "steer", "cap", "project")),
        Arm("anchor-kl", "anchor", strength=given["anchor-kl"], prompts="benign"),
        Arm("anchor-penalty", "anchor", strength=given["anchor-penalty"]),
        Arm("anchor-weights", "anchor", strength=given["anchor-weights"], anchor="weights"),
        Arm("rehearse", "rehearse", strength=given["rehearse"]),
        replace(block, name="block-rank2", rank=2, source="block"),
        replace(block, name="block-rank3", rank=3, source="block-rank2"),
    ]
    return {
        arm.name: arm
        if arm.intervention == "none"
        else replace(arm, penalty_batch=penalty_batch, layers=layers if arm.has_layers else None)
        for arm in arms
    }


def choose_arms(names: str | Sequence[str], arms: Mapping[str, Arm]) -> tuple[Arm, ...]:
    """Return the arms asked for, in an order in which they can run.

    Args:
        names: Comma-separated, or a list; `all` stands for all.
        arms: Those there are, by NAME.

    Raises:
        ConfigError: If a name is unknown or given twice, or an arm lacks one that it needs.
    """
    listed = [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
    wanted = [each for name in listed for each in (arms if name == "all" else [name])]
    chosen = [_parse(name, arms) for name in wanted]
    if len({arm.name for arm in chosen}) < len(chosen):
        raise ConfigError(f"An arm is named twice in {','.join(wanted)!r}.")
    for arm in chosen:
        if arm.match is not None and arm.match not in wanted:
            raise ConfigError(
                f"Arm {arm.name!r} is scaled to {arm.match!r}: name {arm.match!r} too."
            )
        if arm.source is not None and arm.source not in wanted:
            raise ConfigError(
                f"Arm {arm.name!r} takes a direction from the runs of {arm.source!r}: name "
                f"{arm.source!r} too."
            )
    return tuple(arm for wave in waves(chosen) for arm in wave)


def waves(arms: Iterable[Arm]) -> list[list[Arm]]:
    """Return the arms in groups: each needs only arms of the groups before it."""
    left, done, found = list(arms), set(), []
    while left:
        ready = [arm for arm in left if done.issuperset(arm.needs)]
        assert ready, "an arm needs one that is not there"
        found.append(ready)
        done |= {arm.name for arm in ready}
        left = [arm for arm in left if arm not in ready]
    return found


def dose_names(names: Iterable[str], strengths: Sequence[float]) -> list[str]:
    """Return arms for a dose response: ordinary, then every name at every strength above 0."""
    doses = [
        f"{name}:{strength:g}"
        for name in names
        for strength in sorted(set(strengths))
        if strength != 0
    ]
    return ["ordinary", *doses]


def layer_parts(layers: Sequence[int], parts: int) -> list[tuple[int, ...]]:
    """Return the layers in so many runs of neighbours, the first ones larger where need be."""
    size, more = divmod(len(layers), parts)
    ends = [part * size + min(part, more) for part in range(parts + 1)]
    return [tuple(layers[first:last]) for first, last in pairwise(ends) if first < last]


def layer_names(names: Iterable[str], n_layers: int) -> list[str]:
    """Return arms for a layer sweep: each name at every layer, half and third of them, and all."""
    layers = range(n_layers)
    sets = [part for parts in (n_layers, 2, 3) for part in layer_parts(layers, parts)]
    told = ["-".join(f"{layer}" for layer in dict.fromkeys(part[:1] + part[-1:])) for part in sets]
    return [
        f"{name}{part}"
        for name in names
        for part in (*(f"@{one}" for one in dict.fromkeys(told)), "")
    ]


def _parse(name: str, arms: Mapping[str, Arm]) -> Arm:
    start, _, layers = name.partition("@")
    base, _, strength = start.partition(":")
    if base not in arms:
        raise ConfigError(f"Unknown arm {base!r}; there are {', '.join(arms)}.")
    arm = replace(arms[base], name=name)
    if "@" in name or ":" in name:
        if arm.intervention == "none":
            raise ConfigError(f"Arm {name!r}: {base} takes neither strength nor layers.")
        if layers and not arm.has_layers:
            raise ConfigError(f"Arm {name!r}: {base} acts on the whole model and takes no layers.")
        if strength and arm.match is not None:
            raise ConfigError(
                f"Arm {name!r}: its gradient is scaled to that of {arm.match!r}, so a strength "
                "would change nothing; leave it out."
            )
        if strength:
            arm = replace(arm, strength=_number(strength, name))
        if layers:
            arm = replace(arm, layers=_layers(layers, name))
        arm = _with_counterparts(arm, name[len(base) :])
        if name.endswith((":", "@")) or ":@" in name:
            raise ConfigError(
                f"Arm {name!r}: write NAME[:STRENGTH][@LAYERS], such as block:0.5@2-3."
            )
    return arm


def _with_counterparts(arm: Arm, suffix: str) -> Arm:
    """Let a scaled or re-fitted arm refer to what acts at its layers, and as strongly."""
    at = suffix.partition("@")[1] + suffix.partition("@")[2]
    if arm.match is not None:
        arm = replace(arm, match=arm.match + at)
    return replace(arm, source=f"{arm.source}{suffix}") if arm.rank > 1 else arm


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"Arm {name!r}: strength {text!r} is not a number.") from None


def _layers(text: str, name: str) -> tuple[int, ...]:
    found: set[int] = set()
    for part in text.split("+"):
        if (told := re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part, re.ASCII)) is None:
            raise ConfigError(f"Arm {name!r}: layers {text!r} are not such as 2 or 0-1+3.")
        first, last = told[1], told[2] or told[1]
        found |= set(range(int(first), int(last) + 1))
    if not found:
        raise ConfigError(f"Arm {name!r}: layers {text!r} hold no layer.")
    return tuple(sorted(found))
