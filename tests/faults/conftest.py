"""One nursery for all tests here: importing torch takes longer than most of them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # some here are imported before any test is

from nursery import nursery as open_nursery

if not Path("/proc/self/fd").is_dir():
    collect_ignore_glob = ["test_*.py"]  # which file is flushed is read from /proc


@pytest.fixture(scope="session")
def nursery(tmp_path_factory):
    with open_nursery(tmp_path_factory.mktemp("nursery")) as opened:
        yield opened


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """A planted lineage with all inputs; read-only."""
    from worlds import plant

    return plant(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="session")
def subject(nursery, inputs, tmp_path_factory):
    """Make an arm of a fine-tuning, once."""
    from crashes import Subject

    made = {}

    def make(arm, every=2, options=()):
        if (arm, every, options) not in made:
            folder = tmp_path_factory.mktemp(arm)
            made[arm, every, options] = Subject(
                nursery, inputs, arm, folder, every=every, options=options
            )
        return made[arm, every, options]

    return make


@pytest.fixture
def tell(capsys):
    """Print a line past pytest's capturing."""

    def told(text):
        with capsys.disabled():
            print(f"\n{text}")

    return told
