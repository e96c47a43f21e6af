"""What trains, reads and draws for long, beside processes that are killed, stays as it is."""

import pytest
from soak import check, hooks_on, soak

MINUTES = 20 / 60


@pytest.mark.slow
def test_nothing_grows_while_runs_are_started_killed_and_resumed(tmp_path, tell):
    held, done = soak(tmp_path, MINUTES, warm=MINUTES / 3, every=4, tell=tell)
    tell(f"{check(held)}; {dict(done)}")
    assert done["kills"] > 0
    assert done["live"] == done["cycles"] > 1


@pytest.mark.parametrize("name", ["fds", "threads", "children", "hooks", "strays", "rss"])
def test_whatever_grows_is_named(name):
    flat = {"rss": 500.0, "fds": 6, "threads": 2, "children": 1, "hooks": 4, "strays": 0}
    assert "all flat" in check([flat] * 4)
    with pytest.raises(AssertionError, match="stray" if name == "strays" else name[:2]):
        check([flat, flat, *[flat | {name: flat[name] * 1.1 + 1}] * 2])


def test_a_hook_that_is_left_on_a_model_is_counted(make_model):
    model = make_model()
    before = hooks_on(model)
    handle = model.hf.transformer.h[0].register_forward_hook(lambda *_: None)
    assert hooks_on(model) == before + 1
    handle.remove()
    assert hooks_on(model) == before
