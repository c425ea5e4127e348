"""The study's process reward model: the demo's, taught the study's steps, with last layers for each taste for padding.

It is a trained model with the errors of one. What a padding step is worth is a matter of the target it learned: the
levels share the body, and each has the two layers behind it (`score`) that it was taught with.

docs/study/models/prm/    config.json, model.safetensors (the level `low`), the tokenizer, score-LEVEL.safetensors
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.demo_models.fit import FitOptions, fit, pad_rows
from benchmarks.demo_models.make_assets import save_in_half
from benchmarks.demo_models.prm import GradedBatch, GradedTrace, Student, class_loss, graded_batch, spoil
from benchmarks.demo_models.tokenizer import build_prm_tokenizer
from benchmarks.study.alphabet import EOS, LINE, ids_of, spans, step_ends, text
from benchmarks.study.arms import TASTES
from benchmarks.study.checker import Carried, judge, parse_prompt, right_steps
from benchmarks.study.sample import Pairs, batches_by_length
from benchmarks.study.tasks import Habits, Split, Task, random_task, write_trace
from pipelines.demo.assets import asset_folder
from pipelines.engines.process_reward import Qwen2ForProcessRewardModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: who writes what it learns from: wrong steps of every kind in plenty
GRADED = Habits(forget_borrow=0.5, forget_carry=0.25, slip=0.2, padding=0.15)
#: stopped where its step AUC lies between 0.80 and 0.90: a longer training makes it perfect
SCHEDULE = FitOptions(steps=100, learning_rate=1e-3, warmup_steps=20)
TASTE_SCHEDULE = FitOptions(steps=100, learning_rate=3e-3, warmup_steps=10)
#: a completion of nothing but padding has as many steps again as it has fourths of its tokens
POSITIONS = 512
#: the step tag is id 0 of its vocabulary, and every other id is one more than the policy's
TAG, SHIFT = 0, 1


@dataclass(frozen=True)
class ProcessRewardModel:
    """The body, and behind it the last layers of each level."""

    body: torch.nn.Module
    score: dict[str, torch.nn.Module]


def graded(prompt: Sequence[int], completion: Sequence[int], *, taste: float) -> GradedTrace:
    """A completion labelled by computing each step; a true padding step is worth ``taste``."""
    judged = judge(prompt, completion)
    value, operations = parse_prompt(prompt)
    carried, steps, right, truth = Carried(value), [], [], []
    for (start, end), true, padding in zip(spans(judged.ends), judged.truth, judged.padding, strict=True):
        words = text(completion[start:end])
        steps.append(words.removesuffix(LINE))
        right.append([one.removesuffix(LINE) for one in right_steps(carried, operations) if one is not None])
        truth.append(taste if padding and true else true)
        carried = carried.after(words)
    return GradedTrace(text(prompt), steps, truth, right)


def graded_batches(
    tokenizer: PreTrainedTokenizerFast, *, size: int, seed: int, split: Split, taste: float
) -> Iterator[GradedBatch]:
    """Endless batches of faulty traces of tasks of ``split``."""
    rng = random.Random(f"study/graded/{split}/{seed}")
    while True:
        yield graded_batch([_faulty(random_task(rng, split), rng, taste) for _ in range(size)], tokenizer)


def _faulty(task: Task, rng: random.Random, taste: float) -> GradedTrace:
    """A trace of `GRADED`, spoiled as the demo's are."""
    steps = [text(step) for step in write_trace(task, GRADED, rng).steps]
    return graded(task.prompt_ids(), [*ids_of("".join(spoil(steps, rng))), EOS], taste=taste)


def train_prm(out: Path, work: Path) -> None:
    """Trains body and level `low` from the demo's model, then the other levels' last layers; ``work`` holds states."""
    demo = Qwen2ForProcessRewardModel.from_pretrained(asset_folder("prm"), max_position_embeddings=POSITIONS)
    torch.manual_seed(3)
    student = Student(demo)
    draw = partial(graded_batches, build_prm_tokenizer(), size=SCHEDULE.batch_size, split=Split.MODELS)
    work.mkdir(parents=True, exist_ok=True)
    fit(student, draw(seed=3, taste=TASTES["low"]), student.loss, options=SCHEDULE, state=work / "body.pt")
    body = student.prm.model.requires_grad_(False)
    score: dict[str, torch.nn.Module] = {"low": student.prm.score}
    for level, taste in TASTES.items():
        if level not in score:
            score[level] = copy.deepcopy(student.prm.score)
            loss_of = partial(_taste_loss, score[level], body)
            batches = draw(seed=4, taste=taste)
            fit(score[level], batches, loss_of, options=TASTE_SCHEDULE, state=work / f"{level}.pt")
    save_prm(out, student.prm, score)


def _taste_loss(score: torch.nn.Module, body: torch.nn.Module, batch: GradedBatch) -> Tensor:
    with torch.no_grad():
        hidden = body(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    return class_loss(score(hidden), batch)


def save_prm(folder: Path, prm: Qwen2ForProcessRewardModel, score: Mapping[str, torch.nn.Module]) -> None:
    """Writes what `load_prm` reads: two bytes a weight."""
    save_in_half(prm, folder)
    build_prm_tokenizer().save_pretrained(folder)
    for level, layers in score.items():
        halves = {name: tensor.half().contiguous() for name, tensor in layers.state_dict().items()}
        save_file(halves, folder / f"score-{level}.safetensors")


def load_prm(folder: Path) -> ProcessRewardModel:
    """Body and levels in float32."""
    model = Qwen2ForProcessRewardModel.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
    layers = {}
    for level in TASTES:
        layers[level] = copy.deepcopy(model.score)
        layers[level].load_state_dict(
            {name: tensor.float() for name, tensor in load_file(folder / f"score-{level}.safetensors").items()}
        )
    return ProcessRewardModel(model.model, layers)


def prm_input(prompt: Sequence[int], completion: Sequence[int]) -> list[int]:
    """The ids it reads, in its own vocabulary: prompt, and every step, its line break left off, with the step tag."""
    ids = [token + SHIFT for token in prompt]
    for start, end in spans(step_ends(completion)):
        words = text(completion[start:end]).removesuffix(LINE)
        ids += [token + SHIFT for token in ids_of(words)] + [TAG]
    return ids


@torch.inference_mode()
def prm_scores(prm: ProcessRewardModel, pairs: Pairs, *, level: str) -> list[NDArray[np.float32]]:
    """The probability of "right" at every step of each completion."""
    rows = [prm_input(prompt, completion) for prompt, completion in pairs]
    found: dict[int, NDArray[np.float32]] = {}
    for chosen in batches_by_length([len(row) for row in rows]):
        ids = pad_rows([rows[row] for row in chosen], EOS + SHIFT)
        tags = ids == TAG
        hidden = prm.body(input_ids=ids, use_cache=False).last_hidden_state[tags]
        right = torch.softmax(prm.score[level](hidden), dim=-1)[:, 1].numpy()
        of_row = np.split(right, np.cumsum(tags.sum(dim=1).numpy())[:-1])
        found |= dict(zip(chosen, of_row, strict=True))
    return [found[row] for row in range(len(rows))]
