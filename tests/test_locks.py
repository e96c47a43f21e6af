"""One process writes a run: a lock names its holder, and only a dead holder's lock is taken."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workbench import locks
from workbench.errors import RunError
from workbench.locks import check_lock, release_lock, take_lock


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


@pytest.fixture
def other():
    """A living process that is not this one."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def held_by(path, **changes):
    """Take the lock, then change what it says about its holder."""
    take_lock(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def holder_of(path):
    return json.loads(path.read_text())


def start_of(pid):
    return locks._started(pid)


def state_of(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_lock_names_its_host_boot_process_and_start(path):
    take_lock(path)
    holder = holder_of(path)
    assert holder["pid"] == os.getpid()
    assert holder["started"] == start_of(os.getpid())
    assert {"host", "boot", "nonce"} <= holder.keys()


def test_a_second_writer_in_the_same_process_is_refused(path):
    take_lock(path)
    with pytest.raises(RunError, match=f"process {os.getpid()}.*--break-lock"):
        take_lock(path)


def test_the_lock_of_a_living_process_is_refused_and_kept(path, other):
    held_by(path, pid=other.pid, started=start_of(other.pid))
    before = path.read_text()
    with pytest.raises(RunError, match=f"being written by process {other.pid}"):
        take_lock(path)
    assert path.read_text() == before


def test_the_lock_of_a_dead_process_on_this_host_is_taken_over(path, other):
    held_by(path, pid=other.pid, started=start_of(other.pid))
    other.kill()
    other.wait()
    take_lock(path)
    assert holder_of(path)["pid"] == os.getpid()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="zombies are told by /proc")
def test_a_killed_process_that_nobody_waited_for_counts_as_dead(path, other):
    held_by(path, pid=other.pid, started=start_of(other.pid))
    other.send_signal(signal.SIGKILL)
    while state_of(other.pid) != "Z":  # a zombie: still in the process table
        time.sleep(0.01)
    take_lock(path)
    assert holder_of(path)["pid"] == os.getpid()


def test_a_reused_process_number_is_told_from_the_holder(path, other):
    held_by(path, pid=other.pid, started="1")
    take_lock(path)
    assert holder_of(path)["pid"] == os.getpid()


def test_a_lock_from_before_a_reboot_is_taken_over(path, other):
    held_by(path, pid=other.pid, started=start_of(other.pid), boot="an earlier boot")
    take_lock(path)
    assert holder_of(path)["pid"] == os.getpid()


@pytest.mark.parametrize("content", [{"host": "another-host", "pid": 4_000_000}, "damaged", []])
def test_a_lock_whose_holder_cannot_be_seen_is_only_broken_on_request(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(RunError, match="--break-lock"):
        take_lock(path)
    take_lock(path, break_lock=True)
    assert holder_of(path)["pid"] == os.getpid()


def test_of_two_that_take_over_a_stale_lock_only_one_gets_it(path, monkeypatch, other):
    held_by(path, pid=other.pid, started="1")
    rival = {"host": "here", "pid": 5, "nonce": "rival"}

    def gone(_):
        # Between our look at the stale lock and our taking it over, a rival takes it over.
        path.write_text(json.dumps(rival))
        return True

    monkeypatch.setattr(locks, "_gone", gone)
    with pytest.raises(RunError, match="just begun"):
        take_lock(path)
    assert holder_of(path) == rival
    assert [file.name for file in path.parent.iterdir()] == ["lock"]


def test_a_lock_that_is_released_while_it_is_looked_at_is_free(path, monkeypatch):
    path.write_text(json.dumps({"host": "elsewhere", "pid": 5}))

    def released(looked_at):
        looked_at.unlink()
        monkeypatch.undo()
        return {}

    monkeypatch.setattr(locks, "_holder", released)
    nonce = take_lock(path)
    assert holder_of(path)["nonce"] == nonce


def test_a_lock_is_there_with_its_content_or_not_at_all(path, monkeypatch):
    """Killed while it is written, it would else be empty, and nobody could tell whose it is."""

    class Killed(BaseException):
        pass

    def killed(*_):
        assert not path.exists()
        raise Killed

    monkeypatch.setattr(locks.Path, "hardlink_to", killed)
    with pytest.raises(Killed):
        take_lock(path)
    monkeypatch.undo()
    assert not path.exists()
    take_lock(path)
    assert [file.name for file in path.parent.iterdir()] == ["lock"]


def test_a_file_system_without_hard_links_has_locks_too(path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(locks.Path, "hardlink_to", refuse)
    take_lock(path)
    assert holder_of(path)["pid"] == os.getpid()
    with pytest.raises(RunError, match="being written"):
        take_lock(path)
    assert [file.name for file in path.parent.iterdir()] == ["lock"]


def test_the_holder_learns_that_its_lock_was_taken_over_and_leaves_the_other_s(path):
    nonce = take_lock(path)
    check_lock(path, nonce)
    other = take_lock(path, break_lock=True)
    with pytest.raises(RunError, match="another process has taken it over"):
        check_lock(path, nonce)
    release_lock(path, nonce)
    check_lock(path, other)
    release_lock(path, other)
    assert not path.exists()
    with pytest.raises(RunError, match="and ended, or its lock was removed"):
        check_lock(path, other)


@pytest.mark.parametrize("pid", ["1", None, 0, -1, 1.5, [1]])
def test_a_holder_without_a_process_number_is_not_taken_for_gone(path, pid):
    held_by(path, pid=pid)
    with pytest.raises(RunError, match="--break-lock"):
        take_lock(path)
