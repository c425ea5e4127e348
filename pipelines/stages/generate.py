"""Generate: G rollouts of every prompt, one request a rollout, each with its own derived seed.

    prompts row -> token ids -> G requests -> G rows of `rollouts`, or rejections with a reason

Importing this file imports no Beam and no model library.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pass_ops import shards
from pass_ops.errors import PassError
from pass_ops.shards import CompleteDataset, DatasetSpec, Manifest, ModelRef, Rejection
from pipelines import models
from pipelines.engines.base import Engine, EngineOptions, RequestRejected, Sample, SampleRequest, Sampling
from pipelines.stages.environment import engine_environment
from pipelines.stages.loop import PartOutput, in_background
from pipelines.stages.operations import Operations

STAGE_VERSION = 1
# A request the engine may answer the second time (RequestRejected.transient) is made so often before it is rejected.
REQUEST_ATTEMPTS = 3


# sha256 of nothing: what models.chat_template_digest says where there is no template.
_NO_TEMPLATE = hashlib.sha256(b"").hexdigest()


class GenerateOptionError(PassError, ValueError):
    """An option of the generate stage is outside its range, or does not fit the model or the prompts."""


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """What is sampled.

    sampling: how tokens are drawn. group_size: G, rollouts per prompt. chat: put a plain prompt into one user message
    and encode it with the model's chat template (prompts that are messages always use it). system: a system message
    before it. chat_template_kwargs: further arguments of the template (enable_thinking, ...). max_prompt_tokens: a
    longer prompt is rejected; None = whatever leaves room for one token in the context.
    """

    sampling: Sampling = field(default_factory=Sampling)
    group_size: int = 8
    chat: bool = False
    system: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    max_prompt_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.group_size < 1 or (self.max_prompt_tokens is not None and self.max_prompt_tokens < 1):
            raise GenerateOptionError("generate.group_size and generate.max_prompt_tokens must be 1 or more.")


def derive_seed(run_seed: int, round: int, group_id: str, sample_index: int) -> int:  # noqa: A002 - the contract's word
    """The seed of one rollout: the first 63 bits of sha256 over the four, so that it holds for a rollout on its own.

    >>> derive_seed(0, 0, "gsm8k-0", 1)
    4933196121887775590
    """
    key = json.dumps([run_seed, round, group_id, sample_index], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def generate(
    *,
    prompts: str,
    out: str,
    model: str,
    engine: EngineOptions,
    options: GenerateOptions,
    seed: int = 0,
    round: int = 0,  # noqa: A002 - the contract's word
    operations: Operations = Operations(),
) -> Manifest:
    """Make the dataset `out` of rollouts from the dataset `prompts`; part i from part i. Committed parts are kept.

    model: a Hugging Face folder. The engine's logprobs_mode is set to the behaviour's at this temperature.
    Raises what `run_stage` raises; before anything runs also the errors of opening the prompts and of the model folder,
    and FingerprintMismatchError where `out` holds other rollouts.
    """
    from pipelines.stages.parts import run_stage

    source = shards.open_dataset(prompts)
    engine = replace(engine, logprobs_mode=options.sampling.logprobs_mode)
    spec = generate_spec(source, out=out, model=model, engine=engine, options=options, seed=seed, round=round)
    dataset = shards.create_dataset(out, spec, overwrite=operations.overwrite)
    work = GenerateWork(prompts=prompts, model=model, engine=engine, options=options, seed=seed, round=round)
    return run_stage(dataset, work, operations, runs_model=True)


def generate_spec(
    source: CompleteDataset,
    *,
    out: str,
    model: str,
    engine: EngineOptions,
    options: GenerateOptions,
    seed: int,
    round: int,  # noqa: A002
) -> DatasetSpec:
    """Everything that decides the bytes of the rollouts. Reads the model's files once for their digests.

    Raises StaleInputError, ModelNotFoundError, ModelFilesError, GenerateOptionError.
    """
    source.check_inputs()
    facts = models.describe_model(model)
    if facts.chat_template_digest == _NO_TEMPLATE and (options.chat or _has_messages(source)):
        raise GenerateOptionError(
            f"{model} has no chat template, but {'chat is set' if options.chat else 'the prompts are messages'}. "
            "Use a model with one (chat_template.jinja), or plain prompts without chat."
        )
    sampling = asdict(options.sampling) | {
        "group_size": options.group_size,
        "logprobs_mode": engine.logprobs_mode,
        "truncated": options.sampling.truncated,
    }
    return DatasetSpec(
        stage="generate",
        stage_version=STAGE_VERSION,
        options={
            "chat": options.chat,
            "system": options.system,
            "chat_template_kwargs": dict(options.chat_template_kwargs),
            "max_prompt_tokens": options.max_prompt_tokens,
        },
        parts=source.spec.parts,
        inputs={"prompts": source.ref(out)},
        models={"policy": ModelRef(id=model, digest=facts.digest)},
        seed=seed,
        environment=engine_environment(model, engine),
        carried={
            "sampling": sampling,
            "tokenizer_digest": facts.tokenizer_digest,
            "chat_template_digest": facts.chat_template_digest,
            "vocabulary": asdict(facts.vocabulary),
            "round": round,
            "policy_digest": facts.digest,
        },
    )


def _has_messages(source: CompleteDataset) -> bool:
    """All rows of a prompts dataset are of one kind; the first part that has rows tells."""
    part = next((record.part for record in source.parts if record.rows), None)
    return part is not None and source.read_part(part, columns=["messages"])["messages"].null_count == 0


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedPrompt:
    """A prompt ready to be sampled: what the engine is given."""

    prompt_id: str
    answer: str | None
    token_ids: Sequence[int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rollout:
    """One completed sample of a prompt."""

    prompt: PlannedPrompt
    sample_index: int
    seed: int
    sample: Sample


def plan_part(
    prompts: pa.Table, *, tokenizer: Any, options: GenerateOptions, max_model_len: int
) -> list[PlannedPrompt | Rejection]:
    """Encode every prompt of a part, in order; one that cannot be sampled is a Rejection in its place."""
    limit = min(options.max_prompt_tokens or max_model_len, max_model_len - 1)
    planned: list[PlannedPrompt | Rejection] = []
    for row in prompts.select(["prompt_id", "prompt", "messages", "answer"]).to_pylist():
        try:
            token_ids = encode_prompt(tokenizer, row["prompt"], row["messages"], options=options)
        except RequestRejected as error:
            planned.append(Rejection(prompt_id=row["prompt_id"], reason=error.reason, detail=error.detail))
            continue
        if len(token_ids) > limit:
            detail = (
                f"{len(token_ids)} tokens; at most {limit} fit (context {max_model_len}, "
                f"max_prompt_tokens {options.max_prompt_tokens})"
            )
            planned.append(Rejection(prompt_id=row["prompt_id"], reason="prompt_too_long", detail=detail))
        else:
            planned.append(PlannedPrompt(prompt_id=row["prompt_id"], answer=row["answer"], token_ids=token_ids))
    return planned


def encode_prompt(
    tokenizer: Any, prompt: str | None, messages: Sequence[Mapping[str, str]] | None, *, options: GenerateOptions
) -> list[int]:
    """Token ids of a plain prompt (with the tokenizer's own special tokens), or of messages in the chat template.

    Raises RequestRejected: empty_prompt, or chat_template_error where the template refuses these messages.
    """
    if messages is None and not options.chat:
        token_ids = list(tokenizer(prompt)["input_ids"])
    else:
        conversation = (
            [dict(message) for message in messages] if messages is not None else [{"role": "user", "content": prompt}]
        )
        if options.system is not None and conversation[0]["role"] != "system":
            conversation.insert(0, {"role": "system", "content": options.system})
        token_ids = _apply_template(tokenizer, conversation, options.chat_template_kwargs)
    if not token_ids:
        raise RequestRejected("empty_prompt", "the tokenizer makes no token of it")
    return token_ids


def _apply_template(tokenizer: Any, conversation: list[dict[str, Any]], kwargs: Mapping[str, Any]) -> list[int]:
    import jinja2

    try:
        return list(
            tokenizer.apply_chat_template(
                conversation, tokenize=True, add_generation_prompt=True, return_dict=False, **kwargs
            )
        )
    except jinja2.TemplateError as error:
        raise RequestRejected("chat_template_error", str(error)) from error


class GenerateWork:
    """The generate stage's `PartWork`."""

    def __init__(
        self,
        *,
        prompts: str,
        model: str,
        engine: EngineOptions,
        options: GenerateOptions,
        seed: int,
        round: int,  # noqa: A002
    ) -> None:
        self._prompts_url = prompts
        self._model = model
        self._engine_options = engine
        self._options = options
        self._seed = seed
        self._round = round
        self._prompts: CompleteDataset
        self._engine: Engine

    def setup(self) -> None:
        """The process's one engine, running this model, and the prompts."""
        from pipelines.engines import acquire

        self._prompts = shards.open_dataset(self._prompts_url)
        self._engine = acquire(self._model, self._engine_options)

    def start(self, part: int) -> Future[PartOutput]:
        """Read, encode and submit a part in the caller's thread, so that parts queue up in order; wait in another."""
        engine, options = self._engine, self._options
        planned = plan_part(
            self._prompts.read_part(part),
            tokenizer=engine.tokenizer,
            options=options,
            max_model_len=engine.max_model_len,
        )
        submitted = [
            item
            if isinstance(item, Rejection)
            else [(request, engine.submit(request)) for request in self._requests(item)]
            for item in planned
        ]
        return in_background(collect_part, engine, planned, submitted)

    def _requests(self, prompt: PlannedPrompt) -> list[SampleRequest]:
        return [
            SampleRequest(
                prompt_token_ids=prompt.token_ids,
                seed=derive_seed(self._seed, self._round, prompt.prompt_id, index),
                sampling=self._options.sampling,
            )
            for index in range(self._options.group_size)
        ]


Submitted = list[tuple[SampleRequest, "Future[Sample]"]]


def collect_part(
    engine: Engine, planned: Sequence[PlannedPrompt | Rejection], submitted: Sequence[Submitted | Rejection]
) -> PartOutput:
    """Wait for a part's samples; rows in order of prompt and sample_index, whatever the order they came in."""
    rollouts: list[Rollout] = []
    rejected: list[Rejection] = []
    for prompt, requests in zip(planned, submitted, strict=True):
        if isinstance(prompt, Rejection) or isinstance(requests, Rejection):
            rejected.append(prompt if isinstance(prompt, Rejection) else requests)  # type: ignore[arg-type]
            continue
        for index, (request, future) in enumerate(requests):
            answer = _sample(engine, request, future, prompt.prompt_id, index)
            if isinstance(answer, Rejection):
                rejected.append(answer)
            else:
                rollouts.append(Rollout(prompt=prompt, sample_index=index, seed=request.seed, sample=answer))
    return PartOutput(table=rollouts_table(rollouts), rejected=tuple(rejected))


def _sample(
    engine: Engine, request: SampleRequest, future: Future[Sample], prompt_id: str, index: int
) -> Sample | Rejection:
    """The sample, or why there is none; a transient rejection is asked again."""
    attempts = 1
    while True:
        try:
            sample = future.result()
            _check_sample(sample)
        except RequestRejected as error:
            if error.transient and attempts < REQUEST_ATTEMPTS:
                attempts += 1
                future = engine.submit(request)
                continue
            return Rejection(
                prompt_id=prompt_id,
                sample_index=index,
                reason=error.reason,
                detail=error.detail,
                transient=error.transient,
                attempts=attempts,
                payload={"seed": request.seed},
            )
        return sample


def _check_sample(sample: Sample) -> None:
    """What every engine must have seen to; checked once more, for a NaN here would poison every ratio in training."""
    if sample.finish_reason not in ("stop", "length"):
        raise RequestRejected("aborted", f"finish_reason {sample.finish_reason}")
    finite_T = np.isfinite(sample.logprobs)
    if not finite_T.all():
        position = int(np.argmin(finite_T))
        raise RequestRejected(
            "non_finite_logprob", f"{sample.logprobs[position]} at token {position} of {len(finite_T)}"
        )


def rollouts_table(rollouts: Sequence[Rollout]) -> pa.Table:
    """Rows of the contract's `rollouts`, in the order given. loss_mask is True: the policy chose every token."""
    prompt_ids = [np.asarray(rollout.prompt.token_ids, dtype=np.int32) for rollout in rollouts]
    token_ids = [np.asarray(rollout.sample.token_ids, dtype=np.int32) for rollout in rollouts]
    logprobs = [np.asarray(rollout.sample.logprobs, dtype=np.float32) for rollout in rollouts]
    columns = {
        "group_id": [rollout.prompt.prompt_id for rollout in rollouts],
        "sample_index": [rollout.sample_index for rollout in rollouts],
        "rollout_id": [f"{rollout.prompt.prompt_id}/{rollout.sample_index}" for rollout in rollouts],
        "prompt_token_ids": _lists(prompt_ids, pa.int32()),
        "token_ids": _lists(token_ids, pa.int32()),
        "text": [rollout.sample.text for rollout in rollouts],
        "behavior_logprobs": _lists(logprobs, pa.float32()),
        "loss_mask": _lists([np.ones(len(ids), dtype=bool) for ids in token_ids], pa.bool_()),
        "finish_reason": [rollout.sample.finish_reason for rollout in rollouts],
        "seed": [rollout.seed for rollout in rollouts],
        "answer": [rollout.prompt.answer for rollout in rollouts],
    }
    return pa.table(columns, schema=shards.ROLLOUTS)


def _lists(rows: Sequence[np.ndarray], element: pa.DataType) -> pa.Array:
    """A list column of the contract from one array a row."""
    offsets = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    values = pa.array(np.concatenate(rows) if rows else [], type=element)
    return pa.ListArray.from_arrays(offsets, values, type=pa.list_(pa.field("element", element, nullable=False)))
