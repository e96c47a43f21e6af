"""Means over runs carry sd, n and an interval over the right units; tests are the textbook's."""

import math
import statistics

import numpy as np
import pytest
from scipy import stats

from workbench.statistic import rank_correlation, resampled_correlation, sign_test, statistic


def test_undefined_values_are_left_out_and_the_others_counted():
    found = statistic([1.0, None, 3.0, math.nan])
    assert (found["mean"], found["sd"], found["n"]) == (2.0, statistics.stdev([1.0, 3.0]), 2)
    assert found["per_seed"] == [1.0, None, 3.0, None]


@pytest.mark.parametrize(("values", "mean"), [([1.0], 1.0), ([None], None), ([], None)])
def test_less_than_two_values_have_neither_sd_nor_interval(values, mean):
    found = statistic(values)
    assert (found["mean"], found["sd"], found["interval"]) == (mean, None, [None, None])


def test_the_interval_is_students_over_seeds_of_one_lineage():
    values = [0.2, 0.5, 0.3, 0.9]
    found = statistic(values, ["a"] * 4)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found["interval"] == pytest.approx([expected.low, expected.high])
    assert found["interval_over"] == "seeds"


def test_with_several_lineages_it_is_over_their_means():
    values, lineages = [0.0, 0.2, 1.0, 1.2, None, 0.5], ["a", "a", "b", "b", "c", "c"]
    found = statistic(values, lineages)
    expected = stats.ttest_1samp([0.1, 1.1, 0.5], 0).confidence_interval(0.95)
    assert found["interval"] == pytest.approx([expected.low, expected.high])
    assert (found["interval_over"], found["n"]) == ("lineages", 5)
    assert found["mean"] == pytest.approx(np.mean([0.1, 1.1, 0.5]))  # the interval's middle
    over_seeds = statistic([0.0, 0.2, 1.0, 1.2, 0.5])["interval"]
    assert found["interval"][1] - found["interval"][0] > over_seeds[1] - over_seeds[0]


def test_a_lineage_without_a_defined_value_is_no_unit():
    found = statistic([1.0, 1.0, 3.0, None], ["a", "a", "b", "c"])
    expected = stats.ttest_1samp([1.0, 3.0], 0).confidence_interval(0.95)
    assert found["interval"] == pytest.approx([expected.low, expected.high])


def test_the_interval_covers_the_true_mean_in_95_of_100_worlds():
    draws = np.random.default_rng(3).normal(0.3, 0.1, (1000, 5))
    covered = [
        low <= 0.3 <= high for low, high in (statistic(row.tolist())["interval"] for row in draws)
    ]
    assert 0.93 < np.mean(covered) < 0.97


def test_the_sign_test_is_the_binomial_tail():
    assert sign_test([True] * 9) == pytest.approx(0.5**9)
    assert sign_test([True, True, False]) == pytest.approx(0.5)
    assert sign_test([False]) == 1.0
    assert sign_test([True] * 3, 1 / 6) == pytest.approx(1 / 216)
    assert sign_test([]) is None


def test_rank_correlation_is_spearmans_over_defined_pairs():
    x, y = np.array([1.0, 2.0, np.nan, 4.0, 3.0]), np.array([1.0, 3.0, 9.0, 2.0, np.nan])
    assert rank_correlation(x, y) == pytest.approx(stats.spearmanr([1, 2, 4], [1, 3, 2]).statistic)
    assert math.isnan(rank_correlation(np.ones(3), np.arange(3.0)))


def test_resampling_keeps_a_group_whole():
    # Two groups, each perfectly ordered inside, against each other: extremes are the pure draws.
    x = np.array([[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]])
    y = np.array([[0.0, 1.0, 2.0, 5.0, 4.0, 3.0]])
    low, high = resampled_correlation(x, y, 2)
    assert (low, high) == pytest.approx((-1.0, 1.0))
    assert resampled_correlation(x, y, 1) == [None, None]
    assert resampled_correlation(x, np.ones((1, 6)), 3) == [None, None]
