"""Job 5: ablation grids, against evaluating every point by itself: of the organism with all its
layer sets at 41 strengths, and of a deeper random model at 6 strengths.

The rival is the loop that one would write: `evaluate` within `intervene`, point by point.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from compare import compare

pytestmark = pytest.mark.slow

STRENGTHS = tuple(np.linspace(-1, 1, 41).round(2).tolist())
ORGANISM = Path(__file__).parents[2] / "assets" / "organism" / "lineage.toml"


@dataclass
class Grid:
    """A model, its directions, and what it is asked."""

    model: object
    directions: object
    sets: dict
    strengths: tuple

    def shared(self, layers):
        """The grid of one layer set as the package makes it."""
        import workbench as wb

        options = {"layer_sets": layers, "strengths": self.strengths}
        return wb.ablation_grid({"aligned": self.model}, self.directions, **self.sets, **options)

    def naive(self, layers, centre):
        """The same scores, each point by itself."""
        import workbench as wb

        reference, scores = wb.read_reference(self.model, self.sets["benign"]), []
        options = {"positions": "all", "centre": centre}
        for chosen in layers:
            for strength in self.strengths:
                edit = wb.ablate(self.directions, strength=strength, layers=chosen, **options)
                with wb.intervene(self.model, edit):
                    scores.append(wb.evaluate(self.model, **self.sets, reference=reference))
        return scores


def organism():
    """The embedded organism with all that it is asked."""
    import workbench as wb
    from workbench.inputs import Inputs

    held = Inputs.beside(ORGANISM).load()
    model = held.lineage.load_model(held.lineage.aligned)
    sets = {"harmful": held.harmful, "benign": held.benign, "task": held.task, "judge": "organism"}
    return Grid(model, wb.fit_directions(held.lineage, held.fit), sets, STRENGTHS)


def deeper():
    """A random Llama of 10M parameters and 8 layers on a part of the organism's prompts."""
    import workbench as wb

    grid = organism()
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=grid.model.cfg.d_vocab, num_hidden_layers=8, hidden_size=320,
        intermediate_size=864, num_attention_heads=4, max_position_embeddings=128,
        tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    tokenizer, chat = grid.model.tokenizer, grid.model.chat
    model = wb.load_model(LlamaForCausalLM(config), tokenizer=tokenizer, chat=chat)
    sets = {
        name: wb.ProbeSet(probes.probes[:32]) if name != "judge" else probes
        for name, probes in grid.sets.items()
    }
    acts = wb.read_activations(model, grid.sets["harmful"])
    shift = 0.05 * acts.std() * torch.randn(acts.shape[0], 1, acts.shape[2])
    return Grid(model, wb.fit_directions_from(acts + shift, acts), sets, STRENGTHS[::8])


@pytest.fixture(scope="module", params=[organism, deeper])
def grid(request):
    torch.set_num_threads(1)
    return request.param()


@pytest.mark.parametrize("part", ["all layers at once", "the last layer", "all sets"])
def test_a_grid_is_cheaper_than_its_points(grid, part, capsys):
    n_layers = grid.model.cfg.n_layers
    every = [[layer] for layer in range(n_layers)]
    layers = {
        "all layers at once": [[*range(n_layers)]],
        "the last layer": [[n_layers - 1]],
        "all sets": [[*range(n_layers)], *every],
    }[part]
    if part == "all sets" and n_layers > 4:
        pytest.skip("takes too long, and is between the two others")
    found = grid.shared(layers)
    centre = torch.tensor(found.provenance["centre"], dtype=torch.float64)
    naive = grid.naive(layers, centre)
    for name in ("harmfulness", "refusal_log_odds", "task_loss", "kl"):
        values = [scores[name].value for scores in naive]
        assert found.scores[name][0, ..., 0].ravel().tolist() == pytest.approx(values, abs=1e-9)
    ratio = compare(
        f"grid of {len(grid.strengths)} strengths at {part}, {n_layers} layers",
        lambda: grid.shared(layers),
        lambda: grid.naive(layers, centre),
        budget=1.0,
        rounds=2,
    )
    with capsys.disabled():
        print(f"\n{ratio}; {ratio.seconds:.1f} s of CPU point by point")
    assert ratio.low <= ratio.budget
