"""Checks of the generate stage's speed: against bare vLLM, and by the number of rollouts at a time."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from pass_ops import shards
from pipelines.engines import EngineOptions, acquire, release, resolve_dtype
from pipelines.engines.base import Sampling
from pipelines.gpu_check.base import CheckOptions, Limit, Machine, Result, judged
from pipelines.gpu_check.engine import drawn, random_prompts
from pipelines.gpu_check.models import SHAPES, model_folder, sizes
from pipelines.models.folder import load_tokenizer
from pipelines.prompts.stage import PromptSource, write_prompts
from pipelines.rollouts.stage import GenerateOptions, derive_seed, generate

GOAL = Limit(low=0.97, speed=True)
CONTEXT = 1024
PROMPTS = {"cuda": 192, "cpu": 6}
GROUP = {"cuda": 8, "cpu": 2}
TOKENS = {"cuda": 256, "cpu": 8}
SEATS = {"cuda": (32, 64, 128, 256, 512), "cpu": (2, 4)}


def check_generate(machine: Machine, options: CheckOptions) -> Result:
    """Tokens/s of the whole stage (Beam job, Parquet, finalize) over those of one call of LLM.generate."""
    folder = model_folder(machine, options, sizes(machine).large)
    prompts = _write_prompts(machine, Path(options.out) / "generate")
    stage = stage_speed(machine, folder, prompts)
    release()
    bare = bare_speed(machine, folder, prompts)
    figures: dict[str, Any] = {
        "model": sizes(machine).large,
        "rollouts": PROMPTS[machine.device] * GROUP[machine.device],
        "stage_tokens_per_second": round(stage, 1),
        "bare_tokens_per_second": round(bare, 1),
        "ratio": round(stage / bare, 4),
    }
    return judged(machine, figures, {"ratio": GOAL})


def check_grid(machine: Machine, options: CheckOptions) -> Result:
    """Tokens/s of one engine on the large model by rollouts in flight."""
    name = sizes(machine).large
    folder, most = model_folder(machine, options, name), max(SEATS[machine.device])
    engine = acquire(folder, sampling_engine(most))
    figures: dict[str, Any] = {"model": name}
    for seats in SEATS[machine.device]:
        prompts = random_prompts(SHAPES[name]["vocab_size"], count=seats, longest=32)
        begun = time.perf_counter()
        texts = drawn(engine, prompts, tokens=TOKENS[machine.device])
        seconds = time.perf_counter() - begun
        figures[f"tokens_per_second_{seats}"] = round(sum(len(text.tokens) for text in texts) / seconds, 1)
    return judged(machine, figures, {})


def sampling_engine(seats: int) -> EngineOptions:
    """How the large model is sampled: as a configuration without further options would."""
    return EngineOptions(max_model_len=CONTEXT, max_num_seqs=seats, kv_cache_gib=0.25)


def stage_speed(machine: Machine, folder: str, prompts: str) -> float:
    """Tokens/s of the stage; its engine was started and Beam's imports made before."""
    engine, out = sampling_engine(max(SEATS[machine.device])), Path(prompts).with_name("rollouts")
    given = GenerateOptions(
        group_size=GROUP[machine.device], sampling=Sampling(max_tokens=TOKENS[machine.device], ignore_eos=True)
    )
    drawn(acquire(folder, engine), [[300, 301, 302]] * 4, tokens=4)
    warm = GenerateOptions(group_size=1, sampling=Sampling(max_tokens=1))
    for options in (warm, given):
        shutil.rmtree(out, ignore_errors=True)
        begun = time.perf_counter()
        manifest = generate(prompts=prompts, out=str(out), model=folder, engine=engine, options=options)
        seconds = time.perf_counter() - begun
    return int(manifest.totals["tokens"]) / seconds


def bare_speed(machine: Machine, folder: str, prompts: str) -> float:
    """Tokens/s of one call of LLM.generate with the same arguments, prompts and seeds."""
    from pipelines.engines.vllm import scan_own_modules, set_environment
    from pipelines.engines.vllm_arguments import engine_arguments

    options = sampling_engine(max(SEATS[machine.device]))
    set_environment(options)  # before vLLM is imported
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    scan_own_modules()
    dtype = resolve_dtype(folder, options)
    llm = LLM(**engine_arguments(folder, options, device=machine.device, dtype=dtype, context_length=CONTEXT))
    tokenizer, dataset = load_tokenizer(folder), shards.open_dataset(prompts)
    rows = [row for part in range(dataset.spec.parts) for row in dataset.read_part(part).to_pylist()]
    asked, params = [], []
    for row in rows:
        for i in range(GROUP[machine.device]):
            asked.append(TokensPrompt(prompt_token_ids=tokenizer(row["prompt"])["input_ids"]))
            params.append(
                SamplingParams(
                    max_tokens=TOKENS[machine.device], seed=derive_seed(0, 0, row["prompt_id"], i), ignore_eos=True,
                    logprobs=0, flat_logprobs=True, detokenize=False,
                )
            )  # fmt: skip
    llm.generate(asked[:4], SamplingParams(max_tokens=4), use_tqdm=False)
    begun = time.perf_counter()
    outputs = llm.generate(asked, params, use_tqdm=False)
    seconds = time.perf_counter() - begun
    return sum(len(output.outputs[0].token_ids) for output in outputs) / seconds


def _write_prompts(machine: Machine, folder: Path) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    count = PROMPTS[machine.device]
    lines = [json.dumps({"prompt": f"{i} + {7 * i} - {i % 5} = ?", "answer": str(8 * i - i % 5)}) for i in range(count)]
    (folder / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    source = PromptSource(source=str(folder / "prompts.jsonl"), prompts_per_part=max(2, count // 8))
    write_prompts(source, out=str(folder / "prompts"))
    return str(folder / "prompts")
