"""A small stored run: two parts of prompts and rollouts made of literals, in the tiny model's characters."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from pass_ops import shards
from pipelines.engines.base import EngineOptions
from pipelines.models.folder import describe_model
from pipelines.prompts.stage import PromptSource, write_prompts

#: part -> group -> texts of its rollouts; "$" stands for the end token. Right answers end with "=5".
TEXTS = {
    0: {"p0": ["2\n+3\n=5$", "2\n+2\n=4$"], "p1": ["1\n+4\n=5$", "1\n\n=x$", "9"]},
    1: {"p2": ["3\n+2\n=5$", ""], "p3": ["=5$", "4\n=4$"]},
}
PROMPTS = {"p0": "2+3=", "p1": "1+4=", "p2": "3+2=", "p3": "4+1="}
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "max_tokens": 16, "group_size": 2}


@dataclass(frozen=True)
class StoredRun:
    """Folders of one round."""

    root: Path
    model: str

    @property
    def prompts(self) -> str:
        return str(self.root / "prompts")

    @property
    def rollouts(self) -> str:
        return str(self.root / "rollouts")

    @property
    def signals(self) -> str:
        return str(self.root / "signals")

    def signal(self, name: str) -> str:
        return str(self.root / "signals" / name)

    def out(self, name: str = "shaped") -> str:
        return str(self.root / name)


@pytest.fixture
def make_run(tmp_path: Path, tiny_model: str) -> Callable[..., StoredRun]:
    """make_run(name, sampling=..., answer=..., texts=...): stores prompts and rollouts, finalized."""

    def make(
        name: str = "round-000", *, sampling: dict = SAMPLING, answer: str = "5", texts: dict = TEXTS
    ) -> StoredRun:
        run = StoredRun(tmp_path / name, tiny_model)
        source = {"source.jsonl": shards.InputRef("source.jsonl", shards.sha256_bytes(b"prompts"))}
        prompts = shards.create_dataset(
            run.prompts,
            shards.DatasetSpec(stage="prompts", stage_version=1, options={}, parts=len(texts), inputs=source),
        )
        for part, groups in texts.items():
            rows = [{"prompt_id": g, "prompt": PROMPTS[g], "answer": answer, "source": "test"} for g in groups]
            shards.commit_part(prompts, part, pa.Table.from_pylist(rows, schema=shards.PROMPTS))
        shards.finalize(prompts)
        rollouts = shards.create_dataset(run.rollouts, _rollouts_spec(run, sampling, parts=len(texts)))
        for part, groups in texts.items():
            rows = [_row(tiny_model, g, i, text, answer) for g, said in groups.items() for i, text in enumerate(said)]
            shards.commit_part(rollouts, part, pa.Table.from_pylist(rows, schema=shards.ROLLOUTS))
        shards.finalize(rollouts)
        return run

    return make


@pytest.fixture
def run(make_run: Callable[..., StoredRun]) -> StoredRun:
    return make_run()


def _rollouts_spec(run: StoredRun, sampling: dict, *, parts: int) -> shards.DatasetSpec:
    facts = describe_model(run.model)
    return shards.DatasetSpec(
        stage="generate",
        stage_version=1,
        options={},
        parts=parts,
        inputs={"prompts": shards.open_dataset(run.prompts).ref(run.rollouts)},
        models={"policy": shards.ModelRef(run.model, facts.digest)},
        seed=7,
        carried={
            "sampling": sampling,
            "tokenizer_digest": facts.tokenizer_digest,
            "vocabulary": asdict(facts.vocabulary),
            "round": 3,
            "policy_digest": facts.digest,
        },
    )


def _row(model: str, group: str, index: int, text: str, answer: str) -> dict:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
    ids = tokenizer.encode(text.rstrip("$")).ids + [tokenizer.token_to_id("<eos>")] * text.count("$")
    return {
        "group_id": group,
        "sample_index": index,
        "rollout_id": f"{group}/{index}",
        "prompt_token_ids": tokenizer.encode(PROMPTS[group]).ids,
        "token_ids": ids,
        "text": text.rstrip("$"),
        "behavior_logprobs": [-0.25 * (position + 1) for position in range(len(ids))],
        "loss_mask": [True] * len(ids),
        "finish_reason": "stop" if text.endswith("$") else "length",
        "seed": index,
        "answer": answer,
    }


@pytest.fixture
def recorded() -> EngineOptions:
    """Made-up answers, the same in every process."""
    return EngineOptions(kind="recorded", recording="synthetic:1")


@pytest.fixture
def write_sums(tmp_path: Path) -> Callable[..., str]:
    """Writes a prompts dataset "0+0=?", "1+1=?", ... and returns its folder: write_sums(8, prompts_per_part=2)."""

    def write(count: int, *, prompts_per_part: int = 2) -> str:
        file = tmp_path / "sums.jsonl"
        file.write_text(
            "".join(json.dumps({"prompt": f"{i}+{i}=?", "answer": str(2 * i)}) + "\n" for i in range(count))
        )
        source = PromptSource(source=str(file), prompts_per_part=prompts_per_part)
        write_prompts(source, out=str(tmp_path / "prompts"))
        return str(tmp_path / "prompts")

    return write
