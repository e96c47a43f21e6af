"""How our own cost grows with the work: `python tests/benchmarks/scaling.py [--out FILE]`.

Along each axis everything else stays; an exponent is the slope of log CPU time (or log peak memory)
over log size: 0 does not grow, 1 doubles with the work. `peers/growth.py` does it for other tools.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

ROUNDS = 3


@dataclass(frozen=True)
class Work:
    """What is done: a model of some size, prompts to read, steps to train, seeds to run."""

    layers: int = 4
    width: int = 128
    prompts: int = 500
    steps: int = 20
    seeds: int = 1


AXES = {
    "reading": {
        "prompts": (250, 500, 1000, 2000),
        "layers": (2, 4, 8, 16),
        "width": (128, 256, 512, 1024),
    },
    "fine-tuning with drift at every step": {
        "steps": (10, 20, 40, 80),
        "layers": (2, 4, 8, 16),
        "seeds": (1, 2, 4),
    },
}


def model_of(work: Work):
    """Return a random Llama and prompts of mixed length."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import workbench as wb
    from workbench.organism.tokenizer import build_tokenizer

    torch.manual_seed(0)
    words = [f"w{number}" for number in range(500)]
    tokenizer = build_tokenizer(words)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=work.width, intermediate_size=3 * work.width,
        num_hidden_layers=work.layers, num_attention_heads=4, max_position_embeddings=128,
        tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, rng.integers(8, 40))) for _ in range(work.prompts)]
    return wb.load_model(LlamaForCausalLM(config), tokenizer=tokenizer), texts


def reading(work: Work) -> Callable[[], object]:
    """Read the means of all prompts."""
    import workbench as wb

    model, texts = model_of(work)
    read = wb.Reading.of(model, wb.ProbeSet.from_prompts(texts))
    return lambda: wb.read_moments(model, read)


def finetuning(work: Work) -> Callable[[], object]:
    """Fine-tune as often as there are seeds, with the drift of 64 prompts at every step."""
    import torch

    import workbench as wb

    model, texts = model_of(replace(work, prompts=64))
    probes = wb.ProbeSet.from_prompts(texts)
    acts = wb.read_activations(model, probes)
    arrows = wb.fit_directions_from(acts + torch.randn(work.layers, 1, work.width), acts)
    examples = [{"prompt": text, "response": text[:60]} for text in texts]

    def train() -> None:
        for seed in range(work.seeds):
            tuning = wb.FineTuning(
                model, examples, probes=probes, directions=arrows, steps=work.steps, seed=seed,
                learning_rate=1e-6, measure_at=range(1, work.steps + 1),
            )  # fmt: skip
            for _ in tuning:
                pass

    return train


JOBS = {"reading": reading, "fine-tuning with drift at every step": finetuning}


def run_alone(job: str, work: Work) -> None:
    """Time the job in this process and print CPU seconds and peak memory."""
    import ctypes
    import gc

    import torch

    torch.set_num_threads(1)
    do = JOBS[job](work)
    do()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # else what the first time took is there already
    before = _status("VmRSS:")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins here
    do()
    peak = _status("VmHWM:") - before
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        do()
        times.append(time.process_time() - start)
    print(json.dumps([float(np.median(times)), peak]))


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def exponent(sizes: tuple[int, ...], values: list[float]) -> str:
    """Return the slope of log values over log sizes, if they are positive."""
    if min(values) <= 0:
        return "none"
    return f"{np.polyfit(np.log(sizes), np.log(values), 1)[0]:.2f}"


def measured(job: str, axis: str, sizes: tuple[int, ...]) -> str:
    """Return the line of one axis."""
    found = []
    for size in sizes:
        command = [sys.executable, __file__, "--alone", job, json.dumps({axis: size})]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    cpu, peak = ([row[place] for row in found] for place in (0, 1))
    slopes = exponent(sizes, cpu), exponent(sizes, peak)
    return (
        f"{job}, {axis} {', '.join(map(str, sizes))}: CPU {', '.join(f'{t:.2f}' for t in cpu)} s, "
        f"exponent {slopes[0]}; peak {', '.join(f'{p / 1e6:.0f}' for p in peak)} MB, "
        f"exponent {slopes[1]}"
    )


def main() -> None:
    """Measure every axis, or one job alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alone", nargs=2)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.alone:
        run_alone(asked.alone[0], Work(**json.loads(asked.alone[1])))
        return
    lines = []
    for job, axes in AXES.items():
        for axis, sizes in axes.items():
            lines.append(measured(job, axis, sizes))
            print(lines[-1], flush=True)
    if asked.out:
        asked.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
