"""Files beside a planted experiment as the groundwork lays them: v_rev and the phases."""

import json

import numpy as np
from planted_experiment import D_MODEL, N_LAYERS
from safetensors.numpy import save_file

GAP = 10.0
ORDER = ["pretrained", "helpful", "aligned", "aligned-b"]
ROLES = {"witness": "helpful", "aligned": "aligned", "sibling": "aligned-b"}
SPOTS = {
    "pretrained": {0: 0.4, 1: -0.3, 5: 1.2},
    "helpful": {0: 1.0},
    "aligned-b": {0: 0.1, 2: 0.2},
}
"""By phase its coordinates, in gaps: 0 is v_rev, 1 is where planted drifts go across it."""


def write_directions(folder, layers=range(N_LAYERS)):
    unit = np.zeros((N_LAYERS, D_MODEL))
    unit[:, 0] = 1
    about = {
        "schema": "workbench.directions/2",
        "layers": list(layers),
        "provenance": {"witness": "helpful", "aligned": "aligned"},
    }
    arrays = {"unit": unit, "gap": np.full(N_LAYERS, GAP)}
    save_file(arrays, folder / "directions.safetensors", {"workbench": json.dumps(about)})


def write_phases(folder, spots=SPOTS):
    arrays = {name: np.zeros((N_LAYERS, D_MODEL)) for name in spots}
    for name, coordinates in spots.items():
        for axis, value in coordinates.items():
            arrays[name][:, axis] = GAP * value
    known = [name for name in ORDER if name in spots or name == "aligned"]
    about = {"layers": list(range(N_LAYERS)), "provenance": {"phases": known, "roles": ROLES}}
    save_file(arrays, folder / "phases.safetensors", {"workbench": json.dumps(about)})
