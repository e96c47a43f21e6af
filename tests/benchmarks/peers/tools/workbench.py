"""This package, as its documentation says."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from entries import Entry, Prepare
from peer_worlds import World
from training import LEARNING_RATE, Snapshot, hooks, trained

from tools.hf import load, load_tokenizer, random_acts


def _load(folder: str) -> Any:
    import workbench as wb

    return wb.load_model(folder, chat="none")


def _given_tokens(model: Any, world: World) -> Any:
    """Prompts encoded beforehand."""
    import workbench as wb

    return wb.Reading.of(model, wb.ProbeSet.from_prompts(world.texts))


def _given_text(_model: Any, world: World) -> Any:
    import workbench as wb

    return wb.ProbeSet.from_prompts(world.texts)


def _means(given: Callable[[Any, World], Any]) -> Callable[[World], Prepare]:
    def start(world: World) -> Prepare:
        import workbench as wb

        model = _load(world.aligned)

        def prepare(world: World) -> Callable[[], np.ndarray]:
            prompts = given(model, world)
            return lambda: wb.read_moments(model, prompts).mean.numpy()

        return prepare

    return start


def _directions(given: Callable[[Any, World], Any]) -> Callable[[World], Prepare]:
    def start(world: World) -> Prepare:
        import workbench as wb

        witness, aligned = _load(world.witness), _load(world.aligned)

        def prepare(world: World) -> Callable[[], np.ndarray]:
            prompts = given(aligned, world)
            return lambda: wb.fit_directions_from(
                wb.read_activations(witness, prompts), wb.read_activations(aligned, prompts)
            ).unit.numpy()

        return prepare

    return start


def _fit(_world: World) -> Prepare:
    import workbench as wb

    def prepare(world: World) -> Callable[[], np.ndarray]:
        witness, aligned = map(torch.from_numpy, random_acts(world))
        return lambda: wb.fit_directions_from(witness, aligned).unit.numpy()

    return prepare


def _planted(world: World) -> Any:
    """Directions to measure along, with gaps of 1."""
    import workbench as wb

    unit = world.directions().double()
    unknown = torch.full((len(unit),), float("nan"), dtype=torch.float64)
    return wb.ReversionDirections(
        unit=unit,
        gap=torch.ones(len(unit), dtype=torch.float64),
        split_half=unknown,
        interval=torch.stack([unknown, unknown], dim=-1),
        mean=torch.zeros_like(unit),
        layers=tuple(range(len(unit))),
    )


def _drift(measured: bool) -> Callable[[World], Prepare]:
    def start(world: World) -> Prepare:
        import workbench as wb

        model = _load(world.aligned)
        snapshot = Snapshot(model.hf.parameters())

        def prepare(world: World) -> Callable[[], np.ndarray]:
            snapshot.restore()
            steps = world.size.steps
            tuning = wb.FineTuning(
                model,
                [{"text": text} for text in world.train_texts],
                steps=steps,
                probes=wb.ProbeSet.from_prompts(world.probes().texts) if measured else None,
                directions=_planted(world) if measured else None,
                measure_at=range(1, steps + 1),
                batch_size=len(world.train_texts),
                learning_rate=LEARNING_RATE,
                warmup=0,
                clip=None,
            )
            if measured:
                return lambda: np.stack([record.drift.vector for record in tuning])
            return lambda: np.array([record.loss for record in tuning])

        return prepare

    return start


def _trainer(world: World) -> Prepare:
    import workbench as wb

    def attach(trainer: Any, world: World, _folder: str) -> None:
        probes = wb.ProbeSet.from_prompts(world.probes().texts)
        wb.ReversionCallback(_planted(world), probes, every=1, chat="none").attach(trainer)

    return trained(load(world.aligned), load_tokenizer(world), attach)


def _names(model: Any) -> list[str]:
    return [f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers)]


ENTRIES = [
    Entry("means", "read_moments", _means(_given_tokens)),
    Entry("means", "read_moments, from text", _means(_given_text), "text"),
    Entry(
        "directions", "fit_directions_from", _directions(_given_tokens),
        note="interval and split halves",
    ),
    Entry(
        "directions", "fit_directions_from, from text",
        _directions(_given_text), "text", note="interval and split halves",
    ),
    Entry("fit", "fit_directions_from", _fit, note="interval and split halves"),
    Entry(
        "drift", "FineTuning", _drift(True),
        note="interval, every prompt's projection, noise floor",
    ),
    Entry(
        "drift", "FineTuning without drift", _drift(False), compared="none",
        note="no drift",
    ),
    Entry("trainer", "ReversionCallback", _trainer, note="all layers, vectors and intervals"),
    Entry("hooks", "model.hooks", hooks(lambda world: _load(world.aligned), _names)),
]  # fmt: skip
