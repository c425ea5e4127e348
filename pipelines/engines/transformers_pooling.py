"""Classifiers of tokens in Hugging Face transformers: what vLLM's pooling is held against, and what vLLM lacks.

Legend: _B rows of a batch, _T tokens, _C classes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Any

import numpy as np
import torch

from pipelines.engines.base import EngineOptionError, EngineOptions
from pipelines.engines.device import device_kind, free_cached_memory, resolve_dtype
from pipelines.engines.driver import Answer, PoolRequest
from pipelines.engines.text import class_tokens
from pipelines.engines.transformers_common import batch_size
from pipelines.models.folder import load_tokenizer, read_config
from trainer.loading import context_length, load_model

#: of EngineOptions.pooling; the names are vLLM's, `tokens` is ours
KNOWN = frozenset({"pooling_type", "step_tag_id", "use_activation", "tokens"})


class TransformersPoolingBackend:
    """A token classifier behind the driver's five calls; see `driver.Backend`.

    By the checkpoint's architecture: Qwen2ForProcessRewardModel; any ...ForTokenClassification that transformers has; a
    ...ForCausalLM with pooling.tokens, whose classes are those tokens' logits.
    """

    pools = True

    def __init__(self, model: str, options: EngineOptions) -> None:
        pooling = dict(options.pooling or {})
        if unknown := set(pooling) - KNOWN:
            raise EngineOptionError(
                f"pooling.{min(unknown)} is unknown to the transformers engine; it has {', '.join(sorted(KNOWN))}."
            )
        self._batch_size = batch_size(options)
        self._tag = pooling.get("step_tag_id") if pooling.get("pooling_type", "ALL") == "STEP" else None
        self._softmax = pooling.get("use_activation") is not False
        self._dtype = getattr(torch, resolve_dtype(model, options))
        self._device = torch.device(device_kind())
        self.tokenizer = load_tokenizer(model)
        self._tokens = class_tokens(self.tokenizer, pooling.get("tokens", ()))
        self.load_weights(model)
        config = self._model.config
        self.max_model_len = options.max_model_len or context_length(config)
        self.vocab_size = int(config.get_text_config(decoder=True).vocab_size)
        self._waiting: deque[tuple[int, PoolRequest]] = deque()

    def load_weights(self, model: str) -> None:
        """Load the folder's model anew."""
        loaded = load_model(_model_class(model, with_tokens=bool(self._tokens)), model, dtype=self._dtype)
        self._model: Any = loaded.to(self._device)

    def add(self, key: int, request: PoolRequest) -> None:
        """Keep a request for a batch."""
        self._waiting.append((key, request))

    def step(self) -> list[tuple[int, Answer]]:
        """One batch: the first requests that wait, padded on the right, which causal attention does not see."""
        batch = [self._waiting.popleft() for _ in range(min(self._batch_size, len(self._waiting)))]
        rows = [torch.tensor(np.asarray(request.token_ids)) for _, request in batch]
        ids_BT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self._device)
        with torch.inference_mode():
            logits_BTC = self._logits(ids_BT, lengths=[len(row) for row in rows])
        if self._softmax:
            logits_BTC = logits_BTC.softmax(-1) if logits_BTC.shape[-1] > 1 else logits_BTC.sigmoid()
        return [(key, self._answer(logits_BTC[b], rows[b])) for b, (key, _) in enumerate(batch)]

    def drop(self, keys: Collection[int]) -> None:
        """Forget them; a batch once begun is over before its driver can say so."""
        self._waiting = deque(work for work in self._waiting if work[0] not in keys)

    def sleep(self) -> None:
        """Give the weights up; `wake` loads a folder's anew."""
        self._model = None
        free_cached_memory()

    def wake(self, model: str) -> None:
        """Load the folder's model."""
        self.load_weights(model)

    def close(self) -> None:
        """Free the model."""
        self.sleep()

    def _logits(self, ids_BT: torch.Tensor, *, lengths: list[int]) -> torch.Tensor:
        if type(self._model).__name__ == "Qwen2ForProcessRewardModel":
            logits_BTC: torch.Tensor = self._model(ids_BT)
        else:
            mask_BT = torch.arange(ids_BT.shape[1]).expand_as(ids_BT) < torch.tensor(lengths).unsqueeze(1)
            logits_BTC = self._model(input_ids=ids_BT, attention_mask=mask_BT.to(ids_BT)).logits
        return (logits_BTC[..., self._tokens] if self._tokens else logits_BTC).float().cpu()

    def _answer(self, classes_TC: torch.Tensor, ids_T: torch.Tensor) -> Answer:
        classes_TC = classes_TC[: len(ids_T)]
        return np.asarray(classes_TC if self._tag is None else classes_TC[ids_T == self._tag], dtype=np.float32)


def _model_class(model: str, *, with_tokens: bool) -> Any:
    """The class of a checkpoint that can classify tokens. Raises EngineOptionError for any other."""
    import transformers

    name = (read_config(model).get("architectures") or ["none"])[0]
    if name == "Qwen2ForProcessRewardModel":
        from pipelines.engines.process_reward import Qwen2ForProcessRewardModel

        return Qwen2ForProcessRewardModel
    if name.endswith("ForTokenClassification"):
        return transformers.AutoModelForTokenClassification
    if name.endswith("ForCausalLM") and with_tokens:
        return transformers.AutoModelForCausalLM
    raise EngineOptionError(
        f"{model} is a {name}, which does not classify tokens; give a Qwen2ForProcessRewardModel, a "
        "...ForTokenClassification, or a ...ForCausalLM together with pooling.tokens."
    )
