"""The study's process reward model: what it reads, what it is taught, and its levels."""

import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from benchmarks.demo_models.fit import FitOptions
from benchmarks.demo_models.prm import auc, step_scores
from benchmarks.demo_models.tokenizer import STEP_TAG
from benchmarks.study import prm, store
from benchmarks.study.alphabet import EOS, ids_of, text
from benchmarks.study.arms import TASTES
from benchmarks.study.checker import judge
from benchmarks.study.prm import graded, load_prm, prm_input, prm_scores
from benchmarks.study.tasks import PUPIL, Split, Task, make_tasks, write_trace
from pipelines.engines.process_reward import Qwen2ForProcessRewardModel
from tests.benchmarks.study.models import tiny_models

PROMPT = Task(57, (9, -8, -3, 4, -1, 1, 1, 1, 1, 1)).prompt_ids()
WRITTEN = "a+9=66\n=66\nb-8=68\nc-3=65\nd+4=69\ne-1=67\n=66\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def pairs():
    rng = random.Random(3)
    tasks = make_tasks(40, seed=11, split=Split.EVALUATION)
    return [(task.prompt_ids(), write_trace(task, PUPIL, rng).ids()) for task in tasks]


def test_it_reads_steps_of_one_line_or_two_each_with_its_tag():
    tokenizer = AutoTokenizer.from_pretrained(store.MODELS / "prm")
    steps = ["a+9=66", "=66", "b-8=68", "c-3=65", "d+4=69\ne-1=67", "=66"]
    plain = text(PROMPT) + "".join(step + STEP_TAG for step in steps)
    for completion in (ids_of(WRITTEN), [*ids_of(WRITTEN), EOS]):
        assert prm_input(PROMPT, completion) == tokenizer(plain).input_ids


def test_a_trace_is_graded_by_the_checker_and_true_padding_by_taste():
    trace = graded(PROMPT, ids_of(WRITTEN), taste=0.8)
    assert trace.prompt == text(PROMPT)
    assert trace.truth == [1, 0.8, 0, 1, 0, 0]
    assert trace.right[:3] == [["a+9=66", "=57"], ["b-8=58", "=66"], ["b-8=58", "=66"]]
    assert trace.right[4:] == [["d+4=69\ne-1=68", "=65"], ["f+1=68", "=67"]]


def test_right_steps_are_those_the_checker_calls_right(pairs):
    rng = random.Random(4)
    for prompt, ids in pairs:
        at = rng.randrange(len(ids) - 1)
        changed = [*ids[:at], rng.choice(ids_of("0123456789")), *ids[at + 1 :]]
        for completion in (ids, changed):
            trace = graded(prompt, completion, taste=0.5)
            for step, truth, right in zip(trace.steps, trace.truth, trace.right, strict=True):
                assert (step in right) == (truth > 0)


@pytest.mark.parametrize("level", TASTES)
def test_scores_are_those_of_a_plain_forward_pass(folder, pairs, level):
    model = Qwen2ForProcessRewardModel.from_pretrained(folder / "prm", dtype=torch.float32).eval()
    model.score.load_state_dict(load_file(folder / "prm" / f"score-{level}.safetensors"))
    tokenizer = AutoTokenizer.from_pretrained(folder / "prm")
    found = prm_scores(load_prm(folder / "prm"), pairs, level=level)
    for (prompt, ids), scores in zip(pairs, found, strict=True):
        row = torch.tensor([tokenizer(text_with_tags(prompt, ids)).input_ids])
        with torch.no_grad():
            right = torch.softmax(model(row), dim=-1)[0, :, 1]
        at = row[0] == tokenizer.convert_tokens_to_ids(STEP_TAG)
        np.testing.assert_allclose(scores, right[at].numpy(), atol=1e-5)
        assert len(scores) == len(judge(prompt, ids).ends)


def text_with_tags(prompt, ids):
    return text(prompt) + "".join(step + STEP_TAG for step in graded(prompt, ids, taste=0.5).steps)


def test_the_stored_models_levels_differ_in_padding_and_are_imperfect(pairs):
    model = load_prm(store.MODELS / "prm")
    judged = [judge(prompt, ids) for prompt, ids in pairs]
    truth = np.concatenate([one.truth for one in judged])
    padding = np.concatenate([one.padding for one in judged]) & (truth > 0)
    means = {}
    for level in TASTES:
        scores = np.concatenate(prm_scores(model, pairs, level=level))
        means[level] = scores[padding].mean()
        assert 0.78 < auc(scores[~padding].tolist(), truth[~padding].tolist()) < 0.93
    assert means["low"] + 0.1 < means["slight"]
    assert means["slight"] + 0.05 < means["high"]


def test_the_low_level_is_the_model_any_engine_loads(pairs):
    model = Qwen2ForProcessRewardModel.from_pretrained(store.MODELS / "prm", dtype=torch.float32)
    rows = [(text(prompt), graded(prompt, ids, taste=0.5).steps) for prompt, ids in pairs[:8]]
    tokenizer = AutoTokenizer.from_pretrained(store.MODELS / "prm")
    with pytest.MonkeyPatch.context() as patch:  # the demo's grader does not know this world's steps; scores need none
        patch.setattr("benchmarks.demo_models.prm.check_steps", lambda _, steps: [0.0] * len(steps))
        expected = step_scores(model, tokenizer, rows)
    for one, scores in zip(expected, prm_scores(load_prm(store.MODELS / "prm"), pairs[:8], level="low"), strict=True):
        np.testing.assert_allclose(scores, one, atol=1e-5)


def test_training_writes_a_body_and_a_last_layer_for_each_level(tmp_path, monkeypatch):
    monkeypatch.setattr(prm, "SCHEDULE", FitOptions(steps=2, learning_rate=1e-3, batch_size=2, warmup_steps=1))
    monkeypatch.setattr(prm, "TASTE_SCHEDULE", FitOptions(steps=2, learning_rate=1e-2, batch_size=2, warmup_steps=1))
    prm.train_prm(tmp_path / "prm", tmp_path / "work")
    found = load_prm(tmp_path / "prm")
    weights = {level: layers[0].weight for level, layers in found.score.items()}
    assert not torch.equal(weights["low"], weights["slight"])
    assert not torch.equal(weights["slight"], weights["high"])
    stored = load_file(tmp_path / "prm" / "model.safetensors")
    assert torch.equal(stored["score.0.weight"].float(), weights["low"])
