"""The budgets of reading, drift, hooks and opening, as ratios within one run.

A check fails when even the lower end of the interval exceeds its budget.
"""

import subprocess
import sys
import time

import pytest
import torch
from compare import Ratio, compare, decoder_runs

pytestmark = pytest.mark.slow

SIZES = {
    "0.1M": {"num_hidden_layers": 4, "hidden_size": 48, "intermediate_size": 128},
    "10M": {"num_hidden_layers": 8, "hidden_size": 320, "intermediate_size": 864},
}
N_PROBES = 64
READING, DRIFT, HOOKS = 1.03, 1.10, {"0.1M": 1.15, "10M": 1.03}


@pytest.fixture(scope="module", params=SIZES)
def world(request):
    """A model of one size, prompts of mixed length, and directions."""
    from transformers import LlamaConfig, LlamaForCausalLM

    import workbench as wb
    from workbench.organism.tokenizer import build_tokenizer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    words = [f"w{number}" for number in range(500)]
    tokenizer = build_tokenizer(words)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        num_attention_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **SIZES[request.param],
    )
    model = wb.load_model(LlamaForCausalLM(config), tokenizer=tokenizer)
    lengths = torch.randint(8, 40, (N_PROBES,)).tolist()
    prompts = [
        " ".join(words[pick] for pick in torch.randint(500, (length,)).tolist())
        for length in lengths
    ]
    probes = wb.ProbeSet.from_prompts(prompts)
    acts = wb.read_activations(model, probes)
    directions = wb.fit_directions_from(acts + torch.randn(acts.shape[0], 1, acts.shape[2]), acts)
    return request.param, model, probes, acts, directions


def _forward(model, reading):
    """The bare decoder forward of the same batches, no LM head."""
    from workbench.encoding import fill_token, pad
    from workbench.reading import tokens_per_batch

    batches = [
        pad(
            [reading.encoded[i].ids for i in indices],
            fill=fill_token(model),
            device=torch.device("cpu"),
        )
        for indices in reading.batches(tokens=tokens_per_batch(model.cfg.device))
    ]
    return decoder_runs(model.hf.get_decoder(), batches)


def _too_small(request, size: str) -> None:
    """Say that a budget is missed at 0.1M, where the forward of all prompts takes 13 ms."""
    if size == "0.1M":
        reason = "a plain torch hook on every block alone costs 1.03x of it"
        request.applymarker(pytest.mark.xfail(reason=reason, strict=False))


def _report(ratio: Ratio, capsys) -> None:
    with capsys.disabled():
        print(f"\n{ratio}")
    assert ratio.low <= ratio.budget


def test_reading_means_costs_a_bare_forward(world, request, capsys):
    import workbench as wb

    size, model, probes, *_ = world
    _too_small(request, size)
    reading = wb.Reading.of(model, probes)
    _report(
        compare(
            f"reading means, {size}",
            lambda: wb.read_moments(model, reading),
            _forward(model, reading),
            budget=READING,
        ),
        capsys,
    )


def test_drift_costs_one_forward_of_its_prompts(world, request, capsys):
    import workbench as wb

    size, model, probes, acts, directions = world
    _too_small(request, size)
    reading = wb.Reading.of(model, probes)
    _report(
        compare(
            f"drift of {N_PROBES} prompts, {size}",
            lambda: wb.measure_drift(acts, wb.read_activations(model, reading), directions),
            _forward(model, reading),
            budget=DRIFT,
        ),
        capsys,
    )


def test_hooks_on_all_layers_are_cheap_in_training(world, capsys):
    size, model, _, _, directions = world
    tokens = torch.randint(6, model.cfg.d_vocab, (16, 32))
    parameters = list(model.hf.parameters())
    units = directions.unit.float()

    def step():
        logits = model(tokens)
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
        )
        torch.autograd.grad(loss, parameters)

    def hooked_step():
        hooks = [
            (f"blocks.{layer}.hook_resid_post", _steer(units[layer]))
            for layer in range(model.cfg.n_layers)
        ]
        with model.hooks(fwd_hooks=hooks):
            step()

    _report(compare(f"hooks on all layers, {size}", hooked_step, step, budget=HOOKS[size]), capsys)


def _steer(unit):
    def hook(resid, hook):  # noqa: ARG001
        return resid + 0.01 * unit

    return hook


def test_importing_the_package_is_quick_and_light(capsys):
    program = "import sys, workbench; sys.exit('torch' in sys.modules)"
    ours = min(_seconds(program) for _ in range(5))
    numpy = min(_seconds("import numpy") for _ in range(5))
    with capsys.disabled():
        print(f"\nimport workbench {ours:.2f} s, import numpy {numpy:.2f} s")
    assert ours < numpy + 0.3


def _seconds(program: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - start
