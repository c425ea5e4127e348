"""The study's tasks, traces and checker: generator and checker agree although they share no arithmetic."""

import random
import re
import statistics
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.study.alphabet import EOS, ids_of, step_ends, text
from benchmarks.study.checker import judge, parse_prompt
from benchmarks.study.tasks import PUPIL, Habits, Split, Task, make_tasks, split_of, write_trace
from pipelines.demo import arithmetic

TASK = Task(57, (9, -8, -3, 4, -1, 1, 1, 1, 1, 1))
PROMPT = TASK.prompt_ids()
FAULTY = Habits(forget_borrow=0.4, forget_carry=0.3, slip=0.2, padding=0.15)


def completion(words, *, ended=True):
    """Steps as tokens: "a+9=66 =66 d+4=59e-1=58" has a line for each operation; a number in the place of a step is
    the steps f to j, right from that value, and the answer.
    """
    written = ""
    for word in words.split():
        if word.isdigit():
            value = int(word)
            for operation in "fghij":
                value += 1
                written += f"{operation}+1={value:02d}\n"
            written += f"A{value:02d}"
        else:
            written += re.sub(r"(=\d+)", r"\1\n", word)
    return [*ids_of(written), *([EOS] if ended else [])]


def test_a_prompt_is_written_and_read():
    assert TASK.text() == "57a+9b-8c-3d+4e-1f+1g+1h+1i+1j+1?"
    assert parse_prompt(PROMPT) == (57, [[9], [-8], [-3], [4, -1], [1], [1], [1, 1], [1]])
    for words in ("57a+9b", "57a+9b-8c-3d+4?", "57b+9a-8c-3d+4e-1f+1g+1h+1i+1j+1?"):
        with pytest.raises(ValueError, match="is not a prompt"):
            parse_prompt(ids_of(words))


def test_steps_are_cut_at_groups_answers_and_padding():
    ids = completion("a+9=66 =66 b-8=58 c-3=55 d+4=59e-1=58 58")
    ends = step_ends(ids)
    cut = [text(ids[start:end]) for start, end in zip((0, *ends), ends, strict=False)]
    assert cut[:5] == ["a+9=66\n", "=66\n", "b-8=58\n", "c-3=55\n", "d+4=59\ne-1=58\n"]
    assert cut[5:] == ["f+1=59\n", "g+1=60\n", "h+1=61\ni+1=62\n", "j+1=63\n", "A63"]
    assert ends[-1] == len(ids)


@pytest.mark.parametrize(
    ("words", "truth", "outcome", "format_ok"),
    [
        ("a+9=66 b-8=58 c-3=55 d+4=59e-1=58 58", [1, 1, 1, 1, 1, 1, 1, 1, 1], True, True),
        ("a+9=66 =66 b-8=58 c-3=55 d+4=59e-1=58 58", [1, 0.5, 1, 1, 1, 1, 1, 1, 1, 1], True, True),
        ("a+9=66 =67 b-8=59 c-3=56 d+4=60e-1=59 59", [1, 0, 1, 1, 1, 1, 1, 1, 1, 1], False, True),  # is carried on
        ("a+9=56 b-8=48 c-3=45 d+4=49e-1=48 48", [0, 1, 1, 1, 1, 1, 1, 1, 1], False, True),  # truth is local
        ("a+9=66 b-8=68 c-3=65 d+4=69e-1=58 58", [1, 0, 1, 0, 1, 1, 1, 1, 1], True, True),  # right by accident
        ("a+9=66 b-8=58 c-3=55 d+4=69e-1=68 68", [1, 1, 1, 0, 1, 1, 1, 1, 1], False, True),  # half of a step wrong
        ("a+9=66 c-3=63 d+4=67e-1=66 66", [1, 0, 1, 1, 1, 1, 1, 0], False, True),  # a step skipped
        ("a+9=66 b-8=58 c-3=55 d+4=59 59", [1, 1, 1, 0, 0, 1, 1, 1, 0], False, False),  # half a step
        ("a+9=66 b-8=58 c-3=55 d+4=59e-1=58 58 A63", [1, 1, 1, 1, 1, 1, 1, 1, 1, 0], False, False),
        ("a+9=66 b-8=5 c-3=63 d+4=67e-1=66 66", [1, 0, 0, 1, 1, 1, 1, 1, 0], False, False),
    ],
)
def test_a_completion_is_judged(words, truth, outcome, format_ok):
    judged = judge(PROMPT, completion(words))
    assert (list(judged.truth), judged.outcome, judged.format_ok) == (truth, outcome, format_ok)


def test_what_does_not_end_is_not_right():
    judged = judge(PROMPT, completion("a+9=66 b-8=58 c-3=55 d+4=59e-1=58 58", ended=False))
    assert not judged.outcome
    assert not judged.format_ok
    assert judged.truth[-1] == 0


def test_the_checker_finds_every_error_of_the_writer():
    rng = random.Random(0)
    wrong = padding = 0
    for task in make_tasks(200, seed=3, split=Split.MODELS):
        trace = write_trace(task, FAULTY, rng)
        judged = judge(task.prompt_ids(), trace.ids())
        assert judged.format_ok
        assert len(judged.ends) == len(trace.steps)
        assert sum(value == 0 for value in judged.truth) == trace.corrupted
        assert sum(judged.padding) == trace.padding
        wrong, padding = wrong + trace.corrupted, padding + trace.padding
    assert wrong > 200
    assert padding > 100


def test_a_faultless_writer_is_right():
    rng = random.Random(1)
    careful = replace(PUPIL, forget_borrow=1e-9, forget_carry=1e-9, slip=1e-9)
    for task in make_tasks(50, seed=4, split=Split.ROUNDS):
        judged = judge(task.prompt_ids(), write_trace(task, careful, rng).ids())
        assert judged.outcome
        assert judged.truth == tuple(0.5 if padded else 1.0 for padded in judged.padding)


def test_the_log_probability_of_a_trace_is_that_of_its_choices():
    habits = Habits(forget_borrow=0.3, forget_carry=0.3, slip=0.03, padding=0.02)
    rng = random.Random(2)
    task = Task(50, (1,) * 9 + (-1,))  # no step carries: nine places to pad, ten to slip
    traces = [write_trace(task, habits, rng) for _ in range(4000)]
    plain = [trace for trace in traces if len(trace.steps) == 9 and not trace.corrupted]
    assert np.exp(plain[0].logprob) == pytest.approx(0.98**9 * 0.97**10)
    assert len(plain) / len(traces) == pytest.approx(0.98**9 * 0.97**10, abs=0.03)


def test_splits_share_no_task_and_none_trained_the_demos_models():
    by_split = {split: {task.text() for task in make_tasks(200, seed=0, split=split)} for split in Split}
    for split, texts in by_split.items():
        others = set().union(*(by_split[other] for other in Split if other is not split))
        assert not texts & others
        for one in texts:  # the demo's models have not seen it
            assert arithmetic.split_of(one) is not arithmetic.Split.ASSETS
    assert all(split_of(task) is Split.EVALUATION for task in make_tasks(50, seed=0, split=Split.EVALUATION))


def test_the_world_is_what_the_study_asks_for():
    rng = random.Random(5)
    tasks = make_tasks(300, seed=6, split=Split.EVALUATION)
    right, spoiled, lengths = [], [], set()
    for task in tasks:
        assert 8 <= len(task.steps) <= 12
        traces = [write_trace(task, PUPIL, rng) for _ in range(8)]
        right.append(sum(judge(task.prompt_ids(), trace.ids()).outcome for trace in traces))
        spoiled += [(trace.corrupted + trace.padding) / len(trace.steps) for trace in traces]
        lengths |= {len(step) for step in traces[0].steps[:-1]}
    assert lengths == {4, 7, 14}  # padding, one operation, two
    assert 0.25 < statistics.mean(right) / 8 < 0.35
    assert statistics.mean(count == 0 for count in right) >= 0.4
    assert 0.2 < statistics.mean(spoiled) < 0.3
