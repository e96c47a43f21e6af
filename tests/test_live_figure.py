"""A live figure shows the figure it was given last, and does not flood the browser."""

import json
import time

import numpy as np
import plotly.graph_objects as go
import pytest


class Clock:
    """Time that passes when told to, and calls what is due."""

    def __init__(self):
        self.now, self.due = 100.0, []

    def __call__(self):
        return self.now

    def after(self, seconds, call):
        self.due.append((self.now + seconds, call))

    def wait(self, seconds):
        end = self.now + seconds
        while due := [one for one in self.due if one[0] <= end]:
            first = min(due, key=lambda one: one[0])
            self.due.remove(first)
            self.now = max(self.now, first[0])
            first[1]()
        self.now = end


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def throttled(clock):
    """A throttle, and the times and states that it pushed."""
    from workbench.widgets.throttle import Throttle

    state, pushed = [0], []
    throttle = Throttle(
        lambda: pushed.append((round(clock.now, 3), state[0])), clock=clock, after=clock.after
    )

    def ask(value):
        state[0] = value
        throttle()

    return ask, pushed


def test_a_single_push_is_made_at_once(throttled, clock):
    ask, pushed = throttled
    ask(1)
    clock.wait(5)
    ask(2)
    assert pushed == [(100, 1), (105, 2)]


def test_many_pushes_become_five_a_second_and_the_last_is_never_lost(throttled, clock):
    ask, pushed = throttled
    for value in range(1, 101):  # for a second
        ask(value)
        clock.wait(0.01)
    assert len(pushed) in (5, 6)
    assert np.diff([now for now, _ in pushed]).min() >= 0.2 - 1e-9
    clock.wait(1)
    assert pushed[-1][1] == 100
    assert not clock.due


def scatter(values):
    figure = go.Figure(layout={"height": 300, "title": {"text": "Planted"}})
    figure.add_scatter(y=values)
    return figure


def stored(live):
    return json.loads(live.get_state()["tables"])["figure data"]


def until(true, seconds=10):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def test_a_live_figure_shows_the_newest_here_at_once_and_there_soon():
    from workbench.widgets import LiveFigure

    live = LiveFigure(scatter([1.0, 2.0]))
    assert list(live.figure().data[0].y) == [1.0, 2.0]
    assert live.figure().layout.title.text == "Planted"
    for end in range(20):
        live.update(scatter([1.0, float(end)]))
        assert list(live.figure().data[0].y) == [1.0, end]
    until(lambda: stored(live)[0]["y"] == [1.0, 19.0])
    assert live.shown.plots[0].figure.layout.height == 300


def test_arrays_and_further_traces_are_shown_too():
    from workbench.widgets import LiveFigure

    live = LiveFigure(scatter([]))
    figure = scatter(np.array([0.1, 0.2]))
    figure.add_heatmap(z=np.eye(2), coloraxis="coloraxis")
    live.update(figure)
    now = live.figure()
    np.testing.assert_allclose(now.data[0].y, [0.1, 0.2])
    np.testing.assert_allclose(now.data[1].z, np.eye(2))


def test_a_hostile_title_cannot_leave_its_block():
    from workbench.widgets import LiveFigure

    live = LiveFigure(go.Figure(layout={"title": {"text": "</script><script>alert(1)"}}))
    assert "<" not in live.view + live.tables


def planted_curve(n=10_000):
    """A falling loss with a spike and a dip of one step each."""
    steps = np.arange(1, n + 1)
    values = 4 / np.sqrt(steps) + np.random.default_rng(0).normal(0, 0.01, n)
    values[[6000, 8123]] = 9.0, -3.0
    return steps, values


def test_a_thinned_curve_keeps_its_ends_its_beginning_and_its_extremes():
    from workbench.plots.live import MAX_POINTS, thin

    steps, values = planted_curve()
    kept = thin(steps, values)
    assert 300 < len(kept) <= MAX_POINTS
    assert {0, 6000, 8123, len(steps) - 1} <= {*kept}
    assert kept[:10].tolist() == list(range(10))  # where a log axis has room
    assert (np.diff(kept) > 0).all()
    assert thin(steps[:400], values[:400]).tolist() == list(range(400))


def test_a_thinned_curve_leaves_undefined_values_out_and_no_extreme():
    from workbench.plots.live import thin

    steps, values = planted_curve()
    values[5990:6000] = values[6001:6010] = np.nan
    kept = thin(steps, values)
    assert 6000 in kept
    assert not np.isnan(values[kept]).any()
    assert thin(steps, np.full(len(steps), np.nan)).tolist() == []
