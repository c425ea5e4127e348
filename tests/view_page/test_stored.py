"""A file made from stored datasets, in a browser, held against the Parquet that it was made from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pass_ops import shape
from pipelines.inspect.explain.explanation import explain_rollout
from pipelines.inspect.stored import shaping_config
from pipelines.view.options import ViewOptions
from pipelines.view.view import group_view, make_view
from tests.view.conftest import byte_tokenizer, row, store_run  # noqa: F401 - fixtures
from tests.view_page.palette import css

TEXTS = ["one + one\n= two\nA2", "one\n\none\n\none", "x = 1\ny = 2\nA3", "\N{SLIGHTLY SMILING FACE} so\nA2"]


@pytest.fixture
def run(store_run, row, byte_tokenizer):  # noqa: F811
    """Two groups of four rollouts with a score a line, one with masked tokens and one without an outcome."""

    def made(name: str, number: int, **values):
        tokens = list(TEXTS[number].encode())
        ends = [place + 1 for place, byte in enumerate(tokens) if byte == 10 or place == len(tokens) - 1]
        scores = [((number + 2) * (step + 1) % 5) / 4 for step in range(len(ends))]
        given = {
            "token_ids": tokens,
            "text": TEXTS[number],
            "prompt_token_ids": list(b"1 + 1"),
            "behavior_logprobs": [-0.05 * (token % 11) for token in range(len(tokens))],
            "process_scores": scores,
            "process_ends": ends,
            "outcome_reward": float(number in {0, 3}),
        }
        return row(name, len(tokens), **(given | values))

    masked = [token < 4 or token > 8 for token in range(len(TEXTS[1]))]
    return store_run(
        [made(f"a/{number}", number) for number in range(4)],
        [
            made("b/0", 1, loss_mask=masked),
            made("b/1", 0),
            made("b/2", 2, outcome_reward=None, verify_status="timeout"),
            made("b/3", 3, finish_reason="length"),
        ],
        carried={"tokenizer_digest": byte_tokenizer[1]},
    )


@pytest.fixture
def options(byte_tokenizer) -> ViewOptions:  # noqa: F811
    return ViewOptions(tokenizer=byte_tokenizer[0])


def stored_groups(run) -> list[list[dict]]:
    return [run.shaped.read_part(part).to_pylist() for part in range(2)]


def advantages(row: dict) -> np.ndarray:  # noqa: F811
    """A rollout's advantages as Parquet holds them, one a token."""
    return np.repeat(np.float32(row["chunk_advantages"]), np.diff([0, *row["chunk_ends"]]))


def colours(page, number: int, setting: int = 0) -> list[str]:
    where = f".rollout[data-row='{number}'] .pane[data-setting='{setting}'] .t"
    page.locator(f".rollout[data-row='{number}']").scroll_into_view_if_needed()
    page.wait_for_selector(where)
    return page.eval_on_selector_all(where, "found => found.map(one => getComputedStyle(one).backgroundColor)")


def assert_coloured(page, values: list[np.ndarray], masks: list[list[bool]], *, setting: int = 0, **options) -> None:
    """Every token that counts has the colour of its value; the strongest is the group's largest magnitude."""
    limit = float(max(np.abs(one[np.array(mask)]).max() for one, mask in zip(values, masks, strict=True)))
    assert limit > 0
    for number, (one, mask) in enumerate(zip(values, masks, strict=True)):
        seen = colours(page, number, setting)
        assert len(seen) == len(mask)
        counted = [colour for colour, kept in zip(seen, mask, strict=True) if kept]
        assert counted == [css(float(value), limit, **options) for value in one[np.array(mask)]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("number", [0, 1])
def test_colours_are_those_of_the_advantages_in_parquet(open_file, run, options, number, scheme):
    page = open_file(make_view([run.url], options=options).content, f"#/group/{number}", color_scheme=scheme)
    rows = stored_groups(run)[number]
    assert_coloured(page, [advantages(one) for one in rows], [one["loss_mask"] for one in rows], scheme=scheme)


def test_colours_of_log_probabilities_are_those_in_parquet(open_file, run, options):
    page = open_file(make_view([run.url], options=options).content, "#/group/0?colour=behavior_logprobs")
    rows = stored_groups(run)[0]
    values = [np.float32(one["behavior_logprobs"]) for one in rows]
    assert_coloured(page, values, [one["loss_mask"] for one in rows], amount=True)


def test_differences_of_two_settings_are_those_that_shape_makes(open_file, run, options):
    page = open_file(make_view([run.url], options=options, grid={"k": [0.0]}).content, "#/group/0?against=1")
    table = run.shaped.read_part(0)
    made = shape(table, replace(shaping_config(run.shaped.spec), k=0.0))
    before, after = ([advantages(one) for one in rows] for rows in (table.to_pylist(), made.to_pylist()))
    change = [b - a for a, b in zip(before, after, strict=True)]
    masks = table["loss_mask"].to_pylist()
    for setting in (0, 1):
        assert_coloured(page, change, masks, setting=setting)
    flipped = sum(int(((a * b < 0) & np.array(mask)).sum()) for a, b, mask in zip(before, after, masks, strict=True))
    assert page.locator("[data-flips]").get_attribute("data-flips") == str(flipped)


def test_texts_are_those_that_the_model_wrote(open_file, run, options):
    page = open_file(make_view([run.url], options=options).content, "#/group/0")
    for number, written in enumerate(TEXTS[:3]):
        page.locator(f".rollout[data-row='{number}']").scroll_into_view_if_needed()
        shown = page.eval_on_selector_all(f".rollout[data-row='{number}'] .t", NEWLINES_AS_WRITTEN)
        assert "".join(shown) == written
    assert page.locator(".rollout[data-row='3'] .escape").first.inner_text() == "\\xF0"


NEWLINES_AS_WRITTEN = """found => found.map(one => [...one.childNodes]
    .filter(part => part.nodeType === Node.TEXT_NODE).map(part => part.data).join(""))"""


@pytest.mark.parametrize("rollout_id", ["a/0", "a/2", "b/0"])
def test_a_chunk_s_arithmetic_is_the_one_of_explain(open_file, run, options, rollout_id):
    explained = explain_rollout(run.url, rollout_id).arithmetic
    group, number = ("ab".index(rollout_id[0]), rollout_id[2:])
    page = open_file(make_view([run.url], options=options).content, f"#/group/{group}")
    for index, chunk in enumerate(explained.chunks):
        page.locator(f".rollout[data-row='{number}'] [data-chunk='{index}']").focus()
        page.locator(".inspector h3", has_text=f"rollout {number}, chunk {index + 1} ").wait_for()
        lines = page.eval_on_selector_all(
            ".inspector tr", "rows => rows.map(row => [row.cells[0].textContent, row.cells[1].textContent])"
        )
        told = {name: float(value.replace("−", "-")) for name, value in lines}
        expected = {
            "process part": chunk.process.value,
            "rewards": chunk.constant.value,
            "credit a": chunk.credit.value,
            "sum to the end": chunk.rest.value,
            "advantage": chunk.advantage.value,
        }
        assert {name: told[name] for name in expected} == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert told["sum to the end"] / told["divided by"] == pytest.approx(told["advantage"], rel=2e-3, abs=1e-3)


def test_a_rollout_that_is_not_trained_says_why(open_file, run, options):
    page = open_file(make_view([run.url], options=options).content, "#/group/1?rollout=2&token=0")
    page.locator(".inspector", has_text="Not trainable").wait_for()
    assert page.locator(".rollout[data-row='2'] h3 .warning").inner_text() == "not trainable"


def test_every_offender_leads_to_its_tokens(open_file, run, options):
    view = make_view([run.url], options=options, grid={"k": [0.0]})
    worst = [found for one in view.head["offenders"] for found in one["rows"]]
    page = open_file(view.content, "#/offenders")
    links = page.eval_on_selector_all("tbody a", "found => found.map(one => one.getAttribute('href'))")
    assert len(links) == len(worst) > 0
    for link, found in zip(links, worst, strict=True):
        page.evaluate("link => { location.hash = '#/offenders'; location.hash = link; }", link)
        page.wait_for_selector(f".rollout[data-row='{found['rollout']}'] .cursor[data-t='{found['start']}']")


def test_the_file_states_its_sample(open_file, run, options):
    asked = ViewOptions(tokenizer=options.tokenizer, max_rollouts=4)
    view = make_view([run.url], options=asked)
    page = open_file(view.content)
    assert page.locator("tbody tr").count() == 1
    assert view.head["sampling"]["rule"] in page.locator(".sampling").inner_text()


def test_without_a_tokenizer_the_whole_text_is_shown(open_file, run):
    page = open_file(make_view([run.url]).content, "#/group/0")
    page.wait_for_selector(".rollout .written")
    assert page.locator(".rollout[data-row='0'] .written").inner_text().replace("↵", "") == TEXTS[0]


def test_a_group_shows_itself_in_a_notebook_s_frame(open_file, run, options):
    frame = group_view(run.url, "a", options=options)._repr_html_()
    page = open_file(f"<!doctype html><main>{frame}</main>".encode())
    inner = page.frame_locator("iframe")
    inner.locator(".t").first.wait_for()
    inner.locator("select[name=colour]").select_option("credit")
    inner.locator(".legend", has_text="credit").wait_for()
    inner.locator(".chunk").first.focus()
    page.keyboard.press("ArrowRight")
    inner.locator(".inspector h3", has_text="chunk 2").wait_for()
