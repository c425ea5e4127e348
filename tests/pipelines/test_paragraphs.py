"""The paragraphs of multi-hop questions: the public forms, and what only looks like one."""

from __future__ import annotations

import json

import pytest

from pipelines.prompts.stage import PromptSource, PromptTypeError, read_prompts
from pipelines.rows.paragraphs import titled_paragraphs


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ([["T", ["One.", " Two."]], ["U", []]], ["T: One. Two.", "U: "]),
        ({"title": ["T", "U"], "sentences": [["One.", " Two."], []]}, ["T: One. Two.", "U: "]),
        ([{"idx": 0, "title": "T", "paragraph_text": "One."}], ["T: One."]),
        ([], []),
    ],
)
def test_each_public_form_is_read(given, found):
    assert titled_paragraphs(given) == found


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "a text",
        {"title": ["T"], "sentences": [["One."], ["Two."]]},
        {"title": ["T", "U"], "sentences": [["One."]]},
        {"title": "TU", "sentences": [["One."], ["Two."]]},
        [[None, ["One."]]],
        [["T", None]],
        [["T", "One."]],
        [["T", {"One.": 1}]],
        [["T", ["One.", None]]],
        [["T", ["One."], "more"]],
        ["TU"],
        [{"title": None, "paragraph_text": "One."}],
        [{"title": "T", "paragraph_text": None}],
        [{"title": "T", "paragraph_text": ["One."]}],
        [{"title": "T"}],
    ],
    ids=repr,
)
def test_what_only_looks_like_paragraphs_is_refused_and_never_spelled_into_the_prompt(given, tmp_path):
    with pytest.raises(ValueError, match="holds no paragraphs"):
        titled_paragraphs(given)
    file = tmp_path / "dev.json"
    file.write_text(json.dumps([{"question": "Who?", "context": given}]))
    source = PromptSource(
        source=str(file),
        columns={"prompt": "question", "paragraphs": "context"},
        template="{paragraphs}\n\n{prompt}",
    )
    with pytest.raises(PromptTypeError, match=r"dev\.json row 0: column 'context'"):
        read_prompts(source)
