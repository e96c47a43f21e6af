"""The doctor says what is there and, for what is not, how to get it."""

from dataclasses import replace
from importlib import metadata

import pytest
import torch

from workbench import doctor, phases
from workbench.doctor import installed, needed
from workbench.loading import load_config, load_model


def test_installed_packages_are_told_with_their_versions():
    lines = installed()
    assert f"torch {metadata.version('torch')}" in lines
    assert lines[0].startswith("python 3.")


def test_a_missing_package_is_told_with_its_purpose_and_remedy(monkeypatch):
    version = metadata.version

    def without(package):
        if package == "kaleido":
            raise metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(doctor.metadata, "version", without)
    told = "kaleido is missing (figures as PDF, SVG, PNG): pip install kaleido"
    assert told in installed()


@pytest.mark.parametrize("lacking", [None, "no Chrome or Chromium: install one"])
def test_a_browser_is_told_or_missed(monkeypatch, lacking):
    monkeypatch.setattr(doctor, "missing", lambda: lacking)
    monkeypatch.setattr(doctor, "find_browser", lambda: "/usr/bin/chromium")
    wanted = f"{lacking}; until then matplotlib draws" if lacking else "browser /usr/bin/chromium"
    assert wanted in installed()


def test_without_a_gpu_the_threads_are_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert f"no GPU: models run on {torch.get_num_threads()} CPU threads" in installed()


def test_needs_are_told_from_the_configs_alone(lineage, monkeypatch):
    monkeypatch.setattr(torch, "load", None)
    monkeypatch.setattr("safetensors.safe_open", None)
    monkeypatch.setattr(doctor, "free_memory", lambda: {"GPU": 2 * 10**6, "RAM": 10**9})
    lines = needed(lineage)
    assert lines[0].startswith("planted: 4 phases of 0.")
    assert [line.split(":")[0].split(" (")[0] for line in lines[1:5]] == [
        "weights",
        "reading one phase",
        "fine-tuning all weights",
        "fine-tuning with LoRA of rank 16",
    ]
    assert lines[3].endswith("does not fit in 0.0020 GB of free GPU, fits in 1.00 GB of free RAM")
    assert lines[5].startswith(
        "of a training batch of 4096 response tokens the loss over 64 tokens"
    )


def test_phases_of_several_precisions_are_told_apart(lineage):
    first, *others = lineage.phases
    mixed = replace(lineage, phases=(replace(first, dtype="bfloat16"), *others))
    told = needed(mixed)[1]
    assert "as bfloat16 (pretrained)" in told
    assert "as float32 (helpful, aligned, sibling)" in told


def test_needs_of_raw_weights_and_of_a_series_are_those_of_their_base_and_ends(
    lineage, tmp_path, monkeypatch
):
    monkeypatch.setattr(doctor, "free_memory", lambda: {"RAM": 10**9})  # else it moves meanwhile
    held = lineage.aligned.model
    torch.save(load_model(held, device="cpu").hf.state_dict(), tmp_path / "raw.pt")
    raw = replace(lineage.aligned, model=str(tmp_path / "raw.pt"), base=held)
    others = [phase for phase in lineage.phases if phase.name != "aligned"]
    series = [replace(raw, name=f"step{step}", step=step) for step in range(9)]
    asked = []
    monkeypatch.setattr(
        phases,
        "load_config",
        lambda *given, **more: asked.append(given) or load_config(*given, **more),
    )
    lines = needed(replace(lineage, phases=(*others, raw, *series)))
    told = [line for line in lines if ": raw weights" in line]
    assert told[0] == f"aligned: raw weights {raw.model} with the config of {held}"
    lines = [line for line in lines if line not in told]
    assert lines[0].startswith("planted: 13 phases of 0.")
    assert lines[2:] == needed(lineage)[2:]
    assert len(asked) == 2 * 6 + 2 * 4
