"""Job 5: an ablation grid of 41 strengths × all layers, against evaluating every point by itself.

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

        options = {"layer_sets": [layers], "strengths": self.strengths}
        return wb.ablation_grid({"aligned": self.model}, self.directions, **self.sets, **options)

    def naive(self, layers, centre):
        """The same scores, each point by itself."""
        import workbench as wb

        reference, scores = wb.read_reference(self.model, self.sets["benign"]), []
        for strength in self.strengths:
            edit = wb.ablate(
                self.directions, strength=strength, layers=layers, positions="all", centre=centre
            )
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


@pytest.mark.parametrize("part", ["all layers", "the middle layer", "the last layer"])
def test_a_grid_is_cheaper_than_its_points(grid, part, capsys):
    n_layers = grid.model.cfg.n_layers
    layers = {
        "all layers": [*range(n_layers)],
        "the middle layer": [n_layers // 2],
        "the last layer": [n_layers - 1],
    }[part]
    found = grid.shared(layers)
    centre = torch.tensor(found.provenance["centre"], dtype=torch.float64)
    for place, scores in enumerate(grid.naive(layers, centre)):
        for name in ("harmfulness", "refusal_log_odds", "task_loss", "kl"):
            assert found.scores[name][0, 0, place, 0] == pytest.approx(scores[name].value, abs=1e-9)
    ratio = compare(
        f"grid of {len(grid.strengths)} strengths at {part}, {n_layers} layers",
        lambda: grid.shared(layers),
        lambda: grid.naive(layers, centre),
        budget=1.0,
        rounds=3,
    )
    with capsys.disabled():
        print(f"\n{ratio}; {ratio.seconds:.1f} s of CPU point by point")
    assert ratio.low <= ratio.budget
