"""What was read of a growing file is not read again, and a file that was rewound is noticed."""

import json
import os

import pytest

from workbench.errors import RunError
from workbench.journal import Journal


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lines.jsonl"


def write(path, *numbers, mode="ab"):
    with path.open(mode) as file:
        for number in numbers:
            file.write(json.dumps({"step": number}).encode() + b"\n")


def steps(journal):
    return [line["step"] for line in journal.read()]


@pytest.fixture
def parsed(monkeypatch):
    """The lines that were parsed."""
    from workbench import journal

    seen, parse = [], journal.parse_json

    def parsing(line):
        seen.append(parse(line)["step"])
        return parse(line)

    monkeypatch.setattr(journal, "parse_json", parsing)
    return seen


def test_only_what_was_appended_is_parsed(path, parsed):
    write(path, 1, 2)
    journal = Journal(path)
    assert steps(journal) == [1, 2]
    write(path, 3)
    assert steps(journal) == [1, 2, 3]
    assert steps(journal) == [1, 2, 3]
    assert parsed == [1, 2, 3]


def test_lines_returned_before_do_not_change(path):
    write(path, 1)
    journal = Journal(path)
    before = journal.read()
    write(path, 2)
    assert steps(journal) == [1, 2]
    assert before == [{"step": 1}]


def test_a_torn_line_is_read_once_it_is_whole(path):
    write(path, 1)
    journal = Journal(path)
    with path.open("ab") as file:
        file.write(b'{"step"')
    assert steps(journal) == [1]
    with path.open("ab") as file:
        file.write(b': 2}\n{"st')
    assert steps(journal) == [1, 2]


@pytest.mark.parametrize("again", [(), (7,), (7, 8), (7, 8, 9, 10)])
def test_a_rewound_file_is_read_anew_also_if_it_has_grown_beyond(path, again):
    write(path, 1, 2, 3)
    journal = Journal(path)
    assert steps(journal) == [1, 2, 3]
    os.truncate(path, len(b'{"step": 1}\n'))
    write(path, *again)
    assert steps(journal) == [1, *again]


def test_a_replaced_file_is_read_anew_also_if_it_ends_alike(path):
    write(path, 1, 2, 3)
    journal = Journal(path)
    assert steps(journal) == [1, 2, 3]
    other = path.with_name("other")
    write(other, 8, 9, 3, 4)
    other.rename(path)
    assert steps(journal) == [8, 9, 3, 4]


def test_an_emptied_file_has_no_lines_and_a_missing_one_is_named(path):
    write(path, 1)
    journal = Journal(path)
    assert steps(journal) == [1]
    os.truncate(path, 0)
    assert steps(journal) == []
    path.unlink()
    with pytest.raises(RunError, match=r"lines\.jsonl: cannot be read"):
        journal.read()
