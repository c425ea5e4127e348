"""The demo's process reward model, in the form of Qwen2.5-Math-PRM: how it is made, trained and judged."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.demo_models.fit import IGNORED, Batch, pad_rows
from benchmarks.demo_models.tokenizer import EOS_TOKEN, PAD_TOKEN, STEP_TAG, token_of
from pipelines.demo.arithmetic import (
    GRADED,
    STEP_SEPARATOR,
    Habits,
    Split,
    check_steps,
    make_prompts,
    random_prompt,
    right_lines,
    split_steps,
    write_trace,
)
from pipelines.engines.process_reward import Qwen2ForProcessRewardModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def from_language_model(
    teacher: Qwen2ForCausalLM, *, layers: int, teacher_vocabulary: dict[str, int], vocabulary: dict[str, int]
) -> Qwen2ForProcessRewardModel:
    """A PRM whose body is the teacher's with further layers on top, its embeddings re-ordered to the PRM's vocabulary.

    The new layers start as the identity; only they, the last norm and the head learn. The step tag, which stands where
    the teacher saw a line break, has the line break's embedding.

    A PRM made so is weak, a little above the base rate. By the teacher's last layer its residual stream is about 500
    times as long as an embedding: the token that is written has sunk in it, and the comparison of the written with the
    expected digit, which the new layers are for, lacks one of its sides. Letting everything learn did not help within
    600 batches.
    """
    kept = {key: value for key, value in teacher.config.to_dict().items() if key != "layer_types"}
    config = Qwen2Config(**{**kept, "num_hidden_layers": layers, "vocab_size": len(vocabulary), "num_labels": 2})
    config.pad_token_id, config.eos_token_id = vocabulary[PAD_TOKEN], vocabulary[EOS_TOKEN]
    model = Qwen2ForProcessRewardModel(config)
    state = {**model.model.state_dict(), **teacher.model.state_dict()}
    line_break = token_of(STEP_SEPARATOR)
    sources = sorted(vocabulary, key=vocabulary.__getitem__)
    rows = [teacher_vocabulary[line_break if token == STEP_TAG else token] for token in sources]
    state["embed_tokens.weight"] = state["embed_tokens.weight"][rows].clone()
    for layer in range(teacher.config.num_hidden_layers, layers):
        for output in ("self_attn.o_proj", "mlp.down_proj"):
            state[f"layers.{layer}.{output}.weight"] = torch.zeros_like(state[f"layers.{layer}.{output}.weight"])
    model.model.load_state_dict(state)
    model.model.embed_tokens.requires_grad_(False)
    model.model.layers[: teacher.config.num_hidden_layers].requires_grad_(False)
    return model


def prm_input(prompt: str, steps: Sequence[str]) -> str:
    """The text a PRM reads: the prompt, then every step followed by the step tag."""
    return prompt + "".join(step + STEP_TAG for step in steps)


def graded_batches(
    tokenizer: PreTrainedTokenizerFast, *, batch_size: int, seed: int, split: Split, within_steps: bool
) -> Iterator[Batch]:
    """Endless batches of faulty traces of prompts of ``split``, labelled by computing every step (`graded_batch`)."""
    rng = random.Random(f"graded/{split}/{seed}")
    while True:
        rows = []
        for _ in range(batch_size):
            prompt = random_prompt(rng, split)
            rows.append((prompt, spoil(split_steps(write_trace(prompt, GRADED, rng).text), rng)))
        yield graded_batch(rows, tokenizer, within_steps=within_steps)


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


def graded_batch(
    rows: Sequence[tuple[str, list[str]]], tokenizer: PreTrainedTokenizerFast, *, within_steps: bool = False
) -> Batch:
    """Prompts and steps as a batch; targets are 1 (right), 0 (wrong), 0.5 (padding) at step tags, else ignored.

    ``within_steps`` also gives each character of a step a target: 1 while the step so far begins a right line, then 0.
    It makes the training signal seven times as dense as the tags alone.
    """
    ids, targets = [], []
    for prompt, steps in rows:
        row = [float(IGNORED)] * len(prompt)
        for index, (step, score) in enumerate(zip(steps, check_steps(prompt, steps), strict=True)):
            row += prefix_targets(prompt, steps, index) if within_steps else [float(IGNORED)] * len(step)
            row.append(score)
        ids.append(tokenizer(prm_input(prompt, steps)).input_ids)
        targets.append(row)
    return Batch(pad_rows(ids, tokenizer.pad_token_id), pad_rows(targets, float(IGNORED)))


def prefix_targets(prompt: str, steps: Sequence[str], index: int) -> list[float]:
    """For each character of step ``index``: whether the step up to it begins a line that is right there."""
    right = [line for line in right_lines(prompt, steps[:index]) if line is not None]
    step = steps[index]
    return [float(any(line.startswith(step[:end]) for line in right)) for end in range(1, len(step) + 1)]


def prm_loss(model: Qwen2ForProcessRewardModel, batch: Batch) -> torch.Tensor:
    """Cross-entropy between the two classes and the targets as probability of "right", mean over all targets."""
    judged = batch.targets != IGNORED
    right = batch.targets[judged]
    return torch.nn.functional.cross_entropy(model(batch.input_ids)[judged], torch.stack([1 - right, right], dim=-1))


def step_scores(
    model: Qwen2ForProcessRewardModel, tokenizer: PreTrainedTokenizerFast, rows: Sequence[tuple[str, list[str]]]
) -> list[list[float]]:
    """The model's probability of "right" for every step of every row."""
    model.eval()
    batch = graded_batch(rows, tokenizer)
    with torch.no_grad():
        right = torch.softmax(model(batch.input_ids), dim=-1)[..., 1]
    return [row[tags].tolist() for row, tags in zip(right, batch.targets != IGNORED, strict=True)]


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
