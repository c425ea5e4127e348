"""Generate: from prompts to rows of `rollouts`, and what is rejected."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pass_ops import shards
from pass_ops.errors import FingerprintMismatchError, NotFinalized, StaleInputError
from pipelines.engines.base import EngineDead, EngineOptions, RequestRejected, Sample, SampleRequest, Sampling
from pipelines.models.folder import ModelNotFoundError, load_tokenizer
from pipelines.parts.loop import PartOutput, in_background
from pipelines.parts.operations import Operations
from pipelines.programs import Prompt, Sampler
from pipelines.programs.conversation import Completion
from pipelines.prompts.stage import PromptSource, write_prompts
from pipelines.rollouts.encode import PlannedPrompt, encode_prompt, plan_part
from pipelines.rollouts.sample import sample_part
from pipelines.rollouts.stage import (
    GenerateOptionError,
    GenerateOptions,
    GenerateWork,
    derive_seed,
    generate,
    generate_spec,
)

OPTIONS = GenerateOptions(group_size=3, sampling=Sampling(max_tokens=12))


def part_bytes(url: str) -> list[str]:
    """Names of the data files; each holds the digest of its bytes."""
    return [record.data for record in shards.open_dataset(url).parts]


def rollouts(url: str) -> list[dict[str, Any]]:
    dataset = shards.open_dataset(url)
    return [row for part in range(dataset.spec.parts) for row in dataset.read_part(part).to_pylist()]


# --- seeds ---------------------------------------------------------------------------------------------------------


def test_a_rollouts_seed_is_the_first_63_bits_of_sha256_over_run_seed_round_group_and_index() -> None:
    digest = hashlib.sha256(b'[5,2,"gsm8k-17",3]').digest()
    assert derive_seed(5, 2, "gsm8k-17", 3) == int.from_bytes(digest[:8], "big") // 2


def test_seeds_fit_int64_and_differ_in_every_argument() -> None:
    seeds = [
        derive_seed(*key) for key in ((0, 0, "a", 0), (1, 0, "a", 0), (0, 1, "a", 0), (0, 0, "b", 0), (0, 0, "a", 1))
    ]
    assert len(set(seeds)) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, 0, "a", 11) != derive_seed(0, 0, "a1", 1)


# --- prompts to token ids ------------------------------------------------------------------------------------------


def test_a_plain_prompt_is_encoded_as_it_is(tiny_model: str) -> None:
    tokenizer = load_tokenizer(tiny_model)
    assert tokenizer.decode(encode_prompt(tokenizer, "12+3=?", None, options=OPTIONS)) == "12+3=?"


def test_chat_puts_a_plain_prompt_into_the_template_and_asks_for_the_answer(tiny_model: str) -> None:
    tokenizer = load_tokenizer(tiny_model)
    options = replace(OPTIONS, chat=True, system="be brief")
    assert tokenizer.decode(encode_prompt(tokenizer, "1+1=?", None, options=options)) == "s: be brief\nu: 1+1=?\na: "


def test_messages_always_use_the_template_and_keep_their_own_system_message(tiny_model: str) -> None:
    tokenizer = load_tokenizer(tiny_model)
    messages = [{"role": "system", "content": "sums"}, {"role": "user", "content": "2+2"}]
    options = replace(OPTIONS, system="be brief")
    assert tokenizer.decode(encode_prompt(tokenizer, None, messages, options=options)) == "s: sums\nu: 2+2\na: "


def test_arguments_of_the_template_reach_it(tiny_model: str) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = "{{ mode }}"
    options = replace(OPTIONS, chat=True, chat_template_kwargs={"mode": "think"})
    assert tokenizer.decode(encode_prompt(tokenizer, "1", None, options=options)) == "think"


def test_messages_the_template_refuses_reject_their_prompt(tiny_model: str) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    table = pa.Table.from_pylist(
        [{"prompt_id": "p", "messages": [{"role": "user", "content": "1"}], "source": "s"}], schema=shards.PROMPTS
    )
    (planned,) = plan_part(table, tokenizer=tokenizer, options=OPTIONS, max_model_len=64)
    assert isinstance(planned, shards.Rejection)
    assert (planned.reason, planned.detail) == ("chat_template_error", "roles must alternate")


def prompts_table(*prompts: str) -> pa.Table:
    rows = [{"prompt_id": f"p{i}", "prompt": prompt, "source": "s"} for i, prompt in enumerate(prompts)]
    return pa.Table.from_pylist(rows, schema=shards.PROMPTS)


def test_a_prompt_must_leave_room_for_one_token(tiny_model: str) -> None:
    tokenizer = load_tokenizer(tiny_model)
    planned = plan_part(prompts_table("123456789", "12345678"), tokenizer=tokenizer, options=OPTIONS, max_model_len=9)
    assert isinstance(planned[0], shards.Rejection)
    assert planned[0].reason == "prompt_too_long"
    assert planned[0].sample_index is None
    assert isinstance(planned[1], PlannedPrompt)


def test_max_prompt_tokens_is_a_limit_of_its_own(tiny_model: str) -> None:
    tokenizer = load_tokenizer(tiny_model)
    options = replace(OPTIONS, max_prompt_tokens=4)
    planned = plan_part(prompts_table("1234", "12345"), tokenizer=tokenizer, options=options, max_model_len=64)
    assert [type(item).__name__ for item in planned] == ["PlannedPrompt", "Rejection"]


# --- samples to rows -----------------------------------------------------------------------------------------------


def sample(
    *, token_ids: tuple[int, ...] = (5, 6, 1), logprobs: tuple[float, ...] = (-0.5, -1.0, -2.0), reason: str = "stop"
) -> Sample:
    return Sample(
        token_ids=np.array(token_ids, np.int32),
        logprobs=np.array(logprobs, np.float32),
        finish_reason=reason,
        text="34",
    )


class Spelled:
    """A tokenizer to whom every completion reads "34"."""

    def decode(self, token_ids: Any, **_: Any) -> str:
        return "34" if len(token_ids) else ""


class Answers:
    """An engine that answers each submit with the next of a list."""

    max_model_len = 64

    def __init__(self, *answers: Sample | Exception) -> None:
        self.answers = list(answers)
        self.tokenizer = Spelled()

    def submit(self, request: SampleRequest) -> Future[Sample]:
        future: Future[Sample] = Future()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
        return future


async def once(prompt: Prompt, sample: Sampler) -> None:
    """The program that makes what no program makes."""
    await sample()


Collect = Callable[..., PartOutput]


@pytest.fixture(params=[None, once], ids=["no program", "a program of one call"])
def collect(request: pytest.FixtureRequest) -> Collect:
    """The rollouts of one prompt, from an engine or from its answers in turn."""

    def run(
        *answers: Sample | Exception, engine: Any = None, sampling: Sampling = OPTIONS.sampling, **more: Any
    ) -> PartOutput:
        prompt = PlannedPrompt(task=Prompt(prompt_id="p", text="1+2"), answer="42", token_ids=[3, 4])
        return sample_part(
            engine or Answers(*answers),
            [prompt],
            program=request.param,
            sampling=sampling,
            seeds={"p": [7, 8]},
            **more,
        )

    return run


class Later(Answers):
    """An engine whose futures a test answers itself."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[SampleRequest, Future[Sample]]] = []
        self.all_asked = threading.Event()

    def submit(self, request: SampleRequest) -> Future[Sample]:
        self.asked.append((request, Future()))
        if len(self.asked) == 2:
            self.all_asked.set()
        return self.asked[-1][1]


def test_a_row_holds_what_the_contract_says(collect: Collect) -> None:
    part = collect(sample(), sample(token_ids=(9,), logprobs=(-0.25,), reason="length"))
    assert part.table.schema == shards.ROLLOUTS
    assert part.table.to_pylist() == [
        {
            "group_id": "p", "sample_index": 0, "rollout_id": "p/0", "prompt_token_ids": [3, 4], "token_ids": [5, 6, 1],
            "text": "34", "behavior_logprobs": [-0.5, -1.0, -2.0], "loss_mask": [True, True, True],
            "finish_reason": "stop", "seed": 7, "answer": "42",
        },
        {
            "group_id": "p", "sample_index": 1, "rollout_id": "p/1", "prompt_token_ids": [3, 4], "token_ids": [9],
            "text": "34", "behavior_logprobs": [-0.25], "loss_mask": [True],
            "finish_reason": "length", "seed": 8, "answer": "42",
        },
    ]  # fmt: skip


def test_a_rejected_rollout_leaves_a_gap_in_sample_index(collect: Collect) -> None:
    part = collect(RequestRejected("request_failed", "grammar"), sample())
    assert part.table["sample_index"].to_pylist() == [1]
    (rejection,) = part.rejected
    assert (rejection.prompt_id, rejection.sample_index, rejection.reason, rejection.detail) == (
        "p",
        0,
        "request_failed",
        "grammar",
    )


def test_a_nan_logprob_rejects_its_rollout_and_says_where(collect: Collect) -> None:
    part = collect(sample(logprobs=(-0.5, float("nan"), -2.0)), sample())
    assert part.table.num_rows == 1
    assert (part.rejected[0].reason, part.rejected[0].detail) == ("non_finite_logprob", "nan at token 1 of 3")


def test_an_aborted_sample_is_rejected(collect: Collect) -> None:
    part = collect(sample(reason="abort"), sample())
    assert part.rejected[0].reason == "aborted"


def test_a_transient_rejection_is_asked_again_and_counted(collect: Collect) -> None:
    busy = RequestRejected("aborted", "preempted", transient=True)
    part = collect(busy, sample(), sample())
    assert part.table["sample_index"].to_pylist() == [0, 1]
    part = collect(busy, sample(), busy, busy)
    assert [(r.sample_index, r.attempts, r.transient) for r in part.rejected] == [(0, 3, True)]


def test_a_part_whose_every_rollout_is_rejected_is_an_empty_table_of_the_schema(collect: Collect) -> None:
    part = collect(RequestRejected("aborted"), RequestRejected("aborted"))
    assert (part.table.num_rows, part.table.schema) == (0, shards.ROLLOUTS)


def test_rollouts_are_kept_as_they_are_finished_and_stored_in_their_order(collect: Collect) -> None:
    engine, kept = Later(), SimpleQueue[str]()
    part = in_background(
        lambda: collect(engine=engine, keep=lambda rollout: kept.put(rollout.place.rollout_id)),
    )
    assert engine.all_asked.wait(timeout=60)
    (first, answer_first), (second, answer_second) = engine.asked
    answer_second.set_result(sample(token_ids=(9,), logprobs=(-0.25,)))
    assert kept.get(timeout=60) == "p/1"
    answer_first.set_result(sample())
    assert kept.get(timeout=60) == "p/0"
    assert part.result(timeout=60).table["token_ids"].to_pylist() == [[5, 6, 1], [9]]
    assert (first.seed, second.seed) == (7, 8)


def test_what_an_earlier_attempt_kept_is_neither_asked_for_nor_kept_again(collect: Collect) -> None:
    known, kept = Completion(sample=sample(token_ids=(8, 8, 1)), loss_mask=np.ones(3, bool)), []
    part = collect(sample(), kept={"p/0": known}, keep=lambda rollout: kept.append(rollout.place.rollout_id))
    assert part.table["token_ids"].to_pylist() == [[8, 8, 1], [5, 6, 1]]
    assert (part.table["seed"].to_pylist(), kept) == ([7, 8], ["p/1"])


def test_a_completion_is_asked_for_no_longer_than_the_context_has_room(collect: Collect) -> None:
    engine = Later()
    part = in_background(lambda: collect(engine=engine, sampling=Sampling(max_tokens=100, temperature=0.5)))
    assert engine.all_asked.wait(timeout=60)
    for request, answer in engine.asked:
        assert request.sampling == Sampling(max_tokens=62, temperature=0.5)
        answer.set_result(sample())
    assert part.result(timeout=60).table.num_rows == 2


def test_a_dead_engine_ends_the_part_and_what_nobody_waits_for_is_cancelled(collect: Collect) -> None:
    engine = Later()
    part = in_background(lambda: collect(engine=engine))
    assert engine.all_asked.wait(timeout=60)
    engine.asked[0][1].set_exception(EngineDead("gone"))
    with pytest.raises(EngineDead, match="gone"):
        part.result(timeout=60)
    assert engine.asked[1][1].cancelled()


# --- the stage -----------------------------------------------------------------------------------------------------


def run(
    prompts: str, out: Path, model: str, engine: EngineOptions, options: GenerateOptions = OPTIONS, **kwargs: Any
) -> shards.Manifest:
    return generate(prompts=prompts, out=str(out), model=model, engine=engine, options=options, **kwargs)


def test_every_prompt_gets_its_group_in_order(
    tmp_path: Path, tiny_model: str, recorded: EngineOptions, write_sums: Callable[..., str]
) -> None:
    manifest = run(write_sums(5), tmp_path / "rollouts", tiny_model, recorded, seed=3, round=1)
    rows = rollouts(str(tmp_path / "rollouts"))
    assert [row["rollout_id"] for row in rows] == [f"sums-{i}/{j}" for i in range(5) for j in range(3)]
    assert all(row["seed"] == derive_seed(3, 1, row["group_id"], row["sample_index"]) for row in rows)
    assert [row["answer"] for row in rows[::3]] == ["0", "2", "4", "6", "8"]
    assert all(1 <= len(row["token_ids"]) <= 12 for row in rows)
    assert manifest.totals["rows"] == 15
    assert manifest.groups_by_size == {"3": 5}


def test_two_runs_and_any_number_of_parts_in_flight_give_the_same_bytes(
    tmp_path: Path, tiny_model: str, recorded: EngineOptions, write_sums: Callable[..., str]
) -> None:
    prompts = write_sums(10)
    slow = replace(recorded, extra={"latency": 0.02})
    for name, engine, parts_in_flight in (("a", recorded, 1), ("b", recorded, 4), ("c", slow, 3)):
        run(prompts, tmp_path / name, tiny_model, engine, operations=Operations(parts_in_flight=parts_in_flight))
    assert part_bytes(str(tmp_path / "a")) == part_bytes(str(tmp_path / "b")) == part_bytes(str(tmp_path / "c"))


def test_the_description_names_everything_that_decided_the_bytes(
    tmp_path: Path, tiny_model: str, recorded: EngineOptions, write_sums: Callable[..., str]
) -> None:
    prompts = write_sums(2)
    options = replace(OPTIONS, sampling=Sampling(temperature=0.7, top_p=0.9, max_tokens=12))
    run(prompts, tmp_path / "rollouts", tiny_model, recorded, options, seed=3, round=2)
    document = json.loads((tmp_path / "rollouts" / "_dataset.json").read_text())
    assert document["inputs"]["prompts"] == {
        "folder": "../prompts",
        "content_digest": shards.open_dataset(prompts).content_digest,
    }
    assert document["sampling"]["logprobs_mode"] == "processed_logprobs"
    assert (document["sampling"]["group_size"], document["sampling"]["truncated"]) == (3, True)
    assert (document["round"], document["seed"]) == (2, 3)
    assert document["policy_digest"] == document["models"]["policy"]["digest"]
    assert document["environment"]["recording"] == "synthetic:1"
    assert document["vocabulary"]["size"] == len(load_tokenizer(tiny_model))


def test_a_prompt_that_does_not_fit_is_rejected_and_counts_as_its_group(
    tmp_path: Path, tiny_model: str, recorded: EngineOptions
) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps({"prompt": "1" * 60}) + "\n" + json.dumps({"prompt": "1+1"}) + "\n")
    write_prompts(PromptSource(source=str(file)), out=str(tmp_path / "prompts"))
    engine = replace(recorded, max_model_len=40)
    with pytest.raises(NotFinalized, match=r"50\.00% of the rollouts were rejected \(prompt_too_long 1\)"):
        run(str(tmp_path / "prompts"), tmp_path / "rollouts", tiny_model, engine)
    lenient = Operations(max_reject_rate=0.5)
    manifest = run(str(tmp_path / "prompts"), tmp_path / "rollouts", tiny_model, engine, operations=lenient)
    assert manifest.totals["rejected_rollouts"] == 3
    assert [row["group_id"] for row in rollouts(str(tmp_path / "rollouts"))] == ["p-1"] * 3


def test_other_options_in_the_same_folder_are_refused_by_name(
    tmp_path: Path, tiny_model: str, recorded: EngineOptions, write_sums: Callable[..., str]
) -> None:
    prompts = write_sums(2)
    run(prompts, tmp_path / "rollouts", tiny_model, recorded)
    with pytest.raises(FingerprintMismatchError, match=r"sampling\.max_tokens: 12 there, 13 asked"):
        run(prompts, tmp_path / "rollouts", tiny_model, recorded, replace(OPTIONS, sampling=Sampling(max_tokens=13)))


def test_operational_engine_options_are_not_part_of_the_description(
    tmp_path: Path, tiny_model: str, recorded: EngineOptions, write_sums: Callable[..., str]
) -> None:
    prompts = write_sums(2)
    first = run(prompts, tmp_path / "rollouts", tiny_model, recorded)
    again = run(prompts, tmp_path / "rollouts", tiny_model, replace(recorded, max_num_seqs=3, kv_cache_gib=0.5))
    assert again == first


def test_an_absent_model_is_named_before_anything_is_written(
    tmp_path: Path, recorded: EngineOptions, write_sums: Callable[..., str]
) -> None:
    prompts = write_sums(2)
    with pytest.raises(ModelNotFoundError, match="no-such-model"):
        run(prompts, tmp_path / "rollouts", str(tmp_path / "no-such-model"), recorded)
    assert not (tmp_path / "rollouts").exists()


def test_chat_without_a_template_is_refused_before_anything_is_written(
    tmp_path: Path, tiny_model_factory: Callable[..., str], recorded: EngineOptions, write_sums: Callable[..., str]
) -> None:
    model = tiny_model_factory(seed=1)
    (Path(model) / "chat_template.jinja").unlink()
    with pytest.raises(GenerateOptionError, match="no chat template"):
        run(write_sums(2), tmp_path / "rollouts", model, recorded, replace(OPTIONS, chat=True))
    assert not (tmp_path / "rollouts").exists()


def test_a_worker_refuses_prompts_that_were_made_anew_since_the_job_began(
    tmp_path: Path, tiny_model: str, recorded: EngineOptions, write_sums: Callable[..., str]
) -> None:
    prompts = write_sums(2)
    fields: dict[str, Any] = {"model": tiny_model, "engine": recorded, "options": OPTIONS, "seed": 0, "round": 0}
    spec = generate_spec(shards.open_dataset(prompts), out=str(tmp_path / "rollouts"), **fields)
    shutil.rmtree(prompts)
    write_sums(3)
    work = GenerateWork(spec=spec, prompts=prompts, **fields)
    with pytest.raises(StaleInputError, match="was made anew"):
        work.setup()
