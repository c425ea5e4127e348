"""A small file of each format that `passrl import` reads: two tasks, four rollouts each, every second one right."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.pipelines.labels import samples

TASKS = {"p1": "57a+9b-8?", "p2": "30a-4b+7?"}
#: per rollout its steps; the third is the right one with an error on the way
STEPS = (("a+9=66", "b-8=58"), ("a+9=66", "b-8=57"), ("a+9=65", "b-8=58"), ("a+9=64",))
RIGHT = (1.0, 0.0, 1.0, 0.0)
LABELS = ((True, True), (True, False), (False, True), (False,))
PROMPT_IDS = [5, 7]


def rollouts() -> list[tuple[str, str, int]]:
    """(name, task, which) of all eight."""
    return [(name, task, which) for name, task in TASKS.items() for which in range(4)]


def ids(which: int) -> list[int]:
    return [10 + which, *range(3, 6 + which)]


def logprobs(which: int) -> list[float]:
    return [-0.123456 * (1 + place) for place in range(len(ids(which)))]


def text(which: int) -> str:
    return "\n".join(STEPS[which])


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def trl(folder: Path) -> Path:
    rows = [{"step": 3, "prompt": task, "completion": text(which), "right": RIGHT[which], "advantage": 0.0}
            for _, task, which in rollouts()]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "completions_00003.parquet")
    return folder / "completions_00003.parquet"


def verl(folder: Path) -> Path:
    return jsonl(folder / "7.jsonl", [
        {"input": task, "output": text(which), "gts": "58", "score": RIGHT[which], "step": 7,
         "uid": f"{name}_{which}_0"}
        for name, task, which in rollouts()
    ])  # fmt: skip


def verifiers(folder: Path) -> Path:
    def node(parent: int | None, role: str, content: str, tokens: list[int], values: list[float]) -> dict[str, Any]:
        return {"parent": parent, "message": {"role": role, "content": content}, "sampled": bool(values),
                "token_ids": tokens, "mask": [bool(values)] * len(tokens), "logprobs": values}  # fmt: skip

    return jsonl(folder / "traces.jsonl", [
        {"id": f"{name}{which}", "group": {"id": name}, "traces": [{
            "version": 1, "task": {"type": "T", "data": {}, "key": name}, "info": {},
            "nodes": [node(None, "user", task, PROMPT_IDS, []),
                      node(0, "assistant", text(which), ids(which), logprobs(which))],
            "rewards": {"right": {"score": RIGHT[which], "weight": 1.0}},
            "calls": [{"node": 1, "model": "m", "sampling": {"temperature": 1.0}}],
        }]}
        for name, task, which in rollouts()
    ])  # fmt: skip


def nemo_rl(folder: Path) -> Path:
    def row(task: str, which: int) -> dict[str, Any]:
        before = [PROMPT_IDS[0], len(task), list(TASKS.values()).index(task)]
        length = len(before) + len(ids(which))
        return {
            "content": [task], "rewards": [RIGHT[which]], "input_lengths": [length],
            "token_ids": [[*before, *ids(which)]],
            "token_loss_mask": [[0.0] * len(before) + [1.0] * len(ids(which))], "sample_loss_mask": [1.0],
            "advantages": [[0.0] * length], "generation_logprobs": [[0.0] * len(before) + logprobs(which)],
            "prev_logprobs": [[0.0] * length], "idx": which,
        }  # fmt: skip

    return jsonl(folder / "train_data_step3.jsonl", [row(task, which) for _, task, which in rollouts()])


def nemo_gym(folder: Path) -> Path:
    return jsonl(folder / "rollouts.jsonl", [
        {"responses_create_params": {"input": task, "temperature": 1.0}, "reward": RIGHT[which],
         "response": {"model": "m", "output": [
             {"type": "message", "content": text(which), "prompt_token_ids": PROMPT_IDS,
              "generation_token_ids": ids(which), "generation_log_probs": logprobs(which)}]},
         "_ng_task_index": list(TASKS).index(name), "_ng_rollout_index": which}
        for name, task, which in rollouts()
    ])  # fmt: skip


def open_instruct(folder: Path) -> Path:
    return jsonl(folder / "run_rollouts_000000.jsonl", [
        {"step": 3, "sample_idx": which, "prompt_idx": list(TASKS).index(name), "prompt_tokens": PROMPT_IDS,
         "response_tokens": ids(which), "reward": RIGHT[which], "advantage": 0.0, "finish_reason": "stop",
         "dataset": "math", "ground_truth": ["58"], "logprobs": logprobs(which)}
        for name, _, which in rollouts()
    ])  # fmt: skip


def slime(folder: Path) -> Path:
    import torch

    dumped = [
        {"group_index": list(TASKS).index(name), "index": at, "prompt": task, "tokens": [*PROMPT_IDS, *ids(which)],
         "response": text(which), "response_length": len(ids(which)), "label": "58", "reward": {"right": RIGHT[which]},
         "loss_mask": [1] * len(ids(which)), "rollout_log_probs": logprobs(which), "status": "completed"}
        for at, (name, task, which) in enumerate(rollouts())
    ]  # fmt: skip
    torch.save({"rollout_id": 4, "samples": dumped}, folder / "rollout_4.pt")
    return folder / "rollout_4.pt"


def verl_tensors(folder: Path) -> Path:
    import torch

    def padded(rows: list[list[Any]], width: int = 8) -> Any:
        return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])

    own = [ids(which) for _, _, which in rollouts()]
    attended = [[1] * (len(PROMPT_IDS) + len(row)) for row in own]
    scores = [[*[0.0] * (len(ids(which)) - 1), RIGHT[which]] for _, _, which in rollouts()]
    tensors = {
        "prompts": torch.tensor([PROMPT_IDS] * len(own)), "responses": padded(own),
        "attention_mask": padded(attended, 8 + len(PROMPT_IDS)),
        "response_mask": padded([[1] * len(row) for row in own]),
        "rollout_log_probs": padded([logprobs(which) for _, _, which in rollouts()]),
        "token_level_scores": padded(scores),
    }  # fmt: skip
    others = {"uid": [name for name, _, _ in rollouts()]}
    torch.save({"batch": tensors, "non_tensor_batch": others, "meta_info": {"temperature": 1.0}}, folder / "data.pt")
    return folder / "data.pt"


def prime_tokens(folder: Path) -> Path:
    return jsonl(folder / "rank_0.jsonl", [
        {"schema_version": 1, "token_ids": [*PROMPT_IDS, *ids(which)], "env_name": "sums",
         "loss_mask": [False] * len(PROMPT_IDS) + [True] * len(ids(which)),
         "inference_logprobs": [0.0] * len(PROMPT_IDS) + logprobs(which)}
        for _, _, which in rollouts()
    ])  # fmt: skip


def lm_eval(folder: Path) -> Path:
    return jsonl(folder / "samples_sums_2026-11-01T00-00-00.1.jsonl", [
        {"doc_id": at, "target": "58", "arguments": [[task, {}]], "resps": [[text(which)]], "filter": "none",
         "metrics": ["right"], "right": RIGHT[which]}
        for at, (_, task, which) in enumerate(rollouts())
    ])  # fmt: skip


def lighteval(folder: Path) -> Path:
    rows = [
        {"doc": {"query": task, "choices": ["57", "58"], "gold_index": [1]}, "metric": {"right": RIGHT[which]},
         "model_response": {"input": None, "input_tokens": [PROMPT_IDS], "text": [text(which)],
                            "output_tokens": [ids(which)]}}
        for _, task, which in rollouts()
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "details_sums_2026-11-01.parquet")
    return folder / "details_sums_2026-11-01.parquet"


def inspect_ai(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "log.eval", "w") as archive:
        archive.writestr("header.json", "{}")
        for name, task, which in rollouts():
            said = [{"role": "user", "content": task}, {"role": "assistant", "content": text(which)}]
            archive.writestr(f"samples/{name}_epoch_{which + 1}.json", json.dumps({
                "id": name, "epoch": which + 1, "input": task, "target": ["58"], "messages": said, "metadata": {},
                "output": {"model": "m", "choices": [{"message": said[1], "stop_reason": "stop"}]},
                "scores": {"right": {"value": "C" if RIGHT[which] else "I"}},
            }))  # fmt: skip
    return folder / "log.eval"


def processbench(folder: Path) -> Path:
    def first_error(which: int) -> int:
        return LABELS[which].index(False) if False in LABELS[which] else -1

    return jsonl(folder / "sums.jsonl", [
        {"id": f"{name}-{which}", "problem": task, "steps": STEPS[which], "label": first_error(which),
         "final_answer_correct": bool(RIGHT[which])}
        for name, task, which in rollouts()
    ])  # fmt: skip


def trl_stepwise(folder: Path) -> Path:
    return jsonl(folder / "stepwise.jsonl", [
        {"prompt": task, "completions": STEPS[which], "labels": LABELS[which]} for _, task, which in rollouts()
    ])  # fmt: skip


def math_shepherd(folder: Path) -> Path:
    def marked(which: int, marks: list[str]) -> str:
        return "\n".join(f"{step} {mark}" for step, mark in zip(STEPS[which], marks, strict=True))

    return jsonl(folder / "shepherd.jsonl", [
        {"input": f"{task} {marked(which, ['ки'] * len(LABELS[which]))}", "task": "GSM8K",
         "label": f"{task} {marked(which, ['+' if right else '-' for right in LABELS[which]])}"}
        for _, task, which in rollouts()
    ])  # fmt: skip


def prm800k(folder: Path) -> Path:
    rows = []
    for _, task, which in rollouts():
        steps = zip(STEPS[which], LABELS[which], strict=True)
        row = samples.prm800k(*[samples.rated(samples.completion(step, 1 if right else -1)) for step, right in steps])
        row["question"]["problem"] = task
        rows.append(row)
    return jsonl(folder / "prm800k.jsonl", rows)


def ultrainteract(folder: Path) -> Path:
    return jsonl(folder / "pairs.jsonl", [
        {"task": "Math_CoT", "dataset": "sums", "trajectory": [{"from": "user", "value": task}], "id": f"{name}{right}",
         "chosen": text(right), "rejected": text(right + 1), "parent_id": None}
        for name, task in TASKS.items() for right in (0, 2)
    ])  # fmt: skip


#: format -> (its file, the lines of [shape] that read its signals)
OUTCOME = 'estimator = "grpo_outcome"\noutcome = "{}"\nweights = {{ format = 0 }}\n'
STEPWISE = 'process = "steps"\nweights = { format = 0, outcome = 0 }\n'
FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "trl": (trl, OUTCOME.format("right")), "verl": (verl, OUTCOME.format("score")),
    "verifiers": (verifiers, OUTCOME.format("reward")), "nemo_rl": (nemo_rl, OUTCOME.format("reward")),
    "nemo_gym": (nemo_gym, OUTCOME.format("reward")), "open_instruct": (open_instruct, OUTCOME.format("reward")),
    "slime": (slime, OUTCOME.format("right")), "lm_eval": (lm_eval, OUTCOME.format("right")),
    "lighteval": (lighteval, OUTCOME.format("right")), "inspect_ai": (inspect_ai, OUTCOME.format("right")),
    "processbench": (processbench, STEPWISE), "trl_stepwise": (trl_stepwise, STEPWISE),
    "math_shepherd": (math_shepherd, STEPWISE), "prm800k": (prm800k, STEPWISE),
    "ultrainteract": (ultrainteract, STEPWISE), "verl_tensors": (verl_tensors, OUTCOME.format("score")),
}  # fmt: skip
