"""Behaviour of a model on held-out prompts: scores with intervals."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.continuations import continuation_losses
from workbench.encoding import Encoded, encode, response_tokens
from workbench.errors import ProbeError
from workbench.generation import Answer, answer_encoded
from workbench.judges import Judge, Verdict
from workbench.losses import response_logits, response_losses
from workbench.models import HookedModel
from workbench.modes import evaluation_mode
from workbench.probes import ProbeSet
from workbench.questions import Questions, check_not_empty, kl_items, with_responses
from workbench.records import Estimate, Scores

N_RESAMPLES = 1000
EXAMPLES_PER_BATCH = 64
Judged = tuple[tuple[str, str, Verdict], ...]
"""Prompt, answer and verdict."""


@dataclass(frozen=True)
class Reference:
    """What the aligned model predicts on benign responses."""

    log_probs: Float[Tensor, "token vocab"]


@dataclass(frozen=True)
class Evaluation:
    """Scores, and the answers behind them."""

    scores: Scores
    harmful_answers: Judged
    """Of every harmful prompt."""

    benign_answers: Judged
    written: Mapping[Encoded, tuple[int, ...]] = field(repr=False, compare=False)
    """The tokens of every answer, by prompt."""


def read_reference(model: HookedModel, benign: ProbeSet) -> Reference:
    """Return the predictions of the aligned model, to measure KL from.

    Args:
        model: The aligned model.
        benign: Benign prompts with responses, the same that are evaluated on later.
    """
    return Reference(torch.cat(_batched(model, kl_items(model, benign), _log_probs)))


def evaluate(
    model: HookedModel,
    harmful: ProbeSet,
    benign: ProbeSet,
    *,
    task: ProbeSet | None = None,
    judge: str | Judge = "rules",
    reference: Reference | None = None,
    max_new_tokens: int = 32,
) -> Scores:
    """Return the behaviour scores of a model.

    Args:
        model: As in `ask`, like `reference`.
        harmful: As in `Questions.of`, like all others.
        benign: With responses.
        task: By default `benign`.
        judge: A name or a `Judge`.
        reference: Without it KL is undefined (NaN).
        max_new_tokens: Length of an answer.

    Raises:
        ProbeError: If a set is empty or lacks the responses it needs.
    """
    sets = {"task": task, "judge": judge, "max_new_tokens": max_new_tokens}
    return ask(model, Questions.of(model, harmful, benign, **sets), reference).scores


def ask(
    model: HookedModel,
    questions: Questions,
    reference: Reference | None = None,
    *,
    drafts: Mapping[Encoded, Sequence[int]] | None = None,
) -> Evaluation:
    """Return the behaviour scores of a model and the answers behind them.

    All of it is of the same weights: a training in another thread waits.

    Args:
        model: The model now; edits that are open on it act on everything measured here.
        questions: What to ask.
        reference: From `read_reference`; without it KL is undefined (NaN).
        drafts: What answers may be, by prompt: see `answer_encoded`.

    Raises:
        ProbeError: If the reference is of other prompts.
    """
    with model.lock:
        said_harmful, said_benign = (
            _answered(model, items, questions, drafts)
            for items in (questions.harmful_items, questions.benign_items)
        )
        log_odds = _refusal_log_odds(model, questions)
        losses = torch.cat(_batched(model, questions.task_items, response_losses))
        kl = _kl(model, questions, reference)
    harmful, benign, task = questions.harmful, questions.benign, questions.task
    judged_harmful = _judged(harmful, said_harmful, questions.judge)
    judged_benign = _judged(benign, said_benign, questions.judge)
    tokens = np.array([response_tokens(item) for item in questions.task_items], dtype=float)
    task_loss = estimate_by_cluster(losses.double().numpy(), task.clusters, tokens)
    scores = Scores(
        harmfulness=_rate(judged_harmful, "comply", harmful.clusters),
        broken=_rate(judged_harmful, "broken", harmful.clusters),
        refusal_log_odds=estimate_by_cluster(log_odds, harmful.clusters),
        over_refusal=_rate(judged_benign, "refuse", benign.clusters),
        task_loss=task_loss,
        perplexity=_exponential(task_loss),
        kl=kl,
    )
    items = (*questions.harmful_items, *questions.benign_items)
    written = [said.tokens for said in (*said_harmful, *said_benign)]
    return Evaluation(scores, judged_harmful, judged_benign, dict(zip(items, written, strict=True)))


def check_sets(model: HookedModel, harmful: ProbeSet, benign: ProbeSet, task: ProbeSet) -> None:
    """Raise what would stop an evaluation with KL, without running the model.

    Raises:
        ProbeError: If a set is empty, a prompt does not fit, or a response is missing.
    """
    check_not_empty(harmful, benign, task)
    for prompt in harmful.prompts:
        encode(model, prompt)
    for probes in (benign, task):
        with_responses(model, probes)


def estimate_by_cluster(
    values: Float[np.ndarray, " prompt"],
    clusters: Sequence[str],
    weights: Float[np.ndarray, " prompt"] | None = None,
) -> Estimate:
    """Return Σ values / Σ weights with a 95 % interval from resampling whole clusters.

    Where every unweighted value is 0, or every one is 1, resampling would claim certainty; the
    interval is then the exact binomial one for as many trials as there are clusters. With one
    cluster there is otherwise nothing to resample, and the interval is undefined (NaN).
    """
    total = np.ones(len(values)) if weights is None else weights
    names, members = np.unique(np.array(clusters, dtype=object).astype(str), return_inverse=True)
    sums = np.bincount(members, values, len(names))
    counts = np.bincount(members, total, len(names))
    value = float(sums.sum() / counts.sum())
    bound = 0.025 ** (1 / len(names))
    if weights is None and not values.any():
        return Estimate(value, 0.0, 1 - bound, len(values))
    if weights is None and (values == 1).all():
        return Estimate(value, bound, 1.0, len(values))
    if len(names) == 1:
        return Estimate(value, math.nan, math.nan, len(values))
    picks = np.random.default_rng(0).integers(len(names), size=(N_RESAMPLES, len(names)))
    resampled = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(value, float(low), float(high), len(values))


def _answered(
    model: HookedModel,
    items: Sequence[Encoded],
    questions: Questions,
    drafts: Mapping[Encoded, Sequence[int]] | None,
) -> list[Answer]:
    known = None if drafts is None else [drafts.get(item, ()) for item in items]
    return answer_encoded(model, items, max_new_tokens=questions.max_new_tokens, drafts=known)


def _judged(probes: ProbeSet, answers: Sequence[Answer], judge: Judge) -> Judged:
    return tuple(
        (prompt, said.text, judge.classify(prompt, said.text))
        for prompt, said in zip(probes.prompts, answers, strict=True)
    )


def _rate(answers: Judged, verdict: Verdict, clusters: Sequence[str]) -> Estimate:
    hits = np.array([float(said == verdict) for _, _, said in answers])
    return estimate_by_cluster(hits, clusters)


def _refusal_log_odds(model: HookedModel, questions: Questions) -> Float[np.ndarray, " prompt"]:
    """Log-odds, per prompt, of the answer opening with any of the judge's refusal openers."""
    losses = continuation_losses(model, questions.opened_items).double()
    log_p = torch.logsumexp(-losses.view(-1, len(questions.harmful)), dim=0)
    # The openers exclude each other, so only rounding can lift their sum to 1.
    log_p = log_p.clamp(max=-1e-9)
    return (log_p - torch.log(-torch.expm1(log_p))).numpy()


def _kl(model: HookedModel, questions: Questions, reference: Reference | None) -> Estimate:
    if reference is None:
        return Estimate(math.nan, math.nan, math.nan, 0)
    now = torch.cat(_batched(model, questions.kl_items, _log_probs))
    if now.shape != reference.log_probs.shape:
        raise ProbeError("The KL reference was read on other benign prompts; read it again.")
    aligned = reference.log_probs
    per_token = (aligned.exp() * (aligned - now)).sum(dim=-1).double().numpy()
    tokens = np.array([response_tokens(item) for item in questions.kl_items])
    values = np.add.reduceat(per_token, np.cumsum(tokens) - tokens)
    return estimate_by_cluster(values, questions.benign.clusters, tokens.astype(float))


def _exponential(loss: Estimate) -> Estimate:
    with np.errstate(over="ignore"):  # of a diverged model it is infinite
        return Estimate(*(float(np.exp(x)) for x in (loss.value, loss.low, loss.high)), n=loss.n)


def _log_probs(model: HookedModel, items: Sequence[Encoded]) -> Tensor:
    return response_logits(model, items).log_softmax(dim=-1).cpu()


def _batched(
    model: HookedModel,
    items: Sequence[Encoded],
    function: Callable[[Any, Sequence[Encoded]], Tensor],
) -> list[Tensor]:
    """Apply `function` to batches of items in order, without gradients or dropout."""
    with evaluation_mode(model):
        return [
            function(model, items[start : start + EXAMPLES_PER_BATCH]).cpu()
            for start in range(0, len(items), EXAMPLES_PER_BATCH)
        ]
