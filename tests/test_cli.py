"""Every command does its work on a planted lineage and prints what it did."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from planted_inputs import SMALL, contents, read_lines, write_lines

from workbench.cli import main
from workbench.commands.directions import _show
from workbench.directions import ReversionDirections, fit_directions
from workbench.inputs import Inputs
from workbench.loading import load_model
from workbench.readout import Readout, TokenChange, read_vocabulary
from workbench.runs import Run
from workbench.surroundings import Surroundings

COMMANDS = (
    "demo", "directions", "finetune", "experiment", "evaluate", "report", "organism", "doctor",
    "calibrate", "convert", "lab",
)  # fmt: skip


@pytest.fixture
def call(capsys):
    """Run a command that must succeed; return what it prints."""

    def run(*argv):
        capsys.readouterr()
        assert main([str(part) for part in argv]) == 0
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return out

    return run


@pytest.fixture(scope="module")
def held(inputs_folder):
    return Inputs.beside(inputs_folder).load()


def test_directions_saves_v_rev_of_the_fit_split_and_prints_every_layer(
    call, inputs_folder, held, tmp_path
):
    out = tmp_path / "v.safetensors"
    printed = call("directions", inputs_folder, "--out", out)
    fitted = fit_directions(held.lineage, held.fit)
    stored = ReversionDirections.load(out)
    assert stored.provenance == fitted.provenance
    assert (stored.unit == fitted.unit).all()
    assert printed.splitlines()[0] == f"{out}: v_rev of planted from {len(held.fit)} prompts"
    assert len(printed.splitlines()) == 2 + len(stored.layers)


@pytest.mark.parametrize(
    ("options", "position", "prompts"),
    [
        (["--position", "-2"], -2, 10),
        (["--position", "prompt_mean", "--all-probes"], "prompt_mean", 24),
    ],
)
def test_directions_may_be_read_elsewhere_and_on_all_probes(
    call, inputs_folder, tmp_path, options, position, prompts
):
    out = tmp_path / "v.safetensors"
    call("directions", inputs_folder / "lineage.toml", "--out", out, *options)
    about = ReversionDirections.load(out).provenance
    assert about["position"] == position
    assert about["n_prompts"] == pytest.approx(prompts, abs=1)


def test_directions_reads_v_rev_out_on_request(call, inputs_folder, held, tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.judges.ENGAGING_OPENERS", ("bako", "gina"))
    monkeypatch.setattr("workbench.judges.REFUSAL_OPENERS", ("delu",))
    plain = call("directions", inputs_folder, "--out", tmp_path / "plain.safetensors")
    printed = call("directions", inputs_folder, "--out", tmp_path / "v.safetensors", "--readout")
    told = printed.splitlines()[len(plain.splitlines()) :]
    model = held.lineage.load_model(held.lineage.aligned)
    readout = read_vocabulary(model, ReversionDirections.load(tmp_path / "v.safetensors"))
    assert len(told) == 1 + 3 * 3
    for row, layer in enumerate(readout.layers):
        about, up, down = told[1 + 3 * row : 4 + 3 * row]
        assert about.startswith(f"layer {layer}: engaging over refusing ")
        assert f"{readout.preference[row]:+.3f}, p = {readout.p_value[row]:.2g}" in about
        for line, (first, *_) in ((up, readout.top[row]), (down, readout.bottom[row])):
            assert line.split()[1:3] == [repr(first.text), f"{first.change:+.2f}"]
            assert len(line.split()) == 21


def test_a_readout_without_openers_tells_tokens_and_says_so(call, inputs_folder, tmp_path):
    printed = call("directions", inputs_folder, "--out", tmp_path / "v.safetensors", "--readout")
    assert printed.count("engaging over refusing undefined, as the tokenizer knows no") == 3
    assert len(re.findall(r"^  up  .*'\w+' \+\d", printed, re.MULTILINE)) == 3


def test_token_texts_are_inert_on_stdout(capsys):
    hostile = TokenChange(1, "\x1b[31m\nred\u202e  ", 1.0)
    one = np.ones(1)
    _show(Readout((0,), ((hostile,),), ((hostile,),), one, one, one, ("a",), ("b",)))
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "\u202e" not in printed
    assert len(printed.splitlines()) == 4
    assert r"'\x1b[31m\nred\u202e  ' +1.00" in printed


def test_finetune_stores_a_run_with_drift_and_says_how_it_ended(call, inputs_folder, tmp_path):
    out = tmp_path / "runs/one"
    printed = call("finetune", inputs_folder, "--out", out, *SMALL, "--save-model")
    run = Run(out).checked()
    assert run.status == "done"
    assert [line["step"] for line in run.lines] == [1, 2, 3, 4, 5, 6]
    assert run.measured_steps.tolist() == [1, 2, 3, 5, 6]
    assert printed.startswith(f"{out}: 6 steps, loss ")
    assert ", alignment " in printed
    tuned, aligned = load_model(out / "model"), load_model(inputs_folder / "aligned")
    assert tuned.fingerprint() != aligned.fingerprint() == run.info["config"]["model"]


def test_finetune_keeps_in_the_run_what_its_drift_is_seen_against(
    call, inputs_folder, held, tmp_path
):
    call("finetune", inputs_folder, "--out", tmp_path / "one", *SMALL)
    around = Surroundings.of(Run(tmp_path / "one"))
    fitted = fit_directions(held.lineage, held.fit)
    np.testing.assert_array_equal(around.unit, fitted.unit.numpy())
    np.testing.assert_array_equal(around.gap, fitted.gap.numpy())
    assert around.layers == fitted.layers
    model = held.lineage.load_model(held.lineage.aligned)
    assert around.readout == read_vocabulary(model, fitted, judge=held.lineage.judge).to_json()
    assert around.roles == {"witness": "helpful", "aligned": "aligned"}
    assert around.phases is None
    data = inputs_folder / "finetune.jsonl"
    call("finetune", inputs_folder / "aligned", "--data", data, "--out", tmp_path / "b", *SMALL)
    assert Surroundings.of(Run(tmp_path / "b")) == Surroundings()  # a model alone has none


def test_finetune_with_an_intervention_and_given_directions_differs_from_ordinary(
    call, inputs_folder, tmp_path
):
    directions = tmp_path / "v.safetensors"
    call("directions", inputs_folder, "--out", directions)
    common = ("finetune", inputs_folder, "--direction", directions, *SMALL)
    call(*common, "--out", tmp_path / "ordinary")
    push = ("--intervention", "push", "--strength", "0.5", "--target", "2", "--layers", "1,2")
    call(*common, "--out", tmp_path / "push", *push)
    call(*common, "--out", tmp_path / "nothing", "--intervention", "block", "--strength", "0")
    ordinary, push, nothing = (Run(tmp_path / name) for name in ("ordinary", "push", "nothing"))
    assert push.layer_values("along")[-1].sum() > ordinary.layer_values("along")[-1].sum()
    assert push.info["config"]["interventions"][0]["layers"] == [1, 2]
    assert push.info["machine"]["device"] == "cpu"
    assert contents(nothing.folder) == contents(ordinary.folder)


def test_interventions_compose_and_controls_are_set_up(call, inputs_folder, tmp_path):
    names = "refusal:0.5@1,steer:0.1,rehearse:0.25"
    call("finetune", inputs_folder, "--out", tmp_path / "all", *SMALL, "--intervention", names)
    run = Run(tmp_path / "all")
    told = run.info["config"]["interventions"]
    assert [one["name"] for one in told] == ["block", "steer", "rehearse"]
    assert told[0]["directions"]["control"] == "refusal"
    assert (told[0]["strength"], told[0]["layers"]) == (0.5, [1])
    assert set(run.lines[0]["auxiliary"]) == {"block"}
    resumed = contents(run.folder)
    call("finetune", inputs_folder, "--out", tmp_path / "all", *SMALL, "--intervention", names,
         "--resume")  # fmt: skip
    assert contents(run.folder) == resumed


def test_finetune_through_an_adapter_is_stored_as_such_and_keeps_a_whole_model(
    call, inputs_folder, tmp_path
):
    out = tmp_path / "run"
    options = ("--steps", 3, "--learning-rate", 1e-3, "--lora", 2, "--out", out)
    call("finetune", inputs_folder, *options, "--save-model")
    config = Run(out).info["config"]
    assert config["recipe"]["lora"] == 2
    assert config["adapter"]["layers"] == 12
    assert call("finetune", inputs_folder, *options, "--save-model", "--resume").count("3 steps")
    kept = load_model(out / "model", device="cpu")
    assert kept.fingerprint() != config["model"]
    assert {name for name, _ in kept.hf.named_parameters()} == {
        name for name, _ in load_model(Inputs.beside(inputs_folder).load().lineage.aligned.model)
        .hf.named_parameters()
    }  # fmt: skip


def test_finetune_of_a_model_alone_measures_nothing(call, inputs_folder, tmp_path):
    data = inputs_folder / "finetune.jsonl"
    out = tmp_path / "one"
    printed = call("finetune", inputs_folder / "aligned", "--data", data, "--out", out, *SMALL)
    assert "alignment" not in printed
    assert len(Run(out).lines) == 6
    assert Run(out).measured == []


def test_a_finished_fine_tuning_resumed_is_told_again_and_left_alone(call, inputs_folder, tmp_path):
    argv = ("finetune", inputs_folder, "--out", tmp_path / "one", *SMALL)
    printed = call(*argv)
    before = contents(tmp_path)
    assert call(*argv, "--resume") == printed
    assert contents(tmp_path) == before


def test_other_probes_than_before_are_refused_when_resuming(call, inputs_folder, tmp_path, capsys):
    argv = ["finetune", str(inputs_folder), "--out", str(tmp_path / "one"), *SMALL]
    call(*argv)
    probes = write_lines(tmp_path / "p.jsonl", read_lines(inputs_folder / "probes.jsonl")[2:])
    assert main([*argv, "--resume", "--probes", str(probes)]) == 2
    assert "other settings (directions" in capsys.readouterr().err


def test_evaluate_tells_the_scores_of_every_phase_as_text_and_as_json(call, inputs_folder):
    options = ("--max-new-tokens", "2")
    told = json.loads(call("evaluate", inputs_folder, "--json", *options))
    assert list(told) == ["pretrained", "helpful", "aligned", "sibling"]
    printed = call("evaluate", inputs_folder, *options)
    assert [line for line in printed.splitlines() if not line.startswith(" ")] == list(told)
    loss = told["helpful"]["task_loss"]
    assert f"task_loss         {loss['value']:8.3f}  [{loss['low']:.3f}, " in printed
    assert "kl" not in printed  # nothing to measure it from


def test_evaluate_of_one_model_gives_the_same_as_within_its_lineage(call, inputs_folder):
    files = []
    for name in ("harmful", "benign", "task"):
        files += [f"--{name}", inputs_folder / f"{name}.jsonl"]
    options = ("--json", "--max-new-tokens", "2")
    alone = json.loads(call("evaluate", inputs_folder / "helpful", *files, *options))
    assert alone["helpful"] == json.loads(call("evaluate", inputs_folder, *options))["helpful"]


def test_experiment_prints_its_table_and_recompute_writes_the_same_bytes(
    call, inputs_folder, tmp_path
):
    out = tmp_path / "one"
    options = ("--arms", "ordinary,block", "--seeds", "1", "--max-new-tokens", "2", *SMALL)
    printed = call("experiment", inputs_folder, "--out", out, *options)
    assert "Beside the paper's numbers" in printed
    assert printed.splitlines()[-1] == f"{out}/report.html"
    written = ("summary.json", "report.html")
    before = [(out / name).read_bytes() for name in written]
    for name in written:
        (out / name).unlink()
    again = call("experiment", "--recompute", out)
    assert [(out / name).read_bytes() for name in written] == before
    assert again.splitlines() == printed.splitlines()[:-1]


def test_a_dose_response_runs_ordinary_and_every_strength(call, inputs_folder, tmp_path):
    out = tmp_path / "one"
    options = ("--seeds", "1", "--max-new-tokens", "2", *SMALL)
    dose = ("--intervention", "block,anchor-kl", "--strength", "0,0.5,2")
    call("experiment", inputs_folder, "--out", out, *dose, *options)
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["arms"]) == [
        "ordinary", "block:0.5", "block:2", "anchor-kl:0.5", "anchor-kl:2",
    ]  # fmt: skip
    assert summary["dose"]["block"]["strength"] == [0.0, 0.5, 2.0]
    assert len(summary["tradeoff"]["points"]) == 5


def test_a_layer_sweep_intervenes_at_every_layer_and_band(call, inputs_folder, tmp_path):
    out = tmp_path / "one"
    options = ("--seeds", "1", "--max-new-tokens", "2", *SMALL)
    call("experiment", inputs_folder, "--out", out, "--intervention", "block:1", "--sweep-layers",
         *options)  # fmt: skip
    rows = json.loads((out / "summary.json").read_text())["layers"]["rows"]
    assert [row["layers"] for row in rows] == [[0], [1], [2], [0, 1], None]


def test_report_of_a_single_run_is_written_where_asked(call, inputs_folder, tmp_path):
    call("finetune", inputs_folder, "--out", tmp_path / "one", *SMALL)
    assert call("report", tmp_path / "one") == f"{tmp_path}/one/report.html\n"
    assert "one" in (tmp_path / "one/report.html").read_text(encoding="utf-8")
    call("report", tmp_path / "one", "--out", tmp_path / "other.html")
    assert (tmp_path / "other.html").is_file()


def test_doctor_tells_what_a_lineage_needs_in_gigabytes(call, inputs_folder):
    printed = call("doctor", inputs_folder)
    assert "torch 2" in printed
    weights = sum(p.numel() for p in load_model(inputs_folder / "aligned").hf.parameters())
    assert f"planted: 4 phases of {weights / 1e6:.1f}M parameters" in printed
    assert f"fine-tuning all weights: {16 * weights / 1e9:.4f} GB" in printed
    assert call("doctor") in printed


def test_organism_data_writes_the_files_of_an_experiment_and_nothing_over_others(
    call, tmp_path, capsys
):
    out = tmp_path / "organism"
    assert call("organism", "data", "--out", out, "--seed", "3") == f"{out}\n"
    held = Inputs.beside(out).load()
    assert held.lineage.judge == "organism"
    assert min(map(len, (held.fit, held.penalty, held.measure, held.examples))) > 20
    before = contents(out)
    assert main(["organism", "data", "--out", str(out)]) == 2
    assert "already used" in capsys.readouterr().err
    assert contents(out) == before


def test_a_hostile_lineage_name_is_inert_on_stdout(call, inputs_folder, tmp_path):
    text = (inputs_folder / "lineage.toml").read_text()
    text = text.replace('"planted"', '"\\u001b[31mred\\nline"').replace(
        'model = "', f'model = "{inputs_folder}/'
    )
    (tmp_path / "lineage.toml").write_text(text)
    probes = inputs_folder / "probes.jsonl"
    printed = call("directions", tmp_path, "--probes", probes, "--out", tmp_path / "v.safetensors")
    assert "\x1b" not in printed
    assert "v_rev of  [31mred line from" in printed


HELP = """
import sys, time
from workbench.cli import main
for name in sys.argv[1:]:
    try:
        main([name, "--help"])
    except SystemExit as stop:
        assert stop.code == 0
heavy = {"torch", "transformers", "transformer_lens", "plotly", "pandas"} & set(sys.modules)
assert not heavy, heavy
print(time.process_time())
"""


def test_help_of_every_command_is_fast_and_imports_nothing_heavy():
    told = subprocess.run(
        [sys.executable, "-c", HELP, *COMMANDS], capture_output=True, text=True, check=True
    )
    for name in COMMANDS:
        assert f"usage: workbench {name}" in told.stdout or "usage: -c" in told.stdout
    assert float(told.stdout.splitlines()[-1]) < 1.0


def test_every_command_has_its_module_and_help_names_all(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    printed = capsys.readouterr().out
    for name in COMMANDS:
        assert re.search(rf"^ +{name}\b", printed, re.MULTILINE)
