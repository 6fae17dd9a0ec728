"""The loss chart in a real browser: it follows a run by its own cursor, and keeps what the person chose."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest

from tests.chromium import until

pytestmark = pytest.mark.browser


@dataclass
class Source:
    """A run as the server knows it."""

    run: str = ""
    steps: int = 0
    points: list[list[float]] = field(default_factory=list)
    evaluations: list[list[float]] = field(default_factory=list)
    probes: list[int] = field(default_factory=list)
    drift: list[list[object]] = field(default_factory=list)
    asked: list[Mapping[str, object]] = field(default_factory=list)
    broken: bool = False
    nan_at: int = 0

    def grow(self, count: int) -> None:
        first = len(self.points) + 1
        self.points += [
            [step, 3 * math.exp(-step / 40) + 0.3 + 0.05 * (step % 3)] for step in range(first, first + count)
        ]

    def metrics(self, request: Mapping[str, object]) -> dict[str, object]:
        self.asked.append(request)
        if self.broken:
            raise RuntimeError("no answer")
        cursor = int(request["cursor"])
        return {
            "run": self.run, "from": cursor, "cursor": len(self.points), "total_steps": self.steps,
            "points": self.points[cursor:], "eval": self.evaluations, "probes": self.probes, "state": "running",
            "drift": self.drift, "ruler": [[0.0014, "8-bit"], [0.031, "4-bit"], [0.445, "2-bit"]],
            "broken": self.nan_at,
        }  # fmt: skip


@pytest.fixture(scope="module")
def app(serve: Callable[..., str]) -> tuple[str, Source]:
    import gradio as gr

    from ui.loss_chart import LossChart

    source = Source()

    def metrics(request: Mapping[str, object]) -> dict[str, object]:
        return source.metrics(request)

    with gr.Blocks() as blocks:
        chart = LossChart([metrics], "zh", elem_id="loss")
        gr.Button("pick", elem_id="pick").click(lambda: "picked", None, chart)
    return serve(blocks), source


@pytest.fixture
def chart(app: tuple[str, Source], page: object) -> tuple[object, Source]:
    """The page with the chart, and the run behind it: 142 of 200 steps."""
    address, source = app
    source.__init__(run="first", steps=200, evaluations=[[50, 1.2], [100, 0.6]], probes=[0, 50, 100])
    source.grow(142)
    page.goto(address)
    page.locator(".lc-plot").wait_for()
    return page, source


def _last_step(page: object) -> str:
    return page.locator(".lc-plot").get_attribute("aria-label")


def _wait_for(page: object, words: str) -> None:
    page.wait_for_function("words => document.querySelector('.lc-plot').ariaLabel.includes(words)", arg=words)


def _marks(page: object) -> list[str]:
    return page.locator(".lc-grid text[text-anchor=middle]").all_text_contents()


def _zoom(page: object) -> None:
    box = page.locator(".lc-plot").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 80)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 90, steps=4)
    page.mouse.up()


def test_the_curve_draws_and_grows_by_the_cursor(chart: tuple[object, Source]) -> None:
    page, source = chart
    _wait_for(page, "第 142 步，共 200 步")
    assert page.locator(".lc-plot .lc-eval").count() == 2
    assert page.locator(".lc-plot .lc-probe").get_attribute("d").count("M") == 3
    assert _marks(page)[0] == "0"
    assert _marks(page)[-1] == "200"
    source.grow(8)
    _wait_for(page, "第 150 步")
    assert source.asked[0]["cursor"] == 0
    assert {request["cursor"] for request in source.asked[1:-1]} <= {142, 150}


def test_another_run_starts_the_curve_anew(chart: tuple[object, Source]) -> None:
    page, source = chart
    _wait_for(page, "第 142 步")
    source.run, source.points, source.steps = "second", [], 40
    source.grow(5)
    _wait_for(page, "第 5 步，共 40 步")
    assert _marks(page)[-1] == "40"


def test_a_picked_run_is_asked_for_by_name(chart: tuple[object, Source]) -> None:
    page, source = chart
    _wait_for(page, "第 142 步")
    source.run = "picked"
    page.locator("#pick").click()
    until(page, lambda: source.asked[-1]["run"] == "picked")
    _wait_for(page, "第 142 步")


def test_without_a_run_it_says_when_the_curve_will_appear(app: tuple[str, Source], page: object) -> None:
    address, source = app
    source.__init__()
    page.goto(address)
    empty = page.locator(".lc-empty")
    empty.wait_for()
    assert empty.inner_text() == "曲线会在开始训练后出现"
    source.run, source.steps = "late", 10
    source.grow(3)
    _wait_for(page, "第 3 步")
    assert empty.is_hidden()


def test_hovering_tells_step_raw_smooth_and_nearest_evaluation(chart: tuple[object, Source]) -> None:
    page, _ = chart
    _wait_for(page, "第 142 步")
    box = page.locator(".lc-plot").bounding_box()
    page.mouse.move(box["x"] + 46 + (box["width"] - 60) * 0.5, box["y"] + 60)
    tip = page.locator(".lc-tip")
    assert tip.locator("b").inner_text() == "第 100 步"
    words = tip.locator("span").all_text_contents()
    assert words[:3] + words[4:] == ["原始值", "0.596", "平滑值", "验证损失", "0.600"]
    assert 0.596 < float(words[3]) < 0.7
    assert tip.bounding_box()["x"] > box["x"] + box["width"] * 0.4
    page.mouse.move(5, 5)
    assert tip.is_hidden()


def test_zoom_outlives_polls_and_a_double_click_ends_it(chart: tuple[object, Source]) -> None:
    page, source = chart
    _wait_for(page, "第 142 步")
    before = _marks(page)
    _zoom(page)
    zoomed = _marks(page)
    assert zoomed != before
    source.grow(3)
    _wait_for(page, "第 145 步")
    assert _marks(page) == zoomed
    page.locator(".lc-plot").dblclick(position={"x": 300, "y": 100})
    assert _marks(page) == before
    _zoom(page)
    page.get_by_role("button", name="还原缩放").click()
    assert _marks(page) == before


def test_drift_stands_on_an_axis_of_its_own(chart: tuple[object, Source]) -> None:
    page, source = chart
    _wait_for(page, "第 142 步")
    plot, ruler = page.locator(".lc-plot"), page.locator(".lc-ruler")
    assert ruler.count() == 0 and plot.locator(".lc-moved").count() == 0
    source.drift = [[50, 0.001, "小于 8 位量化"], [100, 0.02, "小于 4 位量化"]]
    source.grow(1)
    _wait_for(page, "第 143 步")
    assert ruler.all_text_contents() == ["8-bit", "4-bit"], "as far as was read"
    low, high = (plot.locator(".lc-moved").nth(i).bounding_box() for i in (0, 1))
    assert low["x"] < high["x"] and low["y"] > high["y"] and low["y"] > ruler.nth(0).bounding_box()["y"]
    box = plot.bounding_box()
    page.mouse.move(box["x"] + 46 + (box["width"] - 94) * 0.5, box["y"] + 60)
    assert (
        "别的回答偏移" in page.locator(".lc-tip").inner_text()
        and "小于 4 位量化" in page.locator(".lc-tip").inner_text()
    )


def test_the_log_scale_stays_on(chart: tuple[object, Source]) -> None:
    page, source = chart
    _wait_for(page, "第 142 步")
    heights = page.locator(".lc-grid text[text-anchor=end]")
    linear = heights.all_text_contents()
    page.get_by_role("button", name="对数坐标").click()
    assert heights.all_text_contents() != linear
    source.grow(2)
    _wait_for(page, "第 144 步")
    assert page.get_by_role("button", name="对数坐标").get_attribute("aria-pressed") == "true"
    assert "0" not in heights.all_text_contents()


def test_five_thousand_points_are_thinned_to_six_hundred(chart: tuple[object, Source]) -> None:
    page, source = chart
    source.run, source.points, source.steps = "long", [], 5000
    source.grow(5000)
    source.points[2500][1] = 9.0
    _wait_for(page, "第 5000 步")
    path = page.locator(".lc-plot .lc-raw").get_attribute("d")
    assert path.count("L") < 600
    top = min(float(pair.split()[1]) for pair in path[1:].split("L"))
    assert top < 60  # the one high point was kept


def test_a_silent_server_is_asked_again(chart: tuple[object, Source]) -> None:
    page, source = chart
    _wait_for(page, "第 142 步")
    source.broken = True
    page.wait_for_timeout(1500)
    source.broken = False
    source.grow(1)
    _wait_for(page, "第 143 步")
    page.problems[:] = [problem for problem in page.problems if "500" not in problem]


def test_a_step_that_became_nan_is_marked_in_red(chart: tuple[object, Source]) -> None:
    page, source = chart
    mark, key = page.locator(".lc-plot .lc-broken"), page.locator(".lc-bar .lc-key", has_text="NaN，已停止")
    assert not mark.get_attribute("d") and key.is_hidden()
    source.nan_at = 143
    key.wait_for()
    box, plot = mark.bounding_box(), page.locator(".lc-plot").bounding_box()
    # Its place is that of the step: 143 of 200 between the axis and the right margin.
    assert abs(box["x"] + box["width"] / 2 - (plot["x"] + 46 + 143 / 200 * (plot["width"] - 46 - 14))) < 8
    page.add_style_tag(content=":root { --oc-bad: rgb(1, 2, 3) }")  # the page's colour for what went wrong
    assert mark.evaluate("node => getComputedStyle(node).stroke") == "rgb(1, 2, 3)"
