"""A view's figures, words and tables follow its controls, from tables by lookup alone."""

import json

import plotly.graph_objects as go
import pytest


@pytest.fixture
def view():
    from workbench.plots.view import Bound, Cells, Control, Field, Plot, View, Words

    figure = go.Figure(layout={"shapes": [{"x0": 0}]})
    figure.add_scatter(x=[1, 2])
    figure.add_heatmap(z=[[0]])
    return View(
        title="Planted",
        tables={
            "curve": [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]]],
            "grid": [[[1.0, 2.0]], [[3.0, 4.0]]],
            "other": [[[-1.0, -2.0]], [[-3.0, -4.0]]],
            "value": [0.5, -0.001, None],
            "place": [10.0, 20.0, 30.0],
            "token": [[["top", "sure"]], []],
        },
        controls=(
            Control("arm", "arm", "select", ("ordinary", "block"), 1),
            Control("layer", "layer", "number", ("4", "7", "9")),
        ),
        plots=(
            Plot(
                "first",
                figure,
                "A planted figure",
                (
                    Bound(("data", 0, "y"), "curve", ("arm", "layer")),
                    Bound(("data", 1, "customdata"), ("grid", "other"), ("arm",)),
                    Bound(("layout", "shapes", 0, "x0"), "place", ("layer",)),
                ),
            ),
        ),
        words=(
            Words("said", "{arm} at {layer}: {value}", {"value": Field("value", ("layer",), 2)}),
        ),
        cells=(Cells("tokens", "Tokens", ("", "token"), "token", ("arm",)),),
    )


def test_a_figure_is_looked_up_by_what_is_chosen(view):
    figure = view.figure(choice={"arm": 0, "layer": 1})
    assert figure.data[0].y == (3.0, 4.0)
    assert figure.data[0].x == (1, 2)
    assert figure.layout.shapes[0].x0 == 20.0
    assert view.figure(choice={"arm": 1, "layer": 0}).data[0].y == (5.0, 6.0)


def test_the_first_choice_stands_where_nothing_is_chosen(view):
    assert view.figure().data[0].y == (5.0, 6.0)
    assert view.sentence("said") == "block at 4: 0.50"


def test_several_tables_are_zipped_cell_by_cell(view):
    (row,) = view.figure(choice={"arm": 1}).data[1].customdata
    assert [list(cell) for cell in row] == [[3.0, -3.0], [4.0, -4.0]]


def test_where_a_table_ends_early_its_last_entry_stands_for_the_rest(view):
    assert view.figure(choice={"arm": 0, "layer": 2}).data[0].y == (3.0, 4.0)
    assert view.figure(choice={"arm": 1, "layer": 2}).data[0].y == (5.0, 6.0)
    assert view.with_tables({"curve": [[], []]}).figure().data[0].y is None


def test_rows_are_looked_up_too(view):
    assert view.rows("tokens", {"arm": 1}) == []
    assert view.rows("tokens", {"arm": 0}) == [["top", "sure"]]


def test_words_have_a_true_minus_and_a_dash_for_what_is_undefined(view):
    assert view.sentence("said", {"layer": 1}) == "block at 7: 0.00"
    assert view.sentence("said", {"layer": 2}) == "block at 9: –"


@pytest.mark.parametrize(
    ("value", "text"), [(12345.678, "12346"), (34.157, "34.16"), (0.01234, "0.01234"), (0.0, "0")]
)
def test_a_number_of_any_size_has_its_significant_digits(view, value, text):
    from dataclasses import replace

    from workbench.plots.view import Field, Words

    words = Words("said", "{value}", {"value": Field("value", ("layer",), significant=4)})
    shown = replace(view, words=(words,)).with_tables({"value": [value]})
    assert shown.sentence("said") == text


def test_drawing_leaves_the_view_as_it_was(view):
    before = view.text()
    view.figure(choice={"arm": 0, "layer": 1})
    assert view.text() == before
    assert view.plots[0].figure.data[0].y is None


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"ram": 0}, "No control 'ram' here; there are arm, layer"),
        ({"layer": 3}, "layer: option 3 does not exist; there are 3"),
        ({"layer": -1}, "option -1 does not exist"),
        ({"layer": 1.0}, "1.0 is not the place of an option"),
        ({"layer": True}, "True is not the place of an option"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(view, choice, message):
    from workbench.errors import ConfigError

    with pytest.raises(ConfigError, match=message):
        view.figure(choice=choice)


def test_what_does_not_exist_is_refused(view):
    from workbench.errors import ConfigError

    with pytest.raises(ConfigError, match="No figure 'second' here; there are first"):
        view.figure("second")
    with pytest.raises(ConfigError, match="No words 'x'"):
        view.sentence("x")
    with pytest.raises(ConfigError, match="No table 'x'"):
        view.rows("x")


def test_the_json_of_a_view_holds_all_of_it_and_cannot_end_its_block(view):
    hostile = view.with_tables({"token": [[["top", "</script><b>"]], []]})
    text = hostile.text()
    assert "<" not in text
    told = json.loads(text)
    assert told["tables"]["token"][0][0][1] == "</script><b>"
    assert told["tables"]["value"][2] is None
    assert told["plots"][0]["bound"][0] == {
        "at": ["data", 0, "y"],
        "table": "curve",
        "by": ["arm", "layer"],
    }
    assert "template" not in told["plots"][0]["figure"]["layout"]


def test_undefined_numbers_become_null(view):
    told = json.loads(view.with_tables({"value": [float("nan"), float("inf")]}).text())
    assert told["tables"]["value"] == [None, None]
