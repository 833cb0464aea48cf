"""Where marks and labels end up in the picture, read back from its XML."""

import re
from xml.etree import ElementTree

import pytest

from headwater.bench.chart import Axis, Chart, stacked

SVG = "{http://www.w3.org/2000/svg}"


def circles(chart: Chart) -> list[tuple[float, float]]:
    found = ElementTree.fromstring(chart.svg()).iter(f"{SVG}circle")
    return [(float(each.attrib["cx"]), float(each.attrib["cy"])) for each in found]


def texts(chart: Chart) -> list[str]:
    return [each.text or "" for each in ElementTree.fromstring(chart.svg()).iter(f"{SVG}text")]


def test_larger_values_lie_further_right_and_higher() -> None:
    chart = Chart(Axis(), Axis())
    chart.dots([1, 2, 3], [10, 30, 20], "#000")
    (x1, y1), (x2, y2), (x3, y3) = circles(chart)
    assert x1 < x2 < x3
    assert y2 < y3 < y1
    assert x2 == pytest.approx((x1 + x3) / 2, abs=0.1)
    assert y3 == pytest.approx((y1 + y2) / 2, abs=0.1)


def test_equal_factors_are_equal_ways_on_a_logarithmic_axis() -> None:
    chart = Chart(Axis(log=True), Axis())
    chart.dots([1, 10, 100], [0, 0, 0], "#000")
    x1, x2, x3 = (x for x, _ in circles(chart))
    assert x2 == pytest.approx((x1 + x3) / 2, abs=0.1)
    assert {"1", "2", "5", "10", "20", "50", "100"} <= set(texts(chart))


def test_names_go_down_from_the_top() -> None:
    chart = Chart(Axis(), Axis(names=["a <b>", "c"]))
    chart.dots([1, 1], [0, 1], "#000")
    (_, first), (_, second) = circles(chart)
    assert first < second
    assert {"a <b>", "c"} <= set(texts(chart))


def test_an_axis_at_the_right_has_its_own_scale() -> None:
    chart = Chart(Axis(), Axis(low=0), Axis(low=0))
    chart.dots([1], [10], "#000")
    chart.dots_right([1], [1000], "#000")
    (_, left), (_, right) = circles(chart)
    assert left == right > 20  # there is room above
    assert {"10", "1,000"} <= set(texts(chart))


@pytest.mark.parametrize("values", [[], [float("nan")], [0.0], [5.0, 5.0]])
@pytest.mark.parametrize("log", [False, True])
def test_there_is_a_picture_without_a_spread(values: list[float], log: bool) -> None:
    chart = Chart(Axis(log=log), Axis(log=log))
    for draw in (chart.line, chart.dots, chart.bars, chart.crosses):
        draw(values, values, "#000")
    assert "nan" not in chart.svg()
    assert ElementTree.fromstring(chart.svg()).attrib["viewBox"] == "0 0 760 360"


def test_strokes_on_one_pixel_are_one() -> None:
    chart = Chart(Axis(), Axis())
    chart.bars([i / 100_000 for i in range(100_000)], [0] * 100_000, "#000")
    assert len(re.findall(r"v4", chart.svg())) < 760


def test_charts_below_each_other_do_not_overlap() -> None:
    image = ElementTree.fromstring(stacked([("One", Chart(Axis(), Axis())), ("Two", Chart(Axis(), Axis()))]))
    first, second = image.findall(f"{SVG}svg")
    assert float(second.attrib["y"]) >= float(first.attrib["y"]) + 360
    assert [each.text for each in image.findall(f"{SVG}text")] == ["One", "Two"]
