"""`workbench finetune`, killed outright and resumed, ends in the bits of one left in peace."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from planted_inputs import SMALL, contents, read_lines

from workbench.cli import main

KILLED = """
import os, signal, sys
from workbench import drift_files
from workbench.cli import main
write = drift_files.write_atomic

def write_and_die(path, content):
    write(path, content)
    if path.name == "000005.safetensors":  # the drift of step 5 is there, its line is not
        os.kill(os.getpid(), signal.SIGKILL)

drift_files.write_atomic = write_and_die
main(sys.argv[1:])
"""


@pytest.fixture
def argv(inputs_folder):
    intervention = ("--intervention", "push", "--strength", "0.5", "--state-every", "2")
    return ["finetune", str(inputs_folder), *SMALL, *intervention, "--save-model"]


def test_a_fine_tuning_killed_by_the_system_is_resumed_to_the_same_bits(argv, tmp_path, capsys):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    died = subprocess.run(
        [sys.executable, "-c", KILLED, *argv, "--out", str(killed)],
        capture_output=True,
        env=environment,
    )
    assert died.returncode == -9, died.stderr
    assert (killed / "lock").is_file()
    assert [line["step"] for line in read_lines(killed / "records.jsonl")] == [1, 2, 3, 4]
    assert (killed / "drift/000005.safetensors").is_file()
    assert main([*argv, "--out", str(killed)]) == 2
    assert "already used; resume it" in capsys.readouterr().err
    assert main([*argv, "--out", str(killed), "--resume", "--seed", "1"]) == 2
    assert "other settings (seed)" in capsys.readouterr().err
    assert main([*argv, "--out", str(killed), "--resume"]) == 0
    assert main([*argv, "--out", str(whole)]) == 0
    assert contents(killed) == contents(whole)
    assert "model/model.safetensors" in contents(whole)


def test_an_interrupted_fine_tuning_says_so_and_can_be_resumed(argv, tmp_path, capsys, monkeypatch):
    from workbench.progress import Progress

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "__call__", interrupt)
        assert main([*argv, "--out", str(tmp_path / "one")]) == 130
    assert "continued with --resume" in capsys.readouterr().err
    assert main([*argv, "--out", str(tmp_path / "one"), "--resume"]) == 0
    assert len(read_lines(tmp_path / "one/records.jsonl")) == 6
