"""ProjectGradient takes out of the update what leads along the direction, and nothing else."""

import json
from dataclasses import replace

import pytest
import torch

from workbench.encoding import encode
from workbench.errors import ConfigError, LayerError, ProbeError
from workbench.interventions import Start
from workbench.probes import ProbeSet
from workbench.projections import ProjectGradient

pytestmark = pytest.mark.transformer_lens_3


def start(setting, model, seed=0):
    """Start an intervention on a model, as a fine-tuning would."""
    return setting.start(Start(model, torch.Generator().manual_seed(seed), ()))


def flat(tensors):
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


@pytest.fixture
def along(plain_stream, directions):
    """Σ_l mean_x ⟨h_l(x), v_l⟩/g_l by plain torch hooks, one prompt at a time, with gradients."""

    def read(model, probes, layers=(0, 1, 2), position=-1, towards=directions):
        rows = []
        for prompt in probes.prompts:
            ids = torch.tensor([encode(model, prompt).ids])
            rows.append(plain_stream(model.hf, ids)[1:, 0, position])
        acts = torch.stack(rows).mean(dim=0).double()[list(layers)]
        return ((acts * towards.unit[list(layers)]).sum(-1) / towards.gap[list(layers)]).sum()

    return read


@pytest.fixture
def gradients_of(along):
    def differentiate(model, parameters, *args, **options):
        return torch.autograd.grad(along(model, *args, **options), parameters, allow_unused=True)

    return differentiate


@pytest.mark.parametrize("layers", [None, (1,), (2, 0)])
@pytest.mark.parametrize("position", [-1, -2])
def test_the_gradient_is_that_of_the_summed_motion(
    aligned_model, gradients_of, directions, splits, layers, position
):
    directions = replace(directions, provenance={**directions.provenance, "position": position})
    active = start(ProjectGradient(directions, probes=splits[1], layers=layers), aligned_model)
    aligned_model.hf.train()
    weights = list(aligned_model.hf.parameters())
    with torch.no_grad():  # the loop may be anywhere
        active.before_update(aligned_model, weights)
    assert all(module.training for module in aligned_model.hf.modules())
    aligned_model.hf.eval()
    expected = gradients_of(
        aligned_model, weights, splits[1], layers or (0, 1, 2), position=position
    )
    # Such as the final norm, and blocks above the last layer asked for.
    assert any(one is None for one in active.gradients)
    largest = max(other.abs().max() for other in expected if other is not None)
    for one, other in zip(active.gradients, expected, strict=True):
        if one is None:
            assert other is None or not other.any()
        else:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6 * largest.item())


def test_the_minibatch_is_drawn_by_the_interventions_own_generator(
    aligned_model, gradients_of, directions, splits
):
    setting = ProjectGradient(directions, probes=splits[1], batch_size=2)
    weight = [aligned_model.hf.transformer.h[0].mlp.c_proj.bias]
    found = []
    for seed in (0, 0, 1):
        active = start(setting, aligned_model, seed)
        for _ in range(2):
            active.before_update(aligned_model, weight)
            found.append(active.gradients[0])
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[3])
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[0], found[4])
    chosen = torch.randperm(len(splits[1]), generator=torch.Generator().manual_seed(0))[:2]
    pair = ProbeSet(tuple(splits[1].probes[index] for index in chosen))
    expected = gradients_of(aligned_model, weight, pair)[0]
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def edited(model, directions, splits):
    """Edit a hand-made update against a hand-made gradient; return the new update, flattened."""

    def edit(update, gradients, strength):
        active = start(ProjectGradient(directions, strength, splits[1]), model)
        active.gradients = gradients
        before = [torch.randn_like(part) for part in update]
        weights = [old + part for old, part in zip(before, update, strict=True)]
        kept = [old.clone() for old in before]
        active.edit_update(weights, before)
        assert all(map(torch.equal, before, kept))
        return flat(weights) - flat(before)

    return edit


@pytest.mark.parametrize("strength", [0.3, 1.0, 2.0])
def test_the_share_of_the_motion_is_taken_out_over_all_parameters_as_one_vector(edited, strength):
    update, gradients = [[torch.randn(4, 3), torch.randn(5)] for _ in range(2)]
    update[0] += 2.0 * gradients[0]
    update[1] -= 2.0 * gradients[1]  # one tensor leads back, but both together do not
    u, a = flat(update), flat(gradients)
    assert (update[1] * gradients[1]).sum() < 0 < 1.0 < u @ a
    new = edited(update, gradients, strength)
    torch.testing.assert_close(new @ a, (1 - strength) * (u @ a), atol=1e-5, rtol=0)
    torch.testing.assert_close(new, u - strength * (u @ a) / (a @ a) * a, atol=1e-6, rtol=0)


def test_an_update_that_leads_back_is_left_alone(edited):
    gradients = [torch.randn(4, 3), torch.randn(5)]
    back = [-0.5 * gradient for gradient in gradients]
    torch.testing.assert_close(edited(back, gradients, 1.0), flat(back), atol=1e-6, rtol=0)
    across = [torch.tensor([1.0, 0.0]), torch.tensor([2.0])]
    gradients = [torch.tensor([0.0, 3.0]), torch.tensor([0.0])]
    torch.testing.assert_close(edited(across, gradients, 1.0), flat(across), atol=1e-6, rtol=0)


def test_parameters_that_the_motion_does_not_depend_on_are_left_alone(edited):
    update = [torch.tensor([1.0, 1.0]), torch.tensor([5.0])]
    new = edited(update, [torch.tensor([2.0, 0.0]), None], 1.0)
    torch.testing.assert_close(new, torch.tensor([0.0, 1.0, 5.0]).double(), atol=1e-6, rtol=0)


def test_a_gradient_that_is_zero_or_not_finite_changes_nothing(edited):
    update = [torch.tensor([1.0, 1.0])]
    for value in (0.0, float("nan")):
        new = edited(update, [torch.full((2,), value)], 1.0)
        torch.testing.assert_close(new, flat(update), atol=1e-6, rtol=0)


def test_an_inner_product_is_not_lost_in_rounding(model, directions, splits):
    active = start(ProjectGradient(directions, 1.0, splits[1]), model)
    tiny = 2.0**-12
    update = torch.tensor([1 + tiny, -1 - 2 * tiny, 0.0])
    gradient = torch.tensor([1 + tiny, 1.0, 1024.0])
    assert (update * gradient).sum() == 0 < (update.double() * gradient.double()).sum() == tiny**2
    weights = update.clone()
    active.gradients = [gradient]
    active.edit_update([weights], [torch.zeros(3)])
    assert weights[2].item() == pytest.approx(-(tiny**2) * 1024 / (1024**2 + 2), rel=1e-3)


def test_a_whole_step_does_not_lead_along_where_an_ordinary_one_does(
    lineage, tune, along, directions, splits
):
    turned = directions.with_unit(-directions.unit)  # these examples happen to lead that way
    moved = {}
    for name, setting in {
        "ordinary": None,
        "half": ProjectGradient(turned, 0.5, splits[1]),
        "whole": ProjectGradient(turned, 1.0, splits[1]),
        "away": ProjectGradient(directions, 1.0, splits[1]),
    }.items():
        model = lineage.load_model(lineage.aligned)
        with torch.no_grad():
            before = along(model, splits[1], towards=turned)
        options = {"steps": 1, "learning_rate": 1e-4, "weight_decay": 0.1}
        list(tune(model, intervention=setting, **options))
        with torch.no_grad():
            moved[name] = (along(model, splits[1], towards=turned) - before).item()
    assert moved["ordinary"] > 1e-3
    assert moved["whole"] < 0.05 * moved["ordinary"]
    assert moved["half"] == pytest.approx(0.5 * moved["ordinary"], rel=0.1)
    assert moved["away"] == moved["ordinary"]  # the update leads away from there already


def test_over_many_steps_it_keeps_from_the_direction(lineage, tune, along, directions, splits):
    turned, ends = directions.with_unit(-directions.unit), {}
    for strength in (0.0, 1.0):
        model = lineage.load_model(lineage.aligned)
        with torch.no_grad():
            before = along(model, splits[1], towards=turned)
        setting = ProjectGradient(turned, strength, splits[1])
        records = list(tune(model, intervention=setting, steps=10, learning_rate=3e-4))
        assert all(not record.auxiliary for record in records)
        with torch.no_grad():
            ends[strength] = (along(model, splits[1], towards=turned) - before).item()
    assert ends[0.0] > 0.1
    assert ends[1.0] < 0.3 * ends[0.0]


def test_a_half_precision_model_is_edited_in_its_masters(lineage, tune, along, directions, splits):
    ends, turned = {}, directions.with_unit(-directions.unit)
    # The weights are rounded for once; without provenance the directions take them as θ_S.
    turned = replace(turned, provenance={"position": -1})
    for strength in (0.0, 1.0):
        model = lineage.load_model(lineage.aligned)
        model.hf.to(torch.bfloat16)
        wide = lineage.load_model(lineage.aligned)
        setting = ProjectGradient(turned, strength, splits[1])
        tuning = tune(model, intervention=setting, steps=1, learning_rate=1e-4)
        with torch.no_grad():
            for parameter, start_value in zip(
                wide.hf.parameters(), model.hf.parameters(), strict=True
            ):
                parameter.copy_(start_value)
            before = along(wide, splits[1], towards=turned)
        list(tuning)
        masters = tuning.state()
        with torch.no_grad():
            for name, parameter in wide.hf.named_parameters():
                parameter.copy_(masters[f"weight/{name}"])
            ends[strength] = (along(wide, splits[1], towards=turned) - before).item()
    assert ends[0.0] > 1e-3
    assert abs(ends[1.0]) < 0.1 * ends[0.0]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"probes": None}, ProbeError, "needs penalty probes; give it the penalty split"),
        ({"probes": ProbeSet(())}, ProbeError, "needs penalty probes"),
        ({"strength": -0.1}, ConfigError, "strength is -0.1; it must not be negative"),
        ({"strength": 2.1}, ConfigError, "strength is 2.1; it may be at most 2"),
        ({"strength": float("nan")}, ConfigError, "strength is nan"),
        ({"batch_size": 0}, ConfigError, "batch_size is 0; it must be positive"),
        ({"layers": (0, 3)}, LayerError, r"no directions at layers \[3\]; they have \[0, 1, 2\]"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(directions, splits, settings, error, message):
    good = {"strength": 1.0, "probes": splits[1]}
    ProjectGradient(directions, **good)
    with pytest.raises(error, match=f"project-gradient.* {message}"):
        ProjectGradient(directions, **good | settings)


def test_directions_of_another_checkpoint_are_refused(lineage, tune, directions, splits):
    other = lineage.load_model(lineage.witness)
    with pytest.raises(ValueError, match="start from weights"):
        tune(other, intervention=ProjectGradient(directions, probes=splits[1]))


def test_a_description_is_json_and_names_directions_and_probes_by_hash(directions, splits):
    told = ProjectGradient(directions, probes=splits[1], layers=(0, 2)).describe()
    assert json.loads(json.dumps(told)) == told
    assert (told["name"], told["strength"], told["layers"]) == ("project-gradient", 1.0, [0, 2])
    assert told["probes"] == splits[1].fingerprint()
    assert told["directions"]["aligned_hash"] == directions.provenance["aligned_hash"]
