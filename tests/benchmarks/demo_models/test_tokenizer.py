from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, Qwen2Config

from benchmarks.demo_models.tokenizer import STEP_TAG, build_prm_tokenizer, build_tokenizer
from pipelines.demo.arithmetic import CHARACTERS

POLICY_TOKENIZER = build_tokenizer()
PRM_TOKENIZER = build_prm_tokenizer()


@given(st.text(alphabet=CHARACTERS))
def test_every_text_of_the_task_round_trips_a_token_a_character(text: str) -> None:
    for tokenizer in (POLICY_TOKENIZER, PRM_TOKENIZER):
        ids = tokenizer(text).input_ids
        assert len(ids) == len(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text


def test_the_step_tag_is_one_token_of_the_prm_and_every_other_id_differs_from_the_policys() -> None:
    assert PRM_TOKENIZER(f"A1{STEP_TAG}").input_ids[-1:] == [PRM_TOKENIZER.convert_tokens_to_ids(STEP_TAG)]
    assert len(PRM_TOKENIZER(f"A1{STEP_TAG}").input_ids) == 3
    ours, theirs = POLICY_TOKENIZER.get_vocab(), PRM_TOKENIZER.get_vocab()
    assert set(theirs) == {*ours, STEP_TAG}
    assert all(theirs[token] != ours[token] for token in ours)


def test_a_saved_tokenizer_loads_as_it_was_beside_a_qwen2_config(tmp_path: Path) -> None:
    POLICY_TOKENIZER.save_pretrained(tmp_path)
    Qwen2Config(vocab_size=28).save_pretrained(tmp_path)  # decides which tokenizer class AutoTokenizer takes
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == POLICY_TOKENIZER.get_vocab()
    assert (loaded.pad_token_id, loaded.eos_token_id) == (0, 1)
    assert loaded("57a+9?=57\n").input_ids == POLICY_TOKENIZER("57a+9?=57\n").input_ids
    assert len(loaded) == 28
