"""Ablation at inference: what models do at every strength, and what one answers now."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from workbench.arms import layer_parts
from workbench.directions import ReversionDirections
from workbench.editing import intervene
from workbench.edits import POSITIONS, ablate
from workbench.errors import ConfigError
from workbench.generation import answer
from workbench.grid_work import GridWork, OnProgress, Source
from workbench.grids import STRENGTHS, AblationGrid, Said, identity_of
from workbench.interventions import chosen_layers
from workbench.judges import Judge, find_judge
from workbench.models import HookedModel
from workbench.points import Points
from workbench.probes import ProbeSet

SHALLOW = 8
"""Up to so many layers, each is a layer set of its own by default."""

SHOWN = (6, 2)
"""How many harmful and benign prompts are shown by default."""


def ablation_grid(
    models: Mapping[str, Source],
    directions: ReversionDirections,
    *,
    harmful: ProbeSet,
    benign: ProbeSet,
    task: ProbeSet | None = None,
    layer_sets: Sequence[Sequence[int]] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    positions: str = "all",
    judge: str | Judge = "rules",
    prompts: Sequence[str] | None = None,
    max_new_tokens: int = 32,
    cache: str | Path | None = None,
    about: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
) -> AblationGrid:
    """Return the behaviour of models at every strength of an ablation along v.

    At strength 0 nothing is edited: these scores are `evaluate`'s to the bit, taken once for all
    layer sets. The coordinate's centre m_l (see `edits.ablate`) is, at positions `"all"`, the mean
    of ⟨h_l, v_l⟩ in the unedited first model over all tokens of the harmful prompts and of the
    benign ones with their responses, but the first token of each; at `"last"` it is the mean at the
    read position of the directions. An edit at `"last"` follows the answer as it is generated, but
    of a given response it reaches only the end: there the scores that are read from given
    responses (refusal log-odds, task loss, perplexity, KL) are undefined, except at strength 0.

    Args:
        models: By name, the aligned one first. What is callable is loaded when its turn comes and
            dropped after. While a model is measured, a training of it in another thread waits.
        directions: v, per layer.
        harmful: As in `evaluate`, like the next two.
        benign: With responses.
        task: By default `benign`.
        layer_sets: Layers to edit together; by default all that the directions have, then each
            layer of at most 8, else the halves and thirds of them.
        strengths: Finite, ascending, with 0 and 1.
        positions: `"all"` or `"last"`, see `edits.POSITIONS`.
        judge: A name, or a `Judge`, which is known by its name and openers: rename what you change.
        prompts: Prompts to show answers to; by default some of those evaluated.
        max_new_tokens: Length of an answer.
        cache: Folder for the grid and, until it is finished, for its points: what is there is not
            computed again, and a grid that is there loads no `Checkpoint`.
        about: More to keep in the provenance, as JSON values.
        on_progress: Called after every point.

    Raises:
        ConfigError: If a setting makes no sense.
        LayerError: If a layer has no direction.
        ProvenanceError: If the first model is not the one that the directions start from, a model
            changed meanwhile, or a stored grid is damaged.
        ProbeError: If a set is empty or lacks the responses it needs.
    """
    if not models:
        raise ConfigError("ablation_grid needs at least one model, the aligned one first.")
    if positions not in POSITIONS:
        raise ConfigError(f"positions is {positions!r}; it must be 'all' or 'last'.")
    axes = {
        "models": tuple(models),
        "layer_sets": _layer_sets(directions, layer_sets),
        "strengths": _checked(strengths),
        "positions": positions,
        "prompts": tuple(prompts) if prompts is not None else _shown(harmful, benign),
    }
    task = benign if task is None else task
    work = GridWork(directions, harmful, benign, task, find_judge(judge), max_new_tokens, axes)
    provenance = work.provenance(list(models.values()))
    identity = identity_of(axes, provenance)
    folder = None if cache is None else Path(cache)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        if (stored := folder / f"{identity}.json").exists():
            return AblationGrid.load(stored)
    points = Points(folder and folder / f"{identity}.part.jsonl")
    told = work.measure(list(models.values()), provenance["models"], points, on_progress)
    grid = AblationGrid.of(axes, work.ordered(points), provenance | told | dict(about or {}))
    if folder is not None:
        grid.save(folder / f"{identity}.json")
        points.close()
    return grid


def answer_now(
    model: HookedModel,
    prompt: str,
    directions: ReversionDirections,
    *,
    strength: float,
    layers: Sequence[int] | None = None,
    positions: str = "all",
    centre: Sequence[float] | None = None,
    judge: str | Judge = "rules",
    max_new_tokens: int = 32,
) -> Said:
    """Return what the model answers under an ablation, and the verdict.

    Args:
        model: Left as it is; a training of it in another thread waits.
        prompt: What to answer.
        directions: v, per layer.
        strength: As in `ablate`, like the next two; at 0 nothing is edited.
        layers: By default all that the directions have.
        positions: `"all"` or `"last"`.
        centre: m, one per layer of the directions: the `centre` in a grid's provenance, for answers
            that belong to the grid. By default as in `ablate`.
        judge: A name or a `Judge`.
        max_new_tokens: Length of the answer.

    Raises:
        ProbeError: If the prompt does not fit the model.
        LayerError: If a layer has no direction.
        ConfigError: If a setting makes no sense.
    """
    own = None if centre is None else torch.tensor(centre, dtype=torch.float64)
    edit = ablate(directions, strength=strength, layers=layers, positions=positions, centre=own)
    with intervene(model, edit):
        text = answer(model, [prompt], max_new_tokens=max_new_tokens)[0].text
    return Said(text, find_judge(judge).classify(prompt, text))


def _checked(strengths: Sequence[float]) -> tuple[float, ...]:
    values = tuple(float(strength) for strength in strengths)
    ascending = all(one < other for one, other in pairwise(values))
    if not (ascending and all(map(math.isfinite, values)) and {0.0, 1.0} <= {*values}):
        raise ConfigError(f"strengths are {values}; they must be finite, ascending, with 0 and 1.")
    return values


def _layer_sets(
    directions: ReversionDirections, layer_sets: Sequence[Sequence[int]] | None
) -> tuple[tuple[int, ...], ...]:
    if layer_sets is None:
        layers = sorted(directions.layers)
        parts = (1, len(layers)) if len(layers) <= SHALLOW else (1, 2, 3)
        layer_sets = [part for count in parts for part in layer_parts(layers, count)]
    if not layer_sets:
        raise ConfigError("layer_sets is empty; give at least one set of layers.")
    chosen = (tuple(chosen_layers("ablation_grid", directions, one)) for one in layer_sets)
    return tuple(dict.fromkeys(chosen))


def _shown(harmful: ProbeSet, benign: ProbeSet) -> tuple[str, ...]:
    return tuple(
        prompt
        for probes, count in zip((harmful, benign), SHOWN, strict=True)
        for prompt in list(dict.fromkeys(_spread(probes.prompts, count)))
    )


def _spread(prompts: Sequence[str], count: int) -> Iterator[str]:
    """Some of the prompts, evenly spaced: neighbours are often near-duplicates."""
    for number in range(min(count, len(prompts))):
        yield prompts[number * len(prompts) // min(count, len(prompts))]
