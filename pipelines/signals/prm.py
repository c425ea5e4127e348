"""Signal `prm`: a process reward model's score of every step.

The model reads the task and the steps as text, by its own tokenizer, each step followed by a tag; what its head says at
the tag is the step's score. Step ends are the policy's tokens all the same (`pipelines.signals.steps`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from annotated_types import MinLen
from numpy.typing import NDArray
from pydantic import Strict

from pass_ops.reading.ragged import list_array, offsets
from pass_ops.shards import DatasetSpec, ModelRef
from pipelines.engines.base import Engine, EngineOptionError, EngineOptions
from pipelines.engines.environment import engine_environment
from pipelines.engines.text import class_tokens
from pipelines.models.folder import chat_template_digest, load_tokenizer, model_digest, tensor_shapes, tokenizer_digest
from pipelines.models.source import pinned_model
from pipelines.options import Url, options
from pipelines.signals.base import Row, SignalOptionError
from pipelines.signals.columns import columnar_sidecar
from pipelines.signals.kept import FLOAT32, Answered, AskingSignal, answered, request_name, then
from pipelines.signals.spelled import all_protected, encode, protected
from pipelines.signals.stepwise import STEP_COLUMNS, StepwiseSignal, tasks


@options(SignalOptionError)
class PrmSignal(StepwiseSignal, AskingSignal):
    r"""A process reward model's probability that each step is right, 0 to 1.

    The task and the steps are text to it: a tag in a step is left out, and names of special tokens are spelled out.
    A rollout that does not fit the model's context is too_long. Two models, by their cards:

    Qwen2.5-Math-PRM: chat = true, system = "Please reason step by step, and put your final answer within \boxed{}."
    Math-Shepherd: tag = " ки", between = "\n", template = "{prompt} {steps}", tokens = ["▁-", "▁+"]
    """

    kind: ClassVar[str] = "process_steps"

    model: Url
    """The reward model's folder: a Qwen2ForProcessRewardModel (Qwen2.5-Math-PRM); a ...ForTokenClassification with
    engine.kind "transformers"; or, with tokens, a causal language model (Math-Shepherd). Example: "my/prm"."""
    engine: EngineOptions | None = None
    """How the model is run, with the keys of [engine]; pooling follows from the options here (default: kind, device,
    dtype and use of the machine as [engine] says)."""
    tag: Annotated[str, MinLen(1)] = "<extra_0>"
    """Text after each step, at whose last token the score is read."""
    between: str = ""
    """Text after each tag."""
    template: str = "{prompt}{steps}"
    """What the model reads; {steps} stands for the tagged steps."""
    chat: bool = False
    """Uses the model's own chat template instead: system, the task as the user's message, the steps as the
    assistant's."""
    system: str | None = None
    """The system message with chat = true. Example: "Please reason step by step."."""
    tokens: Annotated[tuple[str, str], Strict(False)] | None = None
    """[bad, good]: two tokens whose next-token logits are the classes of a causal language model, as entries of its
    vocabulary in the form that its tokenizer makes of their text. Example: ["▁-", "▁+"]."""
    positive: int = -1
    """Index of the class that means right; a model with a single class is read through a sigmoid."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.chat and self.template.count("{steps}") != 1:
            raise SignalOptionError(f"template is {self.template!r}; it must have {{steps}} once, and {{prompt}}")
        if self.system is not None and not self.chat:
            raise SignalOptionError("system is set, but chat is false: write it into template, or set chat = true")
        if self.engine is not None and self.engine.pooling is not None:
            raise SignalOptionError("engine.pooling is set; a PRM's pooling follows from this signal's own options")

    @property
    def _engine(self) -> EngineOptions:
        """Raw logits of every position: which of them are tags, and what becomes of the logits, is decided here."""
        pooling: dict[str, Any] = {"pooling_type": "ALL", "use_activation": False}
        pooling |= {"tokens": list(self.tokens)} if self.tokens else {}
        return replace(self.engine or EngineOptions(), pooling=pooling, logprobs_mode="either")

    def run_with(self, engine: EngineOptions) -> Self:
        """As a model beside the policy, where no engine is given, and on its device, where none is."""
        own = engine.for_another_model() if self.engine is None else self.engine.on_device_of(engine)
        return replace(self, engine=own)

    def engines(self) -> Mapping[str, EngineOptions]:
        """The process reward model."""
        return {self.model: self._engine}

    def options(self) -> dict[str, Any]:
        """All but the model and its engine, which stand in `models` and `environment`."""
        return {name: value for name, value in super().options().items() if name not in ("model", "engine")}

    def models(self) -> dict[str, ModelRef]:
        """The process reward model."""
        return {"prm": ModelRef(pinned_model(self.model), model_digest(self.model))}

    def environment(self) -> dict[str, Any]:
        """The engine's libraries, dtype and device, and how the model reads text."""
        found = engine_environment(self.model, self._engine) | {"prm_tokenizer": tokenizer_digest(self.model)}
        return found | ({"prm_chat_template": chat_template_digest(self.model)} if self.chat else {})

    def check(self, rollouts: DatasetSpec, inputs: Mapping[str, DatasetSpec]) -> None:
        """As `check_model`: any rollouts will do."""
        self.check_model()

    def check_model(self) -> None:
        """The model has weights, and its tokenizer finds the tag where it is written. Raises SignalOptionError."""
        tensor_shapes(self.model)
        tokenizer = load_tokenizer(self.model)
        if self.tokens is not None:
            _check_tokens(tokenizer, self.tokens)
        known = tokenizer(self.tag, add_special_tokens=False).input_ids
        if not known or (tokenizer.unk_token_id is not None and tokenizer.unk_token_id in known):
            raise SignalOptionError(f"tag is {self.tag!r}, which the tokenizer of {self.model} does not know")
        if len(self._read(tokenizer, "1", ["2", "3"])[1]) != 2:
            raise SignalOptionError("the model's chat template does not keep the steps; write a template instead")

    @property
    def reads(self) -> tuple[str, ...]:
        """What steps are cut from, and the group, which is the prompt's."""
        return STEP_COLUMNS

    def score(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> pa.Table:
        """Ask about every rollout at once, then collect in order."""
        cuts = self.cut(rollouts)
        scores, found = self.step_scores(tasks(rollouts, inputs["prompts"]), [steps.texts for steps in cuts])
        values = {"process_scores": scores, "process_ends": [steps.ends for steps in cuts]}
        return columnar_sidecar(self.kind, rollouts, values, status=found.status, detail=found.detail)

    def step_scores(self, tasks: Sequence[str], steps: Sequence[Sequence[str]]) -> tuple[pa.ListArray, Answered]:
        """The scores of each task's steps, both given as text, null where status is not ok; all are asked at once."""
        from pipelines.engines import acquire

        engine = acquire(self.model, self._engine)
        found = answered([self._ask(engine, task, texts) for task, texts in zip(tasks, steps, strict=True)])
        counts_R = np.where(found.ok_R, [len(texts) for texts in steps], 0).astype(np.int64)
        asked, scores_K = int(counts_R.sum()), np.empty(0, np.float32)
        if asked:  # else nobody has said how many classes there are
            scores_K = right_probability(found.values_N.reshape(asked, -1), positive=self.positive)
        return list_array(offsets(counts_R), scores_K, valid_R=found.ok_R), found

    def _ask(self, engine: Engine, task: str, texts: Sequence[str]) -> Row | Future[NDArray[np.float32]]:
        """The request, or the row where there is nothing to ask."""
        if not texts:
            return Row()
        ids, places = self._read(engine.tokenizer, task, texts)
        if len(ids) > engine.max_model_len:
            return Row("too_long", f"{len(ids)} of the PRM's tokens, it takes {engine.max_model_len}")
        if len(places) != len(texts):
            return Row("error", f"the PRM's tokenizer shows {len(places)} tags for {len(texts)} steps")
        token_ids = np.array(ids, np.int32)
        return self._answers.ask(
            request_name(token_ids, places),
            lambda: then(engine.pool(token_ids), lambda logits_TC: logits_TC[places].ravel()),
            FLOAT32,
        )

    def _read(self, tokenizer: Any, task: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
        """The model's token ids, and for each step the index of the token that ends its tag."""
        clean = all_protected(tokenizer, [without(step, self.tag) for step in steps])
        text, tag_ends = tagged(clean, tag=self.tag, between=self.between)
        whole = self._around(tokenizer, protected(tokenizer, task), text)
        start = whole.rfind(text)
        if start < 0:
            return [], []
        ends = [start + end - 1 for end in tag_ends]
        ids, places = encode(tokenizer, whole, add_special_tokens=not self.chat, characters=ends)
        return ids, sorted(set(places) - {-1})

    def _around(self, tokenizer: Any, task: str, steps: str) -> str:
        if not self.chat:
            return self.template.replace("{prompt}", task).replace("{steps}", steps)
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        messages += [{"role": "user", "content": task}, {"role": "assistant", "content": steps}]
        return str(tokenizer.apply_chat_template(messages, tokenize=False))


def _check_tokens(tokenizer: Any, tokens: Sequence[str]) -> None:
    try:
        ids = class_tokens(tokenizer, tokens)
    except EngineOptionError as error:
        raise SignalOptionError(str(error)) from error
    if len(set(ids)) < len(ids):
        raise SignalOptionError(f"tokens is {list(tokens)}; give two different tokens, [bad, good]")


def without(step: str, tag: str) -> str:
    r"""The step without the tag, which would be a place to score of the policy's own choice.

    >>> without("1 <t<t>>2", "<t>"), without("a\nb", "\n")
    ('1 2', 'a\nb')
    """
    while tag.strip() and tag in step:
        step = step.replace(tag, "")
    return step


def tagged(steps: Sequence[str], *, tag: str, between: str) -> tuple[str, list[int]]:
    """The steps as the model reads them, and where each one's tag ends.

    >>> tagged(["1+1=2", "so 2"], tag=" #", between="|")
    ('1+1=2 #|so 2 #|', [7, 14])
    """
    text, ends = "", []
    for step in steps:
        text += step + tag
        ends.append(len(text))
        text += between
    return text, ends


def right_probability(logits_KC: NDArray[np.float32], *, positive: int) -> NDArray[np.float32]:
    """softmax(logits)[positive] of K steps with C classes; with one class its sigmoid.

    >>> right_probability(np.array([[0.0, 0.0], [0.0, 2.0]], dtype=np.float32), positive=-1).round(3).tolist()
    [0.5, 0.8809999823570251]
    """
    logits_KC = np.asarray(logits_KC, dtype=np.float64)
    if logits_KC.shape[-1] == 1:
        logits_KC = np.concatenate([np.zeros_like(logits_KC), logits_KC], axis=-1)
    powers_KC = np.exp(logits_KC - logits_KC.max(axis=-1, keepdims=True))
    return np.asarray(powers_KC[:, positive] / powers_KC.sum(axis=-1), dtype=np.float32)
