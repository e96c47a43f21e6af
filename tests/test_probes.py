"""Probe sets: fixed prompts, read from JSONL, split so that nothing leaks."""

import json
from collections import Counter
from itertools import combinations

import pytest

from workbench.errors import ProbeError
from workbench.limits import MAX_LINE_BYTES
from workbench.probes import Probe, ProbeSet, read_jsonl

SHARES = {"fit": 0.4, "penalty": 0.2, "measure": 0.4}


@pytest.fixture
def clustered():
    """60 harmful prompts in 20 clusters of 3, and 30 benign ones without clusters."""
    harmful = [Probe(f"harm {i}", cluster=f"cluster {i % 20}") for i in range(60)]
    return ProbeSet((*harmful, *(Probe(f"benign {i}", "benign") for i in range(30))))


def write(tmp_path, *lines):
    path = tmp_path / "probes.jsonl"
    path.write_bytes(
        b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    )
    return path


def refusal(path):
    with pytest.raises(ProbeError) as caught:
        ProbeSet.load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_probes_are_read_in_order_with_their_kinds_and_clusters(tmp_path):
    path = write(
        tmp_path,
        '{"prompt": "one"}',
        "",
        '{"prompt": "zwei ü", "kind": "benign", "cluster": "c", "response": "yes"}',
        '{"prompt": "three", "cluster": null}',
    )
    assert ProbeSet.load(path).probes == (
        Probe("one"),
        Probe("zwei ü", "benign", "c", "yes"),
        Probe("three"),
    )
    assert [probe.kind for probe in ProbeSet.load(path, kind="benign").probes] == ["benign"] * 3
    assert ProbeSet.load(path).clusters == ("one", "c", "three")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "not JSON"),
        ("[1]", "must be an object"),
        ("3", "must be an object"),
        ("[" * 100_000, "not JSON"),
        (b'{"prompt": "\xff"}', "not UTF-8"),
        ('{"prompt": "x", "clustr": "c"}', "unknown key 'clustr'; it may have prompt, kind"),
        ("{}", "needs a non-empty string under 'prompt'"),
        ('{"prompt": ""}', "needs a non-empty string"),
        ('{"prompt": "  "}', "needs a non-empty string"),
        ('{"prompt": 3}', "needs a non-empty string"),
        ('{"prompt": "x", "kind": "evil"}', "kind is 'evil'; it may be harmful or benign"),
        ('{"prompt": "x", "kind": ["harmful"]}', "kind is"),
        ('{"prompt": "x", "cluster": 3}', "'cluster' must be a string"),
        ('{"prompt": "x", "response": [1]}', "'response' must be a string"),
        ('{"prompt": "' + "x" * MAX_LINE_BYTES + '"}', "a line of over 1 MB"),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_a_bad_line_is_refused_with_its_number(tmp_path, line, message):
    told = refusal(write(tmp_path, '{"prompt": "good"}', "", line))
    assert "probes.jsonl:3: " in told
    assert message in told


def test_a_file_with_nothing_in_it_is_refused(tmp_path):
    assert "no such file" in refusal(tmp_path / "nowhere.jsonl")
    assert "no such file" in refusal(tmp_path)
    assert "empty" in refusal(write(tmp_path))
    assert "empty" in refusal(write(tmp_path, "", "  ", ""))


def test_a_file_without_a_final_newline_keeps_its_last_line(tmp_path):
    assert read_jsonl(write(tmp_path, '{"a": 1}', '{"a": 2}')) == [(1, {"a": 1}), (2, {"a": 2})]


def test_splits_share_no_prompt_and_no_cluster(clustered):
    parts = clustered.split(**SHARES)
    for one, other in combinations(parts, 2):
        assert not one.overlap(other)
        assert not set(one.clusters) & set(other.clusters)
    assert sum(map(len, parts)) == len(clustered)


def test_a_split_that_ignored_clusters_would_be_noticed(clustered):
    halves = ProbeSet(clustered.probes[:30]), ProbeSet(clustered.probes[30:])
    assert halves[0].overlap(halves[1]) == {f"cluster {i}" for i in range(20)}


def test_a_cluster_of_both_kinds_stays_together():
    pairs = [
        Probe(f"{kind} {i}", kind, cluster=f"pair {i}")
        for i in range(12)
        for kind in ("harmful", "benign")
    ]
    alone = [Probe(f"alone {i}", cluster=f"alone {i}") for i in range(7)]
    fit, measure = ProbeSet((*pairs, *alone)).split(fit=0.5, measure=0.5)
    assert not fit.overlap(measure)
    assert len(fit.of_kind("benign")) == len(measure.of_kind("benign")) == 6


def test_a_prompt_given_twice_stays_together_whatever_its_clusters():
    twice = [Probe(f"prompt {i}", cluster=f"{side} {i}") for i in range(12) for side in "ab"]
    fit, measure = ProbeSet(tuple(twice)).split(fit=0.5, measure=0.5)
    assert not fit.overlap(measure)


def test_shares_are_respected_within_each_kind(clustered):
    parts = clustered.split(**SHARES)
    assert [Counter(p.kind for p in part.probes) for part in parts] == [
        {"harmful": 24, "benign": 12},
        {"harmful": 12, "benign": 6},
        {"harmful": 24, "benign": 12},
    ]


def test_shares_below_one_leave_prompts_out(clustered):
    fit, measure = clustered.of_kind("benign").split(fit=0.2, measure=0.3)
    assert (len(fit), len(measure)) == (6, 9)
    assert not fit.overlap(measure)


def test_a_split_keeps_the_order_of_the_prompts(clustered):
    position = {prompt: index for index, prompt in enumerate(clustered.prompts)}
    for part in clustered.split(**SHARES):
        places = [position[prompt] for prompt in part.prompts]
        assert places == sorted(places)


def test_a_split_is_the_same_for_the_same_seed_and_another_for_another(clustered):
    assert clustered.split(**SHARES) == clustered.split(**SHARES, seed=0)
    assert clustered.split(**SHARES) != clustered.split(**SHARES, seed=1)


def test_a_split_depends_on_the_prompts_and_not_on_their_order(clustered):
    turned = ProbeSet(clustered.probes[::-1])
    for part, other in zip(clustered.split(**SHARES), turned.split(**SHARES), strict=True):
        assert set(part.prompts) == set(other.prompts)


@pytest.mark.parametrize("shares", [{}, {"fit": 0.0}, {"fit": -0.1}, {"fit": 0.7, "measure": 0.4}])
def test_shares_that_are_no_split_are_refused(clustered, shares):
    with pytest.raises(ProbeError, match="must be positive and add up to at most 1"):
        clustered.split(**shares)


def test_too_few_prompts_for_a_share_are_refused():
    with pytest.raises(ProbeError, match=r"leaves 1 of 5 prompts for 'penalty'.* at least 2"):
        ProbeSet.from_prompts("abcde").split(**SHARES)


def test_the_fingerprint_sees_every_field_and_the_order(clustered):
    same = ProbeSet(tuple(Probe(**vars(probe)) for probe in clustered.probes))
    assert same.fingerprint() == clustered.fingerprint()
    first, *rest = clustered.probes
    for change in ({"prompt": "x"}, {"kind": "benign"}, {"cluster": "x"}, {"response": "x"}):
        changed = ProbeSet((Probe(**vars(first) | change), *rest))
        assert changed.fingerprint() != clustered.fingerprint()
    assert ProbeSet(clustered.probes[::-1]).fingerprint() != clustered.fingerprint()


def test_prompts_in_memory_are_the_prompts_of_a_file(tmp_path):
    prompts = ["one", "two"]
    path = write(tmp_path, *(json.dumps({"prompt": prompt}) for prompt in prompts))
    assert ProbeSet.from_prompts(prompts) == ProbeSet.load(path)
    assert ProbeSet.from_prompts(prompts, kind="benign").of_kind("harmful").probes == ()
