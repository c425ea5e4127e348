"""What a file holds is what the datasets hold: read back by a parser of its own, to the last bit."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pass_ops import ShapingConfig, Weights, shape
from pass_ops.options.streams import Stream
from pass_ops.shaping import MADE
from pass_ops.shards import commit_part, create_dataset, finalize, open_dataset
from pipelines.inspect.explain.explanation import explain_rollout
from pipelines.inspect.stored import NotShapedError
from pipelines.inspect.sweep.truth import truth_advantages
from pipelines.inspect.tokenizer import OtherTokenizerError
from pipelines.parts.inputs import WrongInputError
from pipelines.shaped.stage import ShapeOptions, shape_dataset
from pipelines.view.options import ViewOptions
from pipelines.view.sampling import UnknownGroupError
from pipelines.view.view import group_view, make_view
from tests.view.reading import parse

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>&lt;img src=x onerror=alert(1)>",
    "\u202ebidi\u2066",
    "\x1b[31mansi\x1b[0m\x00\x07",
    "\u2028\u2029",
    "${alert(1)}`'\"\\",
]


def ids(text: str | bytes) -> list[int]:
    return list(text.encode() if isinstance(text, str) else text)


@pytest.fixture
def run(store_run, row, byte_tokenizer):
    """Two parts, three groups: step scores, a masked token, a truncated rollout, one without an outcome, nulls."""
    texts = ["one\ntwo\n", "one\none\n", "x", "\N{SLIGHTLY SMILING FACE}!"]
    tokens = [ids(text) for text in texts]

    def made(name: str, number: int, **values):
        given = {"token_ids": tokens[number], "text": texts[number], "prompt_token_ids": ids("Q: 1 + 1")}
        length = len(tokens[number])
        logprobs = [-0.1 * (t + 1) for t in range(length)]
        return row(name, length, **(given | {"behavior_logprobs": logprobs, "process_ends": [length]} | values))

    return store_run(
        [
            made("a/0", 0, process_scores=[1.0, 0.25], process_ends=[4, 8]),
            made("a/1", 1, process_scores=[0.5, -1.0], process_ends=[4, 8], outcome_reward=0.0),
            made("b-c/0", 2, finish_reason="length", outcome_reward=0.0),
        ],
        [
            made("d/0", 3, loss_mask=[True, False, True, True, True]),
            made("d/1", 2, outcome_reward=None, verify_status="timeout"),
            made("d/3", 0, process_scores=[0.1, 0.3], process_ends=[4, 8], outcome_reward=0.0),
        ],
        carried={"tokenizer_digest": byte_tokenizer[1]},
    )


@pytest.fixture
def options(byte_tokenizer) -> ViewOptions:
    return ViewOptions(tokenizer=byte_tokenizer[0])


def rows_of(run) -> list[dict]:
    return [row for part in range(len(run.shaped.parts)) for row in run.shaped.read_part(part).to_pylist()]


def test_every_stored_value_is_in_the_file_to_the_last_bit(run, options):
    head, blocks, _ = parse(make_view([run.url], options=options).content)
    stored = {row["rollout_id"]: row for row in rows_of(run)}
    seen = []
    for block in blocks:
        for number, rollout in enumerate(block.head["rollouts"]):
            row = stored[rollout["rollout_id"]]
            seen.append(rollout["rollout_id"])
            for name in ("behavior_logprobs", "process_scores"):
                np.testing.assert_array_equal(block.of(name, number), np.array(row[name] or [], np.float32))
            for name in ("chunk_credits", "chunk_advantages"):
                np.testing.assert_array_equal(block.of(f"{name}/0", number), np.array(row[name], np.float32))
            assert block.of("chunk_ends/0", number).tolist() == row["chunk_ends"]
            assert block.of("ends:process_scores", number).tolist() == (row["process_ends"] or [])
            assert block.of("loss_mask", number).tolist() == row["loss_mask"]
            assert b"".join(block.tokens(number)) == bytes(row["token_ids"])
            assert {name: rollout[name] for name in ("finish_reason", "outcome_reward", "verify_status")} == {
                name: row[name] for name in ("finish_reason", "outcome_reward", "verify_status")
            }
            assert block.head["settings"][0]["rows"][number] == {
                "trainable": row["trainable"],
                "path_score": row["path_score"],
            }
        assert block.arrays["prompt"].tobytes() == b"Q: 1 + 1"
    assert seen == list(stored)
    assert head["groups"][2]["id"] == "d"
    assert blocks[2].head["rollouts"][1]["statuses"] == {"verifier": "timeout"}
    assert blocks[2].head["rollouts"][0]["masked"] == 1


def test_a_groups_line_is_what_its_rollouts_are(run, options):
    head, _, _ = parse(make_view([run.url], options=options).content)
    a, b, d = head["groups"]
    assert (a["outcome"], a["single_outcome"], a["verdicts"]) == (0.5, False, {"ok": 1, "wrong": 1})
    assert (b["id"], b["single_outcome"], b["truncated"], b["shortest"]) == ("b-c", True, 1, 1)
    assert (d["verdicts"], d["untrainable"], d["mean_length"]) == ({"ok": 1, "timeout": 1, "wrong": 1}, 1, 14 / 3)
    advantages = [
        value
        for row in rows_of(run)[:2]
        for value, start, end in zip(row["chunk_advantages"], [0, *row["chunk_ends"]], row["chunk_ends"], strict=False)
        for _ in range(start, end)
    ]
    assert a["advantage_std"] == pytest.approx(np.std(advantages))
    assert a["zero_advantage"] == np.mean(np.array(advantages) == 0.0)
    assert (a["advantage_min"], a["advantage_max"]) == (min(advantages), max(advantages))


def test_chunks_are_explained_as_explain_does(run, options):
    _, blocks, _ = parse(make_view([run.url], options=options).content)
    for block in blocks:
        for number, rollout in enumerate(block.head["rollouts"]):
            expected = explain_rollout(run.url, rollout["rollout_id"]).arithmetic
            told = block.head["settings"][0]["explain"]
            row = told["rows"][number]
            assert row["agrees"]
            assert row["reasons"] == list(expected.reasons)
            assert row["why"] == [chunk.why for chunk in expected.chunks]
            assert [(pool["name"], pool["mean"]) for pool in told["pools"]] == [
                (pool.name, pool.mean) for pool in expected.pools
            ]
            for name in ("process", "constant", "rest"):
                values = [getattr(chunk, name).value for chunk in expected.chunks]
                if expected.trainable:
                    np.testing.assert_array_equal(block.of(f"explain/0/{name}", number), np.array(values, np.float32))
                else:
                    assert np.isnan(block.of(f"explain/0/{name}", number)).all()


def test_a_grid_is_shaped_as_shape_does_and_compared_with_what_is_stored(run, options):
    made = make_view([run.url], options=options, grid={"k": [0.7, 0.0], "weights.process": [1.0, -3.0]})
    head, blocks, _ = parse(made.content)
    names = ["k=0.7 weights.process=1.0", "k=0.7 weights.process=-3.0", "k=0.0 weights.process=1.0"]
    assert [setting["name"] for setting in head["settings"][1:4]] == names
    table = pa.concat_tables([run.shaped.read_part(0), run.shaped.read_part(1)])
    config = ShapingConfig(k=0.0, weights=Weights(process=-3.0))
    expected = shape(table.drop_columns(list(MADE)), config)
    made_values = np.concatenate([block.arrays["chunk_advantages/4"] for block in blocks])
    np.testing.assert_array_equal(made_values, np.concatenate(expected["chunk_advantages"].to_pylist()))

    first, other = (np.concatenate([spread(block, number) for block in blocks]) for number in (0, 4))
    mask = np.concatenate([block.arrays["loss_mask"] for block in blocks]) == 1
    trainable = np.repeat(table["trainable"].to_numpy(), [len(x) for x in table["loss_mask"].to_pylist()])
    flips = mask & trainable & (first * other < 0)
    told = head["comparisons"][3]
    assert flips.any()
    assert told["flips"] == flips.sum() == sum(line["flips"][4] for line in head["groups"])
    assert told["mean_difference"] == pytest.approx((other - first)[mask & trainable].mean())
    assert told["largest_difference"] == pytest.approx(abs(first - other)[mask & trainable].max())
    assert head["comparisons"][0] == {**head["comparisons"][0], "flips": 0, "largest_difference": 0.0}
    (listed,) = [one for one in head["offenders"] if one["kind"] == "sign_flip" and one["setting"] == 4]
    assert sum(one["end"] - one["start"] for one in listed["rows"]) == flips.sum()
    worst = listed["rows"][0]
    offset = blocks[worst["group"]].arrays["offsets:token"][worst["rollout"]] + worst["start"]
    assert worst["value"] == pytest.approx(
        abs(spread(blocks[worst["group"]], 0) - spread(blocks[worst["group"]], 4))[offset]
    )


def spread(block, setting: int) -> np.ndarray:
    """The advantage of each token of a group."""
    made = []
    for number in range(len(block.head["rollouts"])):
        ends = block.of(f"chunk_ends/{setting}", number)
        made.append(np.repeat(block.of(f"chunk_advantages/{setting}", number), np.diff(ends, prepend=0)))
    return np.concatenate(made)


def test_two_shaped_datasets_are_shown_side_by_side(run, options):
    other = f"{run.url}/round-000/shaped-k0"
    shape_dataset(
        rollouts=run.rollouts, signals=run.signals, out=other,
        options=ShapeOptions(process="steps", outcome="verifier", format="format", k=0.0),
    )  # fmt: skip
    head, blocks, _ = parse(make_view([run.shaped.url, other], options=options).content)
    assert [setting["name"] for setting in head["settings"]] == ["shaped", "shaped-k0"]
    stored = pa.concat_tables([open_dataset(other).read_part(part) for part in (0, 1)])
    made = np.concatenate([block.arrays["chunk_advantages/1"] for block in blocks])
    np.testing.assert_array_equal(made, np.concatenate(stored["chunk_advantages"].to_pylist()))


def test_datasets_of_other_rollouts_are_refused(run, options):
    other = f"{run.url}/elsewhere"
    table = run.shaped.read_part(0)
    dataset = create_dataset(other, run.shaped.spec)
    commit_part(dataset, 0, table.slice(0, 2))
    commit_part(dataset, 1, run.shaped.read_part(1))
    finalize(dataset)
    with pytest.raises(WrongInputError, match="do not hold the same rollouts"):
        make_view([run.shaped.url, other], options=options)


def test_the_truth_is_spread_over_tokens_as_sweep_does(run, options):
    head, blocks, _ = parse(
        make_view([run.url], options=ViewOptions(tokenizer=options.tokenizer, truth="steps")).content
    )
    assert head["columns"][-1]["name"] == "truth"
    table = run.shaped.read_part(0)
    signal = open_dataset(f"{run.signals}/steps").read_part(0)
    expected = truth_advantages(table, signal, as_="value").advantage_N.astype(np.float32)
    np.testing.assert_array_equal(np.concatenate([block.arrays["truth"] for block in blocks[:2]]), expected)
    (listed,) = [one for one in head["offenders"] if one["kind"] == "truth_disagrees"]
    worst = listed["rows"][0]
    block = blocks[worst["group"]]
    made = block.of("chunk_advantages/0", worst["rollout"])[worst["chunk"]]
    true = block.of("truth", worst["rollout"])[worst["start"]]
    assert made * true < 0
    assert worst["value"] == pytest.approx(abs(made * true))


def test_a_truth_that_is_no_process_signal_is_refused(run, options):
    with pytest.raises(WrongInputError, match="'verifier' is of kind outcome"):
        make_view([run.url], options=ViewOptions(truth="verifier"))


def test_a_grid_over_another_signal_is_refused(run, options):
    with pytest.raises(WrongInputError, match="another signal than"):
        make_view([run.url], options=options, grid={"process": ["others"]})


def test_named_groups_alone_are_shown(run, options):
    asked = ViewOptions(tokenizer=options.tokenizer, groups=("d", "b-c"))
    head, blocks, _ = parse(make_view([run.url], options=asked).content)
    assert [line["id"] for line in head["groups"]] == [block.head["group_id"] for block in blocks] == ["b-c", "d"]
    assert "2 groups named with --groups, of 3" in head["sampling"]["rule"]
    with pytest.raises(UnknownGroupError, match="no group 'bc'; did you mean 'b-c'"):
        make_view([run.url], options=ViewOptions(groups=("bc",)))


def test_another_tokenizer_than_the_rollouts_is_refused(store_run, row, byte_tokenizer):
    run = store_run([row("a/0", 1)])
    with pytest.raises(OtherTokenizerError, match="was sampled with t: its tokens would be shown as other texts"):
        make_view([run.url], options=ViewOptions(tokenizer=byte_tokenizer[0]))


def test_without_a_tokenizer_the_texts_are_shown_whole_and_the_file_says_so(store_run, row):
    run = store_run([row("a/0", 2, text="whole <b>", token_ids=[5, 6])])
    head, (block,), _ = parse(make_view([run.url]).content)
    assert head["token_texts"] == "none"
    assert "Make the file again with --tokenizer" in head["token_texts_note"]
    assert block.head["rollouts"][0]["text"] == "whole <b>"
    assert block.arrays["token_ids"].tolist() == [5, 6]
    assert "text" not in block.arrays


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_ids_and_texts_leave_the_markup_as_it_is(store_run, row, byte_tokenizer, text):
    def file(name: str):
        run = store_run(
            [
                row(
                    f"{name.replace('/', '%2F')}/0",
                    3,
                    text=name,
                    token_ids=[65, 66, 256],
                    answer=name,
                    extracted_answer=name,
                )
            ],
            carried={"tokenizer_digest": byte_tokenizer[1]},
        )
        return make_view([run.url], options=ViewOptions(tokenizer=byte_tokenizer[0], title=name)).content

    content = file(text)
    head, (block,), tags = parse(content)
    assert head["groups"][0]["id"] == block.head["group_id"] == text.replace("/", "%2F")  # as every stored id is
    assert head["title"] == text
    assert block.head["answer"] == block.head["rollouts"][0]["extracted_answer"] == text
    assert text.encode() not in content
    assert tags.count("script") == content.count(b"</script>")
    assert "img" not in tags


def test_partial_characters_and_control_bytes_stay_exact(store_run, row, byte_tokenizer):
    content = b"\xf0\x9f</script>\x1b[0m\xe2\x80\xae\x00"
    run = store_run(
        [row("a/0", len(content), token_ids=list(content))], carried={"tokenizer_digest": byte_tokenizer[1]}
    )
    _, (block,), _ = parse(make_view([run.url], options=ViewOptions(tokenizer=byte_tokenizer[0])).content)
    assert block.tokens(0) == [bytes([byte]) for byte in content]


def test_a_dataset_without_rows_makes_a_file_without_groups(store_run):
    run = store_run([])
    head, blocks, _ = parse(make_view([run.url]).content)
    assert (head["groups"], blocks) == ([], [])
    assert head["sampling"]["rule"] == "Every group of the dataset: 0 groups."
    assert all(not listed["rows"] for listed in head["offenders"])


def test_rollouts_none_of_which_is_trainable_have_no_figures(store_run, row):
    run = store_run([row(f"a/{n}", 2, outcome_reward=None, verify_status="error") for n in range(2)])
    head, (block,), _ = parse(make_view([run.url], grid={"k": [0.0]}).content)
    line = head["groups"][0]
    assert (line["outcome"], line["single_outcome"], line["advantage_std"], line["untrainable"]) == (
        None,
        None,
        None,
        2,
    )
    assert head["comparisons"][0]["correlation"] is None
    assert block.head["settings"][0]["explain"]["rows"][0]["reasons"]


def test_null_lists_are_nan_throughout(store_run, row):
    """A signal that failed has no scores, of a step or of a token."""
    kl = ShapeOptions(process="steps", outcome="verifier", format="format", signal="kl")
    rows = [row("a/0", 2, process_scores=[0.5, 0.1]), row("a/1", 2, process_scores=None, process_ends=None)]
    run = store_run(rows, options=kl)
    head, (block,), _ = parse(make_view([run.url]).content)
    assert {"name": "process_scores", "axis": "token"}.items() <= head["columns"][1].items()
    np.testing.assert_array_equal(block.of("process_scores", 0), np.float32([0.5, 0.1]))
    assert np.isnan(block.of("process_scores", 1)).all()


def test_streams_are_explained_stream_by_stream(store_run, row):
    streams = {
        "steps": Stream(signal="steps", weight=1.0, pool="group"),
        "outcome": Stream(signal="verifier", weight=2.0, pool="dataset"),
    }
    options = ShapeOptions(streams=streams, process="steps", outcome="verifier")
    run = store_run(
        [
            row("a/0", 4, process_scores=[1.0, 0.5], process_ends=[1, 4]),
            row("a/1", 3, process_scores=[0.25], outcome_reward=0.0),
        ],
        options=options,
    )
    head, (block,), _ = parse(make_view([run.url], grid={"k": [0.0]}).content)
    told = block.head["settings"][0]["explain"]
    assert told["kind"] == "streams"
    assert [one["name"] for one in told["streams"]] == ["outcome", "steps"]
    for number in range(2):
        expected = explain_rollout(run.url, f"a/{number}").arithmetic
        shares = [[share.share.value for share in chunk.shares] for chunk in expected.chunks]
        for stream in range(2):
            values = np.array([of_chunk[stream] for of_chunk in shares], np.float32)
            np.testing.assert_array_equal(block.of(f"explain/0/stream/{stream}/share", number), values)
        assert told["rows"][number]["agrees"]
    assert block.head["settings"][1]["explain"]["rows"][0]["agrees"]  # its pool of the dataset was measured anew
    assert head["groups"][0]["outcome"] == 0.5


def test_an_estimator_that_has_no_explanation_says_so(store_run, row):
    weights = Weights(process=0.0, format=0.0)
    run = store_run(
        [row("a/0", 2), row("a/1", 2, outcome_reward=0.0)],
        options=ShapeOptions(estimator="tempo", outcome="verifier", weights=weights),
    )
    head, (block,), _ = parse(make_view([run.url]).content)
    assert block.head["settings"][0]["explain"] is None
    assert "estimator 'tempo'" in head["explain_left_out"]


def test_a_group_too_large_to_explain_says_so(run, options, monkeypatch):
    """Of the three groups the second has one rollout of one token."""
    monkeypatch.setattr("pipelines.view.explained.MOST", 1)
    head, blocks, _ = parse(make_view([run.url], options=options).content)
    assert [block.head["settings"][0]["explain"] is None for block in blocks] == [True, False, True]
    assert head["explain_left_out"].endswith("`passrl explain` does it for one rollout (2 times)")


def test_rollouts_that_are_not_shaped_are_refused(run):
    with pytest.raises(NotShapedError):
        make_view([run.rollouts])


def test_the_same_datasets_make_the_same_bytes(run, options):
    first, again = (make_view([run.url], options=options, grid={"k": [0.0]}).content for _ in range(2))
    assert first == again


def test_one_group_shows_itself_in_a_notebook(run, options):
    view = group_view(run.url, "d", options=options)
    assert (view.head["mode"], view.head["run"]) == ("group", None)
    shown = view._repr_html_()
    assert shown.startswith('<iframe sandbox="allow-scripts"')
    assert shown.count("<") == 2  # the frame's own tags: the file within is escaped
