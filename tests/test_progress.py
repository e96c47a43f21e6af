"""Progress is one bar on a terminal, few plain lines elsewhere, and nothing when asked for."""

import sys

import pytest

from workbench import progress
from workbench.progress import Progress, Tally


def test_plain_lines_tell_steps_run_and_alignment_but_not_too_often(capsys):
    with Progress(20) as told:
        for step in range(1, 11):
            told("a", step, 0.25)
    assert capsys.readouterr().err == "1/20 steps, a at 1 cos +0.25\n"


def test_steps_of_all_runs_are_added_up(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", -1.0)
    with Progress(20) as told:
        told("a", 3, None)
        told("b", 2, -0.5)
        told("a", 4, None)
    assert capsys.readouterr().err.splitlines() == [
        "3/20 steps, a at 3",
        "5/20 steps, b at 2 cos -0.50",
        "6/20 steps, a at 4",
    ]


def test_quiet_says_nothing(capsys):
    with Progress(20, quiet=True) as told:
        told("a", 1, 0.25)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_one_bar_that_is_gone_afterwards(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress(4) as told:
        for step in (1, 3, 4):
            told("a", step, 0.5)
        assert (told.bar.n, told.bar.desc) == (4, "a cos +0.50")
    *_, left = capsys.readouterr().err.removesuffix("\r").split("\r")
    assert left.isspace()


def test_a_bar_is_closed_also_after_an_error(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with pytest.raises(KeyError), Progress(4) as told:
        raise KeyError
    assert told.bar.disable


def test_a_hostile_run_name_is_inert(capsys):
    with Progress(4) as told:
        told("a\x1b[2J\nb", 1, None)
    assert capsys.readouterr().err == "1/4 steps, a [2J b at 1\n"


def test_a_tally_tells_how_many_of_how_many_but_not_too_often(capsys):
    with Tally(3, "phase") as tally:
        for name in ("a\x1b[2J", "b", "c"):
            tally(name)
        tally.tell("b is\nleft out")
    assert capsys.readouterr().err == "1/3 phases, a [2J\nb is left out\n"


def test_a_quiet_tally_says_nothing(capsys):
    with Tally(3, "phase", quiet=True) as tally:
        tally("a")
        tally.tell("b is left out")
    assert capsys.readouterr() == ("", "")


def test_a_tally_on_a_terminal_is_one_bar_that_is_gone_afterwards(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Tally(2, "phase") as tally:
        tally("a")
        tally("b")
        assert (tally.bar.n, tally.bar.desc) == (2, "b")
    *_, left = capsys.readouterr().err.removesuffix("\r").split("\r")
    assert left.isspace()
