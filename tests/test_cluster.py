"""An experiment on a Ray cluster is the local one bit for bit, whichever process or node dies."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from planted_inputs import SMALL, contents

from workbench import cluster, nodes
from workbench.arms import choose_arms, standard_arms
from workbench.cli import main
from workbench.cluster import joined
from workbench.config import Recipe
from workbench.errors import ConfigError, DivergedError, RunError
from workbench.experiment import run_experiment
from workbench.groundwork import DIRECTIONS
from workbench.inputs import Inputs
from workbench.nodes import Surety, check_here
from workbench.runs import Run
from workbench.standing import Standing
from workbench.trial import Trial

PATIENCE = 240
LONG = Recipe(steps=120, learning_rate=1e-4, batch_size=4, measure_at=tuple(range(1, 121, 3)))
KNOWN = standard_arms({"block": 0.5, "push": 0.5}, penalty_batch=4)
ORDINARY = choose_arms("ordinary", KNOWN)


def until(condition, patience=PATIENCE):
    for _ in range(int(patience / 0.01)):
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


class Nodes:
    """Two nodes of one CPU on this machine."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        self.client_port = free_port()
        small = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        self._small = small
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args=small | {"ray_client_server_port": self.client_port},
        )
        self.second = self.add()

    def add(self):
        before = signal.getsignal(signal.SIGTERM)
        try:
            return self.cluster.add_node(**self._small)
        finally:
            signal.signal(signal.SIGTERM, before)  # a node of this process takes it

    def lose_second(self):
        """Lose the node that is not the head, as it is lost with its machine."""
        self.cluster.remove_node(self.second, allow_graceful=False)


@pytest.fixture(scope="module")
def there():
    """A cluster that processes started by this one find at RAY_ADDRESS."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
    # Paths of sockets are short: no folder of pytest's.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_TMPDIR", str(folder))
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patched.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        patched.setenv("OMP_NUM_THREADS", "2")  # of the nodes: trials are to have one
        patched.delenv("RAY_ADDRESS", raising=False)
        try:
            running = Nodes()
            patched.setenv("RAY_ADDRESS", running.cluster.address)
            yield running
            running.cluster.shutdown()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def member(there):  # noqa: ARG001
    """This process as a member of the cluster, which experiments find and leave so."""
    before = signal.getsignal(signal.SIGTERM)
    with joined("ray") as held:
        assert signal.getsignal(signal.SIGTERM) is before, "Ray has taken it"
        yield held
    assert signal.getsignal(signal.SIGTERM) is before, "Ray has taken it"


@pytest.fixture(scope="module")
def run(inputs_folder):
    """Run a small experiment into a folder."""

    def small(out, arms=ORDINARY, **options):
        settings = {
            "seeds": (0,),
            "recipe": LONG,
            "evaluate_at": (),
            "max_new_tokens": 3,
            "state_every": 5,
        }
        inputs = Inputs.beside(inputs_folder)
        return run_experiment(inputs, arms=arms, out=out, **settings | options)

    return small


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """The long experiment of the arm `ordinary`, run here."""
    return run(tmp_path_factory.mktemp("whole") / "x").folder


def numbers(folder):
    """What an experiment found: files of its runs and groundwork, its summary and its plan."""
    plan = json.loads((folder / "experiment.json").read_text())
    files = contents(folder / "runs") | contents(folder / "lineages")
    summary = json.loads((folder / "summary.json").read_text())
    for told in (plan, summary):
        for key in ("id", "wall_seconds", "sha256", "experiment"):
            told.pop(key, None)
    return files, summary, plan


@pytest.mark.usefixtures("member")
def test_an_experiment_on_a_cluster_is_the_one_that_is_run_here(run, tmp_path, monkeypatch):
    arms = choose_arms("ordinary,block,matched", KNOWN)
    options = {"arms": arms, "recipe": Recipe(steps=5, learning_rate=1e-3, batch_size=4)}
    seen = []
    monkeypatch.chdir(tmp_path)  # the nodes are elsewhere: paths that are sent are whole
    there = run("there", on="ray", on_progress=lambda *told: seen.append(told[:2]), **options)
    here = run("here", **options)
    assert numbers(there.folder) == numbers(here.folder)
    assert numbers(here.folder)[0].keys() > {"planted-matched-0/records.jsonl"}
    assert {(one.id, 5) for one in here.runs} <= {*seen}
    for one in there.runs:
        assert one.info["machine"] == here.runs[0].info["machine"]
        assert one.info["machine"]["threads"] == 1
        assert one.info["machine"]["host"] == socket.gethostname()
        assert one.info["command"] == sys.argv
        assert not (one.folder / "lock").exists()
    altered = run("altered", **options | {"seeds": (1,)})
    assert numbers(altered.folder)[0] != numbers(here.folder)[0]


def writer_of(folder):
    """The process that writes a run, once a state of it is stored."""
    with contextlib.suppress(OSError, ValueError, RunError):
        return (
            Run(folder).states.reached()[0] >= 20
            and json.loads((folder / "lock").read_text())["pid"]
        )


@pytest.mark.usefixtures("member")
def test_a_trial_that_fails_stops_the_experiment_with_its_own_error(run, tmp_path):
    arms = choose_arms("ordinary,block", KNOWN)
    recipe = Recipe(steps=30, learning_rate=1e30, batch_size=4)
    with pytest.raises(DivergedError, match="loss is nan at step 2") as caught:
        run(tmp_path / "x", arms, recipe=recipe, seeds=(0, 1), on="ray", jobs=1)
    assert "\n" not in str(caught.value)
    begun = [*(tmp_path / "x/runs").iterdir()]
    assert len(begun) == 1
    assert Run(begun[0]).status == "failed"
    assert not [*(tmp_path / "x").rglob("lock")]


def trial_of(experiment, inputs_folder, **changes):
    """A trial as the long experiment has it."""
    settings = {
        "run_id": "planted-ordinary-0",
        "lineage": "planted",
        "store": experiment / "runs",
        "inputs": Inputs.beside(inputs_folder),
        "directions": experiment / "lineages/planted" / DIRECTIONS,
        "arm": ORDINARY[0],
        "seed": 0,
        "recipe": LONG,
        "judge": "rules",
        "evaluate_at": (0, 120),
        "max_new_tokens": 3,
    }
    return Trial(**settings | changes)


@pytest.fixture
def sweep(member, whole, inputs_folder, tmp_path):  # noqa: ARG001
    """Run trials whose tasks are those of a function, a process each, without any model."""
    import ray

    def go(task, jobs, **needs):
        any_of_them = trial_of(whole, inputs_folder, store=tmp_path)
        trials = [
            replace(any_of_them, run_id=name, runs={"needed": of} if of else {})
            for name, of in needs.items()
        ]
        remote = ray.remote(num_cpus=0, max_retries=0)(task)
        cluster._Sweep(ray, lambda trial: remote.remote(trial.run_id), trials).run(jobs, None)

    return go


def test_a_trial_waits_for_what_it_needs_and_for_nothing_else_and_jobs_bounds_them(sweep, tmp_path):
    journal = tmp_path / "journal"

    def notes(name):
        import time

        with journal.open("a") as file:
            file.write(f"+{name} ")
        for _ in range(600 if name == "slow" else 1):
            time.sleep(0.1)
            if "-next" in journal.read_text():
                break
        with journal.open("a") as file:
            file.write(f"-{name} ")
        return True

    sweep(notes, 2, next="quick", slow="", quick="", other="")
    told = journal.read_text().split()
    assert told.index("-quick") < told.index("+next") < told.index("-next") < told.index("-slow")
    under_way = [sum(1 if one[0] == "+" else -1 for one in told[:n]) for n in range(len(told))]
    assert max(under_way) == 2
    journal.unlink()
    sweep(notes, 1, quick="", other="")
    assert journal.read_text().split() == ["+quick", "-quick", "+other", "-other"]


def test_when_a_trial_fails_those_that_had_begun_end_and_others_do_not_begin(sweep, tmp_path):
    journal = tmp_path / "journal"

    def fails(name):
        import time

        from workbench.errors import DivergedError

        lock, others = tmp_path / name / "lock", tmp_path / "begun/lock"
        if name in ("bad", "begun"):
            lock.parent.mkdir()
            lock.touch()
        while name == "bad":
            time.sleep(0.1)
            if others.exists():
                raise DivergedError("The loss is nan.")
        for _ in range(600 if name == "loading" else 20):
            time.sleep(0.1)  # an interrupt waits for what is under way
        with journal.open("a") as file:
            file.write(f"{name} ")
        return True

    with pytest.raises(DivergedError, match=r"^The loss is nan[.]$"):
        sweep(fails, 3, bad="", begun="", loading="", later="", needs="bad")
    assert journal.read_text() == "begun "


@pytest.mark.usefixtures("member")
def test_a_node_with_another_version_is_named_before_anything_is_run(run, tmp_path, monkeypatch):
    known = nodes.package_versions()
    monkeypatch.setattr(nodes, "package_versions", lambda: known | {"torch": "1.0+cpu"})
    version = known["torch"].partition("+")[0]
    told = f"Node {socket.gethostname()} has torch {version}, .* 1.0: install the same on both"
    with pytest.raises(RunError, match=told):
        run(tmp_path / "x", on="ray")
    assert not (tmp_path / "x/runs").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("member")
def test_a_node_that_sees_other_files_is_named_before_anything_is_run(run, tmp_path, monkeypatch):
    monkeypatch.setattr(nodes, "file_hash", lambda path: f"other {path}")
    with pytest.raises(RunError, match=f"^Node {socket.gethostname()} sees another file at /.*"):
        run(tmp_path / "x", on="ray")
    assert not (tmp_path / "x/runs").exists()


def test_what_a_node_has_to_see_are_the_files_and_the_source(whole, inputs_folder, monkeypatch):
    trial = trial_of(whole, inputs_folder)
    surety = Surety.of([trial])
    surety.check()
    assert {path.name for path in surety.files} >= {"lineage.toml", "finetune.jsonl", DIRECTIONS}
    with pytest.raises(RunError, match=r"sees no file at /gone, unlike .*: the inputs and --out"):
        replace(surety, files={Path("/gone"): ""}).check()
    monkeypatch.setattr(nodes, "__file__", str(Path(cluster.__file__).parent / "commands/x.py"))
    with pytest.raises(RunError, match=r"has reversion-workbench .*, .* install the same"):
        surety.check()


def test_only_a_writer_that_ran_on_a_node_is_known_there_to_be_gone(
    member, tmp_path, whole, inputs_folder
):
    from workbench.locks import _this_process

    gone = subprocess.Popen(["true"])
    gone.wait()
    locks = {}
    for name, change in {
        "dead": {"pid": gone.pid},
        "living": {},
        "foreign": {"host": "elsewhere", "pid": gone.pid},
    }.items():
        locks[name] = tmp_path / name / "lock"
        locks[name].parent.mkdir()
        locks[name].write_text(json.dumps(_this_process() | change))
    trial = trial_of(whole, inputs_folder, store=tmp_path)
    surety = Surety.of([trial])
    assert check_here(surety, [*locks.values(), tmp_path / "none"]) == [locks["dead"]]
    trials = [replace(trial, run_id=name) for name in (*locks, "none")]
    assert {one.run_id for one in member._check_nodes(0, surety, trials)} == {"dead"}


@pytest.fixture
def left(run, tmp_path):
    """The long experiment, left half-way by a process on a machine that is no node."""
    out = tmp_path / "left"

    def stop(_run_id, step, _alignment):
        if step == 43:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(out, on_progress=stop)
    lock = out / "runs/planted-ordinary-0/lock"
    assert not lock.exists()
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "nonce": "n"}))
    return out


@pytest.mark.slow
@pytest.mark.usefixtures("member")
def test_a_run_whose_writer_was_on_a_machine_that_is_gone_is_taken_when_that_is_said(
    run, left, whole
):
    with pytest.raises(RunError, match=r"process 1 on elsewhere; if .* gone, use --break-lock"):
        run(left, on="ray", resume=True)
    assert numbers(run(left, on="ray", resume=True, break_lock=True).folder) == numbers(whole)


@pytest.mark.parametrize(
    "on", ["slurm", "ray:", "ray://", "ray://head", "ray://a:b", "ray://a:1/x"]
)
def test_what_is_no_cluster_is_refused(on, run, tmp_path):
    with pytest.raises(ConfigError, match=r"--on .* it may be ray or ray://HOST:PORT, such as"):
        run(tmp_path / "x", on=on)
    assert not (tmp_path / "x").exists()


def test_threads_are_for_a_cluster(run, tmp_path):
    with pytest.raises(ConfigError, match="give --on, or leave --threads out"):
        run(tmp_path / "x", threads=2)


def test_without_ray_the_extra_is_named(inputs_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    argv = ["experiment", str(inputs_folder), *SMALL, "--on", "ray", "--out", str(tmp_path / "x")]
    assert main(argv) == 2
    told = "workbench: A cluster needs Ray: pip install 'reversion-workbench[ray]', here and on"
    assert capsys.readouterr().err == f"{told} its nodes.\n"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("at", ["ray", "RAY_ADDRESS", "local", "none"])
def test_a_cluster_that_does_not_answer_is_one_line_at_once(
    at, inputs_folder, tmp_path, monkeypatch, capsys
):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    nowhere = f"127.0.0.1:{free_port()}"
    addresses = {"RAY_ADDRESS": nowhere, "local": "local", "none": "auto"}
    monkeypatch.setenv("RAY_ADDRESS", addresses.get(at, ""))
    if at == "none":
        from ray._private import services

        monkeypatch.setattr(services, "find_gcs_addresses", set)
        monkeypatch.setattr(services, "find_bootstrap_address", lambda _: None)
    on = f"ray://{nowhere}" if at == "ray" else "ray"
    argv = ["experiment", str(inputs_folder), *SMALL, "--on", on, "--out", str(tmp_path / "x")]
    began = time.monotonic()
    assert main(argv) == 2
    assert time.monotonic() - began < 20
    told = capsys.readouterr().err
    assert told.startswith(f"workbench: --on {on}") and told.count("\n") == 1
    assert "no Ray cluster answers (" in told and "start one with `ray start --head` and" in told
    assert not (tmp_path / "x").exists()


def test_a_cluster_without_room_for_a_trial_is_refused(member, whole, inputs_folder):
    with pytest.raises(RunError, match="No node of the cluster has 1 CPU and a GPU, which a"):
        member.run([trial_of(whole, inputs_folder, device="cuda:1")], None)


@pytest.mark.usefixtures("member")
def test_a_process_that_is_killed_half_way_loses_only_what_came_after_its_last_state(
    run, tmp_path, whole
):
    folder, kept = tmp_path / "x/runs/planted-ordinary-0", {}

    def kill():
        writer = until(lambda: writer_of(folder))
        lock = folder / "lock"
        elsewhere = json.dumps(json.loads(lock.read_text()) | {"host": "elsewhere"})
        lock.with_name("draft").write_text(elsewhere)
        lock.with_name("draft").replace(lock)  # nobody here can tell that it is gone
        os.kill(writer, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{writer}").exists())
        with contextlib.suppress(RunError):
            state = Run(folder).states.reached()[0]
            files = {int(path.name[:6]): path for path in (folder / "drift").iterdir()}
            kept.update({"writer": writer, "state": state})
            kept.update({path: path.stat() for step, path in files.items() if step <= state})

    killing = threading.Thread(target=kill)
    killing.start()
    done = run(tmp_path / "x", on="ray")
    killing.join()
    assert numbers(done.folder) == numbers(whole)
    assert 20 <= kept.pop("state") < LONG.steps
    assert kept.pop("writer") != os.getpid()
    assert len(kept) >= 7
    for path, stat in kept.items():
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)


@pytest.mark.slow
def test_a_trial_whose_process_dies_again_and_again_is_given_up(sweep, tmp_path):
    journal = tmp_path / "journal"

    def dies(name):
        import os

        with journal.open("a") as file:
            file.write(f"{name}\n")
        os.kill(os.getpid(), 9)

    with pytest.raises(
        RunError, match=r"one lost its process 4 times at step 0 [(]WorkerCrashedError: .*[)]"
    ):
        sweep(dies, 1, one="", two="")
    assert journal.read_text().split() == ["one"] * (cluster.RETRIES + 1)


# What follows is of commands in processes of their own, and of a node that is lost.

ENDLESS = (
    "--arms", "ordinary,block:0.5,push:0.5", "--seeds", "1", "--evaluate-at", "0", "--quiet",
    "--max-new-tokens", "2", "--steps", "3000", "--measure-at", "1", "--batch-size", "4",
    "--state-every", "5", "--learning-rate", "0.0001",
)  # fmt: skip


@pytest.fixture
def start(there, tmp_path):  # noqa: ARG001
    """Start a command; what is left of it in the end is killed."""
    started = []

    def go(*argv):
        process = subprocess.Popen(
            [sys.executable, "-m", "workbench", *map(str, argv)],
            stderr=subprocess.PIPE, text=True, cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        started.append(process)
        return process

    yield go
    for process in started:
        process.kill()
        process.communicate()


def shorter(options, steps):
    return [str(steps) if part == "3000" else part for part in options]


def begun(out, state=10):
    """The runs under way that have a state of that step, or a later one."""
    found = []
    for run in map(Run, out.glob("runs/[!.]*")):
        with contextlib.suppress(RunError, OSError):
            found += [run] * ((run.folder / "lock").exists() and run.states.reached()[0] >= state)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ray", "client"])
def test_an_experiment_on_a_cluster_that_is_told_to_stop_ends_after_its_steps_and_goes_on(
    way, start, there, inputs_folder, tmp_path
):
    on = "ray" if way == "ray" else f"ray://127.0.0.1:{there.client_port}"
    out = tmp_path / "x"
    argv = ("experiment", inputs_folder, *shorter(ENDLESS, 150), "--out", out)
    process = start(*argv, "--on", on)
    until(lambda: len(begun(out)) == 2 or process.poll())
    process.terminate()
    told = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 143, told
    last = told.splitlines()[-1]
    assert last.startswith("workbench: stopped by SIGTERM when 0 runs were done, planted-"), told
    assert last.endswith(f" --out {out} --on {on} --resume"), told
    runs = [*map(Run, out.glob("runs/[!.]*"))]
    assert len(runs) == 2
    for run in runs:
        assert Standing.of(run).state == "stopped", run.info
        assert 10 <= run.states.reached()[0] == run.lines[-1]["step"] < 150
        assert not (run.folder / "lock").exists()
    assert not (out / "lock").exists()
    process = start(*argv, "--on", on, "--resume")
    assert (process.communicate(timeout=PATIENCE)[1], process.returncode) == ("", 0)
    assert main([*map(str, argv[:-1]), str(tmp_path / "here")]) == 0
    assert numbers(out) == numbers(tmp_path / "here")


@pytest.mark.slow
def test_an_experiment_whose_driver_is_killed_ends_on_the_cluster_and_goes_on(
    start, inputs_folder, tmp_path
):
    out = tmp_path / "x"
    argv = ("experiment", inputs_folder, *shorter(ENDLESS, 150), "--out", out)
    process = start(*argv, "--on", "ray")
    runs = until(lambda: len(found := begun(out)) == 2 and found)
    writers = [json.loads((run.folder / "lock").read_text())["pid"] for run in runs]
    process.kill()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in writers), 30)
    assert {Standing.of(run).state for run in runs} == {"stopped"}
    process = start(*argv, "--on", "ray", "--resume")
    assert (process.communicate(timeout=PATIENCE)[1], process.returncode) == ("", 0)
    assert main([*map(str, argv[:-1]), str(tmp_path / "here")]) == 0
    assert numbers(out) == numbers(tmp_path / "here")


@pytest.mark.slow
@pytest.mark.usefixtures("member")
def test_a_node_that_is_lost_half_way_loses_only_what_came_after_the_last_states(
    run, there, tmp_path
):
    out, lost = tmp_path / "x", {}

    def lose():
        runs = until(lambda: len(found := begun(out)) == 2 and found)
        pids = {one.id: json.loads((one.folder / "lock").read_text())["pid"] for one in runs}
        there.lose_second()
        gone = until(
            lambda: [one for one, pid in pids.items() if not Path(f"/proc/{pid}").exists()]
        )
        lost.update(runs=gone)

    losing = threading.Thread(target=lose)
    losing.start()
    try:
        done = run(out, on="ray", seeds=(0, 1, 2))
    finally:
        losing.join()
        there.second = there.add()
    assert len(lost["runs"]) == 1
    here = run(tmp_path / "here", seeds=(0, 1, 2))
    assert numbers(done.folder) == numbers(here.folder)
