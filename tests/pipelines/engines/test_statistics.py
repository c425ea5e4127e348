"""Entropy and sum of squared probabilities: exact by transformers, bounded from vLLM's likeliest tokens, and kept whole
wherever a sample goes.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pass_ops import Weights, shards
from pass_ops.errors import PartError
from pass_ops.shards.checks import check_part
from pipelines.engines import Engine, EngineOptions, Sample, SampleRequest, Sampling, start_engine
from pipelines.engines.base import EngineOptionError
from pipelines.engines.node_wire import pack_answers, unpack_answers
from pipelines.engines.statistics import of_likeliest
from pipelines.engines.transformers import processed_logits
from pipelines.rollouts.kept import completion_bytes, read_completion
from pipelines.rollouts.stage import GenerateOptionError, GenerateOptions, generate, planned_rollouts
from pipelines.shaped.stage import ShapeOptions, shape_dataset
from pipelines.signals import build_signal
from pipelines.signals.stage import score
from tests.pipelines.engines.asking import grid, sample_all


def exact(logits_TV: torch.Tensor) -> np.ndarray:
    """Both statistics [2, T], in float64, by the definition."""
    logprobs_TV = logits_TV.double().log_softmax(-1)
    terms_TV = torch.where(logprobs_TV.isinf(), 0.0, logprobs_TV.exp() * logprobs_TV)
    return np.stack([-terms_TV.sum(-1).numpy(), logprobs_TV.exp().square().sum(-1).numpy()])


@pytest.mark.parametrize(
    ("mode", "sampling"),
    [
        ("raw_logprobs", {}),
        ("processed_logprobs", {"temperature": 0.7, "top_k": 6}),
        ("raw_logprobs", {"temperature": 0.0}),
    ],
)
def test_with_transformers_they_are_those_of_the_reported_distribution(
    tiny_model: str, oracle: Callable[..., torch.Tensor], mode: Any, sampling: dict[str, Any]
) -> None:
    engine = start_engine(tiny_model, EngineOptions(kind="transformers", logprobs_mode=mode))
    drawn = Sampling(max_tokens=20, token_statistics=1, **sampling)
    try:
        prompts = [engine.tokenizer.encode(text) for text in ("1+2=?", "a")]
        requests = [
            SampleRequest(prompt_token_ids=ids, seed=seed, sampling=drawn) for ids in prompts for seed in (0, 1)
        ]
        for request, sample in zip(requests, sample_all(engine, requests), strict=True):
            ids = [*request.prompt_token_ids, *sample.token_ids.tolist()]
            logits_TV = oracle(ids, start=len(request.prompt_token_ids))
            if mode == "processed_logprobs":
                logits_TV = torch.stack([processed_logits(logits_V, drawn) for logits_V in logits_TV])
            assert sample.statistics is not None
            assert sample.statistics.dtype == np.float32
            np.testing.assert_allclose(sample.statistics, exact(logits_TV), atol=2e-4)
        (plain,) = sample_all(engine, [replace(requests[0], sampling=replace(drawn, token_statistics=0))])
        assert plain.statistics is None
    finally:
        engine.close()


class Flat:
    """Two positions, top 2: the first sampled a token beyond them, the second the likeliest, which is there twice."""

    start_indices = (0, 3)
    end_indices = (3, 6)
    token_ids = (9, 1, 2, 4, 4, 5)
    logprobs = tuple(np.log([0.05, 0.5, 0.25, 0.9, 0.9, 0.1]).tolist())
    ranks = (7, 1, 2, 1, 1, 2)


def test_from_the_likeliest_by_hand() -> None:
    entropy_T, squares_T = of_likeliest(Flat, 2, top=2)
    # 0.5, 0.25 and the rest 0.25 as one; then 0.9 and 0.1
    rest = 0.5 * np.log(2) + 0.5 * np.log(4)
    np.testing.assert_allclose(entropy_T, [rest, -0.9 * np.log(0.9) - 0.1 * np.log(0.1)], rtol=1e-6)
    np.testing.assert_allclose(squares_T, [0.25 + 0.0625, 0.81 + 0.01], rtol=1e-6)


def test_a_position_that_lists_too_few_is_an_error_and_impossible_tokens_count_nothing() -> None:
    with pytest.raises(RuntimeError, match="fewer than the 3 likeliest tokens at position 0"):
        of_likeliest(Flat, 2, top=3)

    class Cut(Flat):
        logprobs = (0.0, 0.0, -np.inf, 0.0, 0.0, -np.inf)

    assert of_likeliest(Cut, 2, top=2).tolist() == [[0.0, 0.0], [1.0, 1.0]]


def test_with_vllm_they_are_bounds_that_all_tokens_meet(engine: Engine, oracle: Any) -> None:
    top = 12
    requests = [replace(r, sampling=replace(r.sampling, token_statistics=top)) for r in grid(engine)[:12]]
    samples = sample_all(engine, requests)
    for request, sample in zip(requests, samples, strict=True):
        logits_TV = oracle([*request.prompt_token_ids, *sample.token_ids.tolist()], start=len(request.prompt_token_ids))
        probabilities_TV = logits_TV.double().softmax(-1)
        best_TK = probabilities_TV.topk(top).values
        rest_T = (1 - best_TK.sum(-1)).clamp(min=0).numpy()
        expected = np.stack(
            [
                (torch.special.entr(best_TK).sum(-1) + torch.special.entr(torch.tensor(rest_T))).numpy(),
                (best_TK**2).sum(-1),
            ]
        )
        assert sample.statistics is not None
        np.testing.assert_allclose(sample.statistics, expected, atol=1e-4)
        true = exact(logits_TV)
        vocabulary = logits_TV.shape[-1]
        assert (sample.statistics <= true + 1e-4).all()
        assert (true[0] <= sample.statistics[0] + rest_T * np.log(vocabulary - top) + 1e-4).all()
        assert (true[1] <= sample.statistics[1] + rest_T * best_TK[:, -1].numpy() + 1e-4).all()
    plain = sample_all(engine, grid(engine)[:12])
    assert [s.token_ids.tolist() for s in plain] == [s.token_ids.tolist() for s in samples], "they change no draw"


SAMPLE = Sample(
    token_ids=np.array([5, 6], np.int32),
    logprobs=np.array([-1, -2], np.float32),
    finish_reason="stop",
    text="x",
    statistics=np.array([[1, 2], [0.25, 0.5]], np.float32),
)


def test_they_cross_to_another_process_and_lie_in_a_journal() -> None:
    from pipelines.programs.conversation import Completion

    other, scores = replace(SAMPLE, statistics=None), np.array([-0.5, -0.25], np.float32)
    sent = [(1, SAMPLE), (2, scores), (3, other), (4, SAMPLE)]
    found = dict(unpack_answers(pickle.loads(pickle.dumps(pack_answers(sent)))))
    for key in (1, 4):
        assert found[key].statistics.tolist() == [[1.0, 2.0], [0.25, 0.5]]
        assert found[key].logprobs.tolist() == [-1.0, -2.0]
    assert found[3].statistics is None
    assert found[2].tolist() == [-0.5, -0.25]
    for sample in (SAMPLE, other):
        kept = read_completion(completion_bytes(Completion(sample=sample, loss_mask=np.array([True, False]))))
        assert kept.loss_mask.tolist() == [True, False]
        statistics = kept.sample.statistics
        assert (None if statistics is None else statistics.tolist()) == (
            None if sample.statistics is None else sample.statistics.tolist()
        )


def test_inserted_tokens_have_none(tiny_model: str) -> None:
    from pipelines.programs.conversation import Conversation

    engine = start_engine(tiny_model, EngineOptions(kind="transformers"))
    try:
        drawn = Sampling(max_tokens=12, token_statistics=1)
        conversation = Conversation(engine, prompt_token_ids=[4, 5], seed=0, sampling=drawn)

        async def talk() -> None:
            await conversation(max_tokens=3)
            conversation.insert("12")
            await conversation(max_tokens=2)

        asyncio.run(talk())
    finally:
        engine.close()
    completion = conversation.completion()
    assert completion.sample.statistics is not None
    assert completion.sample.statistics.shape == (2, len(completion.loss_mask))
    assert ((completion.sample.statistics != 0).all(axis=0) == completion.loss_mask).all()


def test_generate_stores_them_and_says_how_they_came_about(tiny_model: str, write_sums: Any, tmp_path: Path) -> None:
    prompts, out = write_sums(2), str(tmp_path / "rollouts")
    options = GenerateOptions(sampling=Sampling(max_tokens=6, token_statistics=1), group_size=2)
    generate(prompts=prompts, out=out, model=tiny_model, engine=EngineOptions(kind="transformers"), options=options)
    stored = shards.open_dataset(out)
    assert stored.spec.carried["token_statistics"] == {"of": "all tokens"}
    assert stored.spec.carried["sampling"]["token_statistics"] == 1
    table = stored.read_part(0)
    assert table.schema.names == [*shards.ROLLOUTS.names, "entropy", "sum_pi_squared"]
    for row in table.to_pylist():
        assert len(row["entropy"]) == len(row["sum_pi_squared"]) == len(row["token_ids"]) > 0
        assert all(0 < value <= np.log(46) + 1e-6 for value in row["entropy"])
        assert all(1 / 46 <= value <= 1 + 1e-6 for value in row["sum_pi_squared"])
    right = build_signal("outcome", {"verifier": "number", "workers": 1})
    score(signal=right, rollouts=out, out=str(tmp_path / "signals" / "right"))
    only_outcome = Weights(process=0.0, outcome=1.0, format=0.0)
    shape = ShapeOptions(estimator="grpo_outcome", outcome="right", weights=only_outcome)
    shaped = str(tmp_path / "shaped")
    shape_dataset(rollouts=out, signals=str(tmp_path / "signals"), out=shaped, options=shape)
    carried = shards.open_dataset(shaped)
    assert carried.spec.carried["token_statistics"] == {"of": "all tokens"}
    assert carried.read_part(0)["entropy"].equals(table["entropy"])
    for folder in (out, shaped):
        assert not [finding for finding in shards.verify(folder) if finding.level == "error"]


def test_engines_that_do_not_give_them_are_refused_and_without_them_nothing_changes(tiny_model: str) -> None:
    from pipelines.models.folder import describe_model

    facts = describe_model(tiny_model)

    def planned(kind: str, tokens: int, **extra: Any) -> shards.DatasetSpec:
        engine = EngineOptions(kind=kind, recording="synthetic:0" if kind == "recorded" else None, extra=extra)
        sampling = Sampling(token_statistics=tokens)
        return planned_rollouts(facts, engine=engine, options=GenerateOptions(sampling=sampling))

    with pytest.raises(GenerateOptionError, match="token_statistics is 5, which an engine of kind recorded does not"):
        planned("recorded", 5)
    with pytest.raises(GenerateOptionError, match=r"vLLM lists at most 20 tokens; lower it, or raise engine.extra.max"):
        planned("vllm", 21)
    label = {"of": "the likeliest tokens, the rest as one", "tokens": 30}
    assert planned("vllm", 30, max_logprobs=30).carried["token_statistics"] == label
    assert "token_statistics" not in planned("vllm", 0).carried
    assert "token_statistics" not in planned("vllm", 0).carried["sampling"]
    with pytest.raises(EngineOptionError, match="token_statistics"):
        Sampling(token_statistics=-1)


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("entropy", [0.5], "entropy and token_ids have different lengths"),
        ("sum_pi_squared", [0.5, np.nan], "sum_pi_squared holds NaN or infinity"),
        ("entropy", [0.5, 0.25], "entropy is not 0.0 at a masked token"),
    ],
)
def test_a_part_with_other_values_is_not_committed(column: str, values: list[float], said: str) -> None:
    row = {
        "group_id": "g", "sample_index": 0, "rollout_id": "g/0", "prompt_token_ids": [1], "token_ids": [5, 6],
        "text": "", "behavior_logprobs": [-1.0, 0.0], "loss_mask": [True, False], "finish_reason": "stop", "seed": 0,
        "answer": None, "entropy": [0.5, 0.0], "sum_pi_squared": [0.5, 0.0],
    }  # fmt: skip
    schema = pa.schema([*shards.ROLLOUTS, *shards.TOKEN_STATISTICS])
    check_part(pa.Table.from_pylist([row], schema=schema), "generate", where="here")
    with pytest.raises(PartError, match=said):
        check_part(pa.Table.from_pylist([row | {column: values}], schema=schema), "generate", where="here")
