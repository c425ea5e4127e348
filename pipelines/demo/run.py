"""`passrl demo`: three rounds on the execution signal, then one on the teacher's KL, and a table of what they did.

An ordinary run: the same configuration, stages and folders as `passrl rounds` (demo.toml beside this file).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pass_ops.shards import Store, open_dataset
from pipelines.demo.arithmetic import Split, prompt_rows
from pipelines.demo.assets import asset_folder
from pipelines.runs.check import check_run
from pipelines.runs.config import RunConfig, load_config
from pipelines.runs.evaluate import Estimate, EvalResult, paired_gain, read_results
from pipelines.runs.lineage import training_metrics
from pipelines.runs.places import check_folder
from pipelines.runs.progress import Reporter
from pipelines.runs.results import result_row, results_sheet
from pipelines.runs.rounds import evaluate_start, run_round
from pipelines.runs.run import Run
from pipelines.view.options import ViewOptions
from pipelines.view.view import make_view

CONFIG = Path(__file__).parent / "demo.toml"
HELD_OUT_PROMPTS = 300
BENCHMARK = "held-out"


def run_demo(
    out: str, *, seed: int = 0, overrides: Sequence[str] = (), overwrite: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Run it in the folder `out` (local; a finished or interrupted one goes on). Returns the table's numbers."""
    check_folder(out, key="--out")
    # vLLM's CPU worker warns of its memory binding at each start; read when torch is imported, so it is set first.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    reporter = Reporter(quiet=quiet)
    reporter.line(
        "PASS demo: chains of 6 to 10 small sums, one line a step; the policy gets about a third of them right."
    )
    execution = Run(
        config=demo_config(out, seed=seed, overrides=overrides), url=out, reporter=reporter, overwrite=overwrite
    )
    rounds = execution.config.run.rounds
    teacher = replace(execution, config=teacher_config(execution.config))
    check_run(execution, rounds=rounds)
    check_run(teacher)
    results = [evaluate_start(execution)[BENCHMARK]]
    rows = [result_row("start", None, results[0], {})]
    for index in range(rounds + 1):
        last = index >= rounds - 1
        work = execution if index < rounds else teacher
        summary = run_round(work, index, is_last=last)
        results.append(_result(work, index, whole=last))
        rows.append(
            result_row(
                f"{index} {'execution' if index < rounds else 'teacher KL'}",
                summary,
                results[-1],
                training_metrics(out)[index],
            )
        )
    gains = {
        "execution": paired_gain(results[0], results[rounds]),
        "teacher_kl": paired_gain(results[rounds], results[rounds + 1]),
    }
    reporter.print(results_sheet(rows))
    gain = gains["execution"]
    reporter.line(
        f"pass@1 on {results[0].prompts} held-out prompts x {results[0].samples} samples, start to round {rounds - 1}: "
        f"{100 * gain.value:+.1f} points{_in_standard_errors(gain)}."
    )
    _where_the_shards_lie(reporter, execution)
    credit = _write_credit(out)
    reporter.line(f"Every token's credit, beside what GRPO would give: open {credit} in a browser")
    return {
        "seed": seed,
        "rounds": rows,
        "gains": {name: asdict(gain) for name, gain in gains.items()},
        "credit": credit,
    }


def demo_config(out: str, *, seed: int, overrides: Sequence[str] = ()) -> RunConfig:
    """demo.toml with this seed, its prompts written into OUT/data; the rounds' and held-out prompts never overlap."""
    sources = {}
    for name, split, count in (("rounds", Split.ROUNDS, 4096), (BENCHMARK, Split.HELD_OUT, HELD_OUT_PROMPTS)):
        file = os.path.join(os.path.abspath(out), "data", f"{name}.jsonl")
        rows = prompt_rows(count, seed=0, split=split)
        os.makedirs(os.path.dirname(file), exist_ok=True)
        Store(os.path.dirname(file)).put(
            os.path.basename(file), "".join(json.dumps(row) + "\n" for row in rows).encode()
        )
        sources[name] = file
    fixed = [
        f"run.seed={seed}",
        f"train.seed={seed}",
        f"eval.seed={seed}",
        f"prompts.source={json.dumps(sources['rounds'])}",
        f"eval.benchmarks.{BENCHMARK}.source={json.dumps(sources[BENCHMARK])}",
    ]
    return load_config(CONFIG, [*fixed, *overrides])


def teacher_config(config: RunConfig) -> RunConfig:
    """The same run with the teacher's KL (OPD) in the place of the execution signal."""
    signals = {name: table for name, table in config.signals.items() if name != "execution"}
    signals["teacher"] = {"signal": "logprobs", "model": str(asset_folder("teacher")), "engine": asdict(config.engine)}
    signals["opd"] = {"signal": "opd", "teacher": "teacher"}
    return replace(config, signals=signals, shape=replace(config.shape, process="opd"))


def _result(run: Run, round_index: int, *, whole: bool) -> EvalResult:
    assert run.config.eval is not None
    suffix, _ = run.config.eval.asked(BENCHMARK, whole=whole)
    return read_results(run.folder(round_index, f"eval{suffix}", BENCHMARK))


def _in_standard_errors(gain: Estimate) -> str:
    if gain.standard_error == 0.0:
        return ", the same difference on every prompt"
    return f", {gain.value / gain.standard_error:.1f} standard errors of the paired difference"


def _write_credit(out: str) -> str:
    """The viewer's file of round 0, as `passrl view OUT --grid estimator=grpo_outcome` writes it; where it lies."""
    file = Path(out) / "credit.html"
    made = make_view([out], grid={"estimator": ["grpo_outcome"]}, options=ViewOptions(title="PASS demo, round 0"))
    file.write_bytes(made.content)
    return str(file)


def _where_the_shards_lie(reporter: Reporter, run: Run) -> None:
    shaped = open_dataset(run.folder(0, "shaped"))
    file = os.path.join(shaped.url, shaped.parts[0].data)
    reporter.line(f"\nEverything is in {run.url}; each round's shaped shards in round-*/shaped. Look into one:")
    reporter.line(f"  passrl inspect {shaped.url}")
    query = f'pl.read_parquet("{file}").select("rollout_id", "text", "chunk_advantages")'
    reporter.line(f"  python -c 'import polars as pl; print({query})'")
