"""What reading and drift cost on a GPU: a random Llama of 1B parameters against bare forwards.

With `WORKBENCH_BENCHMARK_OUT=assets/benchmarks` the numbers are also written there, as JSON and
Markdown. The same code runs on the CPU with a tiny model, to be known to run.
"""

import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
from compare import Ratio, compare, decoder_runs

READING_BUDGET, DRIFT_BUDGET = 1.03, 1.10


@dataclass(frozen=True)
class Size:
    """A model and how much it is given to do."""

    name: str
    device: str
    dtype: torch.dtype
    config: dict
    n_probes: int
    probe_lengths: tuple[int, int]
    batch: tuple[int, int]
    """Examples and tokens of each in a training step."""

    rounds: int


BILLION = Size(
    "1B", "cuda", torch.bfloat16,
    dict(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, vocab_size=128256, rope_theta=500000.0,
    ),
    n_probes=256, probe_lengths=(16, 128), batch=(16, 256), rounds=20,
)  # fmt: skip
TINY = Size(
    "tiny", "cpu", torch.float32,
    dict(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, vocab_size=128,
    ),
    n_probes=8, probe_lengths=(4, 9), batch=(2, 8), rounds=2,
)  # fmt: skip


def build(size: Size):
    """The model, made on its device, and a reading of random tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    import workbench as wb
    from workbench.encoding import Encoded
    from workbench.organism.tokenizer import build_tokenizer
    from workbench.reading import Reading

    torch.manual_seed(0)
    config = LlamaConfig(
        tie_word_embeddings=True, max_position_embeddings=2048, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, **size.config,
    )  # fmt: skip
    before = torch.get_default_dtype()
    torch.set_default_dtype(size.dtype)
    try:
        with torch.device(size.device):
            hf = LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)
    words = [f"w{number}" for number in range(config.vocab_size - 6)]
    model = wb.load_model(hf, tokenizer=build_tokenizer(words))
    lengths = torch.randint(*size.probe_lengths, (size.n_probes,)).tolist()
    rows = [torch.randint(6, config.vocab_size, (length,)).tolist() for length in lengths]
    return model, Reading(tuple(Encoded(tuple(row), len(row)) for row in rows), -1, fill=0)


def forward(model, reading):
    """The bare decoder forward of the same batches, already on the device; no LM head."""
    batches = [reading.tokens(indices, model.cfg.device) for indices in reading.batches()]
    return decoder_runs(model.hf.get_decoder(), batches)


def training(model, size: Size):
    """A plain training step: loss, gradients and AdamW of all weights."""
    tokens = torch.randint(6, model.cfg.d_vocab, size.batch).to(model.cfg.device)
    optimiser = torch.optim.AdamW(model.hf.parameters(), lr=1e-6, fused=True)

    def step():
        model.hf(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def measure(size: Size) -> tuple[int, list[Ratio]]:
    """Time reading against a forward, and a step with drift against one without.

    Returns the number of tokens read, too.
    """
    import workbench as wb

    model, reading = build(size)

    def clock():
        if size.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    options = {"rounds": size.rounds, "clock": clock}
    read = compare(
        f"reading means, {size.name}",
        lambda: wb.read_moments(model, reading),
        forward(model, reading),
        budget=READING_BUDGET,
        **options,
    )
    aligned = wb.read_activations(model, reading)
    shift = torch.randn(aligned.shape[0], 1, aligned.shape[2])
    directions = wb.fit_directions_from(aligned + shift, aligned)
    step = training(model, size)

    def with_drift():
        step()
        wb.measure_drift(aligned, wb.read_activations(model, reading), directions)

    drift = compare(
        f"training step with drift of {size.n_probes} prompts, {size.name}",
        with_drift,
        step,
        budget=None,  # it depends on how many prompts there are per example
        **options,
    )
    probing = compare(
        f"drift of {size.n_probes} prompts, {size.name}",
        lambda: wb.measure_drift(aligned, wb.read_activations(model, reading), directions),
        forward(model, reading),
        budget=DRIFT_BUDGET,
        **options,
    )
    return sum(len(item.ids) for item in reading.encoded), [read, drift, probing]


def table(size: Size, tokens: int, ratios: list[Ratio]) -> dict:
    """The numbers and where they are from; seconds are of one pass over all, or of one step."""
    machine = torch.cuda.get_device_name() if size.device == "cuda" else platform.processor()
    speeds = {"bare forward": tokens / ratios[0].seconds}
    speeds["reading means"] = speeds["bare forward"] / ratios[0].value
    return {
        "machine": machine or platform.machine(),
        "torch": torch.__version__,
        "size": size.name,
        "dtype": str(size.dtype).removeprefix("torch."),
        "tokens": tokens,
        "tokens per second": {name: round(speed) for name, speed in speeds.items()},
        "ratios": [asdict(ratio) for ratio in ratios],
    }


def write(folder: Path, told: dict) -> None:
    """Write JSON and, for people, Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"gpu-speed-{told['size']}"
    path.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    lines = [
        "Random Llama, " + ", ".join(told[key] for key in ("size", "dtype", "machine", "torch")),
        "",
        "| job | ratio to the bare one | 95 % interval | budget | bare one, s |",
        "|---|---|---|---|---|",
        *(
            f"| {row['name']} | {row['value']:.3f} | {row['low']:.3f}–{row['high']:.3f} "
            f"| {row['budget'] or 'none'} | {row['seconds']:.4f} |"
            for row in told["ratios"]
        ),
        "",
        *(f"{name}: {speed} tokens/s  " for name, speed in told["tokens per second"].items()),
    ]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_reading_a_billion_weights_costs_a_bare_forward(capsys):
    tokens, ratios = measure(BILLION)
    told = table(BILLION, tokens, ratios)
    with capsys.disabled():
        print("", *ratios, told["tokens per second"], sep="\n")
    if folder := os.environ.get("WORKBENCH_BENCHMARK_OUT"):
        write(Path(folder), told)
    assert all(ratio.budget is None or ratio.low <= ratio.budget for ratio in ratios)


def test_the_benchmark_runs_on_a_tiny_model_without_a_gpu(tmp_path):
    tokens, ratios = measure(TINY)
    write(tmp_path, table(TINY, tokens, ratios))
    told = json.loads((tmp_path / "gpu-speed-tiny.json").read_text(encoding="utf-8"))
    assert told["tokens"] == tokens > TINY.n_probes * TINY.probe_lengths[0]
    assert [row["name"].split(",")[0] for row in told["ratios"]] == [
        "reading means",
        "training step with drift of 8 prompts",
        "drift of 8 prompts",
    ]
    assert all(0 < row["low"] <= row["value"] <= row["high"] for row in told["ratios"])
    assert "| reading means, tiny |" in (tmp_path / "gpu-speed-tiny.md").read_text(encoding="utf-8")
