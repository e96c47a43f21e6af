"""The work behind an ablation grid: models one at a time, each at every layer set and strength."""

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from workbench.centres import mean_coordinates
from workbench.checkpoints import Checkpoint
from workbench.config import package_versions
from workbench.directions import ReversionDirections
from workbench.editing import intervene
from workbench.edits import ablate
from workbench.encoding import Encoded, encode
from workbench.errors import ConfigError, ProvenanceError
from workbench.evaluation import Evaluation, Reference, ask, read_reference
from workbench.generation import answer_encoded, encode_prompts
from workbench.grids import Point, Said
from workbench.judges import Judge
from workbench.models import HookedModel
from workbench.points import Place, Points
from workbench.prefixes import Prefix
from workbench.probes import ProbeSet
from workbench.questions import Questions
from workbench.reading import Reading
from workbench.records import Estimate, Scores

Source = HookedModel | Callable[[], HookedModel]
"""A model, or what loads one; a `Checkpoint` is known by its files, others by their weights."""

Drafts = Mapping[Encoded, Sequence[int]]
"""What answers may be, by prompt."""

WORTH_DRAFTING = 0.5
"""Drafts are tried where more answers than that stay the same from one strength to the next."""

OnProgress = Callable[[int, int], None]
"""Told how many points there are already, and how many there will be."""


@dataclass(frozen=True)
class GridWork:
    """What is measured at every point of a grid."""

    directions: ReversionDirections
    harmful: ProbeSet
    benign: ProbeSet
    task: ProbeSet
    judge: Judge
    max_new_tokens: int
    axes: Mapping[str, Any]

    def provenance(self, sources: Sequence[Source]) -> dict[str, Any]:
        """Return what is known before anything is measured."""
        sets = {"harmful": self.harmful, "benign": self.benign, "task": self.task}
        return {
            "models": [_known(source, self.harmful) for source in sources],
            "directions": content_hash(self.directions),
            "directions_from": self.directions.identity(),
            "probes": {name: probes.fingerprint() for name, probes in sets.items()},
            "judge": {"name": self.judge.name, "openers": list(self.judge.refusal_openers)},
            "max_new_tokens": self.max_new_tokens,
            "versions": package_versions(),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }

    def measure(
        self,
        sources: Sequence[Source],
        known: Sequence[Mapping[str, str]],
        points: Points,
        on_progress: OnProgress | None,
    ) -> dict[str, Any]:
        """Measure the points that are missing; return what was found out on the way."""
        reference, centre, weights, device = None, None, [], None
        for number, source in enumerate(sources):
            places = [place for place in self._places(number) if place not in points.found]
            # The first one gives reference and centre, whatever is there already.
            if number and not places:
                weights.append(None)
                continue
            model = _loaded(source)
            with model.lock:
                weights.append(model.fingerprint())
                if known[number].get("weights", weights[-1]) != weights[-1]:
                    raise ProvenanceError(
                        f"The weights of {self.axes['models'][number]!r} changed meanwhile; train "
                        "and measure one after the other, or measure a copy."
                    )
                if reference is None or centre is None:
                    self.directions.check_model(weights[0])
                    reference, centre = read_reference(model, self.benign), self._centre(model)
                asked = Asked(self, model, reference, centre)
                for place in places:
                    points.add(place, asked.point(place))
                    if on_progress is not None:
                        on_progress(len(points.found), len(sources) * len(self._places(0)))
            device = str(model.cfg.device)
            del model, asked
        assert centre is not None
        return {"weights": weights, "centre": centre.tolist(), "device": device}

    def ordered(self, points: Points) -> list[list[list[Point]]]:
        """Return the points by model, layer set and strength."""
        return [
            [
                [points.found[_place(number, layers, s)] for s in self.axes["strengths"]]
                for layers in self.axes["layer_sets"]
            ]
            for number in range(len(self.axes["models"]))
        ]

    def _places(self, number: int) -> list[Place]:
        """The points of a model, the unedited one once."""
        every = [
            _place(number, layers, strength)
            for layers in self.axes["layer_sets"]
            for strength in self.axes["strengths"]
        ]
        return list(dict.fromkeys(every))

    def _centre(self, model: HookedModel) -> Float[Tensor, " layer"]:
        if self.axes["positions"] == "last":
            self.directions.check_mean("An ablation at the last position")
            return (self.directions.mean * self.directions.unit).sum(dim=-1)
        items = [encode(model, prompt) for prompt in self.harmful.prompts]
        items += [encode(model, probe.prompt, probe.response) for probe in self.benign.probes]
        return mean_coordinates(model, items, self.directions)


class Asked:
    """One model that is asked the same under many edits: what they share is computed once.

    That is everything below the lowest edited layer, what it is without edits, and answers: those
    at the strength before are the drafts of the next.

    Args:
        work: What is measured.
        model: The model.
        reference: What KL is measured from.
        centre: Where full ablation puts the coordinates.
    """

    def __init__(
        self,
        work: GridWork,
        model: HookedModel,
        reference: Reference,
        centre: Float[Tensor, " layer"],
    ) -> None:
        self.work, self.model, self.reference, self.centre = work, model, reference, centre
        sets = {"task": work.task, "judge": work.judge, "max_new_tokens": work.max_new_tokens}
        self.questions = Questions.of(model, work.harmful, work.benign, **sets)
        asked = dict.fromkeys((*work.harmful.prompts, *work.benign.prompts))
        self.others = [prompt for prompt in work.axes["prompts"] if prompt not in asked]
        limit = work.max_new_tokens
        self.other_items = encode_prompts(model, self.others, max_new_tokens=limit)
        self.layers: tuple[int, ...] = ()
        self.prefix: Prefix | None = None
        self.drafts: Drafts = {}
        self.alike = 0.0
        """Share of the answers at the last strength that were those at the one before."""

    def point(self, place: Place) -> Point:
        """Measure the model under the edits of a place."""
        _, layers, strength = place
        positions, directions = self.work.axes["positions"], self.work.directions
        if layers != self.layers:
            self.layers, self.drafts, self.alike = layers, {}, 0.0
            self.prefix = Prefix(self.model, min(layers)) if layers else None
        options = {"layers": layers, "positions": positions, "centre": self.centre}
        edits = [ablate(directions, strength=strength, **options)] if layers else []
        # An edit at the last token of each forward needs each token to be the last of one.
        drafts = self.drafts if positions == "all" and self.alike > WORTH_DRAFTING else None
        with intervene(self.model, *edits, prefix=self.prefix):
            evaluation = ask(self.model, self.questions, self.reference, drafts=drafts)
            said, written = self._said(evaluation, drafts)
        written = {**evaluation.written, **written}
        self.alike = sum(self.drafts.get(item) == written[item] for item in written) / len(written)
        self.drafts = written
        followed = positions == "all" or not layers
        return Point(evaluation.scores if followed else _as_generated(evaluation.scores), said)

    def _said(
        self, evaluation: Evaluation, drafts: Drafts | None
    ) -> tuple[tuple[Said, ...], dict[Encoded, Sequence[int]]]:
        """Answers to the shown prompts, and the tokens of those that the evaluation lacks."""
        every = (*evaluation.harmful_answers, *evaluation.benign_answers)
        said = {prompt: Said(text, verdict) for prompt, text, verdict in every}
        known = None if drafts is None else [drafts.get(item, ()) for item in self.other_items]
        answers = answer_encoded(
            self.model, self.other_items, max_new_tokens=self.work.max_new_tokens, drafts=known
        )
        for prompt, one in zip(self.others, answers, strict=True):
            said[prompt] = Said(one.text, self.work.judge.classify(prompt, one.text))
        written = [one.tokens for one in answers]
        shown = tuple(said[prompt] for prompt in self.work.axes["prompts"])
        return shown, dict(zip(self.other_items, written, strict=True))


def _place(number: int, layers: tuple[int, ...], strength: float) -> Place:
    return (number, layers, strength) if strength else (number, (), 0.0)


def _as_generated(scores: Scores) -> Scores:
    """Scores without those that an edit of an answer's newest token does not reach."""
    unknown = Estimate(math.nan, math.nan, math.nan, 0)
    names = ("refusal_log_odds", "task_loss", "perplexity", "kl")
    return replace(scores, **dict.fromkeys(names, unknown))


def _loaded(source: Source) -> HookedModel:
    model = source if isinstance(source, HookedModel) else source()
    if not isinstance(model, HookedModel):
        raise ConfigError(
            f"An ablation grid needs Hugging Face models, not {type(model).__name__}; load them by "
            "folder or hub id."
        )
    return model


def _known(source: Source, harmful: ProbeSet) -> dict[str, str]:
    """What identifies a model: its files where they are known, else weights and tokens."""
    if isinstance(source, Checkpoint):
        about = {"chat": str(source.chat), "dtype": str(source.dtype)}
        return {"files": source.fingerprint(), **about}
    model = _loaded(source)
    return {
        "weights": model.fingerprint(),
        "tokens": Reading.of(model, harmful).fingerprint(),
        "dtype": str(model.cfg.dtype),
    }


def content_hash(directions: ReversionDirections) -> str:
    """Return the SHA-256 of what an ablation takes from directions."""
    digest = hashlib.sha256(repr(directions.layers).encode())
    for tensor in (directions.unit, directions.mean):
        digest.update(tensor.double().cpu().contiguous().numpy().data)
    return digest.hexdigest()
