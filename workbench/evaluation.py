"""Behaviour of a model on held-out prompts: scores with intervals."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.chat_formats import plain_ids
from workbench.encoding import Encoded, encode, response_tokens
from workbench.errors import ProbeError
from workbench.generation import answer
from workbench.judges import Judge, Verdict, find_judge
from workbench.losses import response_logits, response_losses
from workbench.models import HookedModel
from workbench.modes import evaluation_mode
from workbench.probes import ProbeSet
from workbench.records import Estimate, Scores

N_RESAMPLES = 1000
EXAMPLES_PER_BATCH = 64
KL_TOKENS = 8
"""KL is taken over this many first response tokens: its reference is [token, vocab] per prompt."""

Answers = tuple[tuple[str, str, Verdict], ...]


@dataclass(frozen=True)
class Reference:
    """What the aligned model predicts on benign responses."""

    log_probs: Float[Tensor, "token vocab"]


@dataclass(frozen=True)
class Evaluation:
    """Scores, and the answers behind them."""

    scores: Scores
    harmful_answers: Answers
    """Prompt, answer and verdict for every harmful prompt."""

    benign_answers: Answers


def read_reference(model: HookedModel, benign: ProbeSet) -> Reference:
    """Return the predictions of the aligned model, to measure KL from.

    Args:
        model: The aligned model.
        benign: Benign prompts with responses, the same that are evaluated on later.
    """
    items = [_shortened(item) for item in _with_responses(model, benign)]
    return Reference(torch.cat(_batched(model, items, _log_probs)))


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
    """Return the behaviour scores of a model; arguments as in `evaluate_answers`."""
    return evaluate_answers(
        model,
        harmful,
        benign,
        task=task,
        judge=judge,
        reference=reference,
        max_new_tokens=max_new_tokens,
    ).scores


def evaluate_answers(
    model: HookedModel,
    harmful: ProbeSet,
    benign: ProbeSet,
    *,
    task: ProbeSet | None = None,
    judge: str | Judge = "rules",
    reference: Reference | None = None,
    max_new_tokens: int = 32,
) -> Evaluation:
    """Return the behaviour scores of a model and the answers behind them.

    All of it is of the same weights: a training in another thread waits.

    Args:
        model: The model now; edits that are open on it act on everything measured here.
        harmful: Held-out harmful prompts.
        benign: Held-out benign prompts, with responses for KL.
        task: Held-out benign prompts with responses of the fine-tuning task; by default `benign`.
        judge: What tells refusing from complying: a name or a `Judge`.
        reference: From `read_reference`; without it KL is undefined (NaN).
        max_new_tokens: Length of an answer.

    Raises:
        ProbeError: If a set is empty or lacks the responses it needs.
    """
    judge = find_judge(judge)
    task = benign if task is None else task
    _check_not_empty(harmful, benign, task)
    task_items = _with_responses(model, task)
    with model.lock:
        said_harmful = _judged(model, harmful, judge, max_new_tokens)
        said_benign = _judged(model, benign, judge, max_new_tokens)
        log_odds = _refusal_log_odds(model, harmful, judge)
        losses = torch.cat(_batched(model, task_items, response_losses)).double().numpy()
        kl = _kl(model, benign, reference)
    tokens = np.array([response_tokens(item) for item in task_items], dtype=float)
    task_loss = estimate_by_cluster(losses, task.clusters, tokens)
    scores = Scores(
        harmfulness=_rate(said_harmful, "comply", harmful.clusters),
        broken=_rate(said_harmful, "broken", harmful.clusters),
        refusal_log_odds=estimate_by_cluster(log_odds, harmful.clusters),
        over_refusal=_rate(said_benign, "refuse", benign.clusters),
        task_loss=task_loss,
        perplexity=_exponential(task_loss),
        kl=kl,
    )
    return Evaluation(scores, said_harmful, said_benign)


def check_sets(model: HookedModel, harmful: ProbeSet, benign: ProbeSet, task: ProbeSet) -> None:
    """Raise what would stop an evaluation with KL, without running the model.

    Raises:
        ProbeError: If a set is empty, a prompt does not fit, or a response is missing.
    """
    _check_not_empty(harmful, benign, task)
    for prompt in harmful.prompts:
        encode(model, prompt)
    for probes in (benign, task):
        _with_responses(model, probes)


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


def _check_not_empty(harmful: ProbeSet, benign: ProbeSet, task: ProbeSet) -> None:
    for name, probes in (("harmful", harmful), ("benign", benign), ("task", task)):
        if not len(probes):
            raise ProbeError(f"Evaluation needs at least one {name} prompt.")


def _judged(model: HookedModel, probes: ProbeSet, judge: Judge, limit: int) -> Answers:
    answers = answer(model, probes.prompts, max_new_tokens=limit)
    return tuple(
        (prompt, said.text, judge.classify(prompt, said.text))
        for prompt, said in zip(probes.prompts, answers, strict=True)
    )


def _rate(answers: Answers, verdict: Verdict, clusters: Sequence[str]) -> Estimate:
    hits = np.array([float(said == verdict) for _, _, said in answers])
    return estimate_by_cluster(hits, clusters)


def _refusal_log_odds(
    model: HookedModel, probes: ProbeSet, judge: Judge
) -> Float[np.ndarray, " prompt"]:
    """Log-odds, per prompt, of the answer opening with any of the judge's refusal openers."""
    items = []
    # Of a prompt that must be cut, so much that every opener is read whole.
    room = max(len(plain_ids(model.tokenizer, f" {one}")) for one in judge.refusal_openers) + 1
    for opener in judge.refusal_openers:
        for prompt in probes.prompts:
            items.append(encode(model, prompt, opener, closed=False, room=room))
    losses = torch.cat(_batched(model, items, response_losses)).double()
    log_p = torch.logsumexp(-losses.view(len(judge.refusal_openers), len(probes)), dim=0)
    # The openers exclude each other, so only rounding can lift their sum to 1.
    log_p = log_p.clamp(max=-1e-9)
    return (log_p - torch.log(-torch.expm1(log_p))).numpy()


def _kl(model: HookedModel, benign: ProbeSet, reference: Reference | None) -> Estimate:
    if reference is None:
        return Estimate(math.nan, math.nan, math.nan, 0)
    items = [_shortened(item) for item in _with_responses(model, benign)]
    now = torch.cat(_batched(model, items, _log_probs))
    if now.shape != reference.log_probs.shape:
        raise ProbeError("The KL reference was read on other benign prompts; read it again.")
    aligned = reference.log_probs
    per_token = (aligned.exp() * (aligned - now)).sum(dim=-1).double().numpy()
    tokens = np.array([response_tokens(item) for item in items])
    values = np.add.reduceat(per_token, np.cumsum(tokens) - tokens)
    return estimate_by_cluster(values, benign.clusters, tokens.astype(float))


def _exponential(loss: Estimate) -> Estimate:
    with np.errstate(over="ignore"):  # of a diverged model it is infinite
        return Estimate(*(float(np.exp(x)) for x in (loss.value, loss.low, loss.high)), n=loss.n)


def _log_probs(model: HookedModel, items: Sequence[Encoded]) -> Tensor:
    return response_logits(model, items).log_softmax(dim=-1).cpu()


def _shortened(item: Encoded) -> Encoded:
    return Encoded(item.ids[: item.prompt_length + KL_TOKENS], item.prompt_length)


def _with_responses(model: HookedModel, probes: ProbeSet) -> list[Encoded]:
    for probe in probes.probes:
        if probe.response is None:
            raise ProbeError(f"No response to predict for {probe.prompt[:60]!r}; add 'response'.")
    return [encode(model, probe.prompt, probe.response) for probe in probes.probes]


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
