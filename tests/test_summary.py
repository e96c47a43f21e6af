"""The summary says what the run folders say, recomputed here by hand from what was planted."""

import json
import shutil
import statistics
from collections import Counter

import numpy as np
import pytest
from planted_experiment import (
    ARMS,
    EVALUATED,
    STEPS,
    build_experiment,
    planted_alignment,
    planted_scores,
)
from scipy import stats

from workbench import archive
from workbench.errors import RunError
from workbench.paper import QUANTITIES
from workbench.summary import summarise

SEEDS = (0, 1, 2)
LINE = ("ordinary", "block", "push")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_experiment(tmp_path_factory.mktemp("experiment") / "one")


@pytest.fixture(scope="module")
def summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment") / "small"
    return build_experiment(folder, arms=LINE, seeds=(0, 1))


@pytest.fixture
def own(small, tmp_path):
    """A small experiment to change."""
    return shutil.copytree(small, tmp_path / "own")


def change_plan(folder, **changes):
    path = folder / "experiment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_records(folder, run_id, change):
    """Rewrite every record of a run."""
    path = folder / "runs" / run_id / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        change(line)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def mean_alignment(arm, seed):
    return np.nanmean(planted_alignment(arm, seed), axis=1)


def last_scores(arm):
    return [planted_scores(arm, seed, 100) for seed in SEEDS]


@pytest.mark.parametrize("arm", ARMS)
def test_alignments_are_means_over_defined_layers_then_over_seeds(summary, arm):
    found = summary["arms"][arm]["alignment"]
    assert list(found) == [str(step) for step in STEPS]
    for index, step in enumerate(STEPS):
        values = [mean_alignment(arm, seed)[index] for seed in SEEDS]
        assert found[str(step)]["per_seed"] == pytest.approx(values)
        assert found[str(step)]["mean"] == pytest.approx(statistics.fmean(values))
        assert found[str(step)]["sd"] == pytest.approx(statistics.stdev(values))


def test_alignments_by_layer_keep_undefined_ones_as_null(summary):
    for index, step in enumerate(STEPS):
        found = summary["arms"]["push"]["alignment_by_layer"][str(step)]
        for seed in SEEDS:
            expected = planted_alignment("push", seed)[index]
            np.testing.assert_allclose(np.array(found[seed], dtype=float), expected)


@pytest.mark.parametrize("name", ["harmfulness", "task_loss", "kl"])
def test_scores_are_summed_up_per_evaluated_step_with_their_intervals(summary, name):
    for step in EVALUATED:
        found = summary["arms"]["block"][name][str(step)]
        scores = [planted_scores("block", seed, step)[name] for seed in SEEDS]
        assert found["per_seed"] == pytest.approx([score.value for score in scores])
        for interval, score in zip(found["intervals"], scores, strict=True):
            assert interval == pytest.approx([score.low, score.high])


def test_the_sibling_alignment_is_the_cosine_with_the_siblings_direction(summary):
    # Planted: drift has this cosine with axis 0, the sibling's direction has 0.95 of it.
    for index, step in enumerate(STEPS):
        values = [0.95 * mean_alignment("ordinary", seed)[index] for seed in SEEDS]
        found = summary["arms"]["ordinary"]["alignment_sibling"][str(step)]["per_seed"]
        assert found == pytest.approx(values, abs=1e-6)


def test_without_a_sibling_there_is_no_sibling_alignment(tmp_path):
    folder = build_experiment(tmp_path / "one", arms=("ordinary",), seeds=(0,), sibling=False)
    summary = json.loads((folder / "summary.json").read_text())
    assert "alignment_sibling" not in summary["arms"]["ordinary"]


def test_task_cost_is_the_share_of_the_ordinary_gain_that_an_arm_loses(summary):
    for arm in ARMS:
        costs = [
            (mine.task_loss.value - usual.task_loss.value) / (4.7 - usual.task_loss.value)
            for mine, usual in zip(last_scores(arm), last_scores("ordinary"), strict=True)
        ]
        assert summary["arms"][arm]["task_cost"]["per_seed"] == pytest.approx(costs)
    assert summary["arms"]["ordinary"]["task_cost"]["mean"] == 0
    assert summary["arms"]["block"]["task_cost"]["mean"] > 0.02  # planted: 0.25 of 3.6 nats


def test_a_task_that_ordinary_fine_tuning_did_not_learn_has_no_cost(own):
    def swap(line):
        if "scores" in line:
            line["scores"]["task_loss"]["value"] = 1.0 + line["step"] / 100

    for arm in LINE:
        change_records(own, f"l0-{arm}-0", swap)
    costs = summarise(own)["arms"]["block"]["task_cost"]
    assert costs["per_seed"][0] is None
    assert costs["per_seed"][1] is not None


def test_nulls_count_the_defined_pairs_of_the_ordinary_arm_above_each_p99(summary):
    layers = np.concatenate([planted_alignment("ordinary", seed) for seed in SEEDS])
    means = np.nanmean(layers, axis=1)
    for name, p99 in (("isotropic", 0.12), ("matched", 0.3)):
        found = summary["nulls"][name]
        assert (found["pairs"], found["above_p99"]) == (len(means), (means > p99).sum())
        assert found["layer_pairs"] == np.isfinite(layers).sum()
        assert found["layer_above_p99"] == (layers > p99).sum()
        assert found["aggregate_p99"] == [p99] * len(SEEDS)
    assert 0 < summary["nulls"]["matched"]["above_p99"] < len(means)


def test_the_ordering_counts_the_seeds_in_which_it_holds(summary, own):
    told = {"holds": 3, "n": 3, "lineages_hold": 1, "lineages": 1, "p": None}  # one: no test
    assert summary["ordering"] == {name: told for name in ("alignment", "harmfulness")}

    def swap(line):
        if "scores" in line:
            line["scores"]["harmfulness"]["value"] = 1.0

    change_records(own, "l0-ordinary-1", swap)
    found = summarise(own)["ordering"]
    assert (found["alignment"]["holds"], found["harmfulness"]["holds"]) == (2, 1)


def test_without_all_three_arms_there_is_no_ordering(tmp_path):
    folder = build_experiment(tmp_path / "one", arms=("ordinary", "block"), seeds=(0,))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["ordering"] is None
    told = {row["quantity"]: row["ours"] for row in summary["paper"]}
    assert told["block < ordinary < push, in alignment and harmfulness"] == "not run"


def test_spearman_is_the_rank_correlation_over_all_runs(summary):
    alignment = [mean_alignment(arm, seed)[-1] for arm in ARMS for seed in SEEDS]
    harm = [scores.harmfulness.value for arm in ARMS for scores in last_scores(arm)]
    found = summary["spearman"]
    assert found["n"] == 15
    assert found["r"] == pytest.approx(stats.spearmanr(alignment, harm).statistic)
    low, high = found["interval"]
    assert -1 <= low <= found["r"] <= high <= 1
    assert low > 0.5  # planted: harmfulness follows alignment
    assert "seeds" in found["note"]


def test_spearman_of_harmfulness_that_never_varies_is_undefined(own):
    def flatten(line):
        if "scores" in line:
            line["scores"]["harmfulness"]["value"] = 0.0

    for arm in LINE:
        for seed in (0, 1):
            change_records(own, f"l0-{arm}-{seed}", flatten)
    found = summarise(own)["spearman"]
    assert (found["r"], found["interval"]) == (None, [None, None])


def test_the_paper_stands_beside_our_numbers(summary):
    assert [row["quantity"] for row in summary["paper"]] == [one.name for one in QUANTITIES]
    told = {row["quantity"]: (row["paper"], row["ours"]) for row in summary["paper"]}
    first = summary["arms"]["ordinary"]["alignment"]["1"]
    ours = f"{first['mean']:.3f} ± {first['sd']:.3f}"
    assert told["cos(drift, v_rev) after the first update"] == ("0.429 ± 0.052", ours)
    above = summary["nulls"]["isotropic"]
    assert told["run-step pairs above the p99 of the isotropic null"][1] == (
        f"{above['above_p99']} of {above['pairs']}"
    )
    blocked = told["cos at the last step, ordinary → v_rev blocked"][1]
    assert blocked.split(" → ")[1].startswith("−0.")
    assert told["harmfulness at the last step, ordinary → blocked"][1].count(" % ± ") == 2
    assert "3 of 3" in told["block < ordinary < push, in alignment and harmfulness"][1]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The summary of two lineages with two seeds each."""
    folder = tmp_path_factory.mktemp("experiment") / "two"
    build_experiment(folder, arms=LINE, lineages=("a", "b"), seeds=(0, 1))
    return json.loads((folder / "summary.json").read_text())


def test_seeds_of_several_lineages_stand_side_by_side(two):
    expected = [mean_alignment("ordinary", seed + 10 * n)[-1] for n in (0, 1) for seed in (0, 1)]
    assert two["arms"]["ordinary"]["alignment"]["100"]["per_seed"] == pytest.approx(expected)


def test_the_ordering_is_tested_over_lineages(two):
    for told in two["ordering"].values():
        assert (told["holds"], told["n"]) == (4, 4)
        assert (told["lineages_hold"], told["lineages"]) == (2, 2)
        assert told["p"] == pytest.approx(1 / 36)


def test_with_several_lineages_spearman_is_resampled_by_lineage(two):
    at_end = {
        name: np.array([two["arms"][arm][name]["100"]["per_seed"] for arm in LINE])
        for name in ("alignment", "harmfulness")
    }
    # Four equally likely draws of two lineages out of two: their quantiles are the extremes.
    draws = [
        stats.spearmanr(*(values[:, columns].ravel() for values in at_end.values())).statistic
        for columns in ([0, 1, 0, 1], [0, 1, 2, 3], [2, 3, 2, 3])
    ]
    assert two["spearman"]["interval"] == pytest.approx([min(draws), max(draws)])
    assert "lineages" in two["spearman"]["note"]
    for row, arm in enumerate(LINE):
        within = stats.spearmanr(*(values[row] for values in at_end.values())).statistic
        assert two["spearman"]["within_arms"][arm] == pytest.approx(within)


def test_summing_up_again_gives_the_same_bytes(folder):
    before = (folder / "summary.json").read_bytes()
    (folder / "summary.json").unlink()
    summarise(folder)
    assert (folder / "summary.json").read_bytes() == before


def test_summing_up_reads_each_run_a_few_times_however_many_statistics_there_are(own, monkeypatch):
    reads, read = [], archive.Run.info.fget
    monkeypatch.setattr(
        archive.Run, "info", property(lambda run: reads.append(run.id) or read(run))
    )
    summarise(own)
    assert max(Counter(reads).values()) <= 4


def test_an_unfinished_run_is_named_and_nothing_is_written(own):
    path = own / "runs/l0-block-1/run.json"
    path.write_text(path.read_text().replace('"done"', '"running"'))
    (own / "summary.json").unlink()
    with pytest.raises(RunError, match=r"l0-block-1 is not finished; continue with --resume"):
        summarise(own)
    assert not (own / "summary.json").exists()


def test_a_folder_that_holds_no_experiment_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"no finished experiment here"):
        summarise(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "schema is 2, not 1, which this version reads"),
        ({"runs": ["../../one"]}, "is not a name for a run"),
        ({"runs": ["none"]}, "no run here"),
        ({"measured_steps": [1, 2]}, "measured at other steps"),
        ({"arms": []}, "of arm 'ordinary', which experiment.json lacks"),
    ],
)
def test_a_plan_that_does_not_fit_the_runs_is_refused(own, changes, message):
    change_plan(own, **changes)
    with pytest.raises(RunError, match=message):
        summarise(own)


@pytest.mark.parametrize("name", ["experiment.json", "lineages/l0/nulls.json"])
def test_a_damaged_file_is_named(own, name):
    (own / name).write_text('{"half": ')
    with pytest.raises(RunError, match=f"{name}: cannot be read"):
        summarise(own)


def test_a_stored_file_without_a_key_is_told_in_one_line(own):
    plan = json.loads((own / "experiment.json").read_text())
    del plan["measured_steps"]
    (own / "experiment.json").write_text(json.dumps(plan))
    with pytest.raises(RunError, match=r"measured_steps is missing"):
        summarise(own)


def test_a_null_without_its_h0_is_told_in_one_line(own):
    (own / "lineages/l0/nulls.json").write_text('{"matched": {}}')
    with pytest.raises(RunError, match="a stored file lacks 'h0'; it is damaged"):
        summarise(own)
