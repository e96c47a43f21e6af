"""The same seed on the same machine with as many threads: the same bits, whatever else is so."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from repeated_runs import VARIANTS, draw, run_arms, run_variant

import workbench
from workbench.arms import standard_arms

ARMS = list(standard_arms())
HERE = Path(__file__).parent
OTHERWISE = {
    "PYTHONHASHSEED": "4242",
    "TZ": "Somewhere-11:45",
    "LC_ALL": "C",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONUTF8": "0",
    "PYTHONIOENCODING": "utf-8",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}
"""An environment in which nothing that should not matter is as it is here."""


@pytest.fixture(scope="module")
def first(inputs_folder, tmp_path_factory):
    draw(1)
    return run_arms(inputs_folder, tmp_path_factory.mktemp("runs") / "first")


@pytest.fixture(scope="module")
def again(first, inputs_folder, tmp_path_factory):  # noqa: ARG001 - after it
    draw(2)
    return run_arms(inputs_folder, tmp_path_factory.mktemp("runs") / "again")


@pytest.fixture(scope="module")
def seeded_otherwise(inputs_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "otherwise"
    return run_arms(inputs_folder, out, names="ordinary,block,random,rehearse", seed=1)


@pytest.fixture(scope="module")
def variants(inputs_folder):
    draw(3)
    return {name: run_variant(inputs_folder, name) for name in VARIANTS}


@pytest.fixture(scope="module")
def elsewhere(inputs_folder, tmp_path_factory):
    """What a fresh process in another environment and folder makes of it."""
    place = tmp_path_factory.mktemp("elsewhere")
    paths = os.pathsep.join([str(Path(workbench.__file__).parents[1]), str(HERE)])
    done = subprocess.run(
        [sys.executable, HERE / "repeated_runs.py", inputs_folder, place / "runs"],
        env=os.environ | OTHERWISE | {"PYTHONPATH": paths},
        cwd=place,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_all_files_of_an_arm_are_there_to_be_compared(first):
    assert {*first} == {f"planted-{arm}-0" for arm in ARMS} | {"lineages"}
    for arm in ARMS:
        names = {*first[f"planted-{arm}-0"]}
        expected = {
            "records.jsonl", "drift/000001.safetensors", "drift/000002.safetensors",
            "answers/000000.json", "answers/000002.json", "aftermath.safetensors",
            "model/model.safetensors",
        }  # fmt: skip
        assert expected <= names, arm
    assert "control.safetensors" in first["planted-matched-0"]
    assert "further-1.safetensors" in first["planted-block-rank2-0"]


@pytest.mark.slow  # a process of its own is the harder test, each time
@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_run_again_gives_the_same_bits(first, again, arm):
    name = f"planted-{arm}-0"
    assert again[name] == first[name]
    assert again["lineages"] == first["lineages"]


def test_another_seed_gives_other_bits(first, seeded_otherwise):
    assert seeded_otherwise.pop("lineages") == first["lineages"]  # v_rev is of no seed
    assert len(seeded_otherwise) == 4
    for name, files in seeded_otherwise.items():
        for file in ("records.jsonl", "drift/000002.safetensors", "model/model.safetensors"):
            assert files[file] != first[f"{name[:-1]}0"][file]


def test_the_other_process_is_otherwise(elsewhere, inputs_folder):
    assert elsewhere["hash"] != hash("a word")
    assert elsewhere["encoding"] == "ascii"
    assert elsewhere["listed"] == sorted(elsewhere["listed"], reverse=True)
    assert elsewhere["listed"] != [path.name for path in sorted(inputs_folder.iterdir())]


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_gives_the_same_bits_in_a_fresh_process_where_all_else_is_otherwise(
    first, elsewhere, arm
):
    name = f"planted-{arm}-0"
    assert elsewhere["arms"][name] == first[name]
    assert elsewhere["arms"]["lineages"] == first["lineages"]


@pytest.mark.parametrize("name", VARIANTS)
def test_interventions_together_give_the_same_bits(variants, elsewhere, inputs_folder, name):
    """With dropout; by micro-batches, on an adapter, from half-precision weights."""
    draw(4)
    for found in (run_variant(inputs_folder, name), elsewhere["variants"][name]):
        assert json.loads(json.dumps(found)) == json.loads(json.dumps(variants[name]))


def test_the_variants_differ_and_so_do_seeds(variants, inputs_folder):
    variants = variants | {"seed": run_variant(inputs_folder, "plain", seed=1)}
    ends = {json.dumps(found["records"]) for found in variants.values()}
    assert len(ends) == len(VARIANTS) + 1


def test_the_model_has_dropout(lineage):
    model = lineage.load_model(lineage.aligned)
    rates = [one.p for one in model.hf.modules() if isinstance(one, torch.nn.Dropout)]
    assert min(rates) > 0
