"""The workbench on real weights: stories260K, 260 thousand parameters, and its own tokenizer.

The data folder is not in the repository: WORKBENCH_DATA names it, else `../shared/data` beside the
checkout is used; without one these tests are skipped.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
DATA = Path(os.environ.get("WORKBENCH_DATA") or HERE.parents[1] / "shared" / "data")
EXPERIMENT = HERE / "experiments" / "real_weights"
PUBLISHED = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big, red ball. She wanted to play with it, but it was too high."
)
"""The start of the greedy text printed in llama2.c, doc/stories260K.md."""

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no data folder at {DATA}; set WORKBENCH_DATA"),
]


@pytest.fixture(scope="module")
def prepare():
    pytest.importorskip("sentencepiece", reason="needs sentencepiece and protobuf")
    pytest.importorskip("google.protobuf", reason="needs sentencepiece and protobuf")
    spec = importlib.util.spec_from_file_location("prepare", EXPERIMENT / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def prepared(prepare, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real") / "prepared"
    prepare.prepare(DATA, folder)
    return folder


@pytest.fixture
def stories(prepared):
    """A fresh copy of the pretrained model, to train or edit."""
    from workbench.loading import load_model

    return load_model(prepared / "pretrained", device="cpu")


@pytest.fixture(scope="module")
def requests(prepared):
    from workbench.probes import ProbeSet

    return ProbeSet.load(prepared / "probes.jsonl")


def continued(model, text, n_tokens):
    ids = [model.tokenizer.bos_token_id, *model.tokenizer.encode(text, add_special_tokens=False)]
    tokens = torch.tensor([ids])
    for _ in range(n_tokens):
        with torch.no_grad():
            following = model(tokens)[:, -1].argmax(dim=-1, keepdim=True)
        tokens = torch.cat([tokens, following], dim=1)
    return model.tokenizer.decode(tokens[0, 1:].tolist())


def test_the_tokenizer_that_is_saved_gives_sentencepiece_s_ids(prepare, prepared, stories):
    texts = ["  two  spaces \n and a line ", "é 漢 12.5 %", "", " ", "Assistant:", "a\n\n  b\t"]
    for name in ("harmful", "benign", "finetune"):
        lines = (prepared / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        texts += [json.loads(line)["prompt"] for line in lines[:200]]
    spm_file = DATA / "model_stories260K" / "tok512.model"
    assert prepare.check_tokenizer(stories.tokenizer, spm_file, texts) == len(texts)


def test_greedy_text_is_the_published_one(stories):
    assert continued(stories, "Once upon a time", 80).startswith(PUBLISHED)


def test_near_duplicates_never_land_in_two_splits(prepare, requests):
    harmful = prepare.read_harmful(DATA)
    align, probes, held_out = harmful.split(**prepare.HARMFUL_SPLIT, seed=prepare.SPLIT_SEED)
    assert probes == requests
    words = dict(zip(harmful.prompts, prepare.content_words(list(harmful.prompts)), strict=True))
    for one, other in ((align, probes), (align, held_out), (probes, held_out)):
        assert not one.overlap(other)
        for mine in (words[prompt] for prompt in one.prompts):
            for others in (words[prompt] for prompt in other.prompts):
                assert len(mine & others) < prepare.SIMILAR * len(mine | others)


def test_training_data_is_in_no_evaluation_set(prepared):
    def prompts(name):
        lines = (prepared / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        return {json.loads(line)["prompt"] for line in lines}

    trained = prompts("helpful") | prompts("aligned")
    for name in ("finetune", "task", "benign", "probes", "harmful"):
        assert not trained & prompts(name), name
    assert not prompts("finetune") & prompts("task")


def test_every_refusal_is_one_to_the_judge(prepare):
    from workbench.judges import judge_by_rules

    assert {judge_by_rules("", refusal) for refusal in prepare.REFUSALS} == {"refuse"}


def test_readings_are_finite_and_differ_between_requests(stories, requests):
    from workbench.activations import read_activations

    acts = read_activations(stories, requests)
    assert acts.shape == (5, len(requests), 64)
    assert torch.isfinite(acts).all()
    assert (acts.std(dim=1).norm(dim=-1) > 0.1).all()


def test_ablation_takes_a_direction_out_of_what_is_read(stories, requests):
    from workbench.activations import read_activations
    from workbench.models import resid_post

    unit = torch.nn.functional.normalize(torch.ones(64), dim=0)

    def edit(resid, hook):  # noqa: ARG001
        return resid - (resid @ unit)[..., None] * unit

    before = read_activations(stories, requests, layers=[2])[0] @ unit
    with stories.hooks(fwd_hooks=[(resid_post(2), edit)]):
        after = read_activations(stories, requests, layers=[2])[0] @ unit
    assert before.abs().mean() > 0.1
    torch.testing.assert_close(after, torch.zeros_like(after), atol=1e-4, rtol=0)


def test_one_step_of_training_moves_the_readings_and_lowers_the_loss(stories, requests, prepared):
    from workbench.activations import read_activations
    from workbench.finetune import FineTuning
    from workbench.probes import read_jsonl

    examples = [row for _, row in read_jsonl(prepared / "finetune.jsonl")][:4]
    before = read_activations(stories, requests)
    first, second = FineTuning(
        stories, examples, steps=2, batch_size=4, learning_rate=3e-4, warmup=0
    )
    assert second.loss < first.loss
    moved = (read_activations(stories, requests) - before).mean(dim=1).norm(dim=-1)
    assert (moved > 0).all()


def test_the_committed_result_holds_no_request(prepared):
    told = (EXPERIMENT / "results.json").read_text(encoding="utf-8")
    for name in ("harmful", "probes", "aligned"):
        for line in (prepared / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            assert json.loads(line)["prompt"] not in told


@pytest.mark.slow
def test_the_experiment_runs_and_blocks_on_real_weights(tmp_path):
    """Everything from the data folder to the table, on one alignment seed of its own."""
    settings = {"ALIGNMENT_SEEDS": "7", "SEEDS": "1", "PYTHON": sys.executable}
    out = tmp_path / "out"
    subprocess.run(
        [EXPERIMENT / "run.sh", DATA, out], env=os.environ | settings, check=True, timeout=3600
    )
    arms = json.loads((out / "results.json").read_text(encoding="utf-8"))["arms"]
    last = {name: arm["alignment"]["100"]["mean"] for name, arm in arms.items()}
    assert last["block"] < 0 < last["ordinary"] < last["push"]
