"""A passage holds what each phase reads, one model at a time, and continues where it stopped."""

import gc
import json
import os
import shutil
import subprocess
import sys
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from workbench.activations import read_activations
from workbench.cli import main
from workbench.directions import fit_directions
from workbench.errors import (
    ConfigError,
    DegenerateDirectionError,
    LayerError,
    ProbeError,
    ProvenanceError,
    RunError,
    UnreachableError,
)
from workbench.passage import Passage, phase_file
from workbench.passage_reading import read_passage
from workbench.phases import Lineage
from workbench.probes import ProbeSet

STEPS = (0, 2, 4, 8, 16, 32)
FRACTIONS = [1 - step / 32 for step in STEPS]
SERIES = """name = "planted"
chat = "builtin"
[roles]
witness = "step0"
aligned = "step32"
[[phase]]
name = "step{step}"
model = "step-{step}"
steps = [0, 2, 4, 8, 16, 32]
[[phase]]
name = "sideways"
model = "sideways"
"""


@pytest.fixture(scope="module")
def across_shift(planted_shift):
    """A shift orthogonal to the planted one, half as long."""
    other = torch.randn(32, generator=torch.Generator().manual_seed(6))
    other -= (other @ planted_shift) / (planted_shift @ planted_shift) * planted_shift
    return other / other.norm() * planted_shift.norm() / 2


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_hf, tokenizer, planted_shift, across_shift):
    """Checkpoints that move on a straight line after layer 0, and one that went sideways."""
    root = tmp_path_factory.mktemp("series")
    moved = {f"step-{n}": f * planted_shift for n, f in zip(STEPS, FRACTIONS, strict=True)}
    for name, shift in (moved | {"sideways": across_shift}).items():
        hf = make_hf()
        with torch.no_grad():
            hf.transformer.h[0].mlp.c_proj.bias += shift
        hf.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    (root / "lineage.toml").write_text(SERIES)
    return root


@pytest.fixture(scope="module")
def series(root):
    return Lineage.load(root)


@pytest.fixture(scope="module")
def fit(probes):
    return probes.of_kind("harmful")


@pytest.fixture(scope="module")
def whole(series, fit, tmp_path_factory):
    """Read in one go, with the readings of single prompts; read-only."""
    return read_passage(series, fit, tmp_path_factory.mktemp("whole") / "passage", keep="all")


@pytest.fixture
def copied(root, tmp_path):
    """A series of its own, to damage."""
    return shutil.copytree(root, tmp_path / "series")


def contents(folder):
    return {path.name: path.read_bytes() for path in (folder / "phases").iterdir()}


def test_the_coordinate_of_a_phase_is_the_planted_fraction_of_the_way(whole):
    course = whole.course()
    assert course.phases == (*(f"step{n}" for n in STEPS), "sideways")
    np.testing.assert_allclose(course.along[:6, 0], FRACTIONS, atol=1e-5)
    np.testing.assert_allclose(course.across[:6, 0], 0, atol=1e-5)
    np.testing.assert_allclose(course.alignment[:5, 0], 1, atol=1e-6)
    np.testing.assert_allclose(course.turning[1:5, 0], 1, atol=1e-5)


def test_after_a_nonlinear_block_the_way_is_not_straight(whole):
    assert np.abs(whole.course().along[1:5, 1] - FRACTIONS[1:5]).max() > 1e-3


def test_a_phase_that_went_sideways_has_coordinate_0(whole):
    course = whole.course()
    assert course.along[6, 0] == pytest.approx(0, abs=1e-5)
    assert course.across[6, 0] == pytest.approx(0.5, abs=1e-5)
    assert course.alignment[6, 0] == pytest.approx(0, abs=1e-5)


def test_the_aligned_phase_has_no_direction_and_the_ends_do_not_turn(whole):
    course = whole.course()
    assert np.isnan(course.alignment[5]).all()
    assert np.isnan(course.turning[[0, 6]]).all()
    assert not np.isnan(course.turning[1:6]).any()
    assert not np.isnan(course.alignment[:5]).any()


def test_v_rev_of_any_two_phases_is_what_fitting_them_gives(whole, series, fit, planted_shift):
    way = whole.between("step8", "step16")
    np.testing.assert_allclose(way.unit[0], planted_shift / planted_shift.norm(), atol=1e-5)
    assert way.gap[0] == pytest.approx(float(planted_shift.norm()) / 4, rel=1e-5)
    fitted = whole.directions("step8", "step16")
    expected = fit_directions(replace(series, roles={"witness": "step8", "aligned": "step16"}), fit)
    for name in ("unit", "gap", "split_half", "interval", "mean"):
        assert torch.equal(getattr(fitted, name), getattr(expected, name))
    assert fitted.provenance == expected.provenance
    np.testing.assert_allclose(way.unit, fitted.unit.numpy(), atol=1e-12)


def test_a_course_can_be_seen_from_another_pair(whole):
    course = whole.course(witness="step4", aligned="step16")
    np.testing.assert_allclose(course.along[:6, 0], [(16 - n) / 12 for n in STEPS], atol=1e-5)


def test_the_mean_is_that_of_the_single_prompts(whole, series, fit):
    acts = read_activations(series.load_model(series.phase("step4")), fit).double().numpy()
    np.testing.assert_allclose(whole.mean("step4"), acts.mean(axis=1), rtol=1e-12)
    assert whole.mean("step4").dtype == np.float64
    assert whole.acts("step4").dtype == np.float32


@pytest.mark.parametrize(("keep", "kept"), [("roles", {"step0", "step32"}), ("none", set())])
def test_single_prompts_are_kept_of_the_phases_that_were_asked_for(
    series, fit, tmp_path, whole, keep, kept
):
    passage = read_passage(series, fit, tmp_path / "out", keep=keep)
    for phase in passage.phases:
        np.testing.assert_allclose(passage.mean(phase), whole.mean(phase), rtol=1e-12)
        if phase in kept:
            assert np.array_equal(passage.acts(phase), whole.acts(phase))
        else:
            with pytest.raises(ConfigError, match=f"only the mean of {phase} is stored; read it"):
                passage.acts(phase)


def stopping_after(count):
    told = []

    def on_phase(name, why):  # noqa: ARG001
        told.append(name)
        if len(told) == count:
            raise KeyboardInterrupt

    return on_phase


@pytest.fixture
def loaded(monkeypatch):
    """Names of the phases that are loaded, and how many models lived when the next one came."""
    names, alive, refs = [], [], []
    original = Lineage.load_model

    def load(self, phase, **options):
        alive.append(sum(ref() is not None for ref in refs))
        names.append(phase.name)
        model = original(self, phase, **options)
        refs.append(weakref.ref(model.hf))
        return model

    monkeypatch.setattr(Lineage, "load_model", load)
    return names, alive


def test_an_interrupted_passage_continues_to_the_same_bits(series, fit, tmp_path, whole, loaded):
    names, _ = loaded
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        read_passage(series, fit, out, keep="all", on_phase=stopping_after(3))
    assert names == ["step32", "step0", "step2"]
    assert Passage(out).phases == ("step0", "step2", "step32")
    assert Passage(out).missing["step4"] == "not read yet"
    resumed = read_passage(series, fit, out, keep="all", resume=True)
    assert names == ["step32", "step0", "step2", "step4", "step8", "step16", "sideways"]
    assert not (out / "lock").exists()
    assert contents(out) == contents(whole.folder)
    assert resumed.missing == {}


def test_one_model_is_in_memory_at_a_time(series, fit, tmp_path, loaded):
    _, alive = loaded
    gc.disable()
    try:
        read_passage(series, fit, tmp_path / "out")
    finally:
        gc.enable()
    assert alive == [0] * 7


def test_a_model_that_is_held_would_have_been_counted(series, loaded):
    _, alive = loaded
    first = series.load_model(series.aligned)
    series.load_model(series.aligned)
    assert first is not None
    assert alive == [0, 1]


def test_what_is_there_and_unchanged_is_not_read_again(series, fit, tmp_path, loaded):
    names, _ = loaded
    out = tmp_path / "out"
    read_passage(series, fit, out)
    names.clear()
    read_passage(series, fit, out, resume=True)
    assert names == []
    read_passage(series, fit, out, keep="all", resume=True)
    assert names == ["step2", "step4", "step8", "step16", "sideways"]


def test_a_phase_whose_files_changed_or_whose_reading_is_damaged_is_read_again(
    copied, fit, tmp_path, loaded
):
    names, _ = loaded
    out, lineage = tmp_path / "out", Lineage.load(copied)
    read_passage(lineage, fit, out)
    names.clear()
    weights = copied / "step-4" / "model.safetensors"
    os.utime(weights, ns=(1, 1))
    phase_file(out, "step8").write_bytes(b"not a file of tensors")
    read_passage(lineage, fit, out, resume=True)
    assert names == ["step4", "step8"]


def test_an_adapter_whose_base_changed_is_read_again(copied, fit, tmp_path, loaded):
    names, _ = loaded
    base = copied / "step-16"
    options = {"target_modules": ["c_proj"], "task_type": "CAUSAL_LM", "init_lora_weights": False}
    whole = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, **options))
    whole.save_pretrained(copied / "adapter")
    table = '[[phase]]\nname = "adapter"\nmodel = "adapter"\n'
    (copied / "lineage.toml").write_text(SERIES.replace("16, ", "") + table)
    out, lineage = tmp_path / "out", Lineage.load(copied)
    read_passage(lineage, fit, out)
    assert "adapter" in names
    names.clear()
    read_passage(lineage, fit, out, resume=True)
    assert names == []
    os.utime(base / "model.safetensors", ns=(1, 1))
    read_passage(lineage, fit, out, resume=True)
    assert names == ["adapter"]


def test_prompts_that_are_cut_are_counted(series, fit, sentence, tmp_path):
    long = ProbeSet((*fit.probes, replace(fit.probes[0], prompt=sentence(3, words=80))))
    cutting = replace(series, overflow="truncate")
    with pytest.warns(UserWarning, match="Probes: 1 of"):
        passage = read_passage(cutting, long, tmp_path / "out", keep="all")
    assert passage.directions("step8", "step16").provenance["truncated"] == 1
    with pytest.raises(ConfigError, match=r"other settings \(overflow differ\)"):
        read_passage(series, long, tmp_path / "out", resume=True)
    whole = read_passage(cutting, fit, tmp_path / "whole", keep="all")
    assert "truncated" not in whole.directions("step8", "step16").provenance


def test_a_series_may_grow(copied, fit, tmp_path, loaded):
    names, _ = loaded
    short = (copied / "lineage.toml").read_text().replace("0, 2, 4, 8, 16, 32", "0, 8, 32")
    (copied / "short.toml").write_text(short)
    out = tmp_path / "out"
    read_passage(Lineage.load(copied / "short.toml"), fit, out)
    names.clear()
    passage = read_passage(Lineage.load(copied), fit, out, resume=True)
    assert names == ["step2", "step4", "step16"]
    assert passage.phases == (*(f"step{n}" for n in STEPS), "sideways")


def test_a_phase_that_cannot_be_read_does_not_lose_the_others(copied, fit, tmp_path, whole):
    shutil.move(copied / "step-8", tmp_path / "aside")
    out, told = tmp_path / "out", []
    passage = read_passage(
        Lineage.load(copied), fit, out, keep="all", on_phase=lambda *one: told.append(one)
    )
    assert set(passage.missing) == {"step8"}
    assert "no such folder" in passage.missing["step8"]
    assert [name for name, why in told if why] == ["step8"]
    assert np.array_equal(passage.mean("sideways"), whole.mean("sideways"))
    course = passage.course()
    np.testing.assert_allclose(course.along[:5, 0], [1, 15 / 16, 7 / 8, 1 / 2, 0], atol=1e-5)
    with pytest.raises(ConfigError, match=r"no reading of 'step8' .*no such folder"):
        passage.mean("step8")
    shutil.move(tmp_path / "aside", copied / "step-8")
    assert read_passage(Lineage.load(copied), fit, out, keep="all", resume=True).missing == {}


def test_a_hub_that_cannot_be_reached_is_asked_once_and_reading_goes_on_later(
    copied, fit, tmp_path, whole, monkeypatch
):
    load, asked = Lineage.load_model, []

    def gone(self, phase, **options):
        if phase.name in ("step2", "step4"):
            asked.append(phase.name)
            raise UnreachableError("the hub cannot be reached")
        return load(self, phase, **options)

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(Lineage, "load_model", gone)
        with pytest.raises(UnreachableError, match="cannot be reached"):
            read_passage(Lineage.load(copied), fit, out)
    assert asked == ["step2"]
    assert not (out / "lock").exists()
    passage = read_passage(Lineage.load(copied), fit, out, resume=True)
    assert passage.missing == {}
    assert np.array_equal(passage.mean("step2"), whole.mean("step2"))


def test_a_phase_of_another_shape_or_with_other_tokens_is_left_out_by_name(
    copied, fit, tmp_path, make_hf, tokenizer
):
    shutil.rmtree(copied / "step-4")
    make_hf(n_layer=2).save_pretrained(copied / "step-4")
    tokenizer.save_pretrained(copied / "step-4")
    told = json.loads((copied / "step-8" / "tokenizer.json").read_text())
    words = told["model"]["vocab"]
    words["bako"], words["belu"] = words["belu"], words["bako"]
    (copied / "step-8" / "tokenizer.json").write_text(json.dumps(told))
    missing = read_passage(Lineage.load(copied), fit, tmp_path / "out").missing
    assert set(missing) == {"step4", "step8"}
    assert "depth of step32 is 3, of step4 2" in missing["step4"]
    assert "step32 and step8 turn the same prompts into different tokens" in missing["step8"]


def test_readings_with_other_tokens_than_a_new_aligned_phase_are_read_again(
    copied, fit, tmp_path, loaded
):
    names, _ = loaded
    out, lineage = tmp_path / "out", Lineage.load(copied)
    read_passage(lineage, fit, out)
    names.clear()
    swapped = json.loads((copied / "step-32" / "tokenizer.json").read_text())
    words = swapped["model"]["vocab"]
    words["bako"], words["belu"] = words["belu"], words["bako"]
    (copied / "step-32" / "tokenizer.json").write_text(json.dumps(swapped))
    passage = read_passage(lineage, fit, out, resume=True)
    assert len(names) == 7
    assert passage.phases == ("step32",)
    assert "turn the same prompts into different tokens" in passage.missing["step4"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"position": -2}, r"other settings \(position differ\)"),
        ({"layers": [0]}, r"other settings \(layers differ\)"),
    ],
)
def test_other_settings_are_refused(series, fit, whole, tmp_path, changed, message):
    out = shutil.copytree(whole.folder, tmp_path / "out")
    before = contents(out)
    with pytest.raises(ConfigError, match=message):
        read_passage(series, fit, out, resume=True, **changed)
    with pytest.raises(ConfigError, match=r"\(probes_hash differ\)"):
        read_passage(series, replace(fit, probes=fit.probes[:5]), out, resume=True)
    assert contents(out) == before


def test_a_folder_that_is_used_is_not_written_into(series, fit, whole, tmp_path):
    with pytest.raises(RunError, match="holds a passage; continue it with --resume"):
        read_passage(series, fit, whole.folder)
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(RunError, match="exists and holds no passage"):
        read_passage(series, fit, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_what_cannot_be_meant_is_refused(series, fit, tmp_path, whole):
    with pytest.raises(LayerError, match="No layers"):
        read_passage(series, fit, tmp_path / "layers", layers=[7])
    with pytest.raises(ProbeError, match="at least one prompt"):
        read_passage(series, replace(fit, probes=()), tmp_path / "none")
    with pytest.raises(RunError, match=r"no passage\.json here"):
        Passage(tmp_path)
    with pytest.raises(DegenerateDirectionError, match="of step4 and step4 coincide at layers"):
        whole.between("step4", "step4")
    with pytest.raises(ProvenanceError, match="step4 and step4 have the same weights"):
        whole.directions("step4", "step4")
    with pytest.raises(ConfigError, match="No reading of the aligned 'step5'"):
        whole.course(aligned="step5")


def test_a_mistake_that_stopped_the_first_phase_does_not_bind(series, fit, tmp_path):
    with pytest.raises(LayerError, match="No layers"):
        read_passage(series, fit, tmp_path / "out", layers=[7])
    assert read_passage(series, fit, tmp_path / "out", layers=[1]).layers == (1,)


def test_chosen_layers_keep_their_numbers(series, fit, tmp_path, whole):
    passage = read_passage(series, fit, tmp_path / "out", layers=[0, 2])
    assert passage.layers == (0, 2)
    np.testing.assert_allclose(passage.mean("step4"), whole.mean("step4")[[0, 2]], rtol=1e-12)


def test_a_sibling_is_beside_the_way_and_not_on_it(lineage, fit, tmp_path):
    passage = read_passage(lineage, fit, tmp_path / "out")
    course = passage.course()
    assert passage.course(witness="pretrained").alignment_sibling is None
    place = course.phases.index("sibling")
    assert np.isnan(course.turning[place]).all()
    assert course.alignment_sibling is not None
    # The witness is the planted shift from the aligned model, the sibling lies a tenth aside.
    helpful = course.phases.index("helpful")
    assert 0.98 < course.alignment_sibling[helpful, 0] < 1 - 1e-4
    assert course.alignment[helpful, 0] == pytest.approx(1)


def test_a_passage_is_opened_without_torch(whole):
    code = (
        "import sys; from workbench.passage import Passage; "
        f"print(Passage({str(whole.folder)!r}).course().along[1, 0], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    value, torch_there = done.stdout.split()
    assert (float(value), torch_there) == (pytest.approx(15 / 16, abs=1e-5), "False")


@pytest.fixture
def read(fit, tmp_path, capsys):
    """Run `workbench read`; return exit status, output and errors."""
    file = tmp_path / "probes.jsonl"
    rows = [json.dumps({"prompt": probe.prompt, "kind": probe.kind}) for probe in fit.probes]
    file.write_text("\n".join([*rows, '{"prompt": "bako", "kind": "benign"}']))

    def run(folder, *options):
        argv = ["read", str(folder), "--probes", str(file), "--out", str(tmp_path / "out")]
        return main([*argv, *options]), *capsys.readouterr()

    return run


def test_the_command_reads_and_prints_where_the_phases_lie(root, read, tmp_path, whole):
    status, out, err = read(root, "--layers", "0")
    assert status == 0
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()[2:-1]}
    assert rows["step16"] == ["0.500", "0.000", "1.000", "–", "1.000"]
    assert rows["sideways"][:2] in (["0.000", "0.500"], ["−0.000", "0.500"])
    assert "Shared endpoint not separated" in out.splitlines()[-1]
    assert err.splitlines()[0] == "1/7 phases, step32"
    stored = Passage(tmp_path / "out").mean("step4")
    np.testing.assert_allclose(stored, whole.mean("step4")[[0]], rtol=1e-12)
    assert read(root, "--layers", "0")[0] == 2
    status, again, _ = read(root, "--layers", "0", "--resume", "--quiet")
    assert (status, again) == (0, out)


def test_the_command_tells_what_is_missing_and_ends_with_2(copied, read):
    shutil.rmtree(copied / "step-8")
    status, out, err = read(copied)
    assert status == 2
    assert "step16" in out
    *_, last = err.splitlines()
    assert last.startswith("workbench: 1 of 7 phases could not be read (step8): ")
    assert "no such folder" in last
    assert "step8 is left out: " in err
    status, again, err = read(copied, "--resume", "--skip-missing", "--quiet")
    assert (status, again, err) == (0, out, "")


def test_without_the_aligned_phase_there_is_no_course_but_readings(copied, read, tmp_path):
    shutil.rmtree(copied / "step-32")
    status, out, _ = read(copied)
    assert status == 2
    assert "no course: No reading of the aligned 'step32'; read that phase." in out
    assert len(Passage(tmp_path / "out").phases) == 6


def test_where_no_phase_can_be_read_that_is_an_error_whatever_may_be_skipped(copied, read):
    for folder in [*copied.glob("step-*"), copied / "sideways"]:
        (folder / "config.json").unlink()
    status, out, err = read(copied, "--skip-missing")
    assert (status, out.splitlines()[0][-15:]) == (2, ": 0 of 7 phases")
    assert "workbench: 7 of 7 phases could not be read (step0, step2, step4 …): " in err
    assert "config.json" in err.splitlines()[-1]
