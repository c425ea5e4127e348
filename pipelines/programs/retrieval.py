"""Search over the paragraphs that come with a question, as in HotpotQA's distractor setting (10 given, 2 needed).

The policy asks by <search>words</search> and reads <information>...</information>: the tags of Search-R1
(arXiv 2503.09516), whose tool is a search engine; here it is BM25 over the prompt's own paragraphs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.programs.base import Prompt, Sampler
from pipelines.rows.paragraphs import titled_paragraphs

OPEN, CLOSE = "<search>", "</search>"


async def retrieval(
    prompt: Prompt, sample: Sampler, *, context: str = "context", results: int = 1, searches: int = 4
) -> None:
    """Answers each search by the paragraphs that fit best, at most `searches` times; then says that there are no more.

    context: the extra column with the paragraphs. results: paragraphs an answer. Raises ValueError where the column is
    not there or not in HotpotQA's or MuSiQue's form.
    """
    titled = paragraphs(prompt.extra, context)
    left = searches
    while (turn := await sample(stop=[CLOSE])).stop is not None:
        _, opened, query = turn.text[: turn.text.index(CLOSE)].rpartition(OPEN)
        if not opened:
            found = "No search was opened."
        elif left == 0:
            found = "No searches are left."
        else:
            left -= 1
            found = "\n".join(best(query, titled, results)) or "Nothing was found."
        sample.insert(f"<information>{found}</information>")


def paragraphs(extra: Mapping[str, Any], context: str) -> list[str]:
    """Paragraphs as "title: text", of any form that `titled_paragraphs` reads. Raises ValueError.

    >>> paragraphs({"context": [["Ed Wood", ["A film.", " By Burton."]]]}, "context")
    ['Ed Wood: A film. By Burton.']
    """
    try:
        return titled_paragraphs(extra[context])
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"extra.{context} of the prompt is not there or not in HotpotQA's or MuSiQue's form ({error!r}); name the "
            "column in prompts.extra and in the program's option context"
        ) from error


def best(query: str, titled: Sequence[str], count: int) -> list[str]:
    """The `count` paragraphs of highest BM25 score for a query, best first; those without any of its words are out."""
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # importing it sets DEBUG: a line on the terminal each search
    *words, asked = bm25s.tokenize([*titled, query], stopwords="en", return_ids=False, show_progress=False)
    if not asked or not any(words):
        return []
    index = bm25s.BM25()
    index.index(words, show_progress=False)
    scores = index.get_scores(asked).tolist()
    order = sorted(range(len(titled)), key=lambda i: (-scores[i], i))
    return [titled[i] for i in order[:count] if scores[i] > 0]
