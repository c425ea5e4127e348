"""TRL's completions files, text and messages; columns as TRL 1.16 writes them."""

from __future__ import annotations

from pipelines.imports.guess import command, guess
from pipelines.runs.verify import verify


def completion(prompt: object, text: object, right: float | None, **more: object) -> dict:
    own = {"step": 3, "prompt": prompt, "completion": text, "right": right, "format_ok": 0.5, "advantage": 0.1}
    return own | more


def said(role: str, content: str) -> list[dict]:
    return [{"role": role, "content": content}]


def test_neighbours_with_equal_prompts_are_a_group_and_rewards_are_signals(import_run, parquet) -> None:
    rows = [completion("p", "a", 1.0), completion("p", "b", None), completion("q", "c", 0.0), completion("p", "d", 1.0)]
    run = import_run("trl", parquet(rows, "completions_00003.parquet"))
    assert [p["prompt_id"] for p in run.rows("prompts")] == [f"completions_00003-{n}" for n in (0, 2, 3)]
    assert [r["text"] for r in run.rows("rollouts")] == ["a", "b", "c", "d"]
    assert [s["outcome_reward"] for s in run.rows("signals", "right")] == [1.0, None, 0.0, 1.0]
    assert [s["outcome_reward"] for s in run.rows("signals", "format_ok")] == [0.5] * 4
    assert set(run.made.facts.rewards) == {"right", "format_ok"}
    assert verify(run.url) == []


def test_a_prompt_that_comes_twice_in_a_row_is_two_groups_of_the_given_size(import_run, parquet) -> None:
    source = parquet([completion("p", text, 1.0) for text in "abcd"])
    assert len(import_run("trl", source).rows("prompts")) == 1
    assert len(import_run("trl", source, out="sized", group_size=2).rows("prompts")) == 2


def test_messages_stay_messages_and_a_completion_of_several_is_one_text(import_run, parquet) -> None:
    several = [*said("assistant", "let me"), *said("tool", "5"), *said("assistant", "five")]
    rows = [completion(said("user", "2+3"), said("assistant", "5"), 1.0), completion(said("user", "2+3"), several, 0.0)]
    run = import_run("trl", parquet(rows))
    (prompt,) = run.rows("prompts")
    assert (prompt["prompt"], prompt["messages"]) == (None, said("user", "2+3"))
    assert [r["text"] for r in run.rows("rollouts")] == ["5", "let me\n\n5\n\nfive"]


def test_several_turns_are_not_encoded_for_their_tokens_are_not_known(import_run, parquet, tiny_model) -> None:
    several = [*said("assistant", "2"), *said("tool", "5"), *said("assistant", "3")]
    rows = [completion("2+3=", said("assistant", "5"), 1.0), completion("2+3=", several, 0.0)]
    run = import_run("trl", parquet(rows), tokenizer=tiny_model, max_reject_rate=0.5)
    assert [r["reason"] for r in run.rejected("rollouts")] == ["several_turns"]
    assert len(run.rows("signals", "right")) == 1


def test_a_folder_of_steps_is_read_in_the_order_of_its_numbers(import_run, parquet, tmp_path) -> None:
    for step in (10, 9):
        parquet([completion("p", f"step {step}", 1.0, step=step)], f"completions/completions_{step:05d}.parquet")
    run = import_run("trl", tmp_path / "completions")
    assert [r["text"] for r in run.rows("rollouts")] == ["step 9", "step 10"]
    assert len(run.block()["files"]) == 2


def test_it_is_guessed(parquet) -> None:
    path = str(parquet([completion("p", "a", 1.0)]))
    found = guess(path)
    assert found.formats == ("trl",)
    assert command(path, found) == f"passrl import trl {path} --out RUN"
