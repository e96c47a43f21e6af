"""An arm becomes the intervention and the directions that it names."""

from dataclasses import replace

import pytest
import torch

from workbench.activations import read_activations
from workbench.aftermath import Aftermath
from workbench.anchors import Anchor
from workbench.arms import standard_arms
from workbench.conditions import (
    Condition,
    Ground,
    answered,
    check_condition,
    make_intervention,
    set_up,
)
from workbench.directions import ReversionDirections, fit_directions
from workbench.errors import ConfigError, LayerError, ProbeError, RunError
from workbench.inputs import Inputs
from workbench.penalties import Block, Push
from workbench.probes import ProbeSet
from workbench.projections import ProjectGradient
from workbench.rehearsal import Rehearse
from workbench.runs import AFTERMATH
from workbench.store import RunStore
from workbench.training_edits import Ablate, Cap, Steer

ARMS = standard_arms({"block": 5.0}, penalty_batch=4)
KINDS = {
    "block": Block, "push": Push, "random": Block, "matched-two-sided": Block, "ablate": Ablate,
    "steer": Steer, "cap": Cap, "project": ProjectGradient, "anchor-kl": Anchor,
    "anchor-penalty": Anchor, "anchor-weights": Anchor, "rehearse": Rehearse,
}  # fmt: skip


@pytest.fixture(scope="module")
def held(inputs_folder):
    return Inputs.beside(inputs_folder).load()


@pytest.fixture(scope="module")
def model(held):
    return held.lineage.load_model(held.lineage.aligned)


@pytest.fixture(scope="module")
def reversion(held):
    return fit_directions(held.lineage, held.fit)


@pytest.fixture(scope="module")
def ground(model, held, reversion):
    return Ground.of(model, held, reversion)


@pytest.fixture(scope="module")
def acts(model, held):
    return read_activations(model, held.fit)


@pytest.fixture
def earlier(tmp_path, acts):
    """Finished runs that left a planted displacement; `block` went 1 along axis 3, 2 along 4."""
    store = RunStore(tmp_path / "runs")
    for name, axes in (
        ("ordinary", {3: 5.0}),
        ("block", {3: 1.0, 4: 2.0}),
        ("block-rank2", {6: 1.0}),
    ):
        run = store.create({}, name)
        moved = acts.clone()
        for axis, length in axes.items():
            moved[..., axis] += length
        Aftermath.between(acts, moved, (0, 1, 2)).save(run.folder / AFTERMATH)
        run.finish()
    return store.open


@pytest.fixture
def condition(ground, earlier):
    """Set an arm up; `changes` are of the arm."""

    def make(name, seed=0, **changes):
        return set_up(replace(ARMS[name], **changes), ground, seed, earlier)

    return make


@pytest.mark.parametrize("name", KINDS)
def test_an_arm_is_the_intervention_it_names(name, held, reversion):
    arm = replace(ARMS[name], layers=(1,) if "anchor" not in name and name != "rehearse" else None)
    made = make_intervention(arm, Condition(reversion), held.penalty, held.benign_penalty)
    assert type(made) is KINDS[name]
    assert made.strength == arm.strength > 0
    if arm.layers is not None:
        assert made.layers == (1,)
    if name in ("block", "push", "project", "anchor-kl", "anchor-penalty"):
        assert made.batch_size == 4
        assert made.probes == (held.benign_penalty if name == "anchor-kl" else held.penalty)
    if name == "matched-two-sided":
        assert made.hinge == "none"


def test_nothing_holds_or_rehearses_what_a_harmful_prompt_was_answered_with(held, reversion):
    complied = [replace(probe, response="Sure, here is how") for probe in held.penalty.probes]
    for name in ("anchor-penalty", "rehearse"):
        penalty = ProbeSet(tuple(complied))
        made = make_intervention(ARMS[name], Condition(reversion), penalty, held.benign_penalty)
        assert made.probes.prompts == penalty.prompts
        assert {probe.response for probe in made.probes.probes} == {None}


def test_the_ordinary_arm_does_nothing(held, reversion):
    nothing = Condition(reversion)
    assert make_intervention(ARMS["ordinary"], nothing, held.penalty, held.benign_penalty) is None


def test_the_ground_is_read_where_v_rev_was_and_the_aftermath_from_there(ground, acts):
    assert torch.equal(ground.acts, acts)
    nothing = ground.aftermath()  # the model was not trained
    assert not nothing.mean.any()
    assert {*nothing.provenance["prompts"]} == {*ground.reversion.provenance["prompts"]}


def test_v_rev_is_used_as_it_is(condition, reversion):
    assert condition("block") == Condition(reversion)


@pytest.mark.parametrize("name", ["random", "matched-unscaled", "refusal", "drift", "shuffled"])
def test_a_control_is_another_direction_with_the_gaps_of_v_rev(condition, reversion, name):
    found = condition(name).directions
    assert torch.equal(found.gap, reversion.gap)
    assert (found.unit * reversion.unit).sum(dim=1).abs().max() < 0.999
    assert found.provenance["control"] in name


def test_the_drift_control_is_where_the_ordinary_run_went(condition):
    assert condition("drift").directions.unit[:, 3].tolist() == pytest.approx([1.0] * 3)


def test_an_orthogonal_control_has_nothing_of_v_rev(condition, reversion):
    found = condition("matched-two-sided", match=None).directions.unit
    assert (found * reversion.unit).sum(dim=1).abs().max() < 1e-9
    plain = condition("matched-unscaled").directions.unit
    assert (plain * reversion.unit).sum(dim=1).abs().min() > 1e-6


def test_seeds_draw_other_controls(condition):
    first, again, other = (condition("random", seed).directions.unit for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_subspace_adds_what_the_blocked_run_did_off_the_direction(condition, reversion, tmp_path):
    second = condition("block-rank2")
    (off,) = second.further
    planted = torch.zeros(3, off.unit.shape[1], dtype=torch.float64)
    planted[:, 3], planted[:, 4] = 1.0, 2.0
    planted -= (planted * reversion.unit).sum(dim=1, keepdim=True) * reversion.unit
    torch.testing.assert_close(off.unit, planted / planted.norm(dim=1, keepdim=True))
    second.save(tmp_path / "runs/block-rank2", reversion)
    third = condition("block-rank3")
    torch.testing.assert_close(third.further[0].unit, off.unit)
    inner = (third.further[1].unit * off.unit).sum(dim=1)
    assert inner.abs().max() < 1e-9


def test_a_condition_keeps_the_directions_that_are_not_v_rev(condition, reversion, tmp_path):
    condition("block").save(tmp_path, reversion)
    assert not list(tmp_path.glob("*.safetensors"))
    control = condition("random")
    control.save(tmp_path, reversion)
    loaded = ReversionDirections.load(tmp_path / "control.safetensors")
    assert torch.equal(loaded.unit, control.directions.unit)


def test_an_earlier_run_must_be_finished(ground, tmp_path):
    store = RunStore(tmp_path)
    store.create({}, "ordinary")
    with pytest.raises(RunError, match="ordinary: running, but a run needs it finished"):
        set_up(ARMS["drift"], ground, 0, store.open)


def test_only_an_anchor_on_benign_prompts_gets_the_models_own_answers(ground, held):
    given = answered(ARMS["anchor-kl"], ground, max_new_tokens=3)
    assert given.prompts == held.benign_penalty.prompts
    assert all(probe.response is not None for probe in given.probes)
    for name in ("anchor-penalty", "anchor-weights", "block", "rehearse"):
        assert answered(ARMS[name], ground, max_new_tokens=3) == held.benign_penalty


@pytest.mark.parametrize("name", ["anchor-kl", "refusal"])
def test_an_arm_that_needs_benign_probes_says_so(held, reversion, name):
    without = replace(held, benign_fit=ProbeSet(()), benign_penalty=ProbeSet(()))
    with pytest.raises(ProbeError, match=f"Arm '{name}' needs benign probes: add prompts with"):
        check_condition(ARMS[name], without, reversion)
    check_condition(ARMS[name], held, reversion)


def test_what_would_stop_a_run_is_found_before_any_starts(held, reversion):
    for arm in ARMS.values():
        check_condition(arm, held, reversion)
    with pytest.raises(LayerError, match="no directions at layers"):
        check_condition(replace(ARMS["cap"], layers=(7,)), held, reversion)
    with pytest.raises(ConfigError, match="strength"):
        check_condition(replace(ARMS["block"], strength=-1.0), held, reversion)
    unknown = replace(ARMS["block"])
    object.__setattr__(unknown, "intervention", "pray")  # past the type check
    with pytest.raises(ConfigError, match="Unknown intervention 'pray' in arm 'block'"):
        check_condition(unknown, held, reversion)
