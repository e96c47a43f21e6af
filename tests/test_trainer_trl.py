"""In TRL's SFTTrainer, and on LoRA adapters, drift and interventions are as in a Trainer."""

import pytest
import torch
from planted_trainer import make_trainer

from workbench.activations import read_activations
from workbench.drift import measure_drift
from workbench.errors import ConfigError
from workbench.integrations.trainer import ReversionCallback
from workbench.integrations.trainer_interventions import ReversionTrainer
from workbench.penalties import Block
from workbench.runs import Run
from workbench.training_edits import Ablate, Steer

peft, trl = pytest.importorskip("peft"), pytest.importorskip("trl")


class InterventionSFT(ReversionTrainer, trl.SFTTrainer):
    """TRL's trainer with interventions."""


@pytest.fixture
def lora():
    return peft.LoraConfig(
        r=2, lora_alpha=8, target_modules=["c_attn", "c_fc"], task_type="CAUSAL_LM",
        lora_dropout=0.1, fan_in_fan_out=True,
    )  # fmt: skip


@pytest.fixture
def sft(lineage, examples, tmp_path):
    """Make an SFTTrainer of the aligned model on prompts and completions."""
    from datasets import Dataset

    rows = [{"prompt": row["prompt"], "completion": " " + row["response"]} for row in examples]

    def make(kind=trl.SFTTrainer, *, model=None, folder="sft", intervention=None, **options):
        model = model or lineage.load_model(lineage.aligned)
        model.close()
        small = {
            "max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-3,
            "lr_scheduler_type": "constant", "report_to": [], "save_strategy": "no",
            "logging_steps": 2, "disable_tqdm": True, "use_cpu": True, "bf16": False,
            "gradient_checkpointing": False, "max_length": 64, "seed": 0,
        }  # fmt: skip
        given = {} if intervention is None else {"intervention": intervention}
        peft_config = options.pop("peft_config", None)
        trainer = kind(
            model.hf,
            trl.SFTConfig(str(tmp_path / folder), **small | options),
            train_dataset=Dataset.from_list(rows),
            processing_class=model.tokenizer,
            peft_config=peft_config,
            **given,
        )
        return trainer, model

    return make


def weights(hf):
    return {name: value.detach().clone() for name, value in hf.named_parameters()}


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_sft_is_the_same_with_the_callback(sft, directions, splits, tmp_path, checkpointing):
    ends, logs = [], []
    for out in (tmp_path / "run", None):
        trainer, model = sft(gradient_checkpointing=checkpointing)
        if out:
            ReversionCallback(directions, splits[2], out=out, every=1).attach(trainer)
        trainer.train()
        ends.append(weights(model.hf))
        logs.append([h for h in trainer.state.log_history if "loss" in h])
    assert same(*ends)
    # TRL empties its own averages into what it logs: they are not ours to take.
    for name in ("mean_token_accuracy", "entropy", "loss"):
        assert [h[name] for h in logs[0]] == [h[name] for h in logs[1]]
    run = Run(tmp_path / "run")
    assert run.measured_steps.tolist() == [1, 2, 3, 4]
    assert run.layer_values("norm")[-1].min() > 1e-3


@pytest.mark.parametrize("checkpointing", [False, True])
def test_sft_of_an_adapter_is_the_same_and_its_drift_that_of_the_merged_model(
    sft, lora, lineage, directions, splits, tmp_path, checkpointing
):
    ends = []
    for out in (tmp_path / "run", None):
        trainer, model = sft(
            peft_config=lora, learning_rate=1e-2, gradient_checkpointing=checkpointing
        )
        if out:
            ReversionCallback(directions, splits[2], out=out, every=1).attach(trainer)
        trainer.train()
        ends.append(weights(trainer.model))
    assert same(*ends)
    run = Run(tmp_path / "run")
    trained = run.info["config"]["trainable"]
    assert trained and all("lora_" in name for name in trained)
    model.hf = trainer.model.merge_and_unload()
    model.open()
    start = lineage.load_model(lineage.aligned)
    acts = [read_activations(one, splits[2]) for one in (start, model)]
    expected = measure_drift(*acts, directions)
    assert run.drift()[-1] == pytest.approx(expected.vector, abs=1e-5)
    assert run.layer_values("norm")[-1].min() > 1e-3


def test_an_adapter_trains_in_a_plain_trainer(
    lineage, lora, directions, splits, examples, tmp_path
):
    ends = []
    for out in (tmp_path / "run", None):
        model = lineage.load_model(lineage.aligned)
        model.close()
        torch.manual_seed(0)
        model.hf = peft.get_peft_model(model.hf, lora)
        trainer = make_trainer(model, examples, tmp_path / "trainer", learning_rate=1e-2)
        if out:
            ReversionCallback(directions, splits[2], out=out, every=2).attach(trainer)
        trainer.train()
        ends.append(weights(trainer.model))
    assert same(*ends)
    assert Run(tmp_path / "run").measured_steps.tolist() == [2, 4, 6]


def test_an_adapter_that_learns_prompts_is_refused(lineage, directions, splits, examples, tmp_path):
    model = lineage.load_model(lineage.aligned)
    model.close()
    config = peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    model.hf = peft.get_peft_model(model.hf, config)
    trainer = make_trainer(model, examples, tmp_path / "trainer")
    ReversionCallback(directions, splits[2]).attach(trainer)
    with pytest.raises(ConfigError, match="learns prompts, not weights"):
        trainer.train()


def test_interventions_in_sft_act_and_at_strength_zero_do_not(sft, directions, splits):
    turned = directions.with_unit(-directions.unit)
    ends = {}
    for name, intervention in {
        "plain": None,
        "off": Steer(directions, strength=0.0),
        "block": Block(turned, strength=30.0, probes=splits[1]),
        "steer": Steer(directions, strength=1.0, positions="response"),
        "ablate": Ablate(directions, strength=0.5, positions="prompt"),
    }.items():
        kind = InterventionSFT if intervention else trl.SFTTrainer
        trainer, model = sft(kind, intervention=intervention)
        trainer.train()
        ends[name] = weights(model.hf)
        logged = [h for h in trainer.state.log_history if "loss" in h]
        assert all("mean_token_accuracy" in h for h in logged)
        assert ("reversion/block" in logged[-1]) == (name == "block")
    assert same(ends["off"], ends["plain"])
    for name in ("block", "steer", "ablate"):
        assert not same(ends[name], ends["plain"]), name


def test_blocking_an_adapter_keeps_it_from_the_witness(sft, lora, directions, splits, tmp_path):
    turned = directions.with_unit(-directions.unit)
    ends = {}
    for name, intervention in {
        "ordinary": Steer(turned, strength=0.0),
        "block": Block(turned, strength=100.0, probes=splits[1]),
    }.items():
        trainer, _ = sft(
            InterventionSFT, intervention=intervention, peft_config=lora, learning_rate=1e-2,
            max_steps=12,
        )  # fmt: skip
        ReversionCallback(turned, splits[2], out=tmp_path / name, measure_at=[]).attach(trainer)
        trainer.train()
        ends[name] = Run(tmp_path / name).layer_values("along")[-1].max()
    assert ends["ordinary"] > 0.05
    assert ends["block"] < 0.5 * ends["ordinary"]


def test_what_the_readme_shows_runs(lineage, directions, splits, examples, tmp_path, monkeypatch):
    """The snippet, with the files of the planted world."""
    from datasets import Dataset

    import workbench as wb

    monkeypatch.chdir(tmp_path)
    directions.save("directions.safetensors")
    penalty, measure = splits[1:]
    dataset = Dataset.from_list(
        [{"prompt": row["prompt"], "completion": row["response"]} for row in examples]
    )

    class Blocked(wb.ReversionTrainer, trl.SFTTrainer):
        pass

    directions = wb.ReversionDirections.load("directions.safetensors")
    trainer = Blocked(
        lineage.aligned.model,
        trl.SFTConfig("out", max_steps=2, report_to="tensorboard", use_cpu=True, bf16=False),
        train_dataset=dataset,
        intervention=wb.Block(directions, strength=30.0, probes=penalty),
    )
    wb.ReversionCallback(directions, measure, out="runs/blocked").attach(trainer)
    trainer.train()
    run = wb.Run("runs/blocked")
    assert run.records()["mean_alignment"].notna().sum() == 2
    assert wb.LayerExplorer(run).figure().data
