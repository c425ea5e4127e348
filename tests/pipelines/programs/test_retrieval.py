"""Search over a question's own paragraphs."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from pipelines.programs import Prompt, Turn
from pipelines.programs.retrieval import best, paragraphs, retrieval

CONTEXT = {
    "title": ["Kiss and Tell (1945 film)", "Shirley Temple", "Janet Waldo"],
    "sentences": [
        ["Kiss and Tell is a 1945 comedy film starring then 17-year-old Shirley Temple as Corliss Archer."],
        ["Shirley Temple Black was an American actress and diplomat.", " She was ambassador to Ghana."],
        ["Janet Waldo was an American radio and voice actress."],
    ],
}


class Said:
    """A sampler that plays the policy's turns from a list and writes down what is inserted."""

    def __init__(self, *turns: str) -> None:
        self.turns = list(turns)
        self.inserted: list[str] = []

    async def __call__(self, *, stop: Any = None, max_tokens: Any = None) -> Turn:
        text = self.turns.pop(0)
        stopped = next((s for s in stop if s in text), None)
        return Turn(text=text, token_ids=(), finish_reason="stop", stop=stopped)

    def insert(self, text: str, *, special_tokens: bool = False) -> None:
        self.inserted.append(text)


def play(*turns: str, **options: Any) -> list[str]:
    said: Any = Said(*turns)
    asyncio.run(retrieval(Prompt(prompt_id="q", extra={"context": CONTEXT}), said, **options))
    assert said.turns == []
    return said.inserted


def test_a_multi_hop_question_is_answered_hop_by_hop() -> None:
    found = play(
        "Who? <search>Corliss Archer in Kiss and Tell</search>",
        "Then <search>Shirley Temple ambassador</search>",
        "<answer>Ghana</answer>",
    )
    assert "17-year-old Shirley Temple as Corliss Archer" in found[0]
    assert found[1] == (
        "<information>Shirley Temple: Shirley Temple Black was an American actress and diplomat. She was ambassador to "
        "Ghana.</information>"
    )


def test_searches_are_counted_and_several_paragraphs_come_best_first() -> None:
    found = play("<search>actress</search>", "<search>radio</search>", "done", results=2, searches=1)
    assert [line.split(":")[0] for line in found[0].removeprefix("<information>").split("\n")] == [
        "Janet Waldo",
        "Shirley Temple",
    ]
    assert found[1] == "<information>No searches are left.</information>"


def test_a_search_that_finds_nothing_or_was_never_opened_says_so() -> None:
    assert play("<search>zebra</search>", "the</search>", "<search></search>", "done") == [
        "<information>Nothing was found.</information>",
        "<information>No search was opened.</information>",
        "<information>Nothing was found.</information>",
    ]


def test_the_last_opened_search_counts() -> None:
    assert "Janet Waldo" in play("<search>temple <search>voice radio</search>", "done")[0]


def test_a_prompt_without_paragraphs_is_an_error_that_names_the_column() -> None:
    for extra in ({}, {"context": 3}, {"context": {"title": ["a"], "sentences": []}}):
        with pytest.raises(ValueError, match=r"extra\.context .* name the column in prompts\.extra"):
            paragraphs(extra, "context")


def test_a_search_writes_nothing_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        assert best("cat", ["A: the cat sat"], 1) == ["A: the cat sat"]
    assert [one for one in caplog.records if one.name.startswith(("bm25s", "pipelines"))] == []


def test_stop_words_alone_find_nothing() -> None:
    assert best("the of", ["A: the cat sat"], 1) == []
