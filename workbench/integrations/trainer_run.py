"""The run folder of a training that a Trainer does: begun, continued, described."""

import json
import math
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers import TrainingArguments

from workbench.artefacts import Artefact
from workbench.config import MEASURED_STEPS, Recipe, changed_settings
from workbench.directions import ReversionDirections
from workbench.errors import ProvenanceError, RunError
from workbench.files import remove_drafts
from workbench.integrations.trainer_records import cut_after
from workbench.interventions import Intervention
from workbench.measurement import Measurement
from workbench.models import HookedModel
from workbench.probes import ProbeSet
from workbench.reading import Reading
from workbench.recording import note_machine
from workbench.records import StepRecord
from workbench.runs import Run
from workbench.store import RunStore
from workbench.surroundings import DIRECTIONS

START, SCHEMA = "start.safetensors", "workbench.start/1"
"""In a run's folder: what θ_S reads on the probes, for a training that is resumed."""

TOLD = (
    "optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon", "lr_scheduler_type",
    "lr_scheduler_kwargs", "num_train_epochs", "per_device_train_batch_size", "bf16", "fp16",
    "gradient_checkpointing", "torch_compile", "label_smoothing_factor", "neftune_noise_alpha",
    "data_seed", "train_sampling_strategy", "logging_steps",
)  # fmt: skip
"""Training arguments that a run's config keeps beside its recipe."""


def default_steps(last: int) -> list[int]:
    """Return the measured steps up to `last`: `MEASURED_STEPS`, then as sparse in proportion."""
    tail = [step for step in MEASURED_STEPS if 10 < step <= 100]
    scaled = (step * 10**power for power in count(1) for step in tail)
    return [*_up_to(last, MEASURED_STEPS), *_up_to(last, (step for step in scaled if step > 100))]


def describe(
    args: TrainingArguments,
    steps: int,
    measured: Sequence[int],
    model: HookedModel,
    probes: ProbeSet,
    directions: ReversionDirections,
    interventions: Sequence[Intervention],
) -> dict[str, Any]:
    """Return a run's config as JSON values, but for the fingerprint of the model it began with."""
    accumulation, told = args.gradient_accumulation_steps, args.to_dict()
    recipe = Recipe(
        steps=steps,
        learning_rate=args.learning_rate,
        batch_size=args.per_device_train_batch_size * accumulation * args.world_size,
        warmup=args.get_warmup_steps(steps),
        weight_decay=args.weight_decay,
        clip=args.max_grad_norm or None,
        accumulation=accumulation,
        measure_at=tuple(step for step in measured if step < steps),
    )
    shape = str(told["lr_scheduler_type"]).removesuffix("_with_warmup")
    frozen = any(not parameter.requires_grad for parameter in model.hf.parameters())
    trained = [name for name, one in model.hf.named_parameters() if one.requires_grad]
    return json.loads(
        json.dumps(
            {
                "recipe": asdict(recipe) | {"schedule": shape},
                "seed": args.seed,
                "lineage": directions.provenance.get("lineage"),
                "probes": probes.fingerprint(),
                "directions": directions.identity(),
                "layers": directions.layers,
                "trainable": trained if frozen else None,
                "interventions": [one.describe() for one in interventions],
                "trainer": {name: told[name] for name in TOLD if name in told}
                | {"processes": args.world_size},
            }
        )
    )


def begin(out: Path, config: dict[str, Any], model: HookedModel, measurement: Measurement) -> Run:
    """Create the run of a training that is at θ_S, with a record of step 0: there drift is zero.

    Raises:
        RunError: If the folder is used.
    """
    run = RunStore(out.parent).create(config | {"model": model.fingerprint()}, out.name)
    note_machine(run, model)
    measurement.directions.save(run.folder / DIRECTIONS)
    provenance = {"model": model.fingerprint(), "tokens_hash": measurement.reading.fingerprint()}
    tensors = {"aligned": measurement.aligned, "floor": measurement.floor}
    start = Artefact(tensors, tuple(measurement.directions.layers), provenance)
    start.save(run.folder / START, SCHEMA)
    run.append(StepRecord(0, math.nan, 0.0, math.nan))
    return run


def proceed(out: Path, config: dict[str, Any], step: int) -> Run:
    """Take up the run of a training that is resumed after `step`; what came later is dropped.

    Raises:
        RunError: If there is none, it was made with other settings, or another process writes it.
    """
    run = RunStore(out.parent).open(out.name)
    old = run.info["config"]
    new = config | {"model": old["model"]}
    # More steps than were planned are no other training.
    changed = changed_settings(_without_length(old), _without_length(new))
    if changed:
        raise RunError(
            f"{run.folder}: made with other settings ({', '.join(changed[:5])}); "
            "resume with the same ones."
        )
    run.lock(break_lock=_is_ours(run.folder / "lock"))
    try:
        if not any(line["step"] <= step for line in run.refresh().lines):
            raise RunError(
                f"{run.folder}: holds no step up to {step}; it is not this training's run."
            )
        (run.folder / "state").mkdir(exist_ok=True)
        remove_drafts(run.folder)
        # Before steps are dropped, as a run that is done has all of them.
        info = {key: told for key, told in run.info.items() if key not in ("failure", "files")}
        run.write_info(info | {"status": "running", "config": new})
        cut_after(run, step)
    except BaseException:
        run.unlock()
        raise
    return run


def read_start(
    folder: Path, model: HookedModel, probes: ProbeSet, directions: ReversionDirections
) -> Measurement:
    """Return what `begin` stored, to measure drift from θ_S where θ_S is no longer in memory.

    Raises:
        ProvenanceError: If it is missing or damaged, or the prompts now become other tokens.
    """
    stored = Artefact.load(folder / START, SCHEMA, ("aligned", "floor"), "start")
    reading = Reading.of(model, probes, directions.provenance.get("position", -1))
    if reading.fingerprint() != stored.provenance["tokens_hash"]:
        raise ProvenanceError(
            f"{folder / START}: the probes now become other tokens; resume with the same "
            "tokenizer and chat."
        )
    aligned: Float[Tensor, "layer prompt d_model"] = stored.tensors["aligned"]
    return Measurement(reading, directions, aligned, stored.tensors["floor"])


def _without_length(config: dict[str, Any]) -> dict[str, Any]:
    length = ("steps", "measure_at", "warmup")
    recipe = {key: value for key, value in config["recipe"].items() if key not in length}
    trainer = {k: v for k, v in config["trainer"].items() if k != "num_train_epochs"}
    return config | {"recipe": recipe, "trainer": trainer}


def _is_ours(lock: Path) -> bool:
    """Whether this process holds the lock: of a training that an error or a user has ended."""
    try:
        holder = json.loads(lock.read_text())
        return (holder["host"], holder["pid"]) == (socket.gethostname(), os.getpid())
    except (OSError, ValueError, KeyError):
        return False


def _up_to(last: int, steps: Sequence[int] | Iterator[int]) -> Iterator[int]:
    for step in steps:
        if step > last:
            return
        yield step
