"""The translation to matplotlib: the same places, colours, lines and texts."""

import io

import numpy as np
import plotly.graph_objects as go
import pytest

matplotlib = pytest.importorskip("matplotlib", reason="needs the `export` extra")


def pixels(figure, width=3.0):
    """The drawn figure as an array [row, column, rgb], and its printed layout."""
    from matplotlib.image import imread

    from workbench.plots.paper.drawing import draw
    from workbench.plots.paper.printing import for_print

    printed = for_print(figure, width)
    return imread(io.BytesIO(draw(printed, "png")))[..., :3], printed.layout


def at(image, layout, x, y):
    """Colour at a data position of the first panel, whose ranges must be fixed."""
    share = []
    for axis, value in ((layout.xaxis, x), (layout.yaxis, y)):
        (low, high), (start, end) = axis.range, axis.domain
        share.append(start + (end - start) * (value - low) / (high - low))
    rows, columns, _ = image.shape
    return image[int(rows * (1 - share[1])), int(columns * share[0])]


def panel(*traces, **layout):
    figure = go.Figure(list(traces), layout)
    return figure.update_xaxes(range=[0, 10]).update_yaxes(range=[0, 10])


def near(colour, hexadecimal):
    return np.allclose(colour, matplotlib.colors.to_rgb(hexadecimal), atol=0.02)


def test_an_area_is_filled_within_its_line_and_not_beyond():
    area = go.Scatter(x=[2, 8, 8, 2], y=[2, 2, 8, 8], fill="toself", fillcolor="#0072B2",
                      mode="lines", line_width=0)  # fmt: skip
    image, layout = pixels(panel(area))
    assert near(at(image, layout, 5, 5), "#0072B2")
    assert not near(at(image, layout, 9, 5), "#0072B2")


def test_marks_lines_and_error_bars_are_where_the_numbers_are():
    points = go.Scatter(x=[5], y=[5], mode="markers", marker={"color": "#D55E00", "size": 20},
                        error_y={"array": [3], "color": "#009E73", "thickness": 8})  # fmt: skip
    line = go.Scatter(x=[0, 10, None, 0], y=[1, 1, None, 9], mode="lines",
                      line={"color": "#882255", "width": 8})  # fmt: skip
    image, layout = pixels(panel(points, line))
    assert near(at(image, layout, 5, 5), "#D55E00")
    assert near(at(image, layout, 5, 7.5), "#009E73")
    assert near(at(image, layout, 3, 1), "#882255")
    assert not near(at(image, layout, 5, 9.2), "#009E73")


def test_bars_shapes_and_cells_are_drawn():
    bars = go.Bar(x=[2], y=[6], marker_color="#E69F00")
    figure = panel(bars).add_shape(type="rect", x0=6, x1=8, y0=1, y1=3, fillcolor="#332288")
    image, layout = pixels(figure)
    assert near(at(image, layout, 2, 3), "#E69F00")
    assert near(at(image, layout, 7, 2), "#332288")
    cells = go.Heatmap(z=[[0, 1]], x=[2, 6], y=[5], colorscale=[[0, "#000000"], [1, "#FF0000"]])
    image, layout = pixels(panel(cells))
    assert near(at(image, layout, 6, 5), "#FF0000")
    assert near(at(image, layout, 2, 5), "#000000")


def test_equal_figures_are_equal_files():
    from workbench.plots.paper.drawing import draw
    from workbench.plots.paper.printing import for_print

    printed = for_print(panel(go.Scatter(x=[1, 2], y=[3, 4])), 3.0)
    for suffix in ("pdf", "svg", "png"):
        assert draw(printed, suffix) == draw(printed, suffix)


def test_what_cannot_be_translated_is_refused_by_name():
    from workbench.errors import ConfigError

    with pytest.raises(ConfigError, match="no 'pie' trace can be drawn"):
        pixels(go.Figure(go.Pie(values=[1, 2])))


@pytest.mark.parametrize(
    ("trace", "told"),
    [
        ({"marker": {"symbol": "circle-dot"}}, "no mark 'circle-dot' can be drawn"),
        ({"marker": {"color": [1.0, 2.0]}}, "no mark coloured by a number"),
        ({"fill": "tonextx"}, "no area 'tonextx'"),
        ({"marker": {"symbol": "circle", "angleref": "previous"}}, "'circle' that points"),
    ],
)
def test_a_mark_or_area_that_cannot_be_translated_is_refused_by_name(trace, told):
    from workbench.errors import ConfigError

    with pytest.raises(ConfigError, match=told) as caught:
        pixels(panel(go.Scatter(x=[1, 2], y=[1, 2], mode="lines+markers").update(trace)))
    assert "\n" not in str(caught.value)


def test_every_point_has_its_own_symbol_size_and_colour():
    marks = {"symbol": ["square", "square-open", "circle"], "size": [0, 40, 40], "opacity": 1,
             "color": ["#0072B2", "#0072B2", "#D55E00"]}  # fmt: skip
    image, layout = pixels(
        panel(go.Scatter(x=[2, 5, 8], y=[5, 5, 5], mode="markers", marker=marks))
    )
    assert near(at(image, layout, 8, 5), "#D55E00")
    assert not near(at(image, layout, 5, 5), "#0072B2")  # open
    assert not near(at(image, layout, 2, 5), "#0072B2")  # of size 0
    found = np.argwhere(np.abs(image - matplotlib.colors.to_rgb("#0072B2")).max(axis=2) < 0.02)
    (top, left), (bottom, right) = found.min(axis=0), found.max(axis=0)
    assert right - left == pytest.approx(bottom - top, abs=2)
    assert bottom - top > 60  # the edge of the open one: 40 px on a screen, 300 dpi here
    assert len(found) < 0.3 * (bottom - top) ** 2


def test_an_arrow_stops_short_of_its_point_and_its_head_lies_at_the_end():
    marker = {"symbol": "arrow", "size": [0, 40], "angleref": "previous", "standoff": [0, 20],
              "color": "#882255", "opacity": 1}  # fmt: skip
    arrow = go.Scatter(x=[1, 8], y=[5, 5], mode="lines+markers", marker=marker,
                       line={"color": "#882255", "width": 3})  # fmt: skip
    image, layout = pixels(panel(arrow))
    hue = np.abs(image - matplotlib.colors.to_rgb("#882255")).max(axis=2) < 0.05
    columns = np.flatnonzero(hue.any(axis=0))
    heights = hue.sum(axis=0)
    start, end = layout.xaxis.domain
    to = image.shape[1] * (start + (end - start) * 0.8)
    assert to - columns.max() == pytest.approx(20 * 0.62 * 300 / 96, abs=3)
    head = columns[heights[columns] > 15]
    assert columns.max() - head.min() < 40 * 0.62 * 300 / 96
    assert heights.max() == pytest.approx(40 * 0.62 * 300 / 96, abs=6)


def test_names_have_their_colour_and_stand_on_their_side_of_the_point():
    for place, side in (("middle left", -1), ("middle right", 1)):
        names = go.Scatter(x=[5], y=[5], mode="text", text=["MMMM"], textposition=place,
                           textfont={"color": "#D55E00", "size": 12})  # fmt: skip
        image, layout = pixels(panel(names))
        columns = np.flatnonzero((np.abs(image - [0.835, 0.369, 0]).max(axis=2) < 0.1).any(axis=0))
        middle = image.shape[1] * sum(layout.xaxis.domain) / 2
        assert columns.size
        assert (np.sign(columns - middle) == side).all()


@pytest.mark.parametrize("clips", [True, False])
def test_a_name_reaches_over_the_axes_only_where_it_may(clips):
    names = go.Scatter(x=[0], y=[9.5], mode="text", text=["M"], textposition="middle left",
                       cliponaxis=clips, textfont={"color": "#D55E00"})  # fmt: skip
    image, layout = pixels(panel(names))
    hue = np.abs(image - [0.835, 0.369, 0]).max(axis=2) < 0.1
    assert hue[:, : int(image.shape[1] * layout.xaxis.domain[0])].any() != clips


def test_a_unit_is_as_long_on_both_axes_where_the_scale_is_tied():
    square = {"x": [4, 6, 6, 4], "y": [4, 4, 6, 6], "fill": "toself", "fillcolor": "#0072B2",
              "mode": "lines", "line": {"width": 0}}  # fmt: skip
    for tied in (True, False):
        figure = panel(go.Scatter(square))
        if tied:
            figure.update_yaxes(scaleanchor="x")
        image, _ = pixels(figure)
        found = np.argwhere(np.abs(image - [0, 0.447, 0.698]).max(axis=2) < 0.02)
        tall, wide = found.max(axis=0) - found.min(axis=0)
        assert (abs(tall - wide) <= 2) == tied


def test_an_area_reaches_to_the_curve_before_it():
    low = go.Scatter(x=[0, 5, 10], y=[2, 4, 2], mode="lines", line_width=0)
    high = go.Scatter(x=[0, 5, 10], y=[8, 8, 8], mode="lines", line_width=0, fill="tonexty",
                      fillcolor="#0072B2")  # fmt: skip
    image, layout = pixels(panel(low, high))
    for x, y, inside in ((5, 5, True), (1, 3, True), (9, 7, True), (5, 3, False), (5, 9, False)):
        assert near(at(image, layout, x, y), "#0072B2") == inside, (x, y)


def test_a_note_on_top_of_a_panel_is_drawn_above_it():
    figure = panel(go.Scatter(x=[1], y=[1]))
    figure.add_annotation(x=5, y=1, yref="y domain", yanchor="bottom", text="MMMM",
                          showarrow=False, font_color="#D55E00")  # fmt: skip
    image, layout = pixels(figure)
    rows = np.flatnonzero((np.abs(image - [0.835, 0.369, 0]).max(axis=2) < 0.1).any(axis=1))
    assert 0 < rows.min() < rows.max() < image.shape[0] * (1 - layout.yaxis.domain[1])


def test_markup_becomes_mathematics_and_other_text_stays_itself():
    from workbench.plots.paper.lettering import mathtext, plain

    assert plain("<i>v</i><sub>rev</sub> &lt;a&gt;<br>b") == "vrev <a>\nb"
    assert mathtext("<i>v</i><sub>rev</sub>, 5 $") == r"$\it{v}$$\rm{{}_{rev}}$, 5 \$"


def test_hostile_names_are_drawn_as_text():
    from workbench.plots.style import inert

    name = inert(r"$\frac{1}{</sub><script>_^&%#\\")
    figure = panel(go.Scatter(x=[1], y=[1], name=name), go.Scatter(x=[2], y=[2], name="b"))
    image, _ = pixels(figure)
    assert image.min() < 0.5
