"""The old policy's log-probabilities, recomputed once before the first update, and how far they are from the sampler's.

    OUT/old/part-000000.npy     float32, one per completion token of the part; NaN where no step reads it
    OUT/old/audit.json          written last: tokens, mismatch, the worst rollouts

Dimensions: _C completion tokens of a part, _N tokens with a loss, _R rollouts.
"""

from __future__ import annotations

import io
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pass_ops.shards import Store
from trainer.ahead import ReadAhead
from trainer.batching import build_micro_batch, check_ids, plan_micro_batches
from trainer.data import REMOTE_READERS, RowIndex, TrainData
from trainer.errors import NonFiniteTrainingError, StateError, TrainingStoppedError
from trainer.policy import Policy
from trainer.records import parse_json, write_json
from trainer.rollouts import Rollouts, kept_tokens
from trainer.stream import decode_part, old_file

log = logging.getLogger(__name__)
AUDIT = "audit.json"
NOTABLE = 1.05  # what NeMo-RL calls worth a look (its token_mult_prob_error)
WORST = 8


@dataclass(frozen=True, kw_only=True)
class Audit:
    """mismatch: mean over tokens of exp(|log old - log behavior|), 1 = none. worst: the rollouts with the largest mean,
    in descending order.
    """

    tokens: int
    mismatch: float
    worst: list[tuple[str, float]]


def recompute_old(
    data: TrainData,
    index: RowIndex,
    wanted_R: NDArray[np.bool_],
    *,
    policy: Policy,
    folder: Path,
    temperature: float,
    limit: float | None,
) -> Audit:
    """One pass over the rollouts wanted_R of the index; if the folder has its result already, that is returned.

    Raises TrainingStoppedError where the mismatch exceeds `limit`, NonFiniteTrainingError where the policy gives a
    log-probability that is not finite.
    """
    path, world = folder / AUDIT, policy.world
    if not world.on_main(path.exists):
        folder.mkdir(parents=True, exist_ok=True)
        found = _measure(data, index, wanted_R, folder=folder, policy=policy, temperature=temperature)
        world.on_main(lambda: write_json(path, asdict(found)))
    fix = f"remove {folder}: the log-probabilities are computed again"
    audit = parse_json(Audit, path.read_bytes(), where=str(path), error=StateError, fix=fix)
    if limit is not None and audit.mismatch > limit:
        shown = ", ".join(f"{rollout} ({value:.3f})" for rollout, value in audit.worst)
        raise TrainingStoppedError(
            f"Training stopped before its first update: trainer and sampler disagree, mean exp|log old - log behavior| "
            f"is {audit.mismatch:.4f}, max_mismatch {limit:g}. Worst: {shown}. Compare the engine's dtype, temperature "
            "and weights with the policy's, or raise max_mismatch.",
            rollout_ids=tuple(rollout for rollout, _ in audit.worst),
        )
    log.log(
        logging.WARNING if audit.mismatch > NOTABLE else logging.INFO,
        "old policy recomputed for %d tokens: mismatch with the sampler %.4f", audit.tokens, audit.mismatch,
    )  # fmt: skip
    return audit


def _measure(
    data: TrainData,
    index: RowIndex,
    wanted_R: NDArray[np.bool_],
    *,
    folder: Path,
    policy: Policy,
    temperature: float,
) -> Audit:
    total, tokens, worst = 0.0, 0, list[tuple[str, float]]()
    rows_W = np.flatnonzero(wanted_R)
    parts, first_P = np.unique(index.part_R[rows_W], return_index=True)  # the index has one part after the other
    with ReadAhead(data, parts.tolist(), threads=REMOTE_READERS) as stored:
        for part, of_part in zip(parts.tolist(), np.split(index.row_R[rows_W], first_P[1:]), strict=True):
            decoded = decode_part(data, part, reference=False, fetched=stored.take())
            old_C = _part_logprobs(decoded, of_part, policy=policy, temperature=temperature)
            if policy.world.is_main:
                _write(old_file(folder, part), old_C)
            kept = kept_tokens(decoded)
            for row in of_part.tolist():
                taken = kept.row(row)
                errors = np.exp(np.abs(old_C[taken].astype(np.float64) - decoded.behavior_C[taken]))
                total, tokens = total + float(errors.sum()), tokens + len(taken)
                if len(taken):
                    worst.append((decoded.ids_R[row].as_py(), float(errors.mean())))
            worst = sorted(worst, key=lambda item: -item[1])[:WORST]
    return Audit(tokens=tokens, mismatch=total / max(tokens, 1), worst=worst)


@torch.no_grad()
def _part_logprobs(
    decoded: Rollouts, rows_R: NDArray[np.int64], *, policy: Policy, temperature: float
) -> NDArray[np.float32]:
    old_C = np.full(len(decoded.tokens_C), np.nan, np.float32)
    check_ids(decoded, rows_R, policy.vocabulary_size)
    lengths_R = (decoded.prompt_lengths_R + decoded.token_lengths_R)[rows_R]
    plan = plan_micro_batches(lengths_R, budget=policy.micro_batch_tokens, pack=policy.pack)
    kept, weights_R = kept_tokens(decoded), np.zeros(len(decoded))
    found = []
    stopped: NonFiniteTrainingError | None = None
    for chosen in policy.world.share(plan, filler=plan[0]):
        rows = rows_R[chosen]
        batch = build_micro_batch(
            decoded, rows, kept, weights_R=weights_R, pack=policy.pack, temperature=temperature
        )  # fmt: skip
        found_N = policy.token_outputs(batch.to(policy.device)).logprobs_N.float().cpu().numpy()
        stopped = stopped or _not_finite(found_N, batch.rows_N.numpy(), batch.rollout_ids)
        found.append((kept.of(rows), found_N))
    policy.world.agree(stopped)
    for of_one_rank in policy.world.gather(found):
        for places_N, found_N in of_one_rank:
            old_C[places_N] = found_N
    return old_C


def _not_finite(
    found_N: NDArray[np.float32], rows_N: NDArray[np.int64], rollout_ids: tuple[str, ...]
) -> NonFiniteTrainingError | None:
    bad = np.unique(rows_N[~np.isfinite(found_N)]).tolist()
    if not bad:
        return None
    ids = tuple(rollout_ids[row] for row in bad)
    return NonFiniteTrainingError(
        f"Training stopped before its first update: the policy's log-probabilities of rollouts "
        f"{', '.join(ids[:WORST])} are NaN or infinite. Its weights or inputs are broken.",
        rollout_ids=ids,
    )


def _write(path: Path, values_C: NDArray[np.float32]) -> None:
    content = io.BytesIO()
    np.save(content, values_C, allow_pickle=False)
    Store(str(path.parent)).put(path.name, content.getvalue())
