"""One group in a browser: colours, chunks, scores, keys, and two settings."""

from __future__ import annotations

import numpy as np
import pytest

from tests.view_page.made import Rollout, made_file
from tests.view_page.palette import ENDS, INK, STEPS, contrast, css

FIRST = Rollout(
    texts=[b"One", b" two", b".", b" Three", b" four", b"!"],
    settings=[([3, 6], [0.5, -2.0]), ([2, 6], [-0.5, -1.0])],
    masked=[4],
    steps=[(3, 0.25), (6, 0.75)],
)
SECOND = Rollout(texts=[b"No", b"."], settings=[([2], [0.125]), ([2], [0.0])], reward=0.0, steps=[(2, 0.5)])
GROUPS = [("g/0", [FIRST, SECOND])]
ADVANTAGES = {
    0: [[0.5, 0.5, 0.5, -2.0, None, -2.0], [0.125, 0.125]],
    1: [[-0.5, -0.5, -1.0, -1.0, None, -1.0], [0.0, 0.0]],
}


def backgrounds(page, row: int, setting: int = 0) -> list[str]:
    tokens = f".rollout[data-row='{row}'] .pane[data-setting='{setting}'] .t"
    page.wait_for_selector(tokens)
    return page.eval_on_selector_all(tokens, "found => found.map(one => getComputedStyle(one).backgroundColor)")


def counted(colours: list[str], masked: tuple[int, ...] = ()) -> list[str]:
    return [colour for token, colour in enumerate(colours) if token not in masked]


def painted(values: list[float], limit: float, **options) -> list[str]:
    return [css(float(np.float32(value)), limit, **options) for value in values]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_tokens_have_the_colours_of_their_advantages(open_file, scheme):
    page = open_file(made_file(GROUPS), "#/group/0", color_scheme=scheme)
    assert counted(backgrounds(page, 0), (4,)) == painted([0.5, 0.5, 0.5, -2.0, -2.0], 2.0, scheme=scheme)
    assert backgrounds(page, 1) == painted([0.125, 0.125], 2.0, scheme=scheme)


def test_the_switch_outlasts_the_system_s_scheme(open_file):
    page = open_file(made_file(GROUPS), "#/group/0", color_scheme="light")
    page.locator("select[name=scheme]").select_option("dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(23, 25, 29)"
    assert backgrounds(page, 1) == painted([0.125, 0.125], 2.0, scheme="dark")
    page.reload()
    page.wait_for_selector(".t")
    assert page.evaluate("document.documentElement.dataset.scheme") == "dark"


def test_a_log_probability_is_an_amount_and_two_make_a_difference(open_file):
    page = open_file(made_file(GROUPS), "#/group/0?colour=behavior_logprobs")
    behavior, reference = np.float32([0, 1, 2, 3, 4, 5]) / np.float32(3), np.float32([0, 1, 2, 3, 4, 0]) / np.float32(2)
    assert counted(backgrounds(page, 0), (4,)) == counted(painted(-behavior, float(behavior[5]), amount=True), (4,))
    page.locator("select[name=minus]").select_option("reference_logprobs")
    page.wait_for_selector(".c-p20")
    gaps = reference - behavior
    assert counted(backgrounds(page, 0), (4,)) == counted(
        painted(gaps, float(np.abs(gaps)[[0, 1, 2, 3, 5]].max())), (4,)
    )


def test_a_process_score_colours_its_step(open_file):
    page = open_file(made_file(GROUPS), "#/group/0?colour=process_scores")
    assert counted(backgrounds(page, 0), (4,)) == painted([0.25, 0.25, 0.25, 0.75, 0.75], 0.75)


def test_masked_tokens_have_no_colour_and_negative_ones_a_line(open_file):
    page = open_file(made_file(GROUPS), "#/group/0")
    assert page.locator(".rollout[data-row='0'] .masked").all_inner_texts() == [" four"]
    assert page.locator(".rollout[data-row='0'] .negative").all_inner_texts() == [" Three", "!"]


def test_scores_stand_at_the_ends_of_steps_and_can_be_left_out(open_file):
    page = open_file(made_file(GROUPS), "#/group/0")
    first = page.locator(".rollout[data-row='0']")
    assert first.locator(".score").all_inner_texts() == ["0.25", "0.75"]
    assert first.locator(".score").first.evaluate("one => one.previousElementSibling.dataset.t") == "2"
    page.get_by_label("step scores").uncheck()
    assert page.locator(".score").count() == 0


def test_pointing_at_a_chunk_shows_what_is_stored_of_it(open_file):
    page = open_file(made_file(GROUPS), "#/group/0")
    page.locator(".rollout[data-row='0'] [data-t='5']").hover()
    shown = page.locator(".inspector")
    shown.get_by_text("chunk 2").wait_for()
    assert "credit −1, advantage −2" in " ".join(shown.inner_text().split())
    assert "Token 5: advantage −2 · credit −1" in shown.inner_text()


def test_keys_go_from_chunk_to_chunk_and_from_rollout_to_rollout(open_file):
    page = open_file(made_file(GROUPS), "#/group/0", reduced_motion="reduce")  # the ring is there at once
    at = "[document.activeElement.closest('.rollout').dataset.row, document.activeElement.dataset.chunk].join()"
    page.locator("[name=scores]").focus()
    page.keyboard.press("Tab")
    assert page.evaluate(at) == "0,0"
    for key, place in (
        ("ArrowRight", "0,1"),
        ("ArrowRight", "0,1"),
        ("ArrowDown", "1,0"),
        ("ArrowUp", "0,0"),
        ("End", "0,1"),
    ):
        page.keyboard.press(key)
        assert page.evaluate(at) == place
    page.keyboard.press("Shift+ArrowRight")
    assert page.locator(".cursor").get_attribute("data-t") == "3"
    assert page.locator(".chunk[tabindex='0']").count() == 1
    ring = page.locator("[data-t='3']").evaluate("one => getComputedStyle(one).boxShadow")
    assert "rgb(179, 0, 125)" in ring


def test_a_link_leads_to_a_token(open_file):
    page = open_file(made_file(GROUPS), "#/group/0?rollout=0&token=3")
    page.wait_for_selector(".cursor")
    assert page.evaluate("document.activeElement.dataset.chunk") == "1"
    assert page.locator(".cursor").inner_text() == " Three"


def test_a_rollout_that_is_not_trained_is_marked_and_flips_nothing(open_file):
    page = open_file(made_file(GROUPS, untrained={(0, 1)}), "#/group/0?against=1&setting=0")
    assert page.locator("[data-flips]").get_attribute("data-flips") == "0"
    page.locator("select[name=setting]").select_option("1")
    assert page.locator("h3 .warning").all_inner_texts() == ["not trainable"]


def test_a_group_that_is_not_there_is_said_to_be_missing(open_file):
    page = open_file(made_file(GROUPS), "#/group/7")
    assert page.locator(".warning").inner_text() == "This file has no group number 7; its groups are 0 to 0."


def test_two_settings_show_their_difference_and_list_the_flips(open_file):
    page = open_file(made_file(GROUPS), "#/group/0?against=1")
    change = [-1.0, -1.0, -1.5, 1.0, 1.0]
    for setting in (0, 1):
        assert counted(backgrounds(page, 0, setting), (4,)) == painted(change, 1.5)
        assert page.locator(f".rollout[data-row='0'] .pane[data-setting='{setting}'] .flipped").count() == 3
    assert page.locator("[data-flips]").get_attribute("data-flips") == "3"
    summary = "Sign flips: 3 tokens (42.9 %) in 2 runs, from stored to k = 0"
    assert page.locator(".flips summary").inner_text() == summary
    assert page.locator(".flips li").all_inner_texts() == [
        "rollout 0, tokens 0 to 1: +0.5 → −0.5",
        "rollout 0, tokens 2 to 2: +0.5 → −1",
    ]


def test_two_settings_show_each_its_own(open_file):
    page = open_file(made_file(GROUPS), "#/group/0?against=1&values=each")
    for setting, rows in ADVANTAGES.items():
        values = [value for value in rows[0] if value is not None]
        assert counted(backgrounds(page, 0, setting), (4,)) == painted(values, 2.0)
        assert page.locator(f".rollout[data-row='0'] .pane[data-setting='{setting}'] .chunk").count() == 2


def test_two_settings_move_together(open_file):
    page = open_file(made_file(GROUPS), "#/group/0?against=1")
    page.locator(".rollout[data-row='0'] .pane[data-setting='0'] [data-chunk='0']").focus()
    assert page.locator(".pane[data-setting='1'] .there").all_inner_texts() == ["One", " two", "."]
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.closest('.pane').dataset.setting") == "1"
    assert page.locator(".pane[data-setting='0'] .there").all_inner_texts() == ["One", " two"]


def test_a_flip_leads_to_its_tokens(open_file):
    page = open_file(made_file(GROUPS), "#/group/0?against=1")
    page.locator(".flips a").last.click()
    page.wait_for_selector(".cursor")
    assert page.locator(".cursor").get_attribute("data-t") == "2"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_on_every_colour(scheme):
    ends = ENDS[scheme]
    for end in ("above", "below", "amount"):
        for step in range(STEPS + 1):
            mixed = tuple(round(a + (b - a) * step / STEPS) for a, b in zip(ends["paper"], ends[end], strict=True))
            assert contrast(INK[scheme], mixed) >= 4.5, (end, step)


def test_long_rollouts_are_drawn_as_they_are_looked_at(open_file):
    long = Rollout(texts=[b"word "] * 9000, settings=[([4000, 9000], [1.0, -1.0])])
    page = open_file(made_file([("g/0", [long])]), "#/group/0")
    page.wait_for_selector(".t")
    assert page.locator(".t").count() <= 3000 + 10
    page.evaluate("location.hash = '#/group/0?rollout=0&token=8000'")
    page.wait_for_selector(".cursor[data-t='8000']")


def test_keys_reach_what_was_not_yet_drawn(open_file):
    long = Rollout(texts=[b"word "] * 9000, settings=[([4000, 8999, 9000], [1.0, -1.0, 2.0])])
    page = open_file(made_file([("g/0", [long] * 12)]), "#/group/0?rollout=0&token=0")
    page.wait_for_selector(".cursor")
    at = "[document.activeElement.closest('.rollout').dataset.row, document.activeElement.dataset.chunk].join()"
    page.keyboard.press("End")
    assert page.evaluate(at) == "0,2"
    for row in range(1, 12):
        page.keyboard.press("ArrowDown")
        assert page.evaluate(at) == f"{row},2"


def test_print_is_light_and_without_switches(open_file):
    page = open_file(made_file(GROUPS), "#/group/0", color_scheme="dark")
    page.wait_for_selector(".t")
    page.emulate_media(media="print")
    assert backgrounds(page, 1) == painted([0.125, 0.125], 2.0, scheme="light")
    assert not page.locator(".controls").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf().startswith(b"%PDF")


def test_print_draws_what_was_not_yet_seen(open_file, expect):
    page = open_file(made_file([("g/0", [FIRST] * 40)]), "#/group/0")
    page.wait_for_selector(".t")
    assert page.locator(".unseen").count() > 0
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    expect(page.locator(".unseen")).to_have_count(0)
    assert page.locator(".rollout .tokens").count() == 40


def test_print_draws_all_tokens(open_file, expect):
    long = Rollout(texts=[b"word "] * 9000, settings=[([9000], [1.0])])
    page = open_file(made_file([("g/0", [long])]), "#/group/0")
    page.wait_for_selector(".t")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    expect(page.locator(".t[data-t]")).to_have_count(9000)
