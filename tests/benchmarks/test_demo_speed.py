"""Job 6: the whole demo, against bare training of as many steps."""

import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SECONDS = 180.0
RUNS, STEPS = 15, 100
"""Five arms with three seeds: ordinary, block, push and two controls."""

ORGANISM = Path(__file__).parents[2] / "assets" / "organism" / "lineage.toml"
BARE = """
import sys, torch
from workbench.batches import BatchOrder
from workbench.encoding import encode_examples, fill_token, pad
from workbench.inputs import Inputs

torch.set_num_threads(1)
held = Inputs.beside(sys.argv[1]).load()
for seed in range(int(sys.argv[2])):
    model = held.lineage.load_model(held.lineage.aligned)
    items = encode_examples(model, held.examples, "Example")
    order, hf = BatchOrder(len(items), 16, seed), model.hf
    model.close()
    optimiser = torch.optim.AdamW(hf.parameters(), lr=6e-5, weight_decay=0.0, fused=True)
    hf.train()
    for _ in range(int(sys.argv[3])):
        batch = [items[index] for index in order.next()]
        tokens, mask = pad([x.ids for x in batch], fill=fill_token(model), device=hf.device)
        labels = tokens.clone()
        for row, item in enumerate(batch):
            labels[row, : item.prompt_length] = labels[row, len(item.ids) :] = -100
        loss = hf(input_ids=tokens, attention_mask=mask, labels=labels, use_cache=False).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
"""


def spent(command):
    """Wall and CPU seconds of a command and its children."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, cpu


def test_the_demo_takes_less_than_three_minutes(tmp_path, capsys):
    bare = spent([sys.executable, "-c", BARE, str(ORGANISM), str(RUNS), str(STEPS)])
    demo = spent([sys.executable, "-m", "workbench", "demo", "--out", str(tmp_path / "demo")])
    assert len([*(tmp_path / "demo" / "runs").iterdir()]) == RUNS
    with capsys.disabled():
        print(
            f"\ndemo: {demo[0]:.0f} s, {demo[1]:.0f} s of CPU; bare training of {RUNS} × {STEPS} "
            f"steps: {bare[1]:.0f} s of CPU in one process; {demo[1] / bare[1]:.2f}x"
        )
    assert demo[0] <= SECONDS
