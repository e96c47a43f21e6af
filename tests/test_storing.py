"""A full disk or a read-only folder: one line that names the file, and nothing is lost."""

import errno
import json
import shutil
import subprocess

import pytest
from full_disks import Limited, Small, mounted
from planted_inputs import SMALL, contents

from workbench.cli import main
from workbench.config import is_sealed
from workbench.errors import DivergedError, StorageError
from workbench.recording import failing
from workbench.runs import Run
from workbench.store import RunStore
from workbench.storing import check_writable, writing

TINY = ("--evaluate-at", "0", "--max-new-tokens", "2")
COMMANDS = {
    "finetune": [*SMALL, "--state-every", "2", "--save-model"],
    "experiment": [*SMALL, *TINY, "--arms", "ordinary", "--seeds", "1"],
    "read": ["--quiet"],
}
PLACES = [
    ("finetune", "/run.json", 1),
    ("finetune", "/directions.safetensors", 1),
    ("finetune", "/readout.json", 1),
    ("finetune", "/drift/000003.safetensors", 1),
    ("finetune", "/records.jsonl", 1),
    ("finetune", "/records.jsonl", 5),
    ("finetune", "/state/000004/state.safetensors", 1),
    ("finetune", "/state/current", 2),
    ("finetune", "/model", 1),
    ("experiment", "/evidence.safetensors", 1),
    ("experiment", "/runs/planted-ordinary-0/answers/000000.json", 1),
    ("experiment", "/aftermath.safetensors", 1),
    ("experiment", "/experiment.json", 1),
    ("experiment", "/summary.json", 1),
    ("experiment", "/report.html", 1),
    ("read", "/passage.json", 1),
    ("read", "/phases/helpful", 1),
]
IN_THE_FAST_TIER = {"/state/000004/state.safetensors", "/phases/helpful"}


@pytest.fixture(scope="module")
def whole(inputs_folder, tmp_path_factory):
    """What each command leaves where there is room."""
    made = {}

    def of(command):
        if command not in made:
            out = tmp_path_factory.mktemp("whole") / "out"
            argv = [command, str(inputs_folder), *COMMANDS[command], "--out", str(out)]
            assert main(argv) == 0
            made[command] = contents(out)
        return made[command]

    return of


@pytest.fixture(params=[Limited, pytest.param(Small, marks=pytest.mark.slow)])
def disk(request, tmp_path, monkeypatch):
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param is Small:
        mounted("-t", "tmpfs", "-o", "size=32m", "none", folder)
        request.addfinalizer(lambda: subprocess.run(["umount", folder], check=True))
    return request.param(folder, monkeypatch)


@pytest.mark.parametrize(
    ("command", "place", "call"),
    [
        pytest.param(*one, marks=[] if one[1] in IN_THE_FAST_TIER else pytest.mark.slow)
        for one in PLACES
    ],
)
def test_a_full_disk_ends_a_command_in_one_line_that_names_the_file_and_nothing_is_lost(
    command, place, call, disk, inputs_folder, whole, capsys
):
    out = disk.folder / "out"
    argv = [command, str(inputs_folder), *COMMANDS[command], "--out", str(out)]
    expected = whole(command)
    capsys.readouterr()
    with disk.full_at(place, call):
        status = main(argv)
    told = [line for line in capsys.readouterr().err.splitlines() if "model shards" not in line]
    assert status == 2
    assert len(told) == 1, told
    reason = f"({disk.reason}); make room, then resume or repeat."
    assert told[0].startswith(f"workbench: {out}")
    assert told[0].endswith(f": cannot be written {reason}")
    if (place, call) != ("/records.jsonl", 5):  # there may be room in its last page
        assert place.removesuffix("/run.json") in told[0]
    assert not [path for path in disk.folder.rglob("*.tmp")]
    for path in out.rglob("run.json"):
        run = Run(path.parent)
        run.lock()  # nobody holds it
        run.unlock()
    resume = ["--resume"] if out.exists() else []
    assert main([*argv, *resume]) == 0
    assert without_time(contents(out)) == without_time(expected)


def without_time(files):
    """Without what tells how long all took."""
    kept = {name: content for name, content in files.items() if name != "report.html"}
    if "summary.json" in kept:
        summary = json.loads(kept["summary.json"])
        assert is_sealed(summary)  # of the time, too, which varies
        kept["summary.json"] = summary | {"wall_seconds": None, "sha256": None}
    return kept


def test_the_error_of_marking_a_run_does_not_hide_what_failed_it(tmp_path, monkeypatch):
    run = RunStore(tmp_path).create({}, "one")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("workbench.runs.write_json", full)
    with pytest.raises(DivergedError, match="planted"), failing(run):
        raise DivergedError("planted")
    run.lock()  # it is free, and can be resumed


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "x"), "No space left on device); make room, then resume or repeat"),
        (OSError(errno.EROFS, "x"), "Read-only file system); make it writable, then resume or re"),
        (OSError(errno.EIO, "x"), "Input/output error); see to the disk, then resume or repeat."),
        (OSError(errno.ENOENT, "x"), "No such file or directory); make its folder first."),
        (OSError(errno.EISDIR, "x"), "Is a directory); choose another."),
        (Exception("I/O error: File too large (os error 27)"), "File too large); make room, then"),
    ],
)
def test_what_cannot_be_written_is_named_with_the_reason(tmp_path, error, told):
    with pytest.raises(StorageError) as caught, writing(tmp_path / "file"):
        raise error
    assert str(caught.value).startswith(f"{tmp_path}/file: cannot be written ({told}")
    assert isinstance(caught.value, OSError)
    for other in (KeyError(1), caught.value, OSError("of no number")):
        with pytest.raises(type(other)) as again, writing(tmp_path):
            raise other
        assert again.value is other


@pytest.fixture
def read_only(request):
    """Make a folder read-only, for root as well; skip where that is not permitted."""

    def make(folder):
        folder.mkdir(parents=True, exist_ok=True)
        mounted("--bind", folder, folder)
        request.addfinalizer(lambda: subprocess.run(["umount", folder], check=True))
        mounted("-o", "remount,ro,bind", folder, folder)
        return folder

    return make


@pytest.mark.parametrize("command", ["finetune", "experiment", "read", "organism"])
def test_a_read_only_folder_is_refused_before_any_model_is_read(
    command, inputs_folder, tmp_path, read_only, monkeypatch, capsys
):
    def read(*_, **__):
        raise AssertionError("a model was read")

    for place in ("phases.load_model", "loading.load_model", "organism.recipe.load_model"):
        monkeypatch.setattr(f"workbench.{place}", read)
    out = read_only(tmp_path / "ro") / "deep/out"
    source = "build" if command == "organism" else str(inputs_folder)
    assert main([command, source, "--out", str(out)]) == 2
    told = f"workbench: {out}: cannot be written; make it writable, or choose another.\n"
    assert capsys.readouterr().err == told
    check_writable(tmp_path / "elsewhere/out")


@pytest.fixture(scope="module")
def made(inputs_folder, tmp_path_factory):
    """A run, a passage and directions."""
    folder = tmp_path_factory.mktemp("made")
    for command, options in COMMANDS.items():
        if command != "experiment":
            argv = [command, str(inputs_folder), *options, "--out", str(folder / command)]
            assert main(argv) == 0
    return folder


@pytest.mark.parametrize(
    ("argv", "out", "works"),
    [
        (["directions", "LINEAGE", "--out", "RO/v.st"], "v.st", "phases.load_model"),
        (["convert", "MADE/finetune/directions.safetensors", "RO/v.npz"], "v.npz",
         "commands.convert.ReversionDirections.load"),
        (["report", "MADE/finetune", "--out", "RO/r.html"], "", "commands.report.write_report"),
        (["export", "MADE/read", "--out", "RO/new/figures"], "new/figures",
         "commands.export.Press"),
        (["organism", "data", "--out", "RO/data"], "data", "organism.recipe.write_data"),
    ],
)  # fmt: skip
def test_a_read_only_folder_is_refused_before_any_work(
    argv, out, works, made, inputs_folder, tmp_path, read_only, monkeypatch, capsys
):
    def work(*_, **__):
        raise AssertionError("work was done")

    places = {"LINEAGE": str(inputs_folder), "MADE": str(made), "RO": str(tmp_path / "ro")}
    for place, path in places.items():
        argv = [part.replace(place, path) for part in argv]
    read_only(tmp_path / "ro")
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr(f"workbench.{works}", work)
        assert main(argv) == 2
    where = tmp_path / "ro" / out if out else tmp_path / "ro"
    told = f"workbench: {where}: cannot be written; make it writable, or choose another.\n"
    assert capsys.readouterr().err == told


def test_the_same_is_done_where_it_can_be_written(made, tmp_path):
    assert main(["convert", f"{made}/finetune/directions.safetensors", f"{tmp_path}/v.npz"]) == 0
    assert main(["organism", "data", "--out", f"{tmp_path}/data"]) == 0
    assert (tmp_path / "v.npz").is_file()
    assert (tmp_path / "data" / "lineage.toml").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"v.npz", "data"}


def test_a_run_that_became_read_only_is_read_but_not_continued(
    made, tmp_path, read_only, capsys, inputs_folder, whole
):
    copy = shutil.copytree(made / "finetune", tmp_path / "copies/one")
    read_only(copy.parent)
    with pytest.raises(OSError, match="Read-only"):
        (copy / "file").touch()
    assert contents(copy) == whole("finetune")
    assert len(Run(copy).checked().records()) == 6
    assert Run(copy).drift().shape[0] == len(Run(copy).measured_steps)
    capsys.readouterr()
    assert main(["report", str(copy), "--out", str(tmp_path / "report.html")]) == 0
    assert main(["report", str(copy)]) == 2
    captured = capsys.readouterr().err
    assert captured.count("\n") == 1
    assert f"{copy}: cannot be written; make it writable" in captured
    again = ["finetune", str(inputs_folder), *COMMANDS["finetune"], "--resume"]
    assert main([*again, "--out", str(copy)]) == 2
    assert f"{copy}: cannot be written; make it writable" in capsys.readouterr().err
