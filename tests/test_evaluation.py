"""Scores are what their definitions say, computed the slow way; intervals cover clusters."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional

from workbench.encoding import encode
from workbench.errors import ProbeError
from workbench.evaluation import (
    ask,
    check_sets,
    estimate_by_cluster,
    evaluate,
    read_reference,
)
from workbench.judges import Judge
from workbench.probes import Probe, ProbeSet
from workbench.questions import KL_TOKENS, Questions

OPENERS = ("bako", "bako belu", "gina domi fura")
"""Words of the planted vocabulary; the naive sums below do not care that one begins another."""


@pytest.fixture(scope="module")
def harmful(sentence):
    return ProbeSet(tuple(Probe(sentence(n), cluster=f"c{n // 3}") for n in range(8)))


@pytest.fixture(scope="module")
def benign(sentence):
    return ProbeSet(
        tuple(
            Probe(sentence(50 + n), "benign", f"b{n // 2}", sentence(90 + n, words=3 + 3 * n))
            for n in range(5)
        )
    )


@pytest.fixture
def shifted(make_model):
    """Another model of the same architecture."""
    return make_model(seed=3)


def judge_of(verdicts):
    """A judge that gives each prompt its planted verdict."""
    return Judge("planted", lambda prompt, answer: verdicts[prompt], OPENERS)  # noqa: ARG005


@pytest.fixture
def verdicts(harmful, benign):
    told = ["comply", "refuse", "broken", "refuse", "comply", "comply", "refuse", "refuse"]
    return dict(zip(harmful.prompts, told, strict=True)) | dict(
        zip(benign.prompts, ["refuse", *["comply"] * 4], strict=True)
    )


@torch.no_grad()
def log_probs_of(model, probe, response):
    """One prompt, no padding: log-probabilities [token vocab] and the response's tokens."""
    item = encode(model, probe.prompt, response)
    logits = model.hf(input_ids=torch.tensor([item.ids])).logits[0].double()
    predicted = logits.log_softmax(-1)[item.prompt_length - 1 : -1]
    return predicted, torch.tensor(item.ids[item.prompt_length :])


def test_rates_are_the_shares_of_each_verdict(model, harmful, benign, verdicts):
    scores = evaluate(model, harmful, benign, judge=judge_of(verdicts), max_new_tokens=2)
    assert scores.harmfulness.value == pytest.approx(3 / 8)
    assert scores.broken.value == pytest.approx(1 / 8)
    assert scores.over_refusal.value == pytest.approx(1 / 5)
    assert (scores.harmfulness.n, scores.over_refusal.n) == (8, 5)


def test_the_answers_behind_the_rates_are_kept(model, harmful, benign, verdicts):
    questions = Questions.of(model, harmful, benign, judge=judge_of(verdicts), max_new_tokens=2)
    found = ask(model, questions)
    assert [prompt for prompt, _, _ in found.harmful_answers] == list(harmful.prompts)
    assert {prompt: verdict for prompt, _, verdict in found.benign_answers} == {
        prompt: verdicts[prompt] for prompt in benign.prompts
    }


def naive_interval(values, clusters, weights):
    """Resample whole clusters by hand, with other random numbers."""
    rng, members = random.Random(7), {}
    for row in zip(values, clusters, weights, strict=True):
        members.setdefault(row[1], []).append(row)
    draws = []
    for _ in range(4000):
        rows = [
            row for name in rng.choices(sorted(members), k=len(members)) for row in members[name]
        ]
        draws.append(sum(row[0] for row in rows) / sum(row[2] for row in rows))
    return np.quantile(draws, [0.025, 0.975])


@pytest.mark.parametrize("weighted", [False, True])
def test_intervals_agree_with_resampling_clusters_by_hand(weighted):
    rng = np.random.default_rng(2)
    clusters = [f"c{n}" for n in rng.integers(12, size=60)]
    weights = rng.integers(1, 9, size=60).astype(float) if weighted else None
    values = rng.random(60) * (1.0 if weights is None else weights)
    estimate = estimate_by_cluster(values, clusters, weights)
    low, high = naive_interval(values, clusters, np.ones(60) if weights is None else weights)
    width = high - low
    assert estimate.value == pytest.approx(
        values.sum() / (60 if weights is None else weights.sum())
    )
    assert estimate.low == pytest.approx(low, abs=0.1 * width)
    assert estimate.high == pytest.approx(high, abs=0.1 * width)


def test_near_duplicates_do_not_narrow_the_interval():
    values, names = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 0.0]), list("abcdef")
    once = estimate_by_cluster(values, names)
    tenfold = estimate_by_cluster(np.repeat(values, 10), list(np.repeat(names, 10)))
    assert (tenfold.low, tenfold.high) == (once.low, once.high)
    unclustered = estimate_by_cluster(np.repeat(values, 10), [str(n) for n in range(60)])
    assert unclustered.high - unclustered.low < 0.6 * (once.high - once.low)


@pytest.mark.parametrize("hits", [0, 1])
def test_all_or_none_has_the_exact_binomial_interval_of_its_clusters(hits):
    values, clusters = np.full(20, float(hits)), [f"c{n // 2}" for n in range(20)]
    estimate = estimate_by_cluster(values, clusters)
    exact = stats.binomtest(10 * hits, 10).proportion_ci(method="exact")
    assert estimate.value == hits
    assert (estimate.low, estimate.high) == pytest.approx((exact.low, exact.high))


def test_one_cluster_has_no_interval_from_resampling():
    estimate = estimate_by_cluster(np.array([0.0, 1.0]), ["a", "a"])
    assert estimate.value == 0.5
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)


def test_refusal_log_odds_are_those_of_the_openers_as_sequences(model, harmful, benign, verdicts):
    scores = evaluate(model, harmful, benign, judge=judge_of(verdicts), max_new_tokens=1)
    log_odds = []
    for probe in harmful.probes:
        total = 0.0
        for opener in OPENERS:
            predicted, tokens = log_probs_of(model, probe, opener)
            words = len(opener.split())
            total += math.exp(predicted[range(words), tokens[:words]].sum())
        log_odds.append(math.log(total / (1 - total)))
    assert scores.refusal_log_odds.value == pytest.approx(np.mean(log_odds), rel=1e-4)
    assert (
        scores.refusal_log_odds.low < scores.refusal_log_odds.value < scores.refusal_log_odds.high
    )


def test_every_opener_is_read_whole_after_a_prompt_that_is_cut(make_model, benign):
    model = make_model()
    model.overflow = "truncate"
    probes = ProbeSet.from_prompts(["bako " * 80, "bako " * 58, "bako"])
    judge = replace(judge_of({}), refusal_openers=("delu fina gomi", "fina"))
    with pytest.warns(UserWarning, match="were cut"):
        read = Questions.of(model, probes, benign, judge=judge).opened_items
    assert [len(item.ids) - item.prompt_length for item in read] == [3, 3, 3, 1, 1, 1]
    assert max(len(item.ids) for item in read) <= 64


def test_task_loss_is_the_loss_of_hugging_face_per_response_token(model, harmful, benign, verdicts):
    scores = evaluate(model, harmful, benign, judge=judge_of(verdicts), max_new_tokens=1)
    total = tokens = 0
    for probe in benign.probes:
        item = encode(model, probe.prompt, probe.response)
        labels = torch.tensor([item.ids])
        labels[:, : item.prompt_length] = -100
        count = len(item.ids) - item.prompt_length
        with torch.no_grad():
            loss = model.hf(input_ids=torch.tensor([item.ids]), labels=labels).loss
        total, tokens = total + loss.item() * count, tokens + count
    assert scores.task_loss.value == pytest.approx(total / tokens, rel=1e-5)
    assert scores.perplexity.value == pytest.approx(math.exp(total / tokens), rel=1e-4)
    assert scores.perplexity.high == pytest.approx(math.exp(scores.task_loss.high))


def test_the_task_may_be_other_prompts_than_the_benign_ones(model, harmful, benign, verdicts):
    task = ProbeSet(benign.probes[:2])
    judge = judge_of(verdicts)
    scores = evaluate(model, harmful, benign, task=task, judge=judge, max_new_tokens=1)
    again = evaluate(model, harmful, task, judge=judge, max_new_tokens=1)
    assert scores.task_loss == again.task_loss
    assert scores.over_refusal.n == 5


def test_kl_from_the_model_to_itself_is_zero_for_certain(model, harmful, benign, verdicts):
    reference = read_reference(model, benign)
    kl = evaluate(
        model, harmful, benign, judge=judge_of(verdicts), reference=reference, max_new_tokens=1
    ).kl
    assert (kl.value, kl.low, kl.high, kl.n) == (0.0, 0.0, 0.0, 5)


def test_kl_to_another_model_is_the_sum_over_the_vocabulary(
    model, shifted, harmful, benign, verdicts
):
    reference = read_reference(model, benign)
    kl = evaluate(
        shifted, harmful, benign, judge=judge_of(verdicts), reference=reference, max_new_tokens=1
    ).kl
    total = tokens = 0
    for probe in benign.probes:
        aligned, _ = log_probs_of(model, probe, probe.response)
        now, _ = log_probs_of(shifted, probe, probe.response)
        rows = slice(KL_TOKENS)
        total += functional.kl_div(now[rows], aligned[rows], reduction="sum", log_target=True)
        tokens += len(aligned[rows])
    assert max(len(log_probs_of(model, p, p.response)[0]) for p in benign.probes) > KL_TOKENS
    assert kl.value == pytest.approx(float(total / tokens), rel=1e-4)
    assert kl.value > 0.1


def test_without_a_reference_kl_is_undefined(model, harmful, benign, verdicts):
    kl = evaluate(model, harmful, benign, judge=judge_of(verdicts), max_new_tokens=1).kl
    assert math.isnan(kl.value)
    assert kl.n == 0


def test_a_reference_of_other_prompts_is_refused(model, harmful, benign, verdicts):
    reference = read_reference(model, ProbeSet(benign.probes[:2]))
    with pytest.raises(ProbeError, match="other benign prompts"):
        evaluate(model, harmful, benign, judge=judge_of(verdicts), reference=reference)


def test_an_edit_that_is_open_on_the_model_changes_answers_and_losses(
    model, harmful, benign, verdicts
):
    shift = 30 * torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(3))

    questions = Questions.of(model, harmful, benign, judge=judge_of(verdicts), max_new_tokens=4)

    def measured():
        found = ask(model, questions)
        said = [answer for _, answer, _ in found.harmful_answers]
        return said, found.scores.task_loss.value, found.scores.refusal_log_odds.value

    def steer(resid, hook):  # noqa: ARG001
        return resid + shift

    plain = measured()
    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", steer)]):
        edited = measured()
    assert all(one != other for one, other in zip(plain, edited, strict=True))
    assert measured() == plain


def test_missing_responses_and_empty_sets_are_refused(model, harmful, benign, verdicts):
    judge = judge_of(verdicts)
    with pytest.raises(ProbeError, match="add 'response'"):
        evaluate(model, harmful, benign, task=harmful, judge=judge, max_new_tokens=1)
    for sets in ((ProbeSet(()), benign), (harmful, ProbeSet(()))):
        with pytest.raises(ProbeError, match="at least one"):
            evaluate(model, *sets, judge=judge)


def test_what_would_stop_an_evaluation_is_found_without_running_the_model(
    model, harmful, benign, sentence, monkeypatch
):
    monkeypatch.setattr(model.hf, "forward", None)
    check_sets(model, harmful, benign, benign)
    too_long = ProbeSet((Probe(sentence(1, words=80), response="bako"),))
    for sets in (
        (too_long, benign, benign),
        (harmful, too_long, benign),
        (harmful, benign, too_long),
    ):
        with pytest.raises(ProbeError, match="the model reads 64"):
            check_sets(model, *sets)
    with pytest.raises(ProbeError, match="add 'response'"):
        check_sets(model, harmful, harmful, benign)
