"""The recipe of multi-hop QA, its prompt and its program: a policy searches, reads, answers and is judged."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.cli.parser import main
from tests.conftest import make_reciting_model

RECIPE = Path(__file__).parents[2] / "configs" / "qa-retrieval.toml"
#: of each question its right answer
ANSWERS = {"q0": "yx", "q1": "no"}
# Searches for "quit"; after a ">" - of what was found - it answers.
SAID = "<search>quit</search>>Answ: yx<|im_end|>"


def question(name: str) -> dict:
    context = [["Ed Wood", ["A film.", " By Burton."]], ["Quitting", ["She quit in 1984.", ' "Then 1 < 2 & 3 > 2."']]]
    facts = [["Quitting", 0], ["Ed Wood", 7], ["Nobody", 0]]  # of other lengths than the context; nothing reads them
    return {
        "_id": name, "question": "Who quit {paragraphs}?", "answer": ANSWERS[name], "type": "bridge", "level": "hard",
        "supporting_facts": facts, "context": context,
    }  # fmt: skip


@pytest.fixture
def asked(tmp_path):
    """The recipe's command line for a tiny policy and two questions."""
    model = str(tmp_path / "model")
    make_reciting_model(Path(model), SAID, end="<|im_end|>", words=("<search>", "</search>"), max_positions=1024)
    file = tmp_path / "hotpot.json"
    file.write_text(json.dumps([question(name) for name in ANSWERS]))
    settings = {
        "policy.model": model, "signals.teacher.model": model, "engine.kind": "transformers",
        "engine.dtype": "float32", "engine.max_model_len": 1024, "generate.sampling.max_tokens": 400,
        "prompts.source": str(file), "run.prompts_per_round": 2, "run.rounds": 1, "train.batch_size": 4,
        "generate.group_size": 2, "train.export_dtype": "auto",
        "signals.outcome.verifier_options": {"marker": "Answ:"},
    }  # fmt: skip
    for name in ("hotpotqa", "2wikimultihopqa"):
        settings |= {f"eval.benchmarks.{name}.source": str(file)}
        settings |= {f"eval.benchmarks.{name}.verifier_options": {"marker": "Answ:"}}
    return [part for key, value in settings.items() for part in ("--set", f"{key}={as_toml(value)}")]


def as_toml(value) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {as_toml(one)}" for key, one in value.items()) + " }"
    return json.dumps(value)


def test_the_recipes_policy_searches_reads_and_answers(asked, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["eval", str(RECIPE), "--out", str(out), *asked]) == 0, capsys.readouterr().err
    for name in ("hotpotqa", "2wikimultihopqa"):
        folder = out / "start/eval" / name
        found = json.loads((folder / "results.json").read_text())
        assert dict(zip(found["prompt_ids"], found["correct_P"], strict=True)) == {"q0": 4, "q1": 0}
        (prompts,) = [pq.read_table(file).to_pylist() for file in (folder / "prompts").glob("part-*.parquet")]
        assert all("A film" not in row["prompt"] for row in prompts)  # it is what a search brings
        assert all(row["prompt"].endswith("Question: Who quit {paragraphs}?") for row in prompts)
        (rollouts,) = [pq.read_table(file).to_pylist() for file in (folder / "rollouts").glob("part-*.parquet")]
        for row in rollouts:
            read = 'Quitting: She quit in 1984. "Then 1 < 2 & 3 > 2."'
            assert row["text"] == f"<search>quit</search><information>{read}</information>Answ: yx"
            assert row["finish_reason"] == "stop"
