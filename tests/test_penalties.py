"""Block and Push are the formulas of the method, and nothing at θ_S but what they say."""

import json
from dataclasses import replace

import pytest
import torch

from workbench.encoding import encode
from workbench.errors import ConfigError, LayerError, ProbeError
from workbench.interventions import Start, as_list
from workbench.penalties import Block, Push
from workbench.probes import ProbeSet

pytestmark = pytest.mark.transformer_lens_3


def start(setting, model, seed=0):
    """Start an intervention on a model, as a fine-tuning would."""
    return setting.start(Start(model, torch.Generator().manual_seed(seed), ()))


def block_of(along, hinge):
    along = along if hinge == "prompt" else along.mean(dim=1, keepdim=True)
    return torch.where(along > 0, along, 0.0).pow(2).mean(dim=1).sum()


def push_of(along, hinge, target=0.6):
    along = along if hinge == "prompt" else along.mean(dim=1, keepdim=True)
    missing = target - along
    return torch.where(missing > 0, missing, 0.0).pow(2).mean(dim=1).sum()


@pytest.fixture
def read(plain_stream):
    """Read one prompt at a time, by plain torch hooks with gradients: [layer prompt d_model]."""

    def each(model, probes, position=-1):
        rows = []
        for prompt in probes.prompts:
            resid = plain_stream(model.hf, torch.tensor([encode(model, prompt).ids]))[1:, 0]
            rows.append(resid.mean(dim=1) if position == "prompt_mean" else resid[:, position])
        return torch.stack(rows, dim=1)

    return each


@pytest.fixture
def reference(read, aligned_model, splits, directions):
    """Along, by the definition, of each penalty prompt against its own reading at θ_S."""

    def along(model, layers=(0, 1, 2), position=-1):
        with torch.no_grad():
            start = read(aligned_model, splits[1], position)
        moved = (read(model, splits[1], position) - start)[list(layers)]
        scaled = (directions.unit / directions.gap[:, None])[list(layers)].float()
        return torch.einsum("lpd,ld->lp", moved, scaled)

    return along


@pytest.fixture
def moved(lineage, planted_shift):
    """The aligned model after it went partly back, differently for each prompt."""
    model = lineage.load_model(lineage.aligned)

    def move():
        generator = torch.Generator().manual_seed(9)
        with torch.no_grad():
            model.hf.transformer.h[0].mlp.c_proj.bias += 0.55 * planted_shift
            for parameter in model.hf.parameters():
                parameter += 0.03 * torch.randn(parameter.shape, generator=generator)

    return model, move


@pytest.mark.parametrize("hinge", ["prompt", "mean"])
@pytest.mark.parametrize("layers", [None, (2,), (2, 0)])
@pytest.mark.parametrize("kind", [Block, Push])
def test_loss_and_gradient_are_those_of_the_formula(
    moved, reference, directions, splits, kind, layers, hinge
):
    model, move = moved
    setting = kind(directions, strength=7.0, probes=splits[1], hinge=hinge, layers=layers)
    active = start(setting, model)
    move()
    along = reference(model, layers or (0, 1, 2))
    assert along.min() < -0.001 < 0.001 < along.max()  # both sides of the hinge are met
    expected = 7.0 * (block_of if kind is Block else push_of)(along, hinge)
    ours = active.penalty(model)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    weights = list(model.hf.parameters())
    gradients = [torch.autograd.grad(loss, weights, allow_unused=True) for loss in (ours, expected)]
    largest = max(g.abs().max() for g in gradients[1] if g is not None)
    assert largest > 1e-3
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * largest.item())


@pytest.fixture
def further(directions):
    """Return two more directions per layer, one of them near the first."""
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(2, *directions.unit.shape, generator=generator, dtype=torch.float64)
    near, other = directions.unit + 0.1 * noise[0], noise[1]
    return tuple(
        replace(directions.with_unit(unit), gap=directions.gap * scale)
        for unit, scale in ((near, 0.5), (other, 2.0))
    )


@pytest.mark.parametrize("hinge", ["prompt", "mean", "none"])
@pytest.mark.parametrize("rank", [1, 2, 3, None])
def test_a_subspace_is_penalised_by_the_sum_over_its_directions(
    moved, read, aligned_model, directions, further, splits, rank, hinge
):
    model, move = moved
    setting = Block(
        directions, strength=3.0, probes=splits[1], hinge=hinge, further=further, rank=rank
    )
    assert setting.sources == (directions, *further)[: rank or 3]
    active = start(setting, model)
    move()
    with torch.no_grad():
        before = read(aligned_model, splits[1]).double()
    shift = read(model, splits[1]).double() - before
    expected = torch.zeros((), dtype=torch.float64)
    for source in (directions, *further)[: rank or 3]:
        along = (shift * source.unit[:, None]).sum(-1) / source.gap[:, None]
        assert along.min() < -0.001 < 0.001 < along.max()
        if hinge == "mean":
            along = along.mean(dim=1, keepdim=True)
        if hinge != "none":
            along = along.clamp(min=0)
        expected = expected + 3.0 * (along**2).mean(dim=1).sum()
    ours = active.penalty(model)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    weights = list(model.hf.parameters())
    gradients = [torch.autograd.grad(loss, weights, allow_unused=True) for loss in (ours, expected)]
    largest = max(g.abs().max().item() for g in gradients[1] if g is not None)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * largest)


def test_rank_one_is_block_without_further_directions_bit_for_bit(
    moved, directions, further, splits
):
    model, move = moved
    plain = Block(directions, strength=3.0, probes=splits[1], batch_size=4)
    settings = plain, replace(plain, further=further, rank=1), replace(plain, further=further)
    actives = [start(setting, model) for setting in settings]
    move()
    first, same, more = (active.penalty(model).item() for active in actives)
    assert first == same != more


def test_a_two_sided_block_punishes_both_ways_and_a_hinge_only_one(moved, directions, splits):
    model, move = moved
    turned = directions.with_unit(-directions.unit)
    sides = [
        start(Block(source, strength=1.0, probes=splits[1], hinge=hinge), model)
        for source in (directions, turned)
        for hinge in ("prompt", "none")
    ]
    move()
    there, both, back, both_back = (active.penalty(model).item() for active in sides)
    assert min(there, back) > 1e-5
    assert both == pytest.approx(there + back, rel=1e-5)
    assert both_back == pytest.approx(both, rel=1e-5)


def test_a_subspace_block_stops_motion_along_each_of_its_directions(
    lineage, tune, read, directions, splits
):
    with torch.no_grad():
        before = read(lineage.load_model(lineage.aligned), splits[1])

    def train(block=None):
        model = lineage.load_model(lineage.aligned)
        list(tune(model, intervention=block, steps=15))
        with torch.no_grad():
            return (read(model, splits[1]) - before).mean(dim=1).double()

    def along(drift, source):
        return ((drift * source.unit).sum(-1) / source.gap).max().item()

    free = train()
    # Two orthogonal directions of which training is known to take both: half of the drift each.
    halves = torch.zeros_like(free), torch.zeros_like(free)
    for part, half in enumerate(halves):
        half[:, part::2] = free[:, part::2]
    one, other = (directions.with_unit(half) for half in halves)
    single = Block(one, strength=100.0, probes=splits[1])
    alone, both = train(single), train(replace(single, further=(other,)))
    assert min(along(free, one), along(free, other)) > 0.3
    assert along(alone, one) < 0.3 * along(free, one)
    assert along(alone, other) > 0.5 * along(free, other)
    assert along(both, one) < 0.3 * along(free, one)
    assert along(both, other) < 0.3 * along(free, other)


@pytest.mark.parametrize("position", [-2, "prompt_mean"])
def test_the_penalty_reads_where_the_direction_was_fitted(
    moved, reference, directions, splits, position
):
    model, move = moved
    elsewhere = replace(directions, provenance={**directions.provenance, "position": position})
    active = start(Block(elsewhere, strength=1.0, probes=splits[1]), model)
    move()
    expected = block_of(reference(model, position=position), "prompt")
    torch.testing.assert_close(active.penalty(model), expected, rtol=1e-4, atol=1e-6)
    assert abs(block_of(reference(model), "prompt") - expected) > 1e-3 * expected


def test_directions_of_some_layers_are_matched_to_those_layers(
    moved, reference, directions, splits
):
    model, move = moved
    rows = [2, 0]
    some = replace(
        directions, layers=(2, 0), unit=directions.unit[rows], gap=directions.gap[rows],
        split_half=directions.split_half[rows], interval=directions.interval[rows],
        mean=directions.mean[rows],
    )  # fmt: skip
    active = start(Block(some, strength=1.0, probes=splits[1], layers=(0,)), model)
    move()
    expected = block_of(reference(model, (0,)), "prompt")
    torch.testing.assert_close(active.penalty(model), expected, rtol=1e-5, atol=1e-6)


def test_block_and_its_gradient_are_zero_at_the_aligned_model(aligned_model, directions, splits):
    block = start(Block(directions, strength=30.0, probes=splits[1]), aligned_model)
    loss = block.penalty(aligned_model)
    # Zero but for rounding, of which a minibatch in another shape makes 1e-7 phase gaps.
    assert loss < 1e-9
    gradients = torch.autograd.grad(loss, aligned_model.hf.parameters(), allow_unused=True)
    assert max(g.abs().max() for g in gradients if g is not None) < 1e-3
    push = start(Push(directions, strength=3.0, probes=splits[1]), aligned_model)
    assert push.penalty(aligned_model).item() == pytest.approx(3.0 * 3 * 0.6**2, rel=1e-5)


def test_block_does_not_mind_prompts_that_differ_from_each_other(moved, read, directions, splits):
    """Against the mean reading of θ_S, the hinge would punish the ordinary spread of prompts."""
    model, _ = moved
    spread = read(model, splits[1])
    spread = spread - spread.mean(dim=1, keepdim=True)
    axis = (directions.unit / directions.gap[:, None]).float()
    against_mean = block_of(torch.einsum("lpd,ld->lp", spread, axis), "prompt")
    active = start(Block(directions, strength=1.0, probes=splits[1]), model)
    assert active.penalty(model) < 1e-9 < 1e-2 < against_mean


def test_a_minibatch_is_drawn_by_the_interventions_own_generator(moved, directions, splits):
    model, move = moved
    setting = Block(directions, strength=1.0, probes=splits[1], batch_size=2)
    one, same, other = (start(setting, model, seed) for seed in (0, 0, 1))
    move()
    state = torch.get_rng_state()
    losses = [[active.penalty(model).item() for _ in range(4)] for active in (one, same, other)]
    assert torch.equal(torch.get_rng_state(), state)
    assert losses[0] == losses[1] != losses[2]
    assert len(set(losses[0])) > 1


def test_a_penalty_has_no_dropout_and_leaves_modes(moved, directions, splits):
    model, move = moved
    active = start(Block(directions, strength=1.0, probes=splits[1]), model)
    move()
    expected = active.penalty(model).item()
    model.hf.train()
    model.hf.transformer.h[1].eval()
    modes = [module.training for module in model.hf.modules()]
    # The order of the minibatch is drawn anew: equal but for the order of the sum.
    assert active.penalty(model).item() == pytest.approx(expected, rel=1e-5)
    assert [module.training for module in model.hf.modules()] == modes
    assert all(not point.fwd_hooks for point in model.hook_dict.values())


def test_a_trace_scales_the_gradient_to_its_norm(aligned_model, directions, splits):
    setting = Block(directions, strength=1.0, probes=splits[1], trace=(0.5, 3.0))
    active = start(setting, aligned_model)
    assert active.penalty_scale(1, 2.0) == 0.25
    assert active.penalty_scale(2, 2.0) == 1.5
    assert active.penalty_scale(1, 0.0) == 0.0  # nothing to scale
    with pytest.raises(ConfigError, match=r"The trace .* 2.* step 3"):
        active.penalty_scale(3, 1.0)
    plain = start(replace(setting, trace=None), aligned_model)
    assert plain.penalty_scale(1, 2.0) == 1.0


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"probes": None}, ProbeError, "needs at least 2 penalty probes; give it the penalty"),
        ({"probes": ProbeSet.from_prompts(["bako"])}, ProbeError, "at least 2 penalty probes"),
        ({"strength": -1.0}, ConfigError, "strength is -1.0; it must not be negative"),
        ({"strength": float("nan")}, ConfigError, "strength is nan"),
        ({"batch_size": 0}, ConfigError, "batch_size is 0; it must be positive"),
        ({"layers": (0, 3)}, LayerError, r"no directions at layers \[3\]; they have \[0, 1, 2\]"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [Block, Push])
def test_settings_that_make_no_sense_are_refused(
    directions, splits, kind, settings, error, message
):
    good = {"strength": 1.0, "probes": splits[1]}
    kind(directions, **good)
    with pytest.raises(error, match=f"{kind.name}.* {message}|{kind.name}: {message}"):
        kind(directions, **good | settings)


@pytest.mark.parametrize(
    ("rank", "count", "allowed"), [(0, 2, "1 to 3"), (4, 2, "1 to 3"), (2, 0, "1 to 1")]
)
def test_a_rank_that_the_directions_do_not_have_is_refused(
    directions, further, splits, rank, count, allowed
):
    with pytest.raises(ConfigError, match=rf"block: rank is {rank}; .* may be {allowed}"):
        Block(directions, probes=splits[1], further=further[:count], rank=rank)
    Block(directions, probes=splits[1], further=further[:count], rank=1 + count)


@pytest.mark.parametrize("kind", [Block, Push])
def test_an_unknown_hinge_is_refused_without_type_checks_too(directions, splits, kind):
    penalty = kind(directions, probes=splits[1])
    object.__setattr__(penalty, "hinge", "both")  # as a plain interpreter would let through
    message = rf"{kind.name}: hinge is 'both'; it may be prompt, mean or none\."
    with pytest.raises(ConfigError, match=message):
        penalty.__post_init__()


def test_an_intervention_of_strength_zero_is_none(directions, splits):
    off, on = (Block(directions, strength=s, probes=splits[1]) for s in (0.0, 1.0))
    push = Push(directions, probes=splits[1])
    assert as_list(None) == as_list(off) == as_list([]) == []
    assert as_list(on) == [on]
    assert as_list([on, off, push]) == [on, push]


def test_a_description_is_json_and_names_directions_and_probes_by_hash(directions, splits):
    told = Push(directions, probes=splits[1], layers=(0, 2), trace=(1.0,)).describe()
    assert json.loads(json.dumps(told)) == told
    assert (told["name"], told["target"], told["layers"]) == ("push", 0.6, [0, 2])
    assert told["probes"] == splits[1].fingerprint()
    assert told["directions"]["aligned_hash"] == directions.provenance["aligned_hash"]
