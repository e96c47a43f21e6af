"""A series in a lineage file is one phase per step, and what it cannot mean is refused."""

import re

import pytest

from workbench import phases
from workbench.commands.options import is_lineage
from workbench.errors import ConfigError, PhaseMismatchError
from workbench.phases import Lineage
from workbench.resources import builtin_lineages

ROLES = '[roles]\nwitness = "step2"\naligned = "step8"\n'
SERIES = """[[phase]]
name = "step{step}"
model = "org/model"
revision = "step{step}"
steps = [0, 2, {from = 4, to = 8, every = 2}]
"""
REVISIONS = """[[phase]]
name = "step{step}"
model = "org/model"
revision = "stage1-step{step}-tokens{tokens}B"
revisions = ["stage1-step2-tokens0B", "stage1-step8-tokens21B"]
"""


def write(tmp_path, text, roles=ROLES):
    path = tmp_path / "lineage.toml"
    path.write_text(f"{roles}{text}", encoding="utf-8")
    return path


def told(lineage):
    return [(one.name, one.model, one.revision, one.step) for one in lineage.phases]


def test_steps_are_one_phase_each_in_order(tmp_path):
    lineage = Lineage.load(write(tmp_path, SERIES))
    assert told(lineage) == [(f"step{n}", "org/model", f"step{n}", n) for n in (0, 2, 4, 6, 8)]
    assert (lineage.witness.step, lineage.aligned.revision) == (2, "step8")


def test_a_single_phase_stands_beside_a_series_and_has_no_step(tmp_path):
    base = '[[phase]]\nname = "tuned"\nmodel = "org/tuned"\n'
    roles = ROLES.replace('aligned = "step8"', 'aligned = "tuned"')
    lineage = Lineage.load(write(tmp_path, SERIES + base, roles))
    assert (len(lineage.phases), lineage.aligned.step) == (6, None)


def test_a_range_alone_is_a_series_too(tmp_path):
    text = SERIES.replace("[0, 2, {from = 4, to = 8, every = 2}]", "{from = 2, to = 9, every = 3}")
    assert [one.step for one in Lineage.load(write(tmp_path, text)).phases] == [2, 5, 8]


def test_revisions_are_kept_as_they_are_and_their_step_is_read_off(tmp_path):
    names = ["stage1-step2-tokens0B", "stage1-step8-tokens21B"]
    expected = [("step2", "org/model", names[0], 2), ("step8", "org/model", names[1], 8)]
    assert told(Lineage.load(write(tmp_path, REVISIONS))) == expected
    without = re.sub("\nrevision = .*", "", REVISIONS)
    assert without != REVISIONS
    assert told(Lineage.load(write(tmp_path, without))) == expected
    named = REVISIONS.replace('name = "step{step}"', 'name = "{tokens}B"')
    roles = '[roles]\nwitness = "0B"\naligned = "21B"\n'
    assert [one.name for one in Lineage.load(write(tmp_path, named, roles)).phases] == ["0B", "21B"]


def test_folders_of_a_series_are_relative_to_the_file_also_the_missing_ones(tmp_path):
    (tmp_path / "checkpoints" / "at-2").mkdir(parents=True)
    text = SERIES.replace("org/model", "checkpoints/at-{step}").replace("\nrevision", "\n#")
    models = [one.model for one in Lineage.load(write(tmp_path, text)).phases]
    assert models == [str(tmp_path / "checkpoints" / f"at-{n}") for n in (0, 2, 4, 6, 8)]
    (tmp_path / "checkpoints" / "at-2").rmdir()
    assert Lineage.load(write(tmp_path, text)).phases[0].model == "checkpoints/at-0"


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ('revision = "step{step}"', 'revision = "main"', "steps need {step} in revision or in"),
        ('name = "step{step}"', 'name = "step8"', "5 checkpoints of a series are named 'step8'"),
        ('name = "step{step}"', 'name = "step{stp}"', "unknown placeholder {stp}; it may have"),
        ('name = "step{step}"\n', "", "lacks name"),
        ("[0, 2,", "[2, 0,", "step 0 comes after 2; steps must ascend"),
        ("[0, 2,", "[2, 2,", "step 2 comes after 2; steps must ascend, none twice"),
        ("[0, 2,", "[0, 5,", "step 4 comes after 5"),
        ("[0, 2,", "[0, -2,", "-2 is no step; give numbers from 0 on"),
        ("[0, 2,", "[0, true,", "True is no step"),
        ("[0, 2,", '[0, "2",', "'2' is no step"),
        ("every = 2", "evry = 2", "is no range of steps; it needs from, to"),
        ("every = 2", "every = 0", "is no range of steps"),
        ("to = 8", "to = 3", "is no range of steps"),
        ("to = 8", "to = 90000", "stands for more than 10000 checkpoints; take larger steps"),
        ("steps = [0, 2, {from = 4, to = 8, every = 2}]", "", "needs steps = […] beside it"),
        ("steps = [0, 2, {from = 4, to = 8, every = 2}]", "steps = []", "names no checkpoint"),
        ("steps = ", 'revisions = ["a"]\nsteps = ', "has both steps and revisions"),
        ("steps = ", "step = 3\nsteps = ", "unknown key 'step'; it may have name, model"),
    ],
)
def test_a_series_that_cannot_be_meant_is_refused(tmp_path, good, bad, message):
    assert good in SERIES
    path = write(tmp_path, SERIES.replace(good, bad, 1))
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        Lineage.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ("step2-tokens0B", "step-tokens0B", "does not match 'stage1-step{step}-tokens{tokens}B'"),
        ("tokens21B", "tokens21B-old", "'stage1-step8-tokens21B-old' does not match"),
        ('"stage1-step2-tokens0B", ', '"stage1-step9-tokens0B", ', "step 8 comes after 9"),
        ("-tokens{tokens}B", "-tokens{step}B", "must hold {step} once"),
        ("step{step}-tokens", "step-tokens", "must hold {step} once"),
        ('["stage1-step2-tokens0B", "stage1-step8-tokens21B"]', '"main"', "a list of strings"),
    ],
)
def test_revisions_that_say_no_step_are_refused(tmp_path, good, bad, message):
    assert good in REVISIONS
    with pytest.raises(ConfigError, match=re.escape(message)):
        Lineage.load(write(tmp_path, REVISIONS.replace(good, bad, 1)))


def test_a_name_that_two_tables_make_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"phases named twice: \['step2', 'step8'\]"):
        Lineage.load(write(tmp_path, SERIES + REVISIONS))


def test_an_error_about_a_long_series_is_short(tmp_path):
    text = SERIES.replace("to = 8, every = 2", "to = 10000, every = 4")
    path = write(tmp_path, text)
    lineage = Lineage.load(path)
    assert len(lineage.phases) == 2502
    with pytest.raises(ConfigError, match=r"it has 2502 phases, \['step0', 'step2'") as caught:
        lineage.phase("step1")
    assert len(str(caught.value)) < 200


@pytest.fixture
def asked(monkeypatch):
    """The revisions whose config is read; that of step 6 is of another model."""
    names = []

    def sizes(phase):
        names.append(phase.name)
        return {"width": 64 if phase.name == "step6" else 32}

    monkeypatch.setattr(phases, "_sizes", sizes)
    return names


def test_the_check_of_a_series_reads_its_ends_and_roles_only(tmp_path, asked):
    lineage = Lineage.load(write(tmp_path, SERIES))
    lineage.check()
    assert asked == ["step0", "step2", "step8"]
    with pytest.raises(PhaseMismatchError, match="width of step0 is 32, of step6 64"):
        lineage.check(every=True)


def test_two_series_have_four_ends(tmp_path, asked):
    other = SERIES.replace("step{step}", "late{step}").replace("org/model", "org/other")
    Lineage.load(write(tmp_path, SERIES + other)).check()
    assert asked == ["step0", "step2", "step8", "late0", "late8"]


COUNTS = {
    "olmo2-1b": 4,
    "olmo2-7b": 4,
    "tulu3-8b": 3,
    "smollm2-135m": 2,
    "smollm2-360m": 2,
    "smollm2-1.7b": 2,
    "qwen2.5-0.5b": 2,
    "qwen2.5-1.5b": 2,
    "pythia-70m": 154,
    "pythia-160m": 154,
    "pythia-410m": 154,
    "olmo2-1b-pretraining": 12,
}


@pytest.fixture
def no_hub(monkeypatch):
    """Any connection is an error."""

    def refuse(*_args, **_options):
        raise AssertionError("a connection was made")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.create_connection", refuse)


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.usefixtures("no_hub")
def test_a_built_in_lineage_names_hub_ids_and_roles_and_asks_no_hub(name):
    lineage = Lineage.builtin(name)
    assert lineage.name == name
    assert len(lineage.phases) == COUNTS[name]
    assert lineage.witness != lineage.aligned
    for phase in lineage.phases:
        assert re.fullmatch(r"[A-Za-z0-9-]+/[A-Za-z0-9.-]+", phase.model)
        assert "{" not in phase.name + (phase.revision or "")
    assert len({(phase.model, phase.revision) for phase in lineage.phases}) == COUNTS[name]
    if lineage.chat == "tokenizer":  # a base has another template than what was made from it
        assert len({phase.tokenizer or phase.model for phase in lineage.phases}) == 1


def test_every_file_that_comes_along_is_among_those_and_says_what_it_is():
    assert {*builtin_lineages()} == {*COUNTS}
    for file in builtin_lineages().values():
        told = file.read_text(encoding="utf-8")
        assert "# Untested against the hub" in told
        assert "interpretation" in told


def test_pythia_has_the_steps_that_were_published():
    steps = [phase.step for phase in Lineage.builtin("pythia-70m").phases]
    assert steps == [0, *(2**k for k in range(10)), *range(1000, 143001, 1000)]


def test_a_bare_name_is_a_built_in_lineage_unless_there_is_such_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Lineage.load("olmo2-1b").phases[0].model == "allenai/OLMo-2-0425-1B"
    write(tmp_path, SERIES)
    (tmp_path / "olmo2-1b").mkdir()
    (tmp_path / "lineage.toml").rename(tmp_path / "olmo2-1b" / "lineage.toml")
    assert Lineage.load("olmo2-1b").phases[0].model == "org/model"


def test_an_unknown_bare_name_lists_those_that_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"olmo3: no such lineage file\. Built in are olmo2-1b, "):
        Lineage.load("olmo3")
    with pytest.raises(ConfigError, match=r"No lineage 'olmo3' is built in: olmo2-1b, .* are"):
        Lineage.builtin("olmo3")
    with pytest.raises(ConfigError, match=r"lineage file\.$"):
        Lineage.load(tmp_path / "olmo3")


def test_a_built_in_name_is_a_lineage_to_the_commands_and_a_hub_id_is_a_model(tmp_path):
    assert is_lineage("olmo2-1b")
    assert is_lineage(str(write(tmp_path, SERIES)))
    assert is_lineage(str(tmp_path))
    assert not is_lineage("allenai/OLMo-2-0425-1B")
    assert not is_lineage("olmo3")
