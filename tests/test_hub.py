"""The hub: revisions are pinned to commits, the cache serves offline, every refusal is one line.

A server on this machine speaks the hub's protocol; a process of its own asks it, because where the
hub is and whether it may be asked is read when its library is imported.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from local_hub import GATED, commit_of, serving
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from workbench.errors import ConfigError
from workbench.loading import load_model
from workbench.sources.hub import checkpoint_revision

ASK = """
import json, sys, time
time.sleep = lambda _: None  # between the tries of a hub that is gone
from workbench.errors import WorkbenchError
from workbench.loading import load_config, load_model
told = {}
for name, (source, options) in json.loads(sys.stdin.read()).items():
    load = load_config if options.pop("config", False) else load_model
    try:
        found = load(source, **options)
        told[name] = found.fingerprint() if load is load_model else found.n_layer
    except WorkbenchError as error:
        told[name] = str(error)
        told[f"{name} is"] = type(error).__name__
print(json.dumps(told))
"""


def ask(questions, **environment):
    """Load models in a fresh process; return fingerprints, or what it was refused with."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        input=json.dumps(questions),
        env=inherited | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def answers(tmp_path_factory, lineage):
    """What is said online, of a hub that is gone, and offline, with one cache."""
    folders = {phase.name: phase.model for phase in lineage.phases}
    root = tmp_path_factory.mktemp("hub")
    empty = root / "empty"
    empty.mkdir()
    (empty / "README.md").write_text("nothing")
    adapter, both = adapter_on("tiny/model", folders["aligned"], root / "adapter"), root / "both"
    shutil.copytree(adapter, both)
    shutil.copy(Path(folders["aligned"], "config.json"), both)
    held = {
        "tiny/adapter": {"main": adapter},
        "tiny/both": {"main": both},
        "tiny/model": {"main": folders["aligned"], "step0": folders["pretrained"]},
        "tiny/other": {"main": folders["helpful"]},
        "tiny/empty": {"main": empty},
        "EleutherAI/pythia-tiny": {"main": folders["aligned"], "step8": folders["helpful"]},
    }
    model = "tiny/model"
    online = {
        "main": (model, {}),
        "branch": (model, {"revision": "step0"}),
        "commit": (model, {"revision": commit_of(model, "step0")}),
        "checkpoint": ("EleutherAI/pythia-tiny", {"checkpoint": 8}),
        "config": (model, {"revision": "step0", "config": True}),
        "adapter": ("tiny/adapter", {}),
        "both": ("tiny/both", {}),
        "no-revision": (model, {"revision": "step1"}),
        "no-repository": ("tiny/unknown", {}),
        "gated": (GATED, {}),
        "no-model": ("tiny/empty", {}),
        "no-id": ("not a name", {}),
    }
    cache = {"HF_HOME": str(root / "cache")}
    with serving(held) as (address, asked):
        told = ask(online, HF_ENDPOINT=address, **cache)
        requests = list(asked)
    again = {
        "adapter": ("tiny/adapter", {}),
        "cached": (model, {"revision": "step0"}),
        "not-cached": (model, {"revision": "step2"}),
        "never-seen": ("tiny/other", {}),
    }
    gone = ask(again, HF_ENDPOINT=address, **cache)
    offline = ask(again, HF_ENDPOINT=address, HF_HUB_OFFLINE="1", **cache)
    hashes = {
        name: load_model(folder, device="cpu").fingerprint() for name, folder in folders.items()
    }
    hashes["adapter"] = load_model(adapter, base=folders["aligned"], device="cpu").fingerprint()
    return told, gone, offline, hashes, requests


def adapter_on(repository, folder, place):
    """The folder of an adapter that does something, and names a repository as its base."""
    base = AutoModelForCausalLM.from_pretrained(folder)
    options = {"init_lora_weights": False, "target_modules": "all-linear"}
    whole = get_peft_model(base, LoraConfig(r=2, task_type="CAUSAL_LM", **options))
    whole.peft_config["default"].base_model_name_or_path = repository
    whole.save_pretrained(place, save_embedding_layers=False)
    return place


def test_branch_commit_and_training_step_name_the_weights_that_they_should(answers):
    told, _, _, hashes, _ = answers
    assert told["main"] == hashes["aligned"]
    assert told["branch"] == told["commit"] == hashes["pretrained"] != hashes["aligned"]
    assert told["checkpoint"] == hashes["helpful"]


def test_an_adapter_is_read_on_its_base_also_from_the_cache_and_beside_a_config(answers):
    told, gone, offline, hashes, _ = answers
    assert told["adapter"] == hashes["adapter"] != hashes["aligned"]
    assert told["both"] == gone["adapter"] == offline["adapter"] == told["adapter"]


def test_config_weights_and_tokenizer_come_from_one_commit(answers):
    told, *_, requests = answers
    commit = commit_of("tiny/model", "step0")
    assert told["config"] == 3
    files = {path.rpartition("/")[2] for path in requests if f"/resolve/{commit}/" in path}
    assert files >= {"model.safetensors", "tokenizer.json"}
    by_name = {path for path in requests if "/resolve/step0/" in path}
    assert by_name == {"tiny/model/resolve/step0/config.json"}


REFUSED = {
    "no-revision": r"tiny/model, revision 'step1': no such revision; it has 2, such as step0",
    "no-repository": "tiny/unknown: neither a folder here nor a repository on the hub",
    "gated": "tiny/gated: gated; accept its terms",
    "no-model": r"tiny/empty: no config\.json there",
    "no-id": "not a name: neither a folder here nor a hub id",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_hub_does_not_have_is_one_clear_line(answers, case):
    message = answers[0][case]
    assert re.match(REFUSED[case], message)
    assert "\n" not in message


def test_without_the_hub_the_cache_serves_what_it_holds_and_what_it_lacks_is_said(answers):
    _, gone, offline, hashes, _ = answers
    for told in (gone, offline):
        assert told["cached"] == hashes["pretrained"]
        assert "(of this repository it has main, step0" in told["not-cached"]
        assert told["never-seen"].startswith("tiny/other: neither a folder here nor in the local")
    assert "cannot be reached; check the connection" in gone["never-seen"]
    assert "HF_HUB_OFFLINE is set; unset it once" in offline["never-seen"]
    assert gone["never-seen is"] == "UnreachableError"
    assert offline["never-seen is"] == "CheckpointError"


def test_a_training_step_of_a_family_without_a_rule_is_refused():
    assert checkpoint_revision("stanford-crfm/alias-gpt2-small-x21", 400) == "checkpoint-400"
    with pytest.raises(ConfigError, match=r"nobody/model: no rule is known .* give its revision"):
        load_model("nobody/model", checkpoint=3)
    with pytest.raises(ConfigError, match="a revision or a checkpoint, not both"):
        load_model("EleutherAI/pythia-70m", checkpoint=3, revision="main")


def test_a_folder_has_no_revisions(lineage):
    with pytest.raises(ConfigError, match=r"a folder here has no revisions \('main'\)"):
        load_model(lineage.aligned.model, revision="main")
