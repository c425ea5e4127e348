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
            given = list(zip(_listed(given["title"]), _listed(given["sentences"]), strict=True))
        return [_titled(one) for one in _listed(given)]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"it holds no paragraphs in HotpotQA's or MuSiQue's form ({error!r})") from error


def _titled(paragraph: Any) -> str:
    if isinstance(paragraph, Mapping):
        title, text = paragraph["title"], paragraph["paragraph_text"]
    else:
        title, sentences = paragraph
        text = "".join(_listed(sentences))
    for name, found in (("title", title), ("text", text)):
        if not isinstance(found, str):
            raise TypeError(f"the {name} of a paragraph is {found!r}, no text")
    return f"{title}: {text}"


def _listed(given: Any) -> Any:
    """A list as it is. A text would be read letter by letter, an object key by key."""
    if not isinstance(given, list | tuple):
        raise TypeError(f"{str(given)[:40]!r} is no list")
    return given
