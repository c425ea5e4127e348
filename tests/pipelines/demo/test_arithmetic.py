from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.demo import arithmetic
from pipelines.demo.arithmetic import (
    PUPIL,
    TEACHER,
    Habits,
    Operation,
    Split,
    check_format,
    check_outcome,
    check_step,
    check_steps,
    extract_answer,
    make_prompts,
    padding_lines,
    parse_prompt,
    prompt_rows,
    random_prompt,
    right_lines,
    solve,
    split_of,
    split_steps,
    write_trace,
)

PROMPT = "57a+9b-8c+4d-9e+1f+8?"  # 66 58 62 53 54 62
#: sha256 modulo 10 of these is below 6, below 8, and above
PINNED = [PROMPT, "03a-9b+5c+1d+1e+1f+1?", "00a+1b+1c+1d+1e+1f+1?"]
RIGHT = "a+9=66\nb-8=58\nc+4=62\nd-9=53\ne+1=54\nf+8=62\nA62"


def test_a_chain_is_solved_left_to_right_modulo_100() -> None:
    assert solve(PROMPT) == "62"
    assert solve("03a-9b+5c+1d+1e+1f+1?") == "03"  # 94 99 00 01 02 03


@pytest.mark.parametrize(
    ("completion", "scores"),
    [
        (RIGHT, [1, 1, 1, 1, 1, 1, 1]),
        # a borrow forgotten at b (68 for 58) is wrong once; what follows builds on 68 and is right, the answer too
        ("a+9=66\nb-8=68\nc+4=72\nd-9=63\ne+1=64\nf+8=72\nA72", [1, 0, 1, 1, 1, 1, 1]),
        # true padding is worth the option, false padding nothing; the false value is carried on
        ("=57\na+9=66\n=66\n=67\nb-8=59\nc+4=63\nd-9=54\ne+1=55\nf+8=63\nA63", [0.5, 1, 0.5, 0, 1, 1, 1, 1, 1, 1]),
        # skipping b is wrong at c and at the answer; d comes after c all the same
        ("a+9=66\nc+4=70\nd-9=61\ne+1=62\nf+8=70\nA70", [1, 0, 1, 1, 1, 0]),
        # repeating a is wrong, and so is an answer before the last operation and every line after an answer
        ("a+9=66\na+9=75\nb-8=67\nA67\nc+4=71\nA71", [1, 0, 1, 0, 0, 0]),
        # misread sign, misread digit, garbage (carries nothing), one digit too few
        ("a-9=48\nb-7=41\nhello\nc+4=45\nd-9=6\ne+1=46", [0, 0, 0, 1, 0, 0]),
        # all operations done: a further one does not exist
        (RIGHT[:-3] + "g+1=63\nA63", [1, 1, 1, 1, 1, 1, 0, 1]),
        (RIGHT[:-2] + "63", [1, 1, 1, 1, 1, 1, 0]),
    ],
)
def test_each_step_is_judged_given_the_value_carried_so_far(completion: str, scores: list[float]) -> None:
    assert check_steps(PROMPT, split_steps(completion)) == scores


def test_the_worth_of_padding_is_an_option() -> None:
    steps = ["=57", "=58"]
    assert check_step(PROMPT, steps, 0, padding=1.25) == 1.25
    assert check_step(PROMPT, steps, 1, padding=1.25) == 0.0


def independent_scores(prompt: str, lines: list[str]) -> list[float]:
    """The same truth by rewriting and `eval`, without the module's parser."""
    numbers = prompt[:2]
    seen: set[str] = set()
    value, done, over, scores = int(numbers), 0, False, []
    operations = prompt[2:-1]
    for line in lines:
        head, _, tail = line.partition("=")
        if over:
            scores.append(0.0)
        elif line[0] == "A":
            scores.append(float(seen >= set(operations[::3]) and line[1:] == str(value).zfill(2)))
            over = True
        else:
            if head == "":
                scores.append(0.5 if int(tail) == value else 0.0)
            else:
                truth = eval(f"({value} {head[1:]}) % 100")
                scores.append(float(head == operations[3 * done : 3 * done + 3] and int(tail) == truth))
                done = max(done, ord(head[0]) - ord("a") + 1)
                seen.add(head[0])
            value = int(tail)
    return scores


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10**6), shuffled=st.booleans())
def test_the_checker_agrees_with_an_independent_evaluation(seed: int, shuffled: bool) -> None:
    rng = random.Random(seed)
    prompt = random_prompt(rng, Split.ASSETS)
    sloppy = Habits(forget_large_borrow=0.5, forget_carry=0.3, slip=0.3, padding=0.3)
    lines = split_steps(write_trace(prompt, sloppy, rng).text)
    if shuffled:
        rng.shuffle(lines)
    assert check_steps(prompt, lines) == independent_scores(prompt, lines)


def right_lines_read_anew(prompt: str, written: list[str]) -> tuple[str | None, str | None]:
    """`right_lines` as its docstring says it, from all lines before, without a state."""
    chain = parse_prompt(prompt)
    if any(re.fullmatch(r"A\d\d", line) for line in written):
        return None, None
    read = [match for line in written if (match := re.fullmatch(r"(?:([a-j])[+-][1-9])?=(\d\d)", line))]
    value = int(read[-1][2]) if read else chain.start
    letters = sorted(match[1] for match in read if match[1])
    due = ord(letters[-1]) - ord("a") + 1 if letters else 0
    count = len(chain.operations)
    if due < count:
        operation = chain.operations[due]
        forward = f"{'abcdefghij'[due]}{operation.sign}{operation.digit}={operation.apply(value):02d}"
    else:
        forward = f"A{value:02d}" if set("abcdefghij"[:count]) <= set(letters) else None
    return forward, f"={value:02d}"


@settings(max_examples=500, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    noise=st.lists(st.tuples(st.integers(0, 30), st.text("0159abj+-=A?\u0665 \n", max_size=7)), max_size=6),
    answers=st.lists(st.integers(0, 30), max_size=2),
    padding=st.sampled_from([0.5, 0.0, 1.0, 2.5]),
)
def test_each_step_is_judged_as_if_all_before_it_were_read_anew(
    seed: int, noise: list[tuple[int, str]], answers: list[int], padding: float
) -> None:
    rng = random.Random(seed)
    prompt = random_prompt(rng, Split.ASSETS)
    sloppy = Habits(forget_large_borrow=0.4, forget_carry=0.3, slip=0.3, padding=0.3)
    lines = split_steps(write_trace(prompt, sloppy, rng).text)
    for place, text in noise:  # malformed lines, more answers, lines left out, lines twice
        lines[place % len(lines) : place % len(lines)] = [text]
    for place in answers:
        lines.insert(place % len(lines), lines[-1])
    lines = [line for line in lines if rng.random() > 0.1]
    pairs = [right_lines_read_anew(prompt, lines[:index]) for index in range(len(lines))]
    expected = [
        1.0 if line == forward else padding if line == pad else 0.0
        for line, (forward, pad) in zip(lines, pairs, strict=True)
    ]
    assert check_steps(prompt, lines, padding=padding) == expected
    assert [check_step(prompt, lines, index, padding=padding) for index in range(len(lines))] == expected
    assert [right_lines(prompt, lines[:index]) for index in range(len(lines))] == pairs


def test_no_line_is_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    class Counted:
        def fullmatch(self, line: str) -> None:
            read.append(line)

    monkeypatch.setattr(arithmetic, "_LINE", Counted())
    check_steps(PROMPT, lines := [f"step {number}" for number in range(50)])
    assert read == lines[: len(read)]
    assert len(read) >= 49  # what is written last decides about nothing


@pytest.mark.parametrize(
    ("completion", "parses", "answer"),
    [
        (RIGHT, True, "62"),
        ("=57\nA57", True, "57"),
        ("a+9=66\nA6", False, None),
        ("a+9=66", False, None),
        ("a+9=66\n\nA66", False, "66"),
        ("a+9=66\nA66\n", False, None),
        ("a+9=66\nA66\nA67", False, "67"),
        ("A62", False, "62"),
        ("", False, None),
        ("a+0=66\nA66", False, "66"),
    ],
)
def test_the_format_needs_lines_that_parse_and_an_answer_at_the_end(
    completion: str, parses: bool, answer: str | None
) -> None:
    assert check_format(completion) is parses
    assert (re.search(arithmetic.FORMAT_PATTERN, completion) is not None) is parses
    assert extract_answer(completion) == answer


def test_the_outcome_counts_only_the_answer() -> None:
    assert check_outcome(PROMPT, RIGHT)
    assert check_outcome(PROMPT, "A62")
    assert not check_outcome(PROMPT, RIGHT[:-2] + "63")
    assert not check_outcome(PROMPT, RIGHT[:-4])


def test_forgotten_carries_keep_the_old_tens() -> None:
    assert Operation("+", 9).forget_carry(57) == 56
    assert Operation("-", 8).forget_carry(3) == 5
    assert Operation("-", 8).forget_carry(61) == 63
    assert Operation("+", 9).carries(57)
    assert not Operation("+", 2).carries(57)
    assert Operation("-", 8).carries(57)
    assert not Operation("-", 7).carries(57)


def test_a_writer_without_bad_habits_is_always_right_and_one_with_them_writes_them() -> None:
    prompts = make_prompts(50, seed=3, split=Split.ROUNDS)
    rng = random.Random(0)
    clean = [write_trace(prompt, Habits(), rng).text for prompt in prompts]
    assert all(
        set(check_steps(prompt, split_steps(text))) == {1.0} for prompt, text in zip(prompts, clean, strict=True)
    )
    forgetful = Habits(forget_large_borrow=1.0, padding=0.0)
    assert write_trace(PROMPT, forgetful, rng).text == "a+9=66\nb-8=68\nc+4=72\nd-9=73\ne+1=74\nf+8=82\nA82"


def test_a_traces_logprob_is_that_of_its_text() -> None:
    """Two writers' odds of one text differ as their habits say: ln of the product of the choices, by hand."""
    rng = random.Random(0)
    habits = Habits(forget_large_borrow=0.5, forget_carry=0.25, slip=0.2, padding=0.1)
    target = "a+9=66\nb-8=58\nc+4=62\nd-9=63\ne+1=64\nf+8=72\nA72"  # a, b, c, d, f carry; d forgets; seven boundaries
    traces = [write_trace(PROMPT, habits, rng) for _ in range(2000)]
    found = [trace.logprob for trace in traces if trace.text == target]
    # a .75 * b .5 * c .75 * d .5 * e .8 * f .75 * no padding .9 ** 7
    assert found
    assert found == pytest.approx([-3.2100] * len(found), abs=1e-4)
    share = len(found) / len(traces)
    assert share == pytest.approx(0.0404, abs=0.015)


def test_the_pupil_is_right_about_a_third_of_the_time_and_mistaken_more_often_than_unlucky() -> None:
    prompts = make_prompts(1500, seed=5, split=Split.ROUNDS)
    rng = random.Random(1)
    right = {
        name: sum(check_outcome(prompt, write_trace(prompt, habits, rng).text) for prompt in prompts) / len(prompts)
        for name, habits in (("pupil", PUPIL), ("teacher", TEACHER))
    }
    assert 0.30 < right["pupil"] < 0.42
    assert right["teacher"] > 0.88
    assert PUPIL.forget_large_borrow > 0.5  # what greedy decoding does


def test_prompts_of_the_three_uses_never_overlap() -> None:
    prompts = {split: set(make_prompts(2000, seed=11, split=split)) for split in Split}
    assert all(len(of_split) == 2000 for of_split in prompts.values())
    assert not prompts[Split.ASSETS] & prompts[Split.ROUNDS]
    assert not prompts[Split.ASSETS] & prompts[Split.HELD_OUT]
    assert not prompts[Split.ROUNDS] & prompts[Split.HELD_OUT]
    assert all(split_of(prompt) is split for split, of_split in prompts.items() for prompt in of_split)


def test_a_prompts_split_never_changes() -> None:
    assert [split_of(prompt) for prompt in PINNED] == [Split.ASSETS, Split.ROUNDS, Split.HELD_OUT]


def test_prompts_follow_from_the_seed_and_a_longer_list_goes_on_where_a_shorter_ends() -> None:
    assert make_prompts(20, seed=1, split=Split.ROUNDS)[:10] == make_prompts(10, seed=1, split=Split.ROUNDS)
    assert make_prompts(20, seed=1, split=Split.ROUNDS) != make_prompts(20, seed=2, split=Split.ROUNDS)
    lengths = {len(parse_prompt(prompt).operations) for prompt in make_prompts(200, seed=1, split=Split.ROUNDS)}
    assert lengths == {6, 7, 8, 9, 10}


def test_prompt_rows_carry_unique_ids_and_the_answers() -> None:
    rows = prompt_rows(30, seed=4, split=Split.HELD_OUT)
    assert len({row["prompt_id"] for row in rows}) == 30
    assert rows[0]["prompt_id"] == "held_out-4-00000"
    assert all(row["answer"] == solve(row["prompt"]) for row in rows)


@pytest.mark.parametrize("prompt", ["", "57?", "57a+9b-8", "57b+9a-8?", "57a+0?", "7a+9?", "57a+9b-8? "])
def test_what_is_not_a_prompt_is_refused_by_name(prompt: str) -> None:
    with pytest.raises(ValueError, match="not a prompt of the arithmetic task"):
        check_step(prompt, ["A00"], 0)


def test_padding_lines_are_counted() -> None:
    assert padding_lines(RIGHT) == 0
    assert padding_lines("=57\na+9=66\n=66\nA66") == 2
