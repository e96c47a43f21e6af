"""Killed at any moment, a fine-tuning loses no step that was told, and ends in the same bits."""

import os
import random
import subprocess
import sys
import time

import pytest
from crashes import ARMS, RUN
from looking import contents
from nursery import environment
from sweeps import campaign

SEED = int(os.environ.get("WORKBENCH_SEED", "0")) or time.time_ns() % 1_000_000


def assert_nothing_lost(counts, kills):
    assert counts.kills >= kills
    assert not counts.faults, counts.told()
    assert (counts.lost, counts.differing) == (0, 0)


def test_a_fine_tuning_killed_at_random_moments_ends_in_the_bits_of_one_left_in_peace(
    subject, tell
):
    arms = random.Random(SEED).sample(sorted(ARMS), 3)
    counts = campaign([subject(arm) for arm in arms], 5, SEED)
    tell(f"seed {SEED}, arms {', '.join(arms)}: {counts}")
    assert_nothing_lost(counts, 5)


@pytest.mark.slow
def test_a_forked_fine_tuning_has_the_bits_of_one_in_a_python_of_its_own(subject, tmp_path):
    ordinary = subject("ordinary")
    done = subprocess.run(
        [sys.executable, "-m", "workbench", *ordinary.argv, "--out", str(tmp_path / RUN)],
        env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / RUN) == ordinary.whole
    assert ordinary.whole != subject("lora").whole


@pytest.mark.slow
def test_a_hundred_kills_in_chains_over_all_arms_lose_nothing(subject, tell):
    subjects = [subject(arm, 1 + number % 3) for number, arm in enumerate(ARMS)]
    random.Random(SEED).shuffle(subjects)
    counts = campaign(subjects, 120, SEED, interpreters=12)
    tell(f"seed {SEED}, {len(ARMS)} arms: {counts}")
    assert_nothing_lost(counts, 120)
    assert counts.resumes >= 30
