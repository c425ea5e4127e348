"""Generate: G rollouts of every prompt, each with its own derived seed.

    prompts row -> token ids -> G rollout programs on the engine -> G rows of `rollouts`, or rejections with a reason

Importing this file imports no Beam and no model library.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from pass_ops import shards
from pass_ops.shards import CompleteDataset, Dataset, DatasetSpec, Manifest, ModelRef, Rejection
from pipelines.engines.base import Engine, EngineOptionError, EngineOptions, RequestRejected, SampleRequest, Sampling
from pipelines.engines.environment import engine_environment
from pipelines.engines.gpu_defaults import seats
from pipelines.engines.text import stops
from pipelines.models.folder import ModelFacts, describe_model, load_tokenizer, model_digest
from pipelines.models.source import local_model, pinned_model
from pipelines.parts.inputs import reopen
from pipelines.parts.journal import Journal, Journals
from pipelines.parts.loop import PartOutput, PartWork, Stage, in_background
from pipelines.parts.operations import Operations
from pipelines.parts.worker_check import check_worker
from pipelines.rollouts.encode import PlannedPrompt, plan_part, special_encoding, unspelled_prompts
from pipelines.rollouts.kept import planned_digest, with_journal
from pipelines.rollouts.options import GenerateOptionError, GenerateOptions
from pipelines.rollouts.sample import LoadedProgram, sample_part

__all__ = [
    "GenerateOptionError",
    "GenerateOptions",
    "GenerateWork",
    "derive_seed",
    "generate",
    "generate_spec",
    "planned_rollouts",
]

STAGE_VERSION = shards.STAGE_VERSIONS["generate"]
_LOG = logging.getLogger(__name__)

# Parts of one worker under way at once: what a SIGKILL costs, and what runs alone after one.
_MOST_PARTS = 32

# Of vLLM: how many of the likeliest tokens a request may ask for (EngineArgs.max_logprobs).
VLLM_MAX_LOGPROBS = 20

# sha256 of nothing: what models.chat_template_digest says where there is no template.
_NO_TEMPLATE = hashlib.sha256(b"").hexdigest()


def derive_seed(run_seed: int, round: int, group_id: str, sample_index: int) -> int:  # noqa: A002 - the contract's word
    """The seed of one rollout: the first 63 bits of sha256 over the four in JSON; it holds for a rollout on its own.

    >>> derive_seed(0, 0, "gsm8k-0", 1)
    4933196121887775590
    """
    key = f"[{run_seed},{round},{json.dumps(group_id)},{sample_index}]"
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

    model: a Hugging Face folder, org/name of the hub, or a URL (`pipelines.models.source`).
    The engine's logprobs_mode is set to what this sampling needs.
    Raises what `run_stage` raises; before anything runs also the errors of opening the prompts and of the model folder,
    and FingerprintMismatchError where `out` holds other rollouts.
    """
    from pipelines.parts.job import run_stage

    stage = generate_stage(
        prompts=prompts,
        out=out,
        model=model,
        engine=engine,
        options=options,
        seed=seed,
        round=round,
        overwrite=operations.overwrite,
        journal=operations.journal,
    )
    return run_stage(stage, operations)


def generate_stage(
    *,
    prompts: str,
    out: str,
    model: str,
    engine: EngineOptions,
    options: GenerateOptions,
    seed: int = 0,
    round: int = 0,  # noqa: A002
    overwrite: bool = False,
    journal: bool = True,
) -> Stage:
    """What `generate` runs, checked and ready; its dataset is begun. Raises as that does before anything runs."""
    source, model = shards.open_dataset(prompts), pinned_model(model)
    engine = replace(engine, logprobs_mode=options.sampling.needed_mode)
    spec = generate_spec(source, out=out, model=model, engine=engine, options=options, seed=seed, round=round)
    dataset = shards.create_dataset(out, spec, overwrite=overwrite)
    work = GenerateWork(
        spec=spec,
        prompts=prompts,
        model=model,
        engine=engine,
        options=options,
        seed=seed,
        round=round,
        journals=dataset if journal else None,
    )
    return Stage(dataset=dataset, work=work, runs_model=True, costs=[part.rows for part in source.parts])


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

    Raises StaleInputError, and what `planned_rollouts` raises.
    """
    source.check_inputs()
    prompts = _first_prompts(source)
    messages = any(row["messages"] for row in prompts)
    planned = planned_rollouts(
        describe_model(model), engine=engine, options=options, seed=seed, round=round, messages=messages
    )
    special = special_encoding(load_tokenizer(model), prompts, options=options)
    if "dropped_tokens" in special:
        dropped = ", ".join(special["dropped_tokens"])
        _LOG.warning("The tokenizer of %s puts %s after every text; prompts are given without it.", model, dropped)
    return replace(
        planned,
        options={**planned.options, **special},
        parts=source.spec.parts,
        inputs={"prompts": source.ref(out)},
    )


def planned_rollouts(
    model: ModelFacts,
    *,
    engine: EngineOptions,
    options: GenerateOptions,
    seed: int = 0,
    round: int = 0,  # noqa: A002
    messages: bool = False,
) -> DatasetSpec:
    """What rollouts would be like, whatever their prompts: one part, no inputs. Signals are checked against it.

    messages: whether prompts are messages rather than text.

    Raises GenerateOptionError where the options fit neither engine nor model, ProgramError, and what the engine's
    environment raises.
    """
    if options.sampling.extra and engine.kind not in ("vllm", "server"):
        raise GenerateOptionError(
            f"generate.sampling.extra is {dict(options.sampling.extra)}, which an engine of kind {engine.kind} does "
            "not know; leave it out or use kind vllm."
        )
    if model.chat_template_digest == _NO_TEMPLATE and (options.chat or messages):
        raise GenerateOptionError(
            f"{model.folder} has no chat template, but {'chat is set' if options.chat else 'the prompts are messages'}."
            " Use a model with one (chat_template.jinja), or plain prompts without chat."
        )
    statistics = _token_statistics(options.sampling, engine)
    mode = options.sampling.logprobs_mode
    sampling = {
        **options.sampling.as_options(),
        **_stop_tokens(model.folder, options.sampling),
        "group_size": options.group_size,
        "logprobs_mode": mode,
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
            **_program_options(options),
        },
        parts=1,
        models={"policy": ModelRef(id=model.folder, digest=model.digest)},
        seed=seed,
        environment=engine_environment(model.folder, replace(engine, logprobs_mode=mode)),
        carried={
            "sampling": sampling,
            "tokenizer_digest": model.tokenizer_digest,
            "chat_template_digest": model.chat_template_digest,
            "vocabulary": asdict(model.vocabulary),
            "round": round,
            "policy_digest": model.digest,
            **statistics,
        },
    )


def _token_statistics(sampling: Sampling, engine: EngineOptions) -> dict[str, Any]:
    """How entropy and sum_pi_squared come about, for `_dataset.json`; nothing where they are not stored.

    Raises GenerateOptionError where the engine does not give them.
    """
    wanted = sampling.token_statistics
    where = f"generate.sampling.token_statistics is {wanted}"
    if not wanted:
        return {}
    if engine.kind == "transformers":
        return {"token_statistics": {"of": "all tokens"}}
    if engine.kind != "vllm":
        raise GenerateOptionError(
            f"{where}, which an engine of kind {engine.kind} does not give; set it to 0, or use kind vllm or "
            "transformers."
        )
    most = int(engine.extra.get("max_logprobs", VLLM_MAX_LOGPROBS))
    if wanted > most >= 0:
        raise GenerateOptionError(
            f"{where}, but vLLM lists at most {most} tokens; lower it, or raise engine.extra.max_logprobs."
        )
    return {"token_statistics": {"of": "the likeliest tokens, the rest as one", "tokens": wanted}}


def _program_options(options: GenerateOptions) -> dict[str, Any]:
    """What of a program decides the bytes; without one nothing, so that older datasets keep their fingerprints."""
    program = options.named_program
    if program is None:
        return {}
    program.load()  # one that cannot be called is refused before anything runs
    return {"program": program.path, "program_options": dict(program.options), "program_code": program.code()}


def _first_prompts(source: CompleteDataset) -> list[dict[str, Any]]:
    """The rows of the first part that has any; all rows of a prompts dataset are of one kind, so these tell which."""
    part = next((record.part for record in source.parts if record.rows), None)
    return [] if part is None else source.read_part(part, columns=["prompt", "messages"]).to_pylist()


def _stop_tokens(model: str, sampling: Sampling) -> dict[str, Any]:
    """The stop strings that are special tokens, with their ids, where there are any. Raises GenerateOptionError."""
    if not sampling.stop and not sampling.keep_special_tokens:
        return {}
    try:
        found = stops(load_tokenizer(model), sampling.stop, sampling.keep_special_tokens).tokens
    except EngineOptionError as error:
        raise GenerateOptionError(f"generate.sampling: {error}") from error
    return {"stop_tokens": dict(found)} if found else {}


class GenerateWork(PartWork):
    """The generate stage's `PartWork`."""

    def __init__(
        self,
        *,
        spec: DatasetSpec,
        prompts: str,
        model: str,
        engine: EngineOptions,
        options: GenerateOptions,
        seed: int,
        round: int,  # noqa: A002
        journals: Dataset | None = None,
    ) -> None:
        """journals: the dataset beside which finished rollouts are kept until their part commits; None keeps none."""
        self._spec = spec
        self._prompts_url = prompts
        self._model = model
        self._engine_options = engine
        self._options = options
        self._seed = seed
        self._round = round
        self._journals = Journals(journals)
        self._prompts: CompleteDataset
        self._engine: Engine
        self._seats: int
        self._program: LoadedProgram | None

    def setup(self) -> None:
        """The process's one engine, running this model, the program, and the prompts."""
        from pipelines.engines import acquire

        model = local_model(self._model)
        environment = engine_environment(model, self._engine_options)
        check_worker(self._spec, environment=environment, models={"policy": model_digest(model)})
        program = self._options.named_program
        self._program = None if program is None else program.load()
        self._prompts = reopen(self._prompts_url, "prompts", self._spec)
        self._engine = acquire(model, self._engine_options)
        self._seats = seats(model, self._engine_options)
        if self._options.sampling.extra:
            _try_sampling(self._engine, self._options.sampling)
        self._journals.look()

    def start(self, part: int) -> Future[PartOutput]:
        """Read and encode a part in the caller's thread, so that parts queue up in order; sample it in another."""
        planned = plan_part(
            self._prompts.read_part(part),
            tokenizer=self._engine.tokenizer,
            options=self._options,
            max_model_len=self._engine.max_model_len,
        )
        seeds = {item.prompt_id: self._seeds(item.prompt_id) for item in planned if isinstance(item, PlannedPrompt)}
        self._tell_unspelled(part, planned)
        journal = self._journals.begin(part, inputs=lambda: planned_digest(planned, seeds))
        return in_background(self._sample, planned, seeds, journal)

    def _tell_unspelled(self, part: int, planned: Sequence[PlannedPrompt | Rejection]) -> None:
        lost = unspelled_prompts(planned, tokenizer=self._engine.tokenizer, options=self._options)
        if lost:
            first = next(iter(lost))
            _LOG.warning(
                "rollouts, part %d: %d of %d prompts have characters that the tokenizer cannot spell, so the policy "
                "does not see them (the first, %s: %s); take those prompts out, or sample from a model that knows them",
                part, len(lost), len(planned), first, lost[first][:40],
            )  # fmt: skip

    def look_back(self) -> None:
        """What attempts that ran beside this worker kept is of use as well."""
        self._journals.look()

    def forget(self, part: int) -> None:
        """Discard the part's journals."""
        self._journals.forget(part)

    def has_room(self, parts: int) -> bool:
        """For what keeps the engine full: a part's last rollouts leave seats empty long before it is complete."""
        if super().has_room(parts):
            return True
        if parts >= _MOST_PARTS:
            return False
        wanted = self._engine.width * self._seats * 9 // 8  # an eighth waits for the next free seats
        return self._engine.in_flight < wanted

    def _sample(
        self, planned: Sequence[PlannedPrompt | Rejection], seeds: Mapping[str, Sequence[int]], journal: Journal | None
    ) -> PartOutput:
        sample = partial(
            sample_part,
            self._engine,
            planned,
            program=self._program,
            sampling=self._options.sampling,
            seeds=seeds,
        )
        return sample() if journal is None else with_journal(sample, journal)

    def _seeds(self, prompt_id: str) -> list[int]:
        return [derive_seed(self._seed, self._round, prompt_id, index) for index in range(self._options.group_size)]


def _try_sampling(engine: Engine, sampling: Sampling) -> None:
    """Sample one token, so that a value the engine refuses stops the stage and not every rollout of it."""
    prompt = [int(engine.tokenizer.eos_token_id or 0)]
    try:
        engine.submit(SampleRequest(prompt_token_ids=prompt, seed=0, sampling=replace(sampling, max_tokens=1))).result()
    except RequestRejected as error:
        raise GenerateOptionError(f"generate.sampling.extra is {dict(sampling.extra)}: {error}") from error
