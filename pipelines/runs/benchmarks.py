"""What is evaluated on: held-out prompts, how they are asked, and what judges the answers.

A benchmark of a known `kind` needs its file alone: columns, prompt and verifier are those of the table below, in the
field names of the public files, and a key that is given counts instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from pipelines.options import Table, options
from pipelines.prompts.stage import PromptSource, Role, SourceOptionError, holds_the_prompt

Kind = Literal[
    "gsm8k", "math500", "aime", "amc23", "minerva", "olympiad", "hotpotqa", "2wikimultihopqa", "musique",
]  # fmt: skip

BOXED = "{prompt}\nPlease reason step by step, and put your final answer within \\boxed{}."
MULTI_HOP = (
    "Answer the question from the paragraphs. Reason step by step, then end with one line: Answer: and the answer in "
    "a few words.\n\n{paragraphs}\n\nQuestion: {prompt}"
)


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a kind of benchmark stands for."""

    columns: Mapping[Role, str]
    template: str
    verifier: str
    verifier_options: Mapping[str, Any] = field(default_factory=dict)


def _problems(answer: str = "answer") -> Known:
    return Known(columns={"prompt": "problem", "answer": answer}, template=BOXED, verifier="math")


def _hops(columns: Mapping[Role, str], *, closed: bool) -> Known:
    """Exact match decides, token F1 is the reward beside it. closed: see the verifier."""
    judged = {"reward": "f1", "closed": closed}
    return Known(columns=columns, template=MULTI_HOP, verifier="squad", verifier_options=judged)


_HOTPOT: Mapping[Role, str] = {
    "prompt_id": "_id", "prompt": "question", "answer": "answer", "paragraphs": "context",
}  # fmt: skip
#: in the field names of the files that openai/grade-school-math, the MATH subset of 500, AIME, AMC and Minerva lists of
#: Qwen2.5-Math and deepscaler, OlympiadBench, hotpot_dev_distractor_v1.json, 2WikiMultihopQA's dev.json and
#: musique_ans_v1.0_dev.jsonl have
KINDS: Mapping[Kind, Known] = {
    "gsm8k": Known(columns={"prompt": "question", "answer": "answer"}, template=BOXED, verifier="number"),
    "math500": _problems(),
    "aime": _problems(),
    "amc23": _problems(),
    "minerva": _problems("solution"),
    "olympiad": _problems(),
    "hotpotqa": _hops(_HOTPOT, closed=True),
    "2wikimultihopqa": _hops(_HOTPOT, closed=True),
    "musique": _hops(
        {
            "prompt_id": "id", "prompt": "question", "answer": "answer", "aliases": "answer_aliases",
            "paragraphs": "paragraphs",
        },
        closed=False,
    ),
}  # fmt: skip


@options(SourceOptionError)
class Benchmark(PromptSource):
    """Held-out prompts, with the keys of [prompts], and what judges the answers to them."""

    kind: Kind | None = None
    """A public benchmark, whose columns, template, verifier and verifier_options are then known: a file of it is enough
    (aime: of any year). What is given here besides counts instead. Example: "math500"."""
    verifier: str | None = None
    """What judges here, a verifier as a signal `outcome` names it (default: that of kind, else the signal that
    eval.outcome names). Example: "math"."""
    verifier_options: Table = field(default_factory=dict)
    """Keyword arguments of the verifier. Example: { reward = "f1" }."""
    template: Annotated[str, AfterValidator(lambda given: given and holds_the_prompt(given))] = ""
    """Text around a plain prompt, which replaces {prompt}; the paragraphs replace {paragraphs}, a blank line between
    two (default: that of kind, else "{prompt}"). Example: "{prompt}\\nThink step by step."."""

    def __post_init__(self) -> None:
        self.prompts()
        if self.verifier_options and self.judge() is None:
            raise SourceOptionError(
                "verifier_options are given without verifier or kind, so nothing would read them; name one"
            )

    def prompts(self) -> PromptSource:
        """The prompts alone: what the dataset is made from. Raises SourceOptionError."""
        given = {one.name: getattr(self, one.name) for one in fields(PromptSource)}
        if self.kind is None:
            return PromptSource(**given | {"template": self.template or PromptSource.template})
        known = KINDS[self.kind]
        template = self.template or known.template
        unused = {"prompt"} if "messages" in self.columns else set()
        unused |= {"paragraphs"} if "{paragraphs}" not in template else set()
        columns = {role: name for role, name in known.columns.items() if role not in unused}
        return PromptSource(**given | {"columns": columns | {**self.columns}, "template": template})

    def judge(self) -> tuple[str, Mapping[str, Any]] | None:
        """The verifier of its own, and its options; None where a signal judges."""
        known = None if self.kind is None else KINDS[self.kind]
        if self.verifier is not None:
            return self.verifier, self.verifier_options
        return None if known is None else (known.verifier, {**known.verifier_options, **self.verifier_options})


def as_benchmark(given: Any) -> Any:
    """A plain prompt source as a benchmark that a signal judges; anything else as it is."""
    if isinstance(given, PromptSource) and not isinstance(given, Benchmark):
        return Benchmark(**{one.name: getattr(given, one.name) for one in fields(PromptSource)})
    return given
