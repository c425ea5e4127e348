"""Step ends on the policy's own token ids, by golden cases and against decoding every prefix."""

from __future__ import annotations

import random

import pytest

from pipelines.signals.steps import (
    MAX_OPEN_TOKENS,
    Decode,
    GivenStepsError,
    Steps,
    cut_steps,
    ends_of_steps,
    token_text_ends,
    tokenizer_decode,
)

END = "<end>"


@pytest.fixture
def decode(tokenizer_folder: str) -> Decode:
    return tokenizer_decode(tokenizer_folder)


@pytest.fixture
def cut(decode: Decode, ids):
    def run(*tokens: str, separator: str = "\n\n", text: str | None = None) -> Steps:
        token_ids = ids(*tokens)
        return cut_steps(
            token_ids, decode(tuple(token_ids)) if text is None else text, separator=separator, decode=decode
        )

    return run


def test_a_step_ends_with_its_separator(cut) -> None:
    assert cut("a", "b", "\n\n", "c") == Steps([3, 4], ["ab", "c"])


def test_without_a_separator_all_is_one_step(cut) -> None:
    assert cut("a", "\n", "b") == Steps([3], ["a\nb"])


def test_an_empty_completion_has_no_steps(cut) -> None:
    assert cut() == Steps([], [])


def test_a_token_that_spans_a_separator_belongs_to_the_earlier_step(cut) -> None:
    assert cut("a", ".\n\nb", "c") == Steps([2, 3], ["a.", "bc"])


def test_a_separator_may_be_spread_over_tokens(cut) -> None:
    assert cut("a", "\n", "\n", "b") == Steps([3, 4], ["a", "b"])


def test_empty_steps_merge_into_the_one_before(cut) -> None:
    assert cut("a", "\n\n", "\n\n", "b") == Steps([3, 4], ["a", "b"])
    assert cut("a", "\n\n\n\n", "b") == Steps([2, 3], ["a", "b"])
    assert cut("a", "\n\n", " ", "\n\n", "b") == Steps([4, 5], ["a", "b"])


def test_an_empty_first_step_merges_into_the_first_with_text(cut) -> None:
    assert cut("\n\n", "a", "\n\n", "b") == Steps([3, 4], ["a", "b"])


def test_a_step_without_a_token_of_its_own_merges_into_the_one_before(cut) -> None:
    assert cut("a", ".\n\nb") == Steps([2], ["a.\n\nb"])
    assert cut("a", ".\n\nb", "\n\n", "c") == Steps([2, 3, 4], ["a.", "b", "c"])
    assert cut("a", ".\n\nb", ".\n\nb", "c") == Steps([2, 3, 4], ["a.", "b.", "bc"])


def test_a_tail_of_special_tokens_joins_the_last_step(cut) -> None:
    assert cut("a", "\n\n", "b", END) == Steps([2, 4], ["a", "b"])
    assert cut("a", "\n\n", END, END) == Steps([4], ["a"])


def test_a_special_token_after_a_separator_begins_the_next_step(cut) -> None:
    assert cut("a", "\n\n", END, "b") == Steps([2, 4], ["a", "b"])


def test_a_tail_cut_off_by_length_is_a_step(cut) -> None:
    assert cut("a", "\n\n", "b") == Steps([2, 3], ["a", "b"])


def test_a_completion_that_ends_with_its_separator_has_no_step_after_it(cut) -> None:
    assert cut("a", "\n\n", "b", "\n\n") == Steps([2, 4], ["a", "b"])


def test_only_separators_are_one_step(cut) -> None:
    assert cut("\n\n", "\n\n").ends == [2]


def test_only_special_tokens_are_one_step(cut) -> None:
    assert cut(END, END) == Steps([2], [""])


def test_characters_of_several_tokens_are_counted_at_their_last_token(cut) -> None:
    assert cut("é1", "é2", "\n\n", "é1", "é2", "é1", "é2") == Steps([3, 7], ["é", "éé"])


def test_the_first_byte_of_a_character_after_a_separator_belongs_to_the_next_step(cut) -> None:
    assert cut("a", "\n\n", "é1", "é2") == Steps([2, 4], ["a", "é"])


def test_a_character_left_unfinished_at_the_end_hides_no_separator(cut) -> None:
    assert cut("a", "\n\n", "b", "é1").ends == [2, 4]
    assert cut("é1", "a", "\n\n", "é1", "\n\n", "b").ends == [3, 5, 6]


def test_many_broken_bytes_in_a_row_do_not_move_later_ends(cut) -> None:
    assert cut(*["é1"] * 30, "\n\n", "b").ends == [31, 32]


def test_the_cost_stays_linear_over_broken_bytes(tokenizer_folder: str, ids) -> None:
    decode, windows = tokenizer_decode(tokenizer_folder), []

    def watched(token_ids: tuple[int, ...]) -> str:
        windows.append(len(token_ids))
        return decode(token_ids)

    token_text_ends(ids(*["é1"] * 200), watched)
    assert max(windows) <= 2 * MAX_OPEN_TOKENS


def test_another_separator_cuts_elsewhere(cut) -> None:
    assert cut("a", "\n", "b", "\n", "c", separator="\n") == Steps([2, 4, 5], ["a", "b", "c"])
    assert cut("a", "\n", "b", "\n", "c") == Steps([5], ["a\nb\nc"])


def test_tokens_after_the_end_of_the_text_join_the_last_step(cut) -> None:
    # A stop string "\n\nc": the text is cut before it, the token ids are as sampled.
    assert cut("a", "\n\n", "b", "\n\n", "c", text="a\n\nb") == Steps([2, 5], ["a", "b"])


def test_a_text_that_the_ids_do_not_decode_to_is_not_used(cut) -> None:
    assert cut("a", "\n\n", "b", text="something else") == Steps([2, 3], ["a", "b"])


def test_windows_agree_with_decoding_every_prefix(tokenizer_folder: str) -> None:
    decode = tokenizer_decode(tokenizer_folder)
    rng = random.Random(0)
    for _ in range(300):
        token_ids = rng.choices([0, 1, 3, 4, 5, 7, 8, 9, 10], weights=[3, 3, 3, 3, 3, 3, 6, 6, 1], k=rng.randint(1, 40))
        text, ends = token_text_ends(token_ids, decode)
        assert text == decode(tuple(token_ids))
        assert ends == sorted(ends)
        for t in range(len(token_ids)):
            whole = decode(tuple(token_ids[: t + 1]))
            if not whole.endswith("\N{REPLACEMENT CHARACTER}"):
                assert ends[t] == len(whole)


def test_leading_spaces_that_a_tokenizer_strips_do_not_shift_ends() -> None:
    from tokenizers import Tokenizer, decoders, models

    vocabulary = ["<unk>", "▁one", "▁two", "\n", "▁"]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.decoder = decoders.Metaspace()
    text, ends = token_text_ends([1, 2, 3, 1, 2], lambda ids: tokenizer.decode(list(ids)))
    assert (text, ends) == ("one two\n one two", [3, 7, 8, 12, 16])


def test_the_ends_are_increasing_and_the_last_is_the_length(tokenizer_folder: str) -> None:
    decode = tokenizer_decode(tokenizer_folder)
    rng = random.Random(1)
    for _ in range(300):
        token_ids = rng.choices(range(11), k=rng.randint(1, 30))
        steps = cut_steps(token_ids, decode(tuple(token_ids)), separator="\n\n", decode=decode)
        assert steps.ends == sorted(set(steps.ends))
        assert steps.ends[-1] == len(token_ids)
        assert len(steps.ends) == len(steps.texts)


def test_given_steps_end_where_cutting_ends_them(decode, ids) -> None:
    tokens = ids("a", "b", "\n\n", "c", "\n", "c", "\n\n", "a", "<end>")
    cut = cut_steps(tokens, "ab\n\nc\nc\n\na", separator="\n\n", decode=decode)
    assert ends_of_steps(tokens, cut.texts, between="\n\n", decode=decode) == cut.ends == [3, 7, 9]


def test_given_steps_may_hold_the_separator_and_be_several(decode, ids) -> None:
    tokens = ids("a", "\n\n", "b", "\n\n", "c")
    assert ends_of_steps(tokens, ["a\n\nb", "c"], between="\n\n", decode=decode) == [4, 5]


def test_a_token_that_spans_two_given_steps_belongs_to_the_earlier(decode, ids) -> None:
    assert ends_of_steps(ids("a", ".\n\nb", "c"), ["a.", "bc"], between="\n\n", decode=decode) == [2, 3]


def test_given_steps_without_tokens_of_their_own_are_refused(decode, ids) -> None:
    with pytest.raises(GivenStepsError, match="no token of its own"):
        ends_of_steps(ids("a", ".\n\nb"), ["a.", "b"], between="\n\n", decode=decode)
    with pytest.raises(GivenStepsError, match="another text"):
        ends_of_steps(ids("a", "\n\n", "b"), ["a", "c"], between="\n\n", decode=decode)
