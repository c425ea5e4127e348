"""Files of the viewer made by hand: a group with what is to be looked at, and nothing that a model has to write first.

Axes: rollouts of a group (R), tokens end to end (N), chunks end to end (K), steps end to end (S).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.view.file import view_html
from pipelines.view.payload import TOKEN, Array, block, offsets_of

LOGPROBS = ("behavior_logprobs", "reference_logprobs")


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Token texts, and for each setting (chunk ends, chunk advantages)."""

    texts: Sequence[bytes]
    settings: Sequence[tuple[Sequence[int], Sequence[float]]]
    masked: Sequence[int] = ()
    steps: Sequence[tuple[int, float]] = ()
    reward: float = 1.0
    facts: dict[str, Any] = field(default_factory=dict)


def group_block(
    rollouts: Sequence[Rollout],
    *,
    name: str,
    prompt: bytes,
    answer: str,
    untrained: Collection[tuple[int, int]],
) -> bytes:
    """The block of a group; log-probabilities follow from the tokens' places.

    untrained: (row, setting) of rollouts that a setting does not train.
    """
    counts = np.array([len(one.texts) for one in rollouts])
    texts = [text for one in rollouts for text in one.texts]
    mask = np.concatenate([[token not in one.masked for token in range(len(one.texts))] for one in rollouts])
    places = np.concatenate([np.arange(count) for count in counts]).astype(np.float32)
    steps = [step for one in rollouts for step in one.steps]
    step_axis = "step/process_scores"
    arrays = [
        Array("prompt", None, _bytes(prompt)),
        offsets_of(TOKEN, counts),
        Array("text", None, _bytes(b"".join(texts))),
        Array("text_lengths", TOKEN, np.array([len(text) for text in texts], np.uint32)),
        Array("special", TOKEN, np.zeros(len(texts), np.uint8)),
        Array("loss_mask", TOKEN, mask.astype(np.uint8)),
        Array("behavior_logprobs", TOKEN, -(places % 7) / 3),
        Array("reference_logprobs", TOKEN, -(places % 5) / 2),
        offsets_of(step_axis, np.array([len(one.steps) for one in rollouts])),
        Array("process_scores", step_axis, np.array([score for _, score in steps], np.float32)),
        Array("ends:process_scores", step_axis, np.array([end for end, _ in steps], np.int32)),
    ]
    for setting in range(len(rollouts[0].settings)):
        axis = f"chunk/{setting}"
        made = [one.settings[setting] for one in rollouts]
        values = np.concatenate([values for _, values in made]).astype(np.float32)
        arrays += [
            offsets_of(axis, np.array([len(ends) for ends, _ in made])),
            Array(f"chunk_ends/{setting}", axis, np.concatenate([ends for ends, _ in made]).astype(np.int32)),
            Array(f"chunk_advantages/{setting}", axis, values),
            Array(f"chunk_credits/{setting}", axis, values / 2),
        ]
    return block(_group_head(rollouts, name, answer, untrained), arrays)


def _group_head(
    rollouts: Sequence[Rollout], name: str, answer: str, untrained: Collection[tuple[int, int]]
) -> dict[str, Any]:
    made = [
        {
            "rollout_id": f"{name}/{row}",
            "sample_index": row,
            "length": len(one.texts),
            "masked": len(one.masked),
            "finish_reason": "stop",
            "seed": 7,
            "verify_status": "ok",
            "extracted_answer": "4",
            "outcome_reward": one.reward,
            "format_reward": None,
            "format_ok": True,
            "statuses": {},
            **one.facts,
        }
        for row, one in enumerate(rollouts)
    ]
    settings = [
        {
            "rows": [{"trainable": (row, setting) not in untrained, "path_score": 0.5} for row in range(len(rollouts))],
            "explain": None,
        }
        for setting in range(len(rollouts[0].settings))
    ]
    return {"group_id": name, "answer": answer, "rollouts": made, "settings": settings}


def made_file(
    groups: Sequence[tuple[str, Sequence[Rollout]]],
    /,
    *,
    title: str = "made by hand",
    untrained: Collection[tuple[int, int]] = (),
    prompt: bytes = b"What is 2 + 2?",
    answer: str = "4",
    **head: Any,
) -> bytes:
    """The bytes of a file with these groups. head: what its head has besides or instead."""
    names = ["stored", "k = 0"]
    count = len(groups[0][1][0].settings)
    whole = {
        "payload": 1,
        "passrl": "0",
        "title": title,
        "mode": "file",
        "datasets": [
            {
                "url": "runs/x",
                "content_digest": "0",
                "groups": len(groups),
                "rollouts": 2,
                "tokens": 10,
                "imported": None,
            }
        ],
        "settings": [
            {"name": name, "source": "stored", "dataset": 0, "options": {}, "same": []} for name in names[:count]
        ],
        "columns": [
            *({"name": name, "axis": "token", "kind": "logprob", "label": name, "unit": "nats"} for name in LOGPROBS),
            {
                "name": "process_scores",
                "axis": "step/process_scores",
                "kind": "score",
                "label": "process score",
                "unit": "",
            },
        ],
        "token_texts": "tokenizer",
        "token_texts_note": "Texts are the tokenizer's.",
        "sampling": {"groups": len(groups), "of": len(groups), "rollouts": 2, "rule": "All groups."},
        "explain_left_out": "No arithmetic.",
        "groups": [group_facts(name, rollouts) for name, rollouts in groups],
        "comparisons": [],
        "offenders": [],
        "run": None,
        **head,
    }
    return view_html(
        whole,
        (
            group_block(rollouts, name=name, prompt=prompt, answer=answer, untrained=untrained)
            for name, rollouts in groups
        ),
    )


def group_facts(name: str, rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """What the list shows of a group."""
    lengths = [len(one.texts) for one in rollouts]
    rewards = [one.reward for one in rollouts]
    advantages = np.concatenate([one.settings[0][1] for one in rollouts])
    return {
        "id": name,
        "part": 0,
        "rollouts": len(rollouts),
        "tokens": sum(lengths),
        "outcome": float(np.mean(rewards)),
        "single_outcome": len(set(rewards)) == 1,
        "verdicts": {"ok": len(rollouts)},
        "mean_length": float(np.mean(lengths)),
        "shortest": min(lengths),
        "longest": max(lengths),
        "advantage_min": float(advantages.min()),
        "advantage_max": float(advantages.max()),
        "advantage_std": float(advantages.std()),
        "zero_advantage": 0.0,
        "truncated": 0,
        "untrainable": 0,
        "flips": [0] * len(rollouts[0].settings),
    }


def _bytes(text: bytes) -> np.ndarray:
    return np.frombuffer(text, np.uint8)
