"""The study's sampler is vLLM's and transformers' equal."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.study import store
from benchmarks.study.alphabet import EOS, VOCABULARY
from benchmarks.study.sample import sample, token_logprobs
from benchmarks.study.tasks import Split, make_tasks
from pipelines.engines import EngineOptions, Sampling, acquire, release
from pipelines.engines.base import SampleRequest
from tests.benchmarks.study.models import generator, tiny_models

CAP = 60
PROMPTS = [task.prompt_ids() for task in make_tasks(12, seed=0, split=Split.ROUNDS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def models(folder):
    return store.load_models(folder)


def draw(models, *, temperature, copies=1, seed=0):
    return sample(
        models.policy, PROMPTS, copies=copies, shape=models.shape, cap=CAP, temperature=temperature,
        generator=generator(seed),
    )  # fmt: skip


def test_greedy_tokens_and_logprobs_are_vllms(folder, models):
    options = EngineOptions(kind="vllm", dtype="float32", kv_cache_gib=0.25, max_num_seqs=16)
    try:
        engine = acquire(str(folder / "policy"), options)
        greedy = Sampling(temperature=0.0, max_tokens=CAP)
        asked = [engine.submit(SampleRequest(prompt_token_ids=prompt, seed=0, sampling=greedy)) for prompt in PROMPTS]
        theirs = [future.result(timeout=300) for future in asked]
    finally:
        release()
    ours = draw(models, temperature=0.0)
    assert len({one.ids for one in ours}) > 6  # they say different things
    for our, their in zip(ours, theirs, strict=True):
        assert our.ids == tuple(their.token_ids.tolist())
        np.testing.assert_allclose(our.logprobs, their.logprobs, atol=1e-4)
        assert our.truncated == (their.finish_reason == "length")


def test_logprobs_and_entropies_are_those_of_transformers_forward_pass(folder, models):
    reference = AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32).eval()
    drawn = draw(models, temperature=1.0, copies=4)
    assert {one.truncated for one in drawn} == {True, False}
    pairs = [(PROMPTS[row // 4], one.ids) for row, one in enumerate(drawn)]
    for (prompt, ids), one, again in zip(pairs, drawn, token_logprobs(models.policy, pairs, models.shape), strict=True):
        with torch.no_grad():
            every = torch.log_softmax(reference(torch.tensor([[*prompt, *ids]])).logits[0], dim=-1)
        at = every[len(prompt) - 1 : -1]
        expected = at[torch.arange(len(ids)), torch.tensor(ids)].numpy()
        np.testing.assert_allclose(one.logprobs, expected, atol=1e-4)
        np.testing.assert_allclose(again, expected, atol=1e-4)
        np.testing.assert_allclose(one.entropies, -(at.exp() * at).sum(dim=-1).numpy(), atol=1e-4)
        assert EOS not in ids[:-1]


def test_samples_are_drawn_from_the_models_distribution(models):
    drawn = sample(
        models.policy, PROMPTS[:1], copies=600, shape=models.shape, cap=1, temperature=1.0, generator=generator()
    )
    every = [(PROMPTS[0], (token,)) for token in range(VOCABULARY)]
    probabilities = np.exp(np.concatenate(token_logprobs(models.policy, every, models.shape)))
    shares = np.bincount([one.ids[0] for one in drawn], minlength=VOCABULARY) / len(drawn)
    assert np.abs(shares - probabilities).max() < 0.04
    assert probabilities.max() > 0.1  # equal shares would miss the bound


def test_a_seed_decides_what_is_drawn(models):
    assert [one.ids for one in draw(models, temperature=1.0, seed=1)] == [
        one.ids for one in draw(models, temperature=1.0, seed=1)
    ]
    assert [one.ids for one in draw(models, temperature=1.0, seed=1)] != [
        one.ids for one in draw(models, temperature=1.0, seed=2)
    ]
