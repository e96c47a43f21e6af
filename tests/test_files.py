"""A file is whole or not there."""

import json
import os

import pytest
from planted_inputs import note_flushes

from workbench import files
from workbench.files import file_hash, write_atomic, write_json
from workbench.text import printable


def test_a_written_file_holds_its_content_and_nothing_else_is_left(tmp_path):
    write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_content_is_flushed_before_the_name_and_the_folder(tmp_path, monkeypatch):
    flushed = note_flushes(monkeypatch)
    write_atomic(tmp_path / "a", b"new")
    draft, folder = flushed
    assert draft.startswith(".a.") and draft.endswith(".tmp")
    assert folder == tmp_path.name


@pytest.mark.parametrize("fails_at", ["fsync", "replace"])
def test_a_failure_on_the_way_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, fails_at):
    write_atomic(tmp_path / "a", b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        *{"fsync": (os, "fsync"), "replace": (files.Path, "replace")}[fails_at], fail
    )
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "a", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


def test_json_is_utf8_and_comes_back_also_with_broken_file_names(tmp_path):
    data = {"α": ["→", "\udc80", None, 0.1]}
    write_json(tmp_path / "a", data)
    assert "α" in (tmp_path / "a").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "a").read_text(encoding="utf-8")) == data


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a", {"x": float("nan")})
    assert not (tmp_path / "a").exists()


def test_a_file_hash_is_that_of_the_content(tmp_path):
    for name, content in (("a", b"x"), ("b", b"x"), ("c", b"y")):
        (tmp_path / name).write_bytes(content)
    hashes = [file_hash(tmp_path / name) for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]


def test_printable_text_is_one_line_without_control_characters():
    hostile = "a\x1b[31mred\x1b[0m\nb\r\x07c\u202ed\udc80\u2028e"
    assert printable(hostile) == "a [31mred [0m b  c d  e"
    assert printable("plain → αβ 12 %") == "plain → αβ 12 %"
