"""The translation to matplotlib: the same places, colours, lines and texts."""

import io

import numpy as np
import plotly.graph_objects as go
import pytest

matplotlib = pytest.importorskip("matplotlib", reason="needs the `export` extra")


def pixels(figure, width=3.0):
    """The drawn figure as an array [row, column, rgb], and its printed layout."""
    from matplotlib.image import imread

    from workbench.plots.drawing import draw
    from workbench.plots.printing import for_print

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
    from workbench.plots.drawing import draw
    from workbench.plots.printing import for_print

    printed = for_print(panel(go.Scatter(x=[1, 2], y=[3, 4])), 3.0)
    for suffix in ("pdf", "svg", "png"):
        assert draw(printed, suffix) == draw(printed, suffix)


def test_what_cannot_be_translated_is_refused_by_name():
    from workbench.errors import ConfigError

    with pytest.raises(ConfigError, match="no 'pie' trace can be drawn"):
        pixels(go.Figure(go.Pie(values=[1, 2])))


def test_markup_becomes_mathematics_and_other_text_stays_itself():
    from workbench.plots.lettering import mathtext, plain

    assert plain("<i>v</i><sub>rev</sub> &lt;a&gt;<br>b") == "vrev <a>\nb"
    assert mathtext("<i>v</i><sub>rev</sub>, 5 $") == r"$\it{v}$$\rm{{}_{rev}}$, 5 \$"


def test_hostile_names_are_drawn_as_text():
    from workbench.plots.style import inert

    name = inert(r"$\frac{1}{</sub><script>_^&%#\\")
    figure = panel(go.Scatter(x=[1], y=[1], name=name), go.Scatter(x=[2], y=[2], name="b"))
    image, _ = pixels(figure)
    assert image.min() < 0.5
