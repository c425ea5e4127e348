"""The page of a run, in a browser."""

from __future__ import annotations

import pytest

from tests.view_page.made import Rollout, made_file

GROUPS = [("g/0", [Rollout(texts=[b"a"], settings=[([1], [1.0])])])]


def passed(value: float, standard_error: float | None = None) -> dict[str, float | None]:
    return {"value": value, "standard_error": standard_error}


EMPTY = {"pass_at_1": {}, "reward": None, "mean_length": None, "entropy": None, "kl": None, "behavior_kl": None}
RUN = {
    "url": "runs/x",
    "rounds": [
        {**EMPTY, "round": None, "name": "start", "pass_at_1": {"sums": passed(0.25, 0.01)}},
        {
            **EMPTY,
            "round": 0,
            "name": "round 0",
            "reward": 0.5,
            "pass_at_1": {"sums": passed(0.5), "<b>": passed(0.125)},
        },
        {**EMPTY, "round": 1, "name": "round 1", "reward": 0.75, "pass_at_1": {"sums": passed(0.625, 0.02)}},
    ],
    "steps": {"update": [0, 1, 2, 3], "round": [0, 0, 1, 1], "loss": [1.0, 0.5, None, 0.25], "grad_norm": [None] * 4},
    "histograms": [
        {"name": "length", "unit": "tokens", "round": 0, "edges": [0, 10, 20], "counts": [3, 1]},
        {"name": "length", "unit": "tokens", "round": 1, "edges": [0, 10, 20], "counts": [0, 4]},
    ],
    "note": "Of training steps.",
}


@pytest.fixture
def page(open_file):
    return open_file(made_file(GROUPS, run=RUN), "#/run")


def test_only_what_was_recorded_has_a_chart(page):
    assert page.locator("figcaption").all_inner_texts() == [
        "pass@1 (± standard error)",
        "mean outcome reward",
        "loss",
        "round 0",
        "round 1",
    ]


def test_points_lie_at_their_values(page):
    chart = page.locator("figure", has_text="pass@1")
    heights = chart.locator("g.series-0 circle").evaluate_all(
        "found => found.map(one => Number(one.getAttribute('cy')))"
    )
    low, middle, high = heights
    assert (low - middle) / (low - high) == pytest.approx((0.5 - 0.25) / (0.625 - 0.25), abs=1e-6)
    assert chart.locator("g.series-0 .error").count() == 2
    assert page.locator("figure", has_text="loss").locator("circle").count() == 3


def test_bins_are_as_high_as_their_counts(page):
    first, second = page.locator("figure", has_text="round 0").last, page.locator("figure", has_text="round 1").last
    heights = [
        one.locator(".bin").evaluate_all("found => found.map(bin => Number(bin.getAttribute('height')))")
        for one in (first, second)
    ]
    assert heights[0][0] / heights[1][1] == pytest.approx(3 / 4)
    assert heights[1][0] == 0


def test_each_chart_has_its_numbers_as_a_table(page):
    chart = page.locator("figure", has_text="pass@1")
    chart.locator("summary").click()
    rows = chart.locator("tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    )
    assert rows == [["start", "0.25 ± 0.01", "–"], ["round 0", "0.5", "0.125"], ["round 1", "0.625 ± 0.02", "–"]]
    assert chart.locator(".key li").all_inner_texts() == ["sums", "<b>"]


def test_a_file_of_a_dataset_alone_has_no_page_of_a_run(open_file):
    page = open_file(made_file(GROUPS), "#/run")
    assert page.locator("nav a").all_inner_texts() == ["Groups", "About"]
    assert page.locator(".groups").count() == 1
