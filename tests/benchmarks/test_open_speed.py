"""Job 7: opening a finished run of 48 layers × 1,000 measured steps, in a process without torch."""

import json
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow

LAYERS, STEPS, WIDTH, PROMPTS = 48, 1000, 64, 16
SECONDS = 2.0
"""Of the budget: of the whole process, the interpreter's start and all vectors included."""

OPEN = """
import json, sys, time
start = time.perf_counter()
import workbench as wb
run = wb.Run(sys.argv[1])
run.records(); records = time.perf_counter()
wb.plots.heatmap(run); figure = time.perf_counter()
drift = run.drift(); vectors = time.perf_counter()
import numpy as np
print(json.dumps([records - start, figure - start, vectors - figure, float(np.abs(drift).sum()),
                  "torch" in sys.modules]))
"""
NAIVE = """
import json, sys, time
from pathlib import Path
start = time.perf_counter()
import numpy as np, pandas as pd
from safetensors.numpy import load_file
folder = Path(sys.argv[1])
lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
frame = pd.json_normalize(lines); records = time.perf_counter()
import plotly.graph_objects as go
values = np.array([line["drift"]["alignment"] for line in lines], dtype=float)
go.Figure(go.Heatmap(z=values.T)); figure = time.perf_counter()
drift = np.stack([load_file(path)["vector"] for path in sorted((folder / "drift").iterdir())])
vectors = time.perf_counter()
print(json.dumps([records - start, figure - start, vectors - figure, float(np.abs(drift).sum()),
                  "torch" in sys.modules]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A stored run with a drift at every step."""
    import numpy as np

    from workbench.records import Drift, StepRecord
    from workbench.store import RunStore

    rng = np.random.default_rng(0)
    run = RunStore(tmp_path_factory.mktemp("runs")).create({"arm": "ordinary"}, "long")
    for step in range(1, STEPS + 1):
        values = rng.uniform(-1, 1, (4, LAYERS))
        drift = Drift(
            vector=rng.normal(size=(LAYERS, WIDTH)), alignment=values[0], along=values[1],
            across=abs(values[2]), norm=abs(values[3]), interval=np.stack([values[0]] * 2, axis=1),
            projections=rng.normal(size=(LAYERS, PROMPTS)), floor=np.full(LAYERS, 1e-3),
        )  # fmt: skip
        run.append(StepRecord(step, 1.0, 1e-4, 1.0, {}, drift))
    return run.folder


def opened(program, folder):
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True
    )
    return [*json.loads(done.stdout), time.perf_counter() - start]


def test_a_long_run_opens_within_two_seconds_and_without_torch(folder, capsys):
    import numpy as np

    ours, naive = [], []
    for _ in range(5):
        ours.append(opened(OPEN, folder))
        naive.append(opened(NAIVE, folder))
    one, other = np.median(np.array(ours, float), axis=0), np.median(np.array(naive, float), axis=0)
    assert one[3] == pytest.approx(other[3])
    with capsys.disabled():
        print(
            f"\nopening {LAYERS} layers × {STEPS} steps (width {WIDTH}): records {one[0]:.2f} s, "
            f"first figure {one[1]:.2f} s, then all drift vectors {one[2]:.2f} s, the process "
            f"{one[5]:.2f} s; by hand with pandas, plotly and safetensors, nothing checked: "
            f"{other[0]:.2f}, {other[1]:.2f}, {other[2]:.2f}, {other[5]:.2f} s"
        )
    assert not any(row[4] for row in ours)
    assert one[5] <= SECONDS
