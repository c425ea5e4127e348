"""The shipped models are what their page says."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.demo_models.make_assets import made, parse_arguments, recipes
from benchmarks.demo_models.measure import measure
from benchmarks.demo_models.prm import Qwen2ForProcessRewardModel, separation
from benchmarks.demo_models.tokenizer import STEP_TAG, build_prm_tokenizer, build_tokenizer
from pipelines.demo import MODELS, asset_folder
from pipelines.demo.arithmetic import PUPIL, Split, make_prompts

HELD_OUT = make_prompts(60, seed=17, split=Split.HELD_OUT)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small lose time to a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_shipped_models_are_the_outcome_of_the_scripts_defaults() -> None:
    defaults = parse_arguments(["--out", "unused"])
    steps = {name: getattr(defaults, f"{name}_steps") for name in MODELS}
    for name, recipe in recipes(seed=defaults.seed, steps=steps).items():
        assert made(asset_folder(name), recipe), name


@pytest.mark.parametrize("name", MODELS)
def test_a_shipped_model_is_a_few_megabytes(name: str) -> None:
    assert sum(path.stat().st_size for path in asset_folder(name).iterdir()) < 8e6


@pytest.mark.parametrize("name", ["policy", "teacher"])
def test_policy_and_teacher_load_with_the_tasks_tokenizer(name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(asset_folder(name))
    tokenizer = AutoTokenizer.from_pretrained(asset_folder(name))
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.hidden_size // model.config.num_attention_heads in (32, 64)  # what vLLM's CPU attention knows
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.dtype == torch.float32


def test_the_policy_learned_all_its_traces_hold() -> None:
    outcome = json.loads((asset_folder("policy") / "made.json").read_text())["outcome"]
    assert outcome["validation_loss"] < 1.08 * outcome["least_loss"]


def test_the_policy_is_right_about_a_third_of_the_time_and_mistaken_when_greedy() -> None:
    model = AutoModelForCausalLM.from_pretrained(asset_folder("policy"))
    found = measure(model, build_tokenizer(), HELD_OUT, samples=4, seed=0)
    assert 0.22 < found.pass_1 < 0.46
    assert found.greedy < 0.6
    assert 0.6 < found.padding_lines < 2.0


def test_the_teacher_is_right_most_of_the_time() -> None:
    model = AutoModelForCausalLM.from_pretrained(asset_folder("teacher"))
    assert measure(model, build_tokenizer(), HELD_OUT, samples=2, seed=0).pass_1 > 0.8


def test_the_prm_has_qwens_form_and_is_as_good_as_its_page_says() -> None:
    """It is imperfect (AUC about 0.84), as real ones are."""
    tokenizer = AutoTokenizer.from_pretrained(asset_folder("prm"))
    assert tokenizer.get_vocab() == build_prm_tokenizer().get_vocab()
    assert tokenizer(STEP_TAG).input_ids == [tokenizer.convert_tokens_to_ids(STEP_TAG)]
    model = Qwen2ForProcessRewardModel.from_pretrained(asset_folder("prm"))
    scores = separation(model, tokenizer, PUPIL, count=60, seed=17)
    stated = json.loads((asset_folder("prm") / "made.json").read_text())["outcome"]
    assert scores["auc"] == pytest.approx(stated["auc"], abs=0.06)
    assert scores["auc"] > 0.75
    assert scores["wrong"] < scores["right"]
    assert model.dtype == torch.float32
