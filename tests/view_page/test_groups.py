"""The list of groups and the lists of offenders, in a browser."""

from __future__ import annotations

import pytest

from tests.view_page.made import Rollout, group_facts, made_file

SHORT = Rollout(texts=[b"a", b"b"], settings=[([1, 2], [1.0, -1.0])])
LONG = Rollout(texts=[b"c"] * 30, settings=[([10, 30], [0.5, -0.25])], reward=0.0)
GROUPS = [("plain/10", [SHORT, LONG]), ("plain/2", [LONG, LONG]), ("other/1", [SHORT, SHORT])]


def names(page) -> list[str]:
    return page.locator("tbody tr th a").all_inner_texts()


@pytest.fixture
def page(open_file):
    facts = [group_facts(name, rollouts) for name, rollouts in GROUPS]
    facts[1] |= {"outcome": None, "single_outcome": None, "truncated": 2, "verdicts": {"ok": 1, "timeout": 1}}
    return open_file(made_file(GROUPS, groups=facts))


def test_groups_come_in_the_order_of_the_file(page):
    assert names(page) == ["plain/10", "plain/2", "other/1"]


def test_a_heading_sorts_from_the_largest_then_from_the_smallest(page):
    heading = page.get_by_role("button", name="length")
    heading.click()
    assert names(page) == ["plain/2", "plain/10", "other/1"]
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("length")
    heading.click()
    assert names(page) == ["other/1", "plain/10", "plain/2"]


def test_what_is_not_known_comes_last_in_both_directions(page):
    heading = page.get_by_role("button", name="outcome")
    heading.click()
    assert names(page)[-1] == "plain/2"
    heading.click()
    assert names(page)[-1] == "plain/2"


def test_names_sort_by_their_numbers(page):
    page.get_by_role("button", name="group").click()
    assert names(page) == ["other/1", "plain/2", "plain/10"]


def test_find_and_show_leave_what_they_name(page):
    page.get_by_role("searchbox").fill("PLAIN")
    assert names(page) == ["plain/10", "plain/2"]
    page.locator("select[name=show]").select_option("truncated")
    assert names(page) == ["plain/2"]
    page.locator("select[name=show]").select_option("single")
    assert names(page) == []
    assert page.get_by_role("status").inner_text() == "0 of 3 groups"


def test_a_link_carries_order_and_filter(open_file):
    page = open_file(made_file(GROUPS), "#/groups?sort=length&desc=1&find=plain")
    assert names(page) == ["plain/2", "plain/10"]


def test_verdicts_are_counted_by_name_and_failed_ones_found(page):
    assert page.locator("tr[data-group='1'] td").last.inner_text() == "1 ok, 1 timeout"
    page.locator("select[name=show]").select_option("failed")
    assert names(page) == ["plain/2"]


def test_arrow_keys_walk_and_enter_opens(page, expect):
    page.locator("tbody a").first.focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator(":focus")).to_have_text("plain/2")
    page.keyboard.press("End")
    expect(page.locator(":focus")).to_have_text("other/1")
    assert page.locator("tbody a[tabindex='0']").count() == 1
    page.keyboard.press("Enter")
    page.wait_for_selector("article.group")
    assert page.locator("h2").first.inner_text().startswith("Group other/1")


def test_the_whole_list_is_one_tab_stop(page):
    page.locator("select[name=show]").focus()
    page.keyboard.press("Tab")
    for _ in range(page.locator("thead button").count()):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "plain/10"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('tbody')") is None


def test_many_groups_are_drawn_as_they_are_asked_for(open_file, expect):
    page = open_file(made_file([(f"g/{number}", [SHORT]) for number in range(450)]))
    assert page.locator("tbody tr").count() == 200
    page.get_by_role("button", name="250 more groups").click()
    assert page.locator("tbody tr").count() == 400
    page.locator("tbody a").first.focus()
    page.keyboard.press("End")
    expect(page.locator(":focus")).to_have_text("g/449")


def test_an_offender_leads_to_its_tokens(open_file):
    lists = [
        {
            "kind": "padding",
            "title": "Padding that earned credit",
            "rule": "Runs of zero.",
            "unit": "tokens",
            "setting": 0,
            "rows": [
                {"group": 1, "rollout": 1, "chunk": 1, "start": 10, "end": 30, "value": 20, "note": "<b>long</b>"}
            ],
        },
        {"kind": "gap", "title": "Gaps", "rule": "No log-probabilities.", "unit": "nats", "setting": 0, "rows": []},
    ]
    page = open_file(made_file(GROUPS, offenders=lists), "#/offenders")
    assert page.locator("section.offenders section").count() == 2
    assert page.locator("td").last.inner_text() == "<b>long</b>"
    page.locator("tbody a").click()
    page.wait_for_selector(".cursor")
    assert page.locator(".rollout[data-row='1'] .cursor").get_attribute("data-t") == "10"
    assert page.evaluate("document.activeElement.dataset.chunk") == "1"


def test_a_sign_flip_is_shown_under_both_settings(open_file):
    both = Rollout(texts=[b"a", b"b"], settings=[([1, 2], [1.0, -1.0]), ([2], [1.0])])
    lists = [
        {
            "kind": "sign_flip",
            "title": "Flips",
            "rule": "",
            "unit": "",
            "setting": 1,
            "rows": [{"group": 0, "rollout": 0, "chunk": 0, "start": 1, "end": 2, "value": 2.0, "note": ""}],
        }
    ]
    page = open_file(made_file([("g/0", [both])], offenders=lists), "#/offenders")
    page.locator("tbody a").click()
    page.wait_for_selector(".board.paired .cursor")
    assert page.locator(".pane[data-setting='0'] .cursor").get_attribute("data-t") == "1"


def test_a_file_of_another_version_is_refused(open_file):
    page = open_file(made_file(GROUPS, payload=2), ready="[role=alert]")
    assert "version 2" in page.get_by_role("alert").inner_text()
