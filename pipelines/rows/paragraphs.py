"""The paragraphs that come with a multi-hop question, as "title: text", of every form that the data sets have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def titled_paragraphs(given: Any) -> list[str]:
    """Each paragraph as "title: text", in the order given. Raises ValueError for another form.

    given: HotpotQA's and 2WikiMultihopQA's lists of [title, sentences], the same as the hub's columns title and
    sentences, or MuSiQue's objects with title and paragraph_text.

    >>> titled_paragraphs([["Ed Wood", ["A film.", " By Burton."]]])
    ['Ed Wood: A film. By Burton.']
    >>> titled_paragraphs({"title": ["Ed Wood"], "sentences": [["A film.", " By Burton."]]})
    ['Ed Wood: A film. By Burton.']
    >>> titled_paragraphs([{"idx": 0, "title": "Ed Wood", "paragraph_text": "A film.", "is_supporting": True}])
    ['Ed Wood: A film.']
    """
    try:
        if isinstance(given, Mapping):
            given = list(zip(given["title"], given["sentences"], strict=True))
        return [_titled(one) for one in given]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"it holds no paragraphs in HotpotQA's or MuSiQue's form ({error!r})") from error


def _titled(paragraph: Any) -> str:
    if isinstance(paragraph, Mapping):
        return f"{paragraph['title']}: {paragraph['paragraph_text']}"
    title, sentences = paragraph
    if isinstance(sentences, str):
        raise TypeError("a paragraph's sentences are a text, not a list of them")
    return f"{title}: {''.join(sentences)}"
