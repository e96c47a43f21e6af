"""A trial ends in the same bits however often it was killed, and does what its arm says."""

from dataclasses import replace

import pytest
from planted_inputs import contents

from workbench import conditions, trial
from workbench.arms import standard_arms
from workbench.conditions import Ground
from workbench.config import Recipe
from workbench.errors import ConfigError, DivergedError, RunError
from workbench.groundwork import DIRECTIONS, lay_groundwork
from workbench.inputs import Inputs
from workbench.loading import load_model
from workbench.locks import take_lock
from workbench.runs import Run
from workbench.trial import Trial, run_trial

RECIPE = Recipe(steps=6, learning_rate=1e-3, batch_size=4, measure_at=(1, 2, 4))
ARMS = standard_arms({"block": 0.5, "push": 0.5}, penalty_batch=4)
EVERYTHING = {"evaluate_at": (0, 3, 6), "save_model": True}


@pytest.fixture(scope="module")
def directions_file(inputs_folder, tmp_path_factory):
    """v_rev turned round: fine-tuning moves against the planted shift, and Block is to act."""
    folder = tmp_path_factory.mktemp("groundwork")
    fitted = lay_groundwork(Inputs.beside(inputs_folder).load(), (), RECIPE).directions
    fitted.with_unit(-fitted.unit).save(folder / DIRECTIONS)
    return folder / DIRECTIONS


@pytest.fixture
def make(tmp_path, inputs_folder, directions_file):
    """Make a small trial of an arm."""

    def small(arm=ARMS["block"], **changes):
        settings = {
            "run_id": f"planted-{arm.name}-{changes.get('seed', 0)}",
            "lineage": "planted",
            "store": tmp_path / "runs",
            "inputs": Inputs.beside(inputs_folder),
            "directions": directions_file,
            "arm": arm,
            "seed": 0,
            "recipe": RECIPE,
            "judge": "rules",
            "evaluate_at": (3,),
            "max_new_tokens": 3,
            "state_every": 2,
        }
        return Trial(**settings | changes)

    return small


def run_of(one):
    run_trial(one)
    return Run(one.store / one.run_id)


class Killed(BaseException):
    """Like a signal: nothing in the package catches it."""


def killing(step, error):
    def on_record(_, record):
        if record.step == step:
            raise error

    return on_record


@pytest.fixture(scope="module")
def uninterrupted(inputs_folder, directions_file, tmp_path_factory):
    """The files of a Block trial that nothing stopped."""
    store = tmp_path_factory.mktemp("uninterrupted")
    settings = {"max_new_tokens": 3} | EVERYTHING
    inputs = Inputs.beside(inputs_folder)
    run_trial(
        Trial("one", "planted", store, inputs, directions_file, ARMS["block"], 0, RECIPE, "rules",
              **settings)
    )  # fmt: skip
    return contents(store / "one")


@pytest.mark.parametrize("killed_at", [(1, 1), (2,), (3,), (6,), (3, 4, 5, 5)])
def test_a_killed_trial_resumed_ends_in_the_bits_of_one_that_nothing_stopped(
    make, uninterrupted, killed_at
):
    one = make(**EVERYTHING)
    for step in killed_at:
        with pytest.raises(Killed):
            run_trial(one, killing(step, Killed()))
        # Killed, it could not tell; the lock of this very process would not count as stale.
        (one.store / one.run_id / "lock").unlink()
    assert contents(run_of(one).folder) == uninterrupted
    assert "model/model.safetensors" in uninterrupted
    assert {f"drift/{step:06d}.safetensors" for step in (1, 2, 4, 6)} <= uninterrupted.keys()


def test_how_often_states_are_saved_changes_nothing(make, uninterrupted):
    assert contents(run_of(make(state_every=1, **EVERYTHING)).folder) == uninterrupted


def test_another_seed_gives_other_bits(make, uninterrupted):
    other = contents(run_of(make(seed=1, **EVERYTHING)).folder)
    assert other["model/model.safetensors"] != uninterrupted["model/model.safetensors"]


def test_a_resumed_trial_recomputes_no_more_than_the_steps_since_the_last_state(make):
    one, seen = make(), []
    with pytest.raises(Killed):
        run_trial(one, killing(5, Killed()))
    (one.store / one.run_id / "lock").unlink()
    run_trial(one, lambda _, record: seen.append(record.step))
    assert seen == [5, 6]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyboardInterrupt(), "interrupted; resume to continue"),
        (ValueError("planted"), "ValueError: planted"),
        (DivergedError("the loss is nan"), "the loss is nan"),
    ],
)
def test_a_trial_that_fails_says_why_and_can_be_resumed(make, uninterrupted, error, reason):
    one = make(**EVERYTHING)
    with pytest.raises(type(error)):
        run_trial(one, killing(3, error))
    run = Run(one.store / one.run_id)
    assert (run.status, run.info["failure"]) == ("failed", reason)
    assert contents(run_of(one).folder) == uninterrupted
    assert run.status == "done"
    assert "failure" not in run.info


def test_a_finished_trial_is_not_run_again_but_refused_with_other_settings(make):
    one, seen = make(), []
    run_trial(one)
    run_trial(one, lambda _, record: seen.append(record.step))
    assert seen == []
    with pytest.raises(RunError, match=r"other settings \(recipe\.learning_rate\)"):
        run_trial(replace(one, recipe=replace(RECIPE, learning_rate=2e-3)))


def test_settings_are_by_content_not_by_place(make, inputs_folder, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in inputs_folder.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    moved = make(
        inputs=Inputs.beside(copy),
        store=tmp_path / "elsewhere",
        device="cpu",
        state_every=5,
        break_lock=True,
    )
    assert moved.config() == make().config()
    with (copy / "task.jsonl").open("a") as file:
        file.write("\n")
    assert moved.config() != make().config()


def test_scores_and_answers_are_stored_at_the_evaluated_steps(make):
    run = run_of(make(evaluate_at=(0, 3, 6)))
    assert sorted(run.scores()) == [0, 3, 6]
    assert run.scores()[0]["kl"]["value"] == 0.0
    assert run.scores()[6]["kl"]["value"] > 0.0
    assert sorted(path.stem for path in (run.folder / "answers").iterdir()) == [
        "000000", "000003", "000006",
    ]  # fmt: skip


def test_the_saved_model_is_the_fine_tuned_one(make, inputs_folder):
    run = run_of(make(save_model=True))
    tuned, aligned = load_model(run.folder / "model"), load_model(inputs_folder / "aligned")
    assert tuned.fingerprint() != aligned.fingerprint()
    assert run.info["config"]["save_model"] is True


def test_an_arm_of_strength_zero_is_ordinary_fine_tuning_bit_for_bit(make):
    ordinary = contents(run_of(make(ARMS["ordinary"])).folder)
    nothing = replace(ARMS["block"], name="nothing", strength=0.0)
    assert contents(run_of(make(nothing)).folder) == ordinary
    assert contents(run_of(make()).folder) != ordinary


def test_the_matched_arm_applies_the_gradient_norms_that_block_had(make):
    block = run_of(make())
    trace = block.gradient_trace("block")
    matched = run_of(make(ARMS["matched"], runs={"block": block.id}))
    assert matched.gradient_trace("block") == pytest.approx(trace, rel=1e-6)
    assert len({*trace}) == RECIPE.steps, trace
    assert max(trace) > 0
    unscaled = run_of(make(ARMS["matched-unscaled"]))
    assert unscaled.gradient_trace("block") != pytest.approx(trace, rel=1e-2)


def test_a_matched_arm_needs_the_finished_run_it_is_matched_to(make):
    block = make()
    with pytest.raises(Killed):
        run_trial(block, killing(3, Killed()))
    with pytest.raises(RunError, match="running, but a run needs it finished; resume it first"):
        run_trial(make(ARMS["matched"], runs={"block": block.run_id}))


def test_arms_differ_only_by_what_they_do(make):
    runs = {name: run_of(make(ARMS[name])) for name in ("ordinary", "block", "push", "random")}
    first = {name: run.lines[0] for name, run in runs.items()}
    assert len({line["loss"] for line in first.values()}) == 1  # same data, same dropout
    last = {name: run.layer_values("along")[-1].mean() for name, run in runs.items()}
    assert last["block"] < last["ordinary"] < last["push"]
    assert "auxiliary" not in first["ordinary"]
    assert (
        first["push"]["auxiliary"]["push"]["loss"]
        > 0
        == first["block"]["auxiliary"]["block"]["loss"]
    )


@pytest.mark.parametrize("name", ["random", "matched"])
def test_control_directions_are_drawn_with_the_seed_of_the_trial(make, monkeypatch, name):
    seeds = []

    def drawn(directions, *_, seed):
        seeds.append(seed)
        return directions

    monkeypatch.setattr(conditions, f"{name}_directions", drawn)
    run_trial(make(replace(ARMS[name], match=None), seed=7))
    assert seeds == [7]


def test_states_must_be_saved_at_some_step(make):
    with pytest.raises(ConfigError, match="state_every is 0"):
        run_trial(make(state_every=0))


def test_an_evaluation_in_between_does_not_change_the_training(make):
    often = run_of(make(evaluate_at=(1, 2, 4), arm=replace(ARMS["block"], name="often")))
    once = run_of(make(evaluate_at=(), arm=replace(ARMS["block"], name="once")))
    drift = [contents(run.folder, "drift/*") for run in (often, once)]
    assert drift[0] == drift[1]
    assert len(often.scores()) > len(once.scores())


@pytest.mark.parametrize("place", ["answers", "aftermath.safetensors"])
def test_a_trial_that_was_taken_over_adds_no_files_to_what_the_other_writes(
    make, monkeypatch, place
):
    one = make(ARMS["ordinary"], evaluate_at=(2,), recipe=Recipe(steps=2, batch_size=4))
    folder = one.store / one.run_id
    taken = {}

    def taking(function):
        def taken_meanwhile(*args, **options):
            told = function(*args, **options)
            taken.setdefault("nonce", take_lock(folder / "lock", break_lock=True))
            return told

        return taken_meanwhile

    if place == "answers":
        monkeypatch.setattr(trial, "ask", taking(trial.ask))
    else:
        monkeypatch.setattr(Ground, "aftermath", taking(Ground.aftermath))
    with pytest.raises(RunError, match="another process has taken it over"):
        run_trial(one)
    assert taken and not (folder / place).exists()
    assert Run(folder).status == "running"
