"""A verifier of your own: a function that says whether a text answers its task.

    python examples/own_verifier.py [FOLDER]

It runs in child processes with a limit of time and memory, so it may hang or crash: that costs one rollout its reward.
The same function in a configuration, where a module beside the file is found:

    [signals.close]
    signal = "outcome"
    verifier = "own_verifier:close"
    verifier_options = { tolerance = 10 }
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

from pass_ops.shards import open_dataset
from pipelines import (
    EngineOptions,
    GenerateOptions,
    PromptSource,
    Sampling,
    Verdict,
    build_signal,
    generate,
    score,
    write_prompts,
)
from pipelines.demo import Split, asset_folder, prompt_rows


def close(text: str, answer: str, *, tolerance: int = 0) -> Verdict:
    """Partial credit: 1 for the right number, less the further off, 0 from `tolerance` on."""
    found = re.search(r"A(\d\d)\Z", text)
    if found is None:
        return Verdict(correct=False, unparseable=True)
    distance = abs(int(found[1]) - int(answer))
    reward = 1.0 if distance == 0 else max(0.0, 1 - distance / max(tolerance, 1))
    return Verdict(correct=distance == 0, reward=reward, extracted=found[1])


def main(folder: str) -> None:
    """Sample the demo's policy with transformers, and judge what it says."""
    out, policy = Path(folder), str(asset_folder("policy"))
    rows = prompt_rows(4, seed=0, split=Split.ROUNDS)
    (out / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_prompts(PromptSource(source=f"{out}/tasks.jsonl"), out=f"{out}/prompts")
    generate(
        prompts=f"{out}/prompts",
        out=f"{out}/rollouts",
        model=policy,
        engine=EngineOptions(kind="transformers", max_model_len=192),
        options=GenerateOptions(group_size=4, sampling=Sampling(max_tokens=112)),
    )
    options = {"verifier": "own_verifier:close", "verifier_options": {"tolerance": 10}, "timeout_s": 2.0}
    score(signal=build_signal("outcome", options), rollouts=f"{out}/rollouts", out=f"{out}/close")

    verdicts = open_dataset(f"{out}/close").read_part(0).to_pylist()
    print(dict(Counter(verdict["verify_status"] for verdict in verdicts)))
    near = [verdict for verdict in verdicts if 0 < verdict["outcome_reward"] < 1]
    mean = sum(verdict["outcome_reward"] for verdict in verdicts) / len(verdicts)
    print(f"{len(near)} wrong answers are close; the mean reward is {mean:.2f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
