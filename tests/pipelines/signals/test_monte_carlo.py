"""Monte-Carlo step values: golden shares from a scripted engine, what is sampled once, the cap; the demo's policy."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest

from pass_ops.shards import DatasetSpec
from pipelines.demo.arithmetic import ANSWER_PATTERN, check_steps, split_steps
from pipelines.demo.assets import asset_folder
from pipelines.engines import EngineOptions, RequestRejected, Sample, SampleRequest, Sampling, acquire
from pipelines.models.folder import vocabulary
from pipelines.signals import SignalOptionError, build_signal
from pipelines.signals.monte_carlo import continuation_seed

POLICY = str(asset_folder("policy"))
EXACT = {"verifier": "regex", "verifier_options": {"pattern": "(c+)$"}, "workers": 1}
A, B, C, BREAK = 0, 1, 2, 4  # tokens of the fixture tokenizer_folder: a, b, c and "\n\n"


class ScriptedEngine:
    """Continues a prefix with "c" where its seed is even, else with "b"; refuses what ends with "b"."""

    max_model_len = 16

    def __init__(self) -> None:
        self.requests: list[SampleRequest] = []
        self.tokenizer = SimpleNamespace(decode=lambda ids, **_: "".join("abc\n.\n"[i] for i in ids))

    def submit(self, request: SampleRequest) -> Future[Sample]:
        self.requests.append(request)
        future: Future[Sample] = Future()
        if request.prompt_token_ids[-1] == B:
            future.set_exception(RequestRejected("aborted"))
            return future
        ids = np.array([C if request.seed % 2 == 0 else B], dtype=np.int32)
        future.set_result(Sample(token_ids=ids, logprobs=np.zeros(1, np.float32), finish_reason="stop", text=""))
        return future


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ScriptedEngine:
    scripted = ScriptedEngine()
    monkeypatch.setattr("pipelines.engines.acquire", lambda model, options: scripted)
    return scripted


@pytest.fixture
def monte_carlo(tokenizer_folder: str):
    def make(**options):
        signal = build_signal("monte_carlo", {**EXACT, "model": "policy", "sampling": {"max_tokens": 9}, **options})
        signal.setup(tokenizer_folder)
        return signal

    return make


def share_right(prefix: list[int], count: int) -> float:
    return sum(continuation_seed(0, [1, 2, *prefix], index) % 2 == 0 for index in range(count)) / count


def test_scores_are_the_shares_of_right_continuations_and_the_last_the_rollouts_own(
    engine, monte_carlo, make_rollouts
) -> None:
    ids = [A, BREAK, C, BREAK, C]
    rollouts = make_rollouts(
        {"text": "a\n\nc\n\nc", "ids": ids, "answer": "c"}, {"text": "a\n\nb", "ids": [A, BREAK, B], "answer": "c"}
    )
    table = monte_carlo(samples=6).score(rollouts, {})
    expected = [[share_right(ids[:2], 6), share_right(ids[:4], 6), 1.0], [share_right(ids[:2], 6), 0.0]]
    assert table["process_scores"].to_pylist() == [pytest.approx(row) for row in expected]
    assert table["process_ends"].to_pylist() == [[2, 4, 5], [2, 3]]
    assert 0 < expected[0][0] < 1


def test_a_prefix_that_rollouts_share_is_sampled_once(engine, monte_carlo, make_rollouts) -> None:
    rollouts = make_rollouts(
        {"text": "a\n\nc", "ids": [A, BREAK, C], "answer": "c"},
        {"text": "a\n\nb", "ids": [A, BREAK, B], "answer": "c"},
        {"text": "c", "ids": [C], "answer": "c"},
    )
    monte_carlo(samples=4).score(rollouts, {})
    assert len(engine.requests) == 4
    assert len({request.seed for request in engine.requests}) == 4
    assert {tuple(request.prompt_token_ids) for request in engine.requests} == {(1, 2, A, BREAK)}
    assert {request.sampling.max_tokens for request in engine.requests} == {7}, "what is left of max_tokens"
    first = engine.requests[0].prompt_token_ids
    assert isinstance(first, np.ndarray)
    assert all(request.prompt_token_ids is first for request in engine.requests), "one array, not one a continuation"


def test_the_cap_cuts_the_samples_of_a_rollout_with_many_steps(engine, monte_carlo, make_rollouts) -> None:
    ids = [C, BREAK] * 3 + [C]
    rollouts = make_rollouts({"text": "c\n\nc\n\nc\n\nc", "ids": ids, "answer": "c"})
    table = monte_carlo(samples=8, max_continuations=9).score(rollouts, {})
    assert len(engine.requests) == 3 * 2
    assert table["status"].to_pylist() == ["ok"]
    table = monte_carlo(samples=8, max_continuations=3).score(rollouts, {})
    assert table["status"].to_pylist() == ["too_long"]
    assert table["detail"].to_pylist() == ["4 steps; max_continuations is 3"]


def test_rows_without_a_value_say_why(engine, monte_carlo, make_rollouts) -> None:
    rollouts = make_rollouts(
        {"text": "a\n\nb", "ids": [A, BREAK, B]},
        {"text": "", "answer": "c"},
        {"text": "c" * 15 + "\n\nc", "ids": [C] * 15 + [BREAK, C], "answer": "c"},
        {"text": "b.\n\nbc", "ids": [B, 5, C], "answer": "c", "prompt_token_ids": [B]},
        {"text": "c", "ids": [C], "answer": ""},
    )
    engine.max_model_len = 16
    table = monte_carlo().score(rollouts, {})
    assert table["status"].to_pylist() == ["no_input", "ok", "too_long", "ok", "error"]
    assert table["detail"][4].as_py().startswith("step 0: none of its 1 continuations was judged (error: ValueError")


def test_continuations_the_engine_rejects_are_left_out(engine, monte_carlo, make_rollouts) -> None:
    rollouts = make_rollouts({"text": "c\n\nb", "ids": [C, BREAK, B], "answer": "c"})
    engine.submit = lambda request: _rejected()  # type: ignore[method-assign]
    table = monte_carlo().score(rollouts, {})
    assert table["detail"].to_pylist() == ["step 0: none of its 8 continuations was judged (the engine rejected all)"]


def _rejected() -> Future[Sample]:
    future: Future[Sample] = Future()
    future.set_exception(RequestRejected("aborted"))
    return future


def test_it_continues_as_the_rollouts_were_sampled() -> None:
    carried = {"sampling": {"temperature": 0.5, "max_tokens": 77, "group_size": 4, "stop": ["x"]}}
    spec = DatasetSpec(stage="generate", stage_version=1, options={}, parts=1, carried=carried)
    signal = build_signal("monte_carlo", {"verifier": "number"}).for_policy(POLICY, spec)
    assert signal.sampling == Sampling(temperature=0.5, max_tokens=77, stop=("x",))
    assert signal.models()["scorer"].id == POLICY
    assert signal.options()["sampling"]["max_tokens"] == 77


def test_bad_options_are_refused() -> None:
    with pytest.raises(SignalOptionError, match="samples is 0: it must be"):
        build_signal("monte_carlo", {"verifier": "number", "samples": 0})


def test_the_demos_policy_is_worth_more_before_its_first_mistake(make_rollouts) -> None:
    """Real vLLM: values fall at a wrong step and never get up again, for the task forgives none."""
    options = EngineOptions(dtype="float32", kv_cache_gib=0.5, max_num_seqs=128, max_model_len=192)
    engine = acquire(POLICY, options)
    prompt, answer = "57a+9b-8c+4d+1e+2f+3?", "68"
    ids = engine.tokenizer(prompt).input_ids
    texts = [
        "a+9=66\nb-8=58\nc+4=62\nd+1=63\ne+2=65\nf+3=68\nA68",
        "a+9=66\nb-8=68\nc+4=72\nd+1=73\ne+2=75\nf+3=78\nA78",
    ]
    rows = [{"text": t, "ids": engine.tokenizer(t).input_ids, "answer": answer, "prompt_token_ids": ids} for t in texts]
    signal = build_signal(
        "monte_carlo",
        {"verifier": "regex", "verifier_options": {"pattern": ANSWER_PATTERN}, "separator": "\n", "samples": 32,
         "max_continuations": 1000, "model": POLICY, "engine": asdict(options), "sampling": {"max_tokens": 112}},
    )  # fmt: skip
    carried = {"vocabulary": asdict(vocabulary(POLICY)), "sampling": {"group_size": 2}}
    spec = DatasetSpec(stage="generate", stage_version=1, options={}, parts=1, carried=carried)
    signal.check(spec, {})
    signal.setup(POLICY)
    right, wrong = signal.score(make_rollouts(*rows), {})["process_scores"].to_pylist()
    assert check_steps(prompt, split_steps(texts[1]))[1] == 0.0
    assert len(right) == len(wrong) == 7
    assert right[0] == wrong[0]
    assert right[0] > 0.2
    assert right[-2] > right[0]
    assert max(wrong[1:]) < 0.2
