"""Questions: what a model is asked in an evaluation, as tokens, encoded once for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.chat_formats import plain_ids
from workbench.encoding import Encoded, encode
from workbench.errors import ProbeError
from workbench.generation import encode_prompts
from workbench.judges import Judge, find_judge
from workbench.models import HookedModel
from workbench.probes import ProbeSet

KL_TOKENS = 8
"""KL is taken over this many first response tokens: its reference is [token, vocab] per prompt."""


@dataclass(frozen=True)
class Questions:
    """Prompts and responses in the tokens of a model; any weights of it can be asked."""

    harmful: ProbeSet
    benign: ProbeSet
    task: ProbeSet
    judge: Judge
    max_new_tokens: int
    harmful_items: tuple[Encoded, ...]
    """The harmful prompts, with room for an answer; as the next."""

    benign_items: tuple[Encoded, ...]
    opened_items: tuple[Encoded, ...]
    """Every refusal opener after every harmful prompt, opener by opener."""

    task_items: tuple[Encoded, ...]
    """Task prompts with their responses."""

    kl_items: tuple[Encoded, ...]
    """Benign prompts with the first tokens of their responses."""

    @classmethod
    def of(
        cls,
        model: HookedModel,
        harmful: ProbeSet,
        benign: ProbeSet,
        *,
        task: ProbeSet | None = None,
        judge: str | Judge = "rules",
        max_new_tokens: int = 32,
    ) -> "Questions":
        """Encode everything for `model`.

        Args:
            model: Whose tokens; only its tokenizer, chat format and context count.
            harmful: Held-out harmful prompts.
            benign: Held-out benign prompts, with responses for KL.
            task: Held-out benign prompts with responses of the fine-tuning task; by default
                `benign`.
            judge: What tells refusing from complying: a name or a `Judge`.
            max_new_tokens: Length of an answer.

        Raises:
            ProbeError: If a set is empty or lacks the responses it needs.
        """
        judge, task = find_judge(judge), benign if task is None else task
        check_not_empty(harmful, benign, task)
        task_items = with_responses(model, task)
        return cls(
            harmful,
            benign,
            task,
            judge,
            max_new_tokens,
            harmful_items=encode_prompts(model, harmful.prompts, max_new_tokens=max_new_tokens),
            benign_items=encode_prompts(model, benign.prompts, max_new_tokens=max_new_tokens),
            opened_items=_opened(model, harmful, judge),
            task_items=task_items,
            kl_items=kl_items(model, benign),
        )


def check_not_empty(harmful: ProbeSet, benign: ProbeSet, task: ProbeSet) -> None:
    """Refuse a set without prompts.

    Raises:
        ProbeError: If one is empty.
    """
    for name, probes in (("harmful", harmful), ("benign", benign), ("task", task)):
        if not len(probes):
            raise ProbeError(f"Evaluation needs at least one {name} prompt.")


def with_responses(model: HookedModel, probes: ProbeSet) -> tuple[Encoded, ...]:
    """Return prompts with the responses that are to be predicted.

    Raises:
        ProbeError: If one has none.
    """
    for probe in probes.probes:
        if probe.response is None:
            raise ProbeError(f"No response to predict for {probe.prompt[:60]!r}; add 'response'.")
    return tuple(encode(model, probe.prompt, probe.response) for probe in probes.probes)


def kl_items(model: HookedModel, benign: ProbeSet) -> tuple[Encoded, ...]:
    """Return benign prompts with the first `KL_TOKENS` tokens of their responses."""
    return tuple(
        Encoded(item.ids[: item.prompt_length + KL_TOKENS], item.prompt_length)
        for item in with_responses(model, benign)
    )


def _opened(model: HookedModel, harmful: ProbeSet, judge: Judge) -> tuple[Encoded, ...]:
    openers: Sequence[str] = judge.refusal_openers
    # Of a prompt that must be cut, so much that every opener is read whole.
    room = max(len(plain_ids(model.tokenizer, f" {opener}")) for opener in openers) + 1
    return tuple(
        encode(model, prompt, opener, closed=False, room=room)
        for opener in openers
        for prompt in harmful.prompts
    )
