"""Rollout programs in the generate stage: by import path, in the fingerprint, their errors, the real calculator."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pass_ops import shards
from pass_ops.errors import FingerprintMismatchError
from pipelines.demo.arithmetic import Split, check_steps, make_prompts, split_steps
from pipelines.demo.assets import asset_folder
from pipelines.engines import EngineOptions, Sampling, acquire
from pipelines.parts.operations import Operations
from pipelines.programs import ProgramError
from pipelines.prompts.stage import PromptSource, write_prompts
from pipelines.rollouts.stage import GenerateOptionError, GenerateOptions, generate

SAMPLING = Sampling(max_tokens=30)
PROGRAM = """
async def twice(prompt, sample, *, between="..."):
    if prompt.text == "1+1=?":
        raise KeyError("no such tool")
    await sample(max_tokens=5)
    sample.insert(between)
    await sample()

def plain(prompt, sample): ...
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_program", raising=False)
    (tmp_path / "own_program.py").write_text(PROGRAM)
    return tmp_path / "own_program.py"


@pytest.fixture
def sums(tmp_path: Path) -> str:
    file = tmp_path / "sums.jsonl"
    file.write_text("".join(f'{{"prompt": "{i}+{i}=?"}}\n' for i in range(4)))
    write_prompts(PromptSource(source=str(file), prompts_per_part=2), out=str(tmp_path / "prompts"))
    return str(tmp_path / "prompts")


def make(
    prompts: str, out: Path, model: str, engine: EngineOptions, *, sampling: Sampling = SAMPLING, **options: Any
) -> shards.Manifest:
    return generate(
        prompts=prompts,
        out=str(out),
        model=model,
        engine=engine,
        options=GenerateOptions(group_size=2, sampling=sampling, **options),
        operations=Operations(max_reject_rate=0.5),
    )


def rows(out: Path) -> list[dict[str, Any]]:
    dataset = shards.open_dataset(str(out))
    return [row for part in range(dataset.spec.parts) for row in dataset.read_part(part).to_pylist()]


RECORDED = EngineOptions(kind="recorded", recording="synthetic:1")

MEETING = """
import threading

everyone = threading.Barrier(5)  # one rollout a part: it breaks unless five parts are under way at once

async def meet(prompt, sample):
    everyone.wait(timeout=120)
    await sample()
"""


def test_so_many_parts_are_under_way_that_the_engine_is_full(tmp_path: Path, tiny_model: str, module: Path) -> None:
    module.write_text(MEETING)
    file = tmp_path / "five.jsonl"
    file.write_text("".join(f'{{"prompt": "{i}"}}\n' for i in range(5)))
    write_prompts(PromptSource(source=str(file), prompts_per_part=1), out=str(tmp_path / "five"))
    options = GenerateOptions(group_size=1, sampling=SAMPLING, program="own_program:meet")
    out = str(tmp_path / "rollouts")
    manifest = generate(prompts=str(tmp_path / "five"), out=out, model=tiny_model, engine=RECORDED, options=options)
    assert manifest.totals["rejected_rollouts"] == 0


def test_a_program_named_by_import_path_makes_the_rollouts_and_its_error_costs_its_own(
    tmp_path: Path, tiny_model: str, sums: str, module: Path
) -> None:
    options = {"program": "own_program:twice", "program_options": {"between": "=="}}
    manifest = make(sums, tmp_path / "out", tiny_model, RECORDED, **options)
    assert manifest.rejected == {"program_error": 2}
    assert [row["rollout_id"] for row in rows(tmp_path / "out")] == [f"sums-{i}/{j}" for i in (0, 2, 3) for j in (0, 1)]
    for row in rows(tmp_path / "out"):
        inserted = [i for i, counts in enumerate(row["loss_mask"]) if not counts]
        assert [row["behavior_logprobs"][i] for i in inserted] == [0.0, 0.0]
        assert inserted[1] == inserted[0] + 1 <= 6
        assert row["text"][inserted[0] : inserted[1] + 1] == "=="
        assert len(row["token_ids"]) <= 30
    spec = shards.open_dataset(str(tmp_path / "out")).spec
    assert (spec.options["program"], spec.options["program_options"]) == ("own_program:twice", {"between": "=="})


def test_a_program_that_changed_is_another_dataset(tmp_path: Path, tiny_model: str, sums: str, module: Path) -> None:
    make(sums, tmp_path / "out", tiny_model, RECORDED, program="own_program:twice")
    module.write_text(PROGRAM + "\n# changed")
    with pytest.raises(FingerprintMismatchError, match="program_code"):
        make(sums, tmp_path / "out", tiny_model, RECORDED, program="own_program:twice")


def test_without_a_program_a_rollout_is_one_call_with_its_own_seed(
    tmp_path: Path, tiny_model: str, sums: str, module: Path
) -> None:
    module.write_text("async def once(prompt, sample):\n    await sample()\n")
    make(sums, tmp_path / "with", tiny_model, RECORDED, program="own_program:once")
    make(sums, tmp_path / "without", tiny_model, RECORDED)
    assert rows(tmp_path / "with") == rows(tmp_path / "without")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"program": "no_such_module:run"}, ProgramError, "no_such_module.*shipped programs are calculator, retrieval"),
        ({"program": "own_program:plain"}, ProgramError, "is no async function"),
        ({"program": "own_program:twice", "program_options": {"betwen": "="}}, ProgramError, "betwen"),
        ({"program_options": {"between": "="}}, GenerateOptionError, "but no program that takes them"),
    ],
)
def test_a_program_that_cannot_be_called_is_refused_before_anything_is_written(
    tmp_path: Path, tiny_model: str, sums: str, module: Path, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(sums, tmp_path / "out", tiny_model, RECORDED, **options)
    assert not (tmp_path / "out").exists()


def test_with_a_calculator_the_demos_policy_computes_every_line_right(tmp_path: Path) -> None:
    policy = str(asset_folder("policy"))
    file = tmp_path / "chains.jsonl"
    chains = make_prompts(6, seed=3, split=Split.HELD_OUT)
    file.write_text("".join(f'{{"prompt": "{chain}"}}\n' for chain in chains))
    write_prompts(PromptSource(source=str(file), prompts_per_part=3), out=str(tmp_path / "prompts"))
    engine = EngineOptions(dtype="float32", kv_cache_gib=0.25, max_num_seqs=32)
    sampling = Sampling(max_tokens=112)
    make(str(tmp_path / "prompts"), tmp_path / "out", policy, engine, sampling=sampling, program="calculator")
    scorer = acquire(policy, engine)
    stored = rows(tmp_path / "out")
    assert len(stored) == 12
    for row in stored:
        prompt, text, ids = chains[int(row["group_id"].split("-")[1])], row["text"], row["token_ids"]
        mask = np.array(row["loss_mask"])
        spelled = scorer.tokenizer.convert_ids_to_tokens(ids)
        assert scorer.tokenizer.decode(ids, skip_special_tokens=True) == text
        inserted = np.flatnonzero(~mask)
        assert len(inserted) > 8
        assert all(spelled[i].isdigit() and "=" in (spelled[i - 1], spelled[i - 2]) for i in inserted)
        lines = [step for step in split_steps(text) if "=" in step]
        wrong = [line for line, score in zip(lines, check_steps(prompt, lines), strict=True) if score == 0.0]
        assert not wrong or len(lines) < len(split_steps(text)), (prompt, text)
        start = len(row["prompt_token_ids"])
        scored = scorer.score([*row["prompt_token_ids"], *ids], start=start).result(timeout=120)
        np.testing.assert_allclose(np.where(mask, scored, 0.0), row["behavior_logprobs"], atol=1e-4)
