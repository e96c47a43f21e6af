"""Rehearsal: safety examples mixed into the batches of fine-tuning."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from workbench.encoding import Encoded, encode_examples
from workbench.errors import ConfigError, ProbeError
from workbench.generation import answer
from workbench.interventions import Active, Intervention, Start, check_strength
from workbench.models import HookedModel
from workbench.probes import ProbeSet


@dataclass(frozen=True)
class Rehearse(Intervention):
    """Train on safety examples in place of a share of each batch.

    The batch keeps its size: s·batch of its examples on average (stochastic rounding), at random
    places, make way for safety examples, none twice until all are used. The share is one of
    examples; as the loss is per response token, long responses weigh more. No direction is known.

    Source: reconstruction of the safety rehearsal of arXiv 2606.28525 (later version).
    """

    name: ClassVar[str] = "rehearse"

    strength: float
    """s, the share of each batch that is safety examples, from 0 to below 1."""

    examples: Sequence[Mapping[str, Any]] | None = None
    """Safety examples, as `FineTuning` takes them; or give `probes`."""

    probes: ProbeSet | None = None
    """Prompts that nothing is measured on, taught with their own responses, or with what the
    aligned model answers where they have none (see `with_own_answers`)."""

    max_new_tokens: int = 32
    """Longest answer of the aligned model, in tokens."""

    def __post_init__(self) -> None:
        """Check the settings."""
        check_strength(self)
        if self.strength >= 1:
            raise ConfigError(
                f"rehearse: strength is {self.strength}; it is the share of a batch that is "
                "replaced and must be below 1."
            )
        if bool(self.examples) == bool(self.probes):
            given = "both" if self.examples else "neither"
            raise ProbeError(f"rehearse: give either examples or probes, not {given}.")
        if self.max_new_tokens < 1:
            raise ConfigError(
                f"rehearse: max_new_tokens is {self.max_new_tokens}; it must be positive."
            )

    @property
    def trained_on(self) -> ProbeSet | None:
        """The prompts of the safety examples, to be kept apart from measured ones."""
        return self.probes or ProbeSet.from_prompts(_prompts(self.examples or ()))

    def describe(self) -> dict[str, Any]:
        """Return the settings as JSON values; examples and probes by hash."""
        digest = None
        if self.examples:
            text = json.dumps([dict(example) for example in self.examples], sort_keys=True)
            digest = hashlib.sha256(text.encode()).hexdigest()
        return super().describe() | {"examples": digest}

    def start(self, start: Start) -> Active:
        """Encode the safety examples, letting the aligned model answer where it has to."""
        examples = self.examples or ()
        if self.probes is not None:
            answered = with_own_answers(
                start.model, self.probes, max_new_tokens=self.max_new_tokens
            )
            examples = [
                {"prompt": probe.prompt, "response": probe.response} for probe in answered.probes
            ]
        return ActiveRehearsal(
            self, start, encode_examples(start.model, examples, "rehearse: safety example")
        )


class ActiveRehearsal(Active):
    """A change to the batch: some of it replaced by safety examples."""

    def __init__(self, settings: Rehearse, start: Start, examples: list[Encoded]) -> None:
        super().__init__(settings.name, start.generator)
        self.strength, self.examples = settings.strength, examples

    def mix_batch(self, batch: list[Encoded]) -> list[Encoded]:
        """Return the batch with a share of its examples replaced, the others in their order."""
        chance = float(torch.rand(1, generator=self.generator, dtype=torch.float64))
        count = math.floor(self.strength * len(batch) + chance)
        places = self._shuffled(len(batch))[:count]
        mixed = list(batch)
        for place, index in zip(places, self._epochs(), strict=False):
            mixed[place] = self.examples[index]
        return mixed

    def _epochs(self) -> Iterator[int]:
        """Safety examples in random order, and again; it begins anew at each step.

        So the generator's state is all that a resumed run needs.
        """
        while True:
            yield from self._shuffled(len(self.examples))

    def _shuffled(self, count: int) -> list[int]:
        return torch.randperm(count, generator=self.generator).tolist()


def with_own_answers(model: HookedModel, probes: ProbeSet, *, max_new_tokens: int = 32) -> ProbeSet:
    """Return the probes, with the model's greedy answers where they have no response.

    A probe whose answer is empty is dropped: every probe of the result has a response. An answer
    that is cut off at the limit is kept, and whoever encodes it lets it end there.

    Args:
        model: Which answers.
        probes: The prompts; responses that they have are kept.
        max_new_tokens: Longest answer, in tokens.

    Raises:
        ProbeError: If a prompt is longer than the model's context, or no response is left.
    """
    silent = [probe.prompt for probe in probes.probes if probe.response is None]
    said = iter(answer(model, silent, max_new_tokens=max_new_tokens))
    answered = [
        replace(probe, response=next(said).text) if probe.response is None else probe
        for probe in probes.probes
    ]
    spoken = tuple(probe for probe in answered if probe.response)
    if not spoken:
        raise ProbeError(
            f"The model gives an empty answer to all {len(probes)} probes; give them responses."
        )
    return ProbeSet(spoken)


def _prompts(examples: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The prompts that can be told; encoding refuses malformed examples later."""
    for example in examples:
        turns = example.get("messages")
        if not isinstance(turns, Sequence):
            turns = [{"role": "user", "content": example.get("prompt")}]
        for turn in turns:
            asked = isinstance(turn, Mapping) and turn.get("role") == "user"
            if asked and isinstance(text := turn.get("content"), str):
                yield text
