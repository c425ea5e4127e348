"""`EngineHandler`: the project's engine behind Beam's RunInference, with a seed and sampling options for each element.

requests | RunInference(EngineHandler(model, options))     # -> PredictionResult(example, Completion | Refused)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from pass_ops.errors import PassError
from pipelines.beam.tables import as_row
from pipelines.engines import (
    Engine,
    EngineOptionError,
    EngineOptions,
    RequestRejected,
    Sample,
    SampleRequest,
    Sampling,
    acquire,
)
from pipelines.engines.prompts import encode_prompt
from pipelines.options import build
from pipelines.runners.quiet import beam as _  # noqa: F401 - Beam's import without its warning comes first

from apache_beam.ml.inference.base import ModelHandler, PredictionResult  # isort: skip

_FIELDS = ("prompt", "messages", "prompt_token_ids", "seed", "sampling")


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What was sampled for one element; the lists are Python's, one value a token.

    behavior_logprobs: natural log, of the sampled tokens, after temperature and cuts unless the temperature is 0 or 1.
    entropy, sum_pi_squared: where `Sampling.token_statistics` asks for them.
    """

    prompt_token_ids: list[int]
    token_ids: list[int]
    behavior_logprobs: list[float]
    finish_reason: str
    text: str
    seed: int
    entropy: list[float] | None = None
    sum_pi_squared: list[float] | None = None

    def as_rollout(self, *, group_id: str, sample_index: int, answer: str | None = None) -> dict[str, Any]:
        """The row of a `rollouts` dataset that it is, every token unmasked."""
        return {
            "group_id": group_id,
            "sample_index": sample_index,
            "rollout_id": f"{group_id}/{sample_index}",
            "prompt_token_ids": self.prompt_token_ids,
            "token_ids": self.token_ids,
            "text": self.text,
            "behavior_logprobs": self.behavior_logprobs,
            "loss_mask": [True] * len(self.token_ids),
            "finish_reason": self.finish_reason,
            "seed": self.seed,
            "answer": answer,
            **({} if self.entropy is None else {"entropy": self.entropy, "sum_pi_squared": self.sum_pi_squared}),
        }


@dataclass(frozen=True, kw_only=True)
class Refused:
    """Why one element has no completion: a short stable name, the figures, and whether asking again may help."""

    reason: str
    detail: str
    transient: bool = False


@dataclass(frozen=True, kw_only=True)
class _Form:
    """How a prompt becomes token ids; see `pipelines.engines.prompts.PromptForm`."""

    chat: bool
    system: str | None
    chat_template_kwargs: Mapping[str, Any]


class EngineHandler(ModelHandler[Any, PredictionResult, Engine]):
    """A RunInference handler whose model is this process's one engine (`pipelines.engines.acquire`).

    An element is a `SampleRequest`, or a dict (`beam.Row`, named tuple) of one of prompt, messages and
    prompt_token_ids, with a seed of its own (0 to 2**63 - 1) and, where it differs from the handler's, sampling: a
    `Sampling`, or a dict of its options that are to change. The answer is a PredictionResult whose inference is a
    `Completion`, or `Refused` where this one element cannot be answered; those beside it are not touched. Its seed
    alone decides what is sampled, not its batch (bit for bit on engines that are deterministic).

    Args:
        model: a folder, or hf://OWNER/NAME, that every worker can read.
        options: of the engine. Its logprobs_mode follows from `sampling`: an element that needs the other mode (say
            temperature 0.7 beside a truncated 1.0) is refused, bad_sampling.
        sampling: for elements that name none.
        chat, system, chat_template_kwargs: as in `GenerateOptions`.
        min_batch_size, max_batch_size: of RunInference's batches. A batch is done when its longest completion is, so it
            should hold several times the engine's max_num_seqs.
        resources: Beam resource hints for the workers ({"accelerator": ...}).

    The engine outlives the transform: `pipelines.engines.release()` ends it in a process that goes on, as a direct
    runner's does. Beam's model updates (`watch_model_pattern`, `model_metadata_pcoll`) load the new folder's weights.
    An engine that dies fails the bundle (EngineDead), which the runner tries again with another one. `inference_args`
    are refused (EngineOptionError), for they would hold for all elements alike.
    """

    def __init__(
        self,
        model: str,
        options: EngineOptions | None = None,
        *,
        sampling: Sampling | None = None,
        chat: bool = False,
        system: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        min_batch_size: int | None = None,
        max_batch_size: int | None = 1024,
        resources: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(min_batch_size=min_batch_size, max_batch_size=max_batch_size)
        options, sampling = options or EngineOptions(), sampling or Sampling()
        if options.pooling is not None:
            raise EngineOptionError("pooling is set, but this handler samples; leave it out")
        self._model = model
        self._options = replace(options, logprobs_mode=sampling.needed_mode)
        self._sampling = sampling
        self._form = _Form(chat=chat, system=system, chat_template_kwargs=dict(chat_template_kwargs or {}))
        self._resources = dict(resources or {})

    def load_model(self) -> Engine:
        """The process's engine. Once a process: RunInference shares it among its threads."""
        return acquire(self._model, self._options)

    def update_model_path(self, model_path: str | None = None) -> None:
        """Another folder's weights from the next `load_model` on."""
        self._model = model_path or self._model

    def validate_inference_args(self, inference_args: dict[str, Any] | None) -> None:
        """Refuse them."""
        if inference_args:
            raise EngineOptionError(
                f"inference_args {', '.join(inference_args)} would hold for all elements; give each element its own "
                "sampling, or the handler the default"
            )

    def run_inference(
        self,
        batch: Sequence[Any],
        model: Engine,
        inference_args: dict[str, Any] | None = None,  # noqa: ARG002 - RunInference's
    ) -> Iterator[PredictionResult]:
        """Ask for all of a batch at once, then answer in its order."""
        engine = acquire(self._model, self._options) if model.dead or model.asleep else model
        asked = [self._ask(engine, element) for element in batch]
        try:
            answers = [_answer(request) for request in asked]
        except BaseException:
            engine.drop([request[1] for request in asked if isinstance(request, tuple)])
            raise
        for element, answer in zip(batch, answers, strict=True):
            yield PredictionResult(example=element, inference=answer, model_id=self._model)

    def get_num_bytes(self, batch: Sequence[Any]) -> int:
        """Four bytes a prompt token, one a character; Beam's default pickles the batch to know."""
        return sum(map(_size, batch))

    def get_metrics_namespace(self) -> str:
        """`passrl`."""
        return "passrl"

    def get_resource_hints(self) -> dict[str, str]:
        """Those given."""
        return self._resources

    def _ask(self, engine: Engine, element: Any) -> tuple[SampleRequest, Future[Sample]] | Refused:
        try:
            request = self._request(engine, element)
            self._check_mode(request.sampling)
            return request, engine.submit(request)
        except RequestRejected as error:
            return _refused(error)
        except Exception as error:  # whatever an element holds, it costs no other
            if isinstance(error, MemoryError):
                raise
            detail = str(error) if isinstance(error, PassError) else f"{type(error).__name__}: {error}"
            return Refused(reason="bad_request", detail=detail)

    def _request(self, engine: Engine, element: Any) -> SampleRequest:
        if isinstance(element, SampleRequest):
            return element
        row = as_row(element)
        if row is None:
            raise RequestRejected("bad_request", f"expected a SampleRequest or a dict, got {type(element).__name__}")
        if strange := sorted(set(row) - set(_FIELDS)):
            raise RequestRejected("bad_request", f"{', '.join(strange)} is none of {', '.join(_FIELDS)}")
        given = [name for name in _FIELDS[:3] if row.get(name) is not None]
        if len(given) != 1 or row.get("seed") is None:
            found = ", ".join(name for name in _FIELDS if row.get(name) is not None) or "nothing"
            raise RequestRejected("bad_request", f"needs seed and one of {', '.join(_FIELDS[:3])}; it has {found}")
        ids = row.get("prompt_token_ids")
        if ids is None:
            ids = encode_prompt(engine.tokenizer, row.get("prompt"), row.get("messages"), options=self._form)
        return SampleRequest(
            prompt_token_ids=[int(token) for token in ids], seed=row["seed"], sampling=self._sampling_of(row)
        )

    def _sampling_of(self, row: Mapping[str, Any]) -> Sampling:
        given = row.get("sampling")
        if isinstance(given, Sampling) or given is None:
            return given or self._sampling
        return build(Sampling, {**self._sampling.as_options(), **given}, where="sampling", error=EngineOptionError)

    def _check_mode(self, sampling: Sampling) -> None:
        mode, needed = self._options.logprobs_mode, sampling.needed_mode
        if mode == "either" and self._options.kind != "server":
            mode = "processed_logprobs"  # what `acquire` makes of it
        if needed not in ("either", mode):
            raise RequestRejected(
                "bad_sampling",
                f"its log-probabilities are {needed}, and this engine gives those of the handler's sampling; "
                "ask another handler",
            )


def _answer(asked: tuple[SampleRequest, Future[Sample]] | Refused) -> Completion | Refused:
    """Raises what is wrong with the engine."""
    if isinstance(asked, Refused):
        return asked
    request, future = asked
    try:
        sample = future.result()
    except RequestRejected as error:
        return _refused(error)
    return Completion(
        prompt_token_ids=[int(token) for token in request.prompt_token_ids],
        token_ids=sample.token_ids.tolist(),
        behavior_logprobs=sample.logprobs.tolist(),
        finish_reason=sample.finish_reason,
        text=sample.text,
        seed=int(request.seed),
        entropy=None if sample.statistics is None else sample.statistics[0].tolist(),
        sum_pi_squared=None if sample.statistics is None else sample.statistics[1].tolist(),
    )


def _refused(error: RequestRejected) -> Refused:
    return Refused(reason=error.reason, detail=error.detail, transient=error.transient)


def _size(element: Any) -> int:
    ids: Any = getattr(element, "prompt_token_ids", None)
    row = as_row(element)
    if row is not None:
        ids = row.get("prompt_token_ids")
        if ids is None:
            return len(str(row.get("prompt") or row.get("messages") or ""))
    return 4 * len(ids) if ids is not None else 0
