"""One training by several processes; what `accelerate launch` runs in test_trainer_distributed.

Usage: train.py WORLD OUT KIND WITH [resume]: KIND is ddp, fsdp or fsdp-accelerate, WITH is nothing,
drift or block.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

sys.path.insert(0, str(Path(__file__).parents[1]))
from planted_trainer import collate

import workbench as wb

FSDP2 = {"version": 2, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]}


def arguments(out, kind):
    sharded = {"fsdp": True, "fsdp_config": FSDP2} if kind == "fsdp-accelerate" else {}
    if kind == "ddp":
        sharded = {"save_strategy": "steps", "save_steps": 2}
    return TrainingArguments(
        str(out / "trainer"), max_steps=4, per_device_train_batch_size=2, learning_rate=1e-3,
        lr_scheduler_type="constant", report_to=[], logging_steps=1, disable_tqdm=True,
        use_cpu=True, remove_unused_columns=False, seed=0,
        **{"save_strategy": "no"} | sharded,
    )  # fmt: skip


def load(world, kind):
    if kind != "fsdp":
        return AutoModelForCausalLM.from_pretrained(world / "aligned")
    from transformers.distributed import DistributedConfig

    return AutoModelForCausalLM.from_pretrained(
        world / "aligned", distributed_config=DistributedConfig(fsdp_size=2), dtype="float32"
    )


def whole(parameter):
    return getattr(parameter, "full_tensor", parameter.detach)().detach().clone().contiguous()


def main(world, out, kind, what, resume):
    args = arguments(out, kind)
    print("parallel", args.parallel_mode, args.world_size, torch.distributed.get_backend())
    directions = wb.ReversionDirections.load(world / "directions.safetensors")
    options = {}
    if what == "block":
        penalty = wb.ProbeSet.load(world / "penalty.jsonl")
        options["intervention"] = wb.Block(directions, 30.0, probes=penalty, batch_size=4)
    trainer = (wb.ReversionTrainer if options else Trainer)(
        load(world, kind),
        args,
        data_collator=collate,
        train_dataset=json.loads((world / "dataset.json").read_text()),
        processing_class=AutoTokenizer.from_pretrained(world / "aligned"),
        **options,
    )
    if what in ("drift", "block"):
        measure = wb.ProbeSet.load(world / "measure.jsonl")
        wb.ReversionCallback(directions, measure, out=out / "run", every=1).attach(trainer)
    trainer.train(resume_from_checkpoint=resume or None)
    print("type", type(trainer.model).__name__)
    weights = {name: whole(one) for name, one in trainer.model.named_parameters()}
    save_file(weights, out / f"weights-{args.process_index}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:5], resume=sys.argv[5:] and sys.argv[5])
