"""Lineages: named checkpoints of one model, and what is refused about them."""

import json
import re
import shutil

import pytest

from workbench.directions import fit_directions
from workbench.errors import CheckpointError, ConfigError, PhaseMismatchError, ProvenanceError
from workbench.phases import Lineage, Phase

PHASES = (Phase("pretrained", "p"), Phase("helpful", "h"), Phase("aligned", "a"))
ROLES = {"witness": "helpful", "aligned": "aligned"}
GOOD = """
name = "toy"
[roles]
witness = "helpful"
aligned = "aligned"
[[phase]]
name = "helpful"
model = "org/helpful"
revision = "step100"
dtype = "float32"
[[phase]]
name = "aligned"
model = "org/aligned"
"""


def write(tmp_path, text):
    path = tmp_path / "lineage.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path):
    with pytest.raises(ConfigError) as caught:
        Lineage.load(path)
    assert str(path) in str(caught.value) or "Lineage" in str(caught.value)
    return str(caught.value)


def test_a_lineage_file_says_who_is_who(tmp_path):
    lineage = Lineage.load(write(tmp_path, GOOD))
    assert lineage == Lineage(
        name="toy",
        phases=(
            Phase("helpful", "org/helpful", revision="step100", dtype="float32"),
            Phase("aligned", "org/aligned"),
        ),
        roles=ROLES,
    )
    assert lineage.witness.name == "helpful"
    assert lineage.aligned.model == "org/aligned"
    assert lineage.sibling is None
    assert (lineage.chat, lineage.judge) == (None, "rules")


def test_a_folder_stands_for_the_lineage_file_in_it(lineage_file):
    assert Lineage.load(lineage_file.parent) == Lineage.load(lineage_file)


def test_relative_models_are_relative_to_the_file_and_hub_ids_stay(lineage_file, monkeypatch):
    monkeypatch.chdir("/")
    lineage = Lineage.load(lineage_file)
    assert lineage.witness.model == str(lineage_file.parent / "helpful")
    assert lineage.chat == "builtin"
    assert lineage.overflow == lineage.load_model(lineage.aligned).overflow == "refuse"
    assert lineage.sibling.name == "sibling"
    assert lineage.load_model(lineage.aligned).cfg.n_layers == 3


def test_a_missing_relative_folder_is_not_taken_for_a_hub_id(tmp_path):
    path = write(tmp_path, GOOD.replace("org/aligned", "./aligned"))
    assert Lineage.load(path).aligned.model == str(tmp_path / "aligned")


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ('name = "toy"', 'nmae = "toy"', "unknown key 'nmae'; it may have name, chat, judge"),
        ('witness = "h', 'witnes = "h', "unknown key 'witnes'; it may have witness, aligned"),
        ("revision", "revison", "unknown key 'revison'; it may have name, model, revision"),
        ('witness = "helpful"', "", "names no witness"),
        ('aligned = "aligned"\n', "", "names no aligned"),
        ('witness = "helpful"', 'witness = "base"', "'base' is not a phase; it has"),
        ('aligned = "aligned"', 'aligned = "helpful"', "one phase has two roles"),
        ('name = "aligned"', 'name = "helpful"', r"named twice: \['helpful'\]"),
        ('model = "org/aligned"', "", "lacks model"),
        ('model = "org/aligned"', "model = 3", "model must be a string, not 3"),
        ('model = "org/aligned"', 'model = "a\\u0000b"', "model must be a string"),
        ('witness = "helpful"', "witness = 3", "witness must be a string"),
        ('name = "toy"', 'chat = "yes"', "'yes'; it may be builtin, tokenizer, none"),
        ('name = "toy"', 'overflow = "cut"', "overflow = 'cut'; it may be refuse, truncate"),
        ('name = "toy"', "judge = 3", "judge must be a string"),
        ("[roles]", "[roles", "not a TOML file"),
        ("[roles]", "roles = 3\n[other]", "unknown key 'other'"),
    ],
)
def test_a_bad_lineage_file_is_refused_with_what_is_wrong(tmp_path, good, bad, message):
    assert good in GOOD
    assert re.search(message, refusal(write(tmp_path, GOOD.replace(good, bad, 1))))


@pytest.mark.parametrize(
    "text", ["", "phase = 3", "phase = []", "phase = [1]", "roles = 3", "a = " + "[" * 5000]
)
def test_a_file_without_phases_is_refused(tmp_path, text):
    refusal(write(tmp_path, text))


def test_what_is_no_lineage_file_at_all_is_refused(tmp_path):
    assert "no such lineage file" in refusal(tmp_path / "lineage.toml")
    path = tmp_path / "lineage.toml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "not a TOML file" in refusal(path)
    path.write_bytes(b"#" * 1_000_001)
    assert "larger than 1 MB" in refusal(path)


def test_an_unknown_phase_is_named_with_those_that_exist():
    lineage = Lineage("toy", PHASES, ROLES)
    assert lineage.phase("pretrained").model == "p"
    with pytest.raises(ConfigError, match=r"no phase 'base'; it has \['pretrained', 'helpful'"):
        lineage.phase("base")


def test_phases_of_one_model_pass_the_check(lineage):
    lineage.check()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("n_embd", 64, "width of pretrained is 32, of helpful 64"),
        ("n_layer", 4, "depth of pretrained is 3, of helpful 4"),
        ("vocab_size", 65, "vocabulary of pretrained is 64, of helpful 65"),
        (
            "architectures",
            ["Other"],
            "architecture of pretrained is GPT2LMHeadModel, of helpful Other",
        ),
    ],
)
def test_a_mismatch_names_both_phases_and_both_values(lineage_file, tmp_path, key, value, message):
    root = shutil.copytree(lineage_file.parent, tmp_path / "lineage")
    config = root / "helpful" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {key: value}))
    with pytest.raises(PhaseMismatchError, match=message):
        Lineage.load(root).check()


def test_a_phase_that_cannot_be_read_is_named(lineage_file, tmp_path):
    root = shutil.copytree(lineage_file.parent, tmp_path / "lineage")
    (root / "sibling" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"sibling: no config\.json"):
        Lineage.load(root).check()


def test_a_witness_with_the_weights_of_the_aligned_model_has_no_direction(
    lineage_file, tmp_path, splits
):
    root = shutil.copytree(lineage_file.parent, tmp_path / "lineage")
    shutil.rmtree(root / "helpful")
    shutil.copytree(root / "aligned", root / "helpful")
    with pytest.raises(ProvenanceError, match="helpful and aligned have the same weights"):
        fit_directions(Lineage.load(root), splits[0])
    file = root / "lineage.toml"
    file.write_text(file.read_text().replace('model = "helpful"', 'model = "aligned"'))
    with pytest.raises(ProvenanceError, match="helpful and aligned have the same weights"):
        fit_directions(Lineage.load(root), splits[0])
