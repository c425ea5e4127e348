"""The demo's process reward model, in the form of Qwen2.5-Math-PRM: how it is made, trained and judged."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional
from transformers import Qwen2Config

from benchmarks.demo_models.fit import IGNORED, Batch, pad_rows
from benchmarks.demo_models.tokenizer import EOS_TOKEN, PAD_TOKEN, STEP_TAG, token_of
from pipelines.demo.arithmetic import (
    Habits,
    Split,
    check_steps,
    make_prompts,
    random_prompt,
    right_lines_in_turn,
    split_steps,
    write_trace,
)
from pipelines.engines.process_reward import Qwen2ForProcessRewardModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: width of an attention head: one that vLLM's CPU attention knows
HEAD_SIZE = 32
#: how many characters' targets the target of a step weighs as much as
TAG_WEIGHT = 4.0


def new_prm(
    vocabulary: dict[str, int], *, hidden_size: int, layers: int, intermediate_size: int, context: int
) -> Qwen2ForProcessRewardModel:
    """A PRM with random weights from torch's generator, for texts of ``vocabulary``; attention heads are 32 wide."""
    heads = hidden_size // HEAD_SIZE
    config = Qwen2Config(
        vocab_size=len(vocabulary),
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        num_labels=2,
        bos_token_id=None,
    )
    config.pad_token_id, config.eos_token_id = vocabulary[PAD_TOKEN], vocabulary[EOS_TOKEN]
    return Qwen2ForProcessRewardModel(config)


class Student(torch.nn.Module):
    """A PRM in training: beside its two classes it says which character would be right next.

    Judging a step means comparing the character that is written with the one that ought to be there. From the classes
    alone the model does not find the second within some thousand steps (its AUC stays near 0.6); asked for it outright,
    it learns it first and the classes follow. ``next_character`` is dropped with this object: what ships is ``prm``.
    """

    def __init__(self, prm: Qwen2ForProcessRewardModel) -> None:
        super().__init__()
        self.prm = prm
        self.next_character = torch.nn.Linear(prm.config.hidden_size, prm.config.vocab_size, bias=False)

    def loss(self, batch: GradedBatch) -> torch.Tensor:
        """Classes and next characters, added, in nats: the classes' mean weighs a step tag `TAG_WEIGHT` times.

        The classes' targets are the probability of "right"; positions whose target is `IGNORED` count in neither mean.
        """
        hidden = self.prm.model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
        known = batch.following != IGNORED
        following = functional.cross_entropy(self.next_character(hidden[known]), batch.following[known])
        return class_loss(self.prm.score(hidden), batch) + following


def prm_input(prompt: str, steps: Sequence[str]) -> str:
    """The text a PRM reads: the prompt, then every step followed by the step tag."""
    return prompt + "".join(step + STEP_TAG for step in steps)


def graded_batches(
    tokenizer: PreTrainedTokenizerFast, *, habits: Habits, batch_size: int, seed: int, split: Split
) -> Iterator[GradedBatch]:
    """Endless batches of faulty traces of prompts of ``split``, labelled by computing every step (`graded_batch`)."""
    rng = random.Random(f"graded/{split}/{seed}")
    while True:
        rows = []
        for _ in range(batch_size):
            prompt = random_prompt(rng, split)
            rows.append(graded(prompt, spoil(split_steps(write_trace(prompt, habits, rng).text), rng)))
        yield graded_batch(rows, tokenizer)


@dataclass(frozen=True)
class GradedTrace:
    """A prompt and the steps that were written after it, graded.

    truth: of each step, 1 right, 0 wrong, between them for padding. right: in the place of each step, those that would
    be right; where the beginnings of several are the same, the first one counts.
    """

    prompt: str
    steps: Sequence[str]
    truth: Sequence[float]
    right: Sequence[Sequence[str]]


def graded(prompt: str, steps: Sequence[str]) -> GradedTrace:
    """Steps of the demo's task, labelled by computing each."""
    in_turn = zip(steps, right_lines_in_turn(prompt, steps), strict=False)  # the last pair is of the line after all
    right = [[line for line in lines if line is not None] for _, lines in in_turn]
    return GradedTrace(prompt, steps, check_steps(prompt, steps), right)


def spoil(steps: list[str], rng: random.Random) -> list[str]:
    """Half of the traces get faults no writer of traces makes: a line lost or doubled, or a wrong digit."""
    fault, at = rng.random(), rng.randrange(len(steps))
    if fault < 0.15:
        return steps[:at] + steps[at + 1 :] or steps
    if fault < 0.25:
        return [*steps[: at + 1], *steps[at:]]
    if fault < 0.5:
        line = steps[at]
        place = rng.choice([index for index, char in enumerate(line) if char.isdigit()])
        return [*steps[:at], line[:place] + str(rng.randint(0, 9)) + line[place + 1 :], *steps[at + 1 :]]
    return steps


@dataclass(frozen=True)
class GradedBatch(Batch):
    """Rows of a PRM: ``targets`` float32 [B, T], ``following`` int64 [B, T], ``tags`` bool [B, T] (at step tags).

    A target at a step tag is the truth of its step: 1 right, 0 wrong, 0.5 padding. One at a character of a step is 1
    while the step so far begins a right line, then 0; these are seven times as many. ``following`` is the id of what
    would be right next, where all so far is right.
    """

    following: torch.Tensor
    tags: torch.Tensor


def graded_batch(traces: Sequence[GradedTrace], tokenizer: PreTrainedTokenizerFast) -> GradedBatch:
    """Prompts and steps as a batch."""
    tag, pad = tokenizer.convert_tokens_to_ids([STEP_TAG, PAD_TOKEN])
    vocabulary = tokenizer.get_vocab()
    ids, targets, following = [], [], []
    for trace in traces:
        row, after = [float(IGNORED)] * len(trace.prompt), [IGNORED] * (len(trace.prompt) - 1)
        for step, right, truth in zip(trace.steps, trace.right, trace.truth, strict=True):
            characters = right_characters(step, right)
            row += [*(float(character is not None) for character in characters[1:]), truth]
            after += [IGNORED if c is None else vocabulary[token_of(c)] if c else tag for c in characters]
        ids.append(tokenizer(prm_input(trace.prompt, trace.steps)).input_ids)
        targets.append(row)
        following.append([*after, IGNORED])
    input_ids = pad_rows(ids, pad)
    return GradedBatch(
        input_ids, pad_rows(targets, float(IGNORED)), following=pad_rows(following, IGNORED), tags=input_ids == tag
    )


def right_characters(step: str, right: Sequence[str]) -> list[str | None]:
    """What would be right after each beginning of ``step``, from the empty one to the whole step.

    A character, "" where the step should end, None where the beginning is that of no step of ``right``. Where several
    begin so, the first one counts.
    """
    beginnings = (step[:end] for end in range(len(step) + 1))
    return [
        next((line[len(beginning) : len(beginning) + 1] for line in right if line.startswith(beginning)), None)
        for beginning in beginnings
    ]


def class_loss(logits: torch.Tensor, batch: GradedBatch) -> torch.Tensor:
    """Cross-entropy between the two classes, ``logits`` [B, T, 2], and the targets as probability of "right"."""
    judged = batch.targets != IGNORED
    right = batch.targets[judged]
    losses = functional.cross_entropy(logits[judged], torch.stack([1 - right, right], dim=-1), reduction="none")
    weights = torch.where(batch.tags[judged], TAG_WEIGHT, 1.0)
    return (losses * weights).sum() / weights.sum()


def step_scores(
    model: Qwen2ForProcessRewardModel, tokenizer: PreTrainedTokenizerFast, rows: Sequence[tuple[str, list[str]]]
) -> list[list[float]]:
    """The model's probability of "right" for every step of every row."""
    model.eval()
    batch = graded_batch([graded(prompt, steps) for prompt, steps in rows], tokenizer)
    with torch.no_grad():
        right = torch.softmax(model(batch.input_ids), dim=-1)[..., 1]
    return [row[tags].tolist() for row, tags in zip(right, batch.tags, strict=True)]


def separation(
    model: Qwen2ForProcessRewardModel, tokenizer: PreTrainedTokenizerFast, habits: Habits, *, count: int, seed: int
) -> dict[str, float]:
    """How well scores tell right from wrong steps of ``count`` held-out traces by a writer with ``habits``.

    auc is the probability that a right step scores above a wrong one (ties count half); the rest are mean scores.
    """
    rng = random.Random(f"separation/{seed}")
    rows = [
        (prompt, split_steps(write_trace(prompt, habits, rng).text))
        for prompt in make_prompts(count, seed=seed, split=Split.HELD_OUT)
    ]
    truth = [score for prompt, steps in rows for score in check_steps(prompt, steps)]
    scores = [score for row in step_scores(model, tokenizer, rows) for score in row]
    means = {
        name: round(_mean([score for score, true in zip(scores, truth, strict=True) if true == value]), 4)
        for name, value in (("right", 1.0), ("wrong", 0.0), ("padding", 0.5))
    }
    return {"auc": round(auc(scores, truth), 5), **means}


def auc(scores: Sequence[float], truth: Sequence[float]) -> float:
    """Area under the ROC curve of ``scores`` for truth 1 against truth 0; other truths are left out."""
    right = torch.tensor([score for score, true in zip(scores, truth, strict=True) if true == 1.0])
    wrong = torch.tensor([score for score, true in zip(scores, truth, strict=True) if true == 0.0])
    difference = right[:, None] - wrong[None, :]
    return float(((difference > 0).double() + 0.5 * (difference == 0).double()).mean())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
