"""The whole loop, top to bottom: prompts -> rollouts -> signals -> shaped advantages -> a better policy.

    python examples/whole_loop.py [FOLDER]

On the model and task of `passrl demo`, with transformers as the engine, in about a minute on two CPU cores. Each stage
is a dataset: run the script again in the same folder and it goes on where it stopped.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pyarrow.compute as pc

from pass_ops.shards import open_dataset
from pipelines import (
    EngineOptions,
    GenerateOptions,
    PromptSource,
    Sampling,
    ShapeOptions,
    build_signal,
    generate,
    score,
    shape_dataset,
    write_prompts,
)
from pipelines.demo import ANSWER_PATTERN, FORMAT_PATTERN, Split, asset_folder, prompt_rows
from trainer import TrainOptions, train

POLICY = str(asset_folder("policy"))
SIGNALS = {
    "outcome": build_signal("outcome", {"verifier": "regex", "verifier_options": {"pattern": ANSWER_PATTERN}}),
    "format": build_signal("format", {"pattern": FORMAT_PATTERN}),
    "steps": build_signal("execution", {"checker": "pipelines.demo.arithmetic:check_steps", "separator": "\n"}),
}


def main(folder: str) -> None:
    """One round in `folder`."""
    out = Path(folder)
    rows = prompt_rows(8, seed=0, split=Split.ROUNDS)
    (out / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    prompts = write_prompts(PromptSource(source=f"{out}/tasks.jsonl", prompts_per_part=4), out=f"{out}/prompts")
    print(f"prompts   {prompts.totals['rows']} tasks in {prompts.totals['parts']} parts")

    rollouts = generate(
        prompts=f"{out}/prompts",
        out=f"{out}/rollouts",
        model=POLICY,
        engine=EngineOptions(kind="transformers", max_model_len=192, max_num_seqs=64),
        options=GenerateOptions(group_size=4, sampling=Sampling(max_tokens=112)),
    )
    print(f"rollouts  {rollouts.totals['rows']} of them, {rollouts.totals['tokens']} tokens")

    for name, signal in SIGNALS.items():
        score(
            signal=signal,
            rollouts=f"{out}/rollouts",
            out=f"{out}/signals/{name}",
            prompts=f"{out}/prompts",
            tokenizer=POLICY,
        )
    rewards = [open_dataset(f"{out}/signals/outcome").read_part(part)["outcome_reward"] for part in range(2)]
    print(f"signals   {', '.join(SIGNALS)}; {sum(pc.sum(part).as_py() for part in rewards):.0f} answers are right")

    shape_dataset(
        rollouts=f"{out}/rollouts",
        signals=f"{out}/signals",
        out=f"{out}/shaped",
        options=ShapeOptions(process="steps", outcome="outcome", format="format"),
    )
    chunks = pc.list_value_length(open_dataset(f"{out}/shaped").read_part(0)["chunk_advantages"])
    print(f"shaped    {pc.mean(chunks).as_py():.1f} chunks per rollout")

    result = train(
        [f"{out}/shaped"],
        policy=POLICY,
        out=f"{out}/train",
        options=TrainOptions(updates=2, lr=2e-4, warmup_steps=0),
    )
    print(f"trained   {result.steps} updates; the new policy is in {result.policy_dir}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
