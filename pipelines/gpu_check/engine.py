"""Checks of what the engine says: against transformers, after a reload, and against the trainer.

Legend: _T tokens of one completion.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.engines import Engine, EngineOptions, SampleRequest, Sampling, start_engine
from pipelines.gpu_check.base import CheckOptions, Limit, Machine, Result, judged
from pipelines.gpu_check.models import CONTEXT, SHAPES, model_folder, sizes
from pipelines.gpu_check.training import train_options
from trainer import load_policy

Head = Literal["float32", "bfloat16"]
# float32 sums in another order; on a GPU vLLM's attention kernels multiply in TF32 (Triton's default), as we read them.
# A wrong position, mask or weight is off by tenths of a nat.
SAME = {"cpu": Limit(high=1e-4), "cuda": Limit(high=0.03)}
MOVED = Limit(low=0.1)
# Published RMS of log-probability differences, Qwen2.5-7B: 0.0392 with bfloat16 heads, 0.0227 with float32 heads
# (ServiceNow/Fast-LLM#525).
MISMATCH: dict[tuple[Head, Head], Limit] = {
    ("bfloat16", "bfloat16"): Limit(high=0.06),
    ("float32", "float32"): Limit(high=0.04),
}
HEADS: tuple[Head, ...] = ("bfloat16", "float32")


@dataclass(frozen=True, kw_only=True)
class Text:
    """A completion: prompt and sampled token ids, and the log-probabilities that came with them."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs_T: NDArray[np.float32]


def check_engine(machine: Machine, options: CheckOptions) -> Result:
    """The engine in float32: log-probabilities of sampled and of given tokens against transformers."""
    folder = model_folder(machine, options, sizes(machine).small)
    engine = start_engine(folder, engine_options(machine, dtype="float32"))
    sampled = drawn(engine, _prompts(machine), tokens=_length(machine))
    given = scored(engine, sampled)
    engine.close()
    plain = score_plain(folder, sampled)
    figures = {
        "tokens": sum(len(text.tokens) for text in sampled),
        "sampled_difference": largest((text.logprobs_T for text in sampled), plain),
        "scored_difference": largest(given, plain),
    }
    same = SAME[machine.device]
    return judged(machine, figures, {"sampled_difference": same, "scored_difference": same})


def check_reload(machine: Machine, options: CheckOptions) -> Result:
    """Weights replaced in a running engine, whose graphs were captured with the old ones, and put back."""
    name = sizes(machine).small
    first, second = (model_folder(machine, options, name, seed=seed) for seed in (0, 1))
    engine, found = start_engine(first, engine_options(machine, dtype="float32", graphs=True)), []
    for folder in (first, second, first):
        engine.load_weights(folder)
        found.append(drawn(engine, _prompts(machine), tokens=_length(machine)))
    engine.close()
    old = [score_plain(first, texts) for texts in found]
    new = score_plain(second, found[1])
    figures = {
        "before_difference": largest((text.logprobs_T for text in found[0]), old[0]),
        "new_weights_difference": largest((text.logprobs_T for text in found[1]), new),
        "old_weights_difference": largest(old[1], new),
        "back_again_difference": largest((text.logprobs_T for text in found[2]), old[2]),
    }
    same = SAME[machine.device]
    limits = {"new_weights_difference": same, "back_again_difference": same, "before_difference": same}
    return judged(machine, figures, {**limits, "old_weights_difference": MOVED})


def check_mismatch(machine: Machine, options: CheckOptions) -> Result:
    """Sampler against trainer in bfloat16, with the head of each in bfloat16 and in float32."""
    folder = model_folder(machine, options, sizes(machine).small)
    figures: dict[str, float] = {}
    limits: dict[str, Limit] = {}
    for sampler in HEADS:
        engine = start_engine(folder, engine_options(machine, dtype="bfloat16", head=sampler))
        texts = drawn(engine, _prompts(machine), tokens=_length(machine))
        engine.close()
        for trainer, scores in score_by_trainer(machine, folder, texts).items():
            off = np.concatenate([text.logprobs_T - score for text, score in zip(texts, scores, strict=True)])
            pair = f"sampler_{sampler}_trainer_{trainer}"
            figures[f"rms_{pair}"] = float(np.sqrt(np.mean(off**2)))
            figures[f"mean_exp_{pair}"] = float(np.exp(np.abs(off)).mean())
            if (limit := MISMATCH.get((sampler, trainer))) is not None:
                limits[f"rms_{pair}"] = replace(limit, speed=True)  # a tiny model's logits are not as wide
    return judged(machine, figures, limits)


def engine_options(
    machine: Machine, *, dtype: Literal["float32", "bfloat16"], head: Head | None = None, graphs: bool = False
) -> EngineOptions:
    """How the checks run vLLM; without compiled graphs, which take a minute to make, where they are not the point."""
    extra: dict[str, Any] = {} if graphs else {"enforce_eager": True}
    extra |= {} if head is None else {"hf_overrides": {"head_dtype": head}}
    seats = 32 if machine.device == "cpu" else None  # by card and model
    return EngineOptions(dtype=dtype, max_model_len=CONTEXT // 4, max_num_seqs=seats, kv_cache_gib=0.25, extra=extra)


def score_plain(folder: str, texts: Sequence[Text]) -> list[NDArray[np.float32]]:
    """Log-probabilities by transformers, float32."""
    engine = start_engine(folder, EngineOptions(kind="transformers", dtype="float32"))
    found = scored(engine, texts)
    engine.close()
    return found


def score_by_trainer(machine: Machine, folder: str, texts: Sequence[Text]) -> Mapping[Head, list[NDArray[np.float32]]]:
    """Log-probabilities by the trainer in bfloat16, for each type of its head."""
    found: dict[Head, list[NDArray[np.float32]]] = {}
    for head in HEADS:
        options = replace(
            train_options(machine),
            compute_dtype="bfloat16",
            head_dtype="float32" if head == "float32" else "compute",
            gradient_checkpointing=False,
        )
        policy = load_policy(folder, options)
        found[head] = [_trainer_logprobs(policy, text) for text in texts]
        del policy
    return found


def drawn(engine: Engine, prompts: Sequence[Sequence[int]], *, tokens: int) -> list[Text]:
    """One rollout of each prompt, of exactly so many tokens."""
    sampling = Sampling(max_tokens=tokens, ignore_eos=True)
    asked = [
        engine.submit(SampleRequest(prompt_token_ids=prompt, seed=seed, sampling=sampling))
        for seed, prompt in enumerate(prompts)
    ]
    answers = [future.result() for future in asked]
    return [
        Text(prompt=tuple(prompt), tokens=tuple(answer.token_ids.tolist()), logprobs_T=answer.logprobs)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def scored(engine: Engine, texts: Sequence[Text]) -> list[NDArray[np.float32]]:
    """What an engine says of given completions."""
    asked = [engine.score([*text.prompt, *text.tokens], start=len(text.prompt)) for text in texts]
    return [future.result() for future in asked]


def largest(ours: Iterable[NDArray[np.float32]], theirs: Iterable[NDArray[np.float32]]) -> float:
    """The largest |a - b| over all tokens, in nats."""
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))


def random_prompts(vocabulary: int, *, count: int, longest: int) -> list[list[int]]:
    """Prompts of random tokens and lengths, the same each time."""
    rng = np.random.default_rng(0)
    return [rng.integers(260, vocabulary, rng.integers(4, longest)).tolist() for _ in range(count)]


@torch.no_grad()
def _trainer_logprobs(policy: Any, text: Text) -> NDArray[np.float32]:
    ids_1S = torch.tensor([[*text.prompt, *text.tokens]], device=policy.device)
    select_N = torch.arange(len(text.prompt) - 1, ids_1S.shape[1] - 1, device=policy.device)
    found = policy.scorer(ids_1S, None, select_N, ids_1S[0, len(text.prompt) :], 1.0)
    return np.asarray(found[0].float().cpu(), dtype=np.float32)


def _prompts(machine: Machine) -> list[list[int]]:
    vocabulary = SHAPES[sizes(machine).small]["vocab_size"]
    few = machine.device == "cpu"
    return random_prompts(vocabulary, count=8 if few else 64, longest=24 if few else 256)


def _length(machine: Machine) -> int:
    return 12 if machine.device == "cpu" else 128
