"""Does PASS learn? Three rounds of the demo for several seeds, on each signal, beside GRPO(outcome) and greedy.

"alone": without the outcome and format rewards, which the other arms have beside their process signal.

    python benchmarks/demo_gain.py --out runs/demo-gain --seeds 0 1 2 --arms "PASS, execution" "GRPO(outcome)"
    python benchmarks/demo_gain.py --out runs/demo-gain --seeds 0

Prints one JSON object a run and writes OUT/table.md: what docs/explanation/measured/demo.md holds. A
finished run is not repeated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pass_ops import Weights
from pipelines.demo.assets import asset_folder
from pipelines.demo.run import BENCHMARK, demo_config, teacher_config
from pipelines.engines.base import Sampling
from pipelines.runs.config import RunConfig
from pipelines.runs.evaluate import EvalOptions, EvalResult, paired_gain
from pipelines.runs.progress import Reporter
from pipelines.runs.rounds import evaluate, evaluate_round, evaluate_start, run_round
from pipelines.runs.run import Run


def grpo_config(config: RunConfig) -> RunConfig:
    """GRPO(outcome): one advantage a rollout from outcome and format, on the same prompts."""
    signals = {name: table for name, table in config.signals.items() if name != "execution"}
    return replace(config, signals=signals, shape=replace(config.shape, estimator="grpo_outcome", process=None))


def process_config(config: RunConfig, process: str, **tables: dict[str, Any]) -> RunConfig:
    """PASS on another process signal in the place of `execution`; tables: signals to add, `process` among them."""
    signals = {name: table for name, table in config.signals.items() if name != "execution"} | tables
    return replace(config, signals=signals, shape=replace(config.shape, process=process))


def prm_config(config: RunConfig) -> RunConfig:
    """The demo's tiny process reward model."""
    table = {"signal": "prm", "model": str(asset_folder("prm")), "engine": asdict(config.engine), "separator": "\n"}
    return process_config(config, "prm", prm=table)


def alone(config: RunConfig) -> RunConfig:
    """Only the process stream: what the signal teaches without the outcome and format rewards beside it."""
    weights = Weights(process=1.0, outcome=0.0, format=0.0)
    return replace(config, shape=replace(config.shape, weights=weights))


def opd_steps_config(config: RunConfig) -> RunConfig:
    """OPD summed over the lines."""
    opd = {"signal": "opd", "teacher": "teacher", "per": "step", "separator": "\n"}
    return process_config(config, "opd", teacher=_logprobs(config, "teacher"), opd=opd)


def g_opd_config(config: RunConfig) -> RunConfig:
    """G-OPD: the base is the policy at the start of round 0, in every round."""
    return process_config(
        config,
        "g_opd",
        teacher=_logprobs(config, "teacher"),
        base=_logprobs(config, "policy"),
        g_opd={"signal": "g_opd", "teacher": "teacher", "base": "base"},
    )


def monte_carlo_config(config: RunConfig) -> RunConfig:
    """The policy's own continuations, m = 2 a step, on 48 prompts a round: a round costs twenty times its rollouts."""
    outcome = {name: value for name, value in config.signals["outcome"].items() if name != "signal"}
    table = {"signal": "monte_carlo", "engine": asdict(config.engine), "separator": "\n", "samples": 2, **outcome}
    fewer = replace(config, run=replace(config.run, prompts_per_round=48))
    return process_config(fewer, "value", value=table)


def _logprobs(config: RunConfig, asset: str) -> dict[str, Any]:
    return {"signal": "logprobs", "model": str(asset_folder(asset)), "engine": asdict(config.engine)}


ARMS: dict[str, Callable[[RunConfig], RunConfig]] = {
    "PASS, execution": lambda config: config,
    "PASS, teacher KL": teacher_config,
    "PASS, teacher KL per step": opd_steps_config,
    "PASS, G-OPD": g_opd_config,
    "PASS, PRM": prm_config,
    "PASS, Monte-Carlo": monte_carlo_config,
    "GRPO(outcome)": grpo_config,
    "PASS, execution alone": alone,
    "PASS, teacher KL alone": lambda config: alone(teacher_config(config)),
    "PASS, Monte-Carlo alone": lambda config: alone(monte_carlo_config(config)),
    "PASS, PRM alone": lambda config: alone(prm_config(config)),
}


def measure(arm: str, seed: int, out: Path, *, rounds: int) -> dict[str, Any]:
    """Some rounds of one arm; pass@1 before and after, and the paired gain."""
    url = str(out / f"{arm.lower().replace(' ', '-').translate(str.maketrans('', '', ',()'))}-{seed}")
    config = ARMS[arm](demo_config(url, seed=seed))
    run = Run(config=config, url=url, reporter=Reporter())
    before = evaluate_start(run)[BENCHMARK]
    for index in range(rounds):
        run_round(run, index, is_last=index == rounds - 1)
    after = evaluate_round(run, rounds - 1)[BENCHMARK]
    gain = paired_gain(before, after)
    return {
        "arm": arm,
        "seed": seed,
        "rounds": rounds,
        "before": asdict(before.pass_at[1]),
        "after": asdict(after.pass_at[1]),
        "pass@8": after.pass_at[8].value,
        "gain": asdict(gain),
        "standard_errors": gain.value / gain.standard_error,
        "mean_length": after.mean_length,
        "greedy": {
            "before": greedy(run, run.config.policy.model),
            "after": greedy(run, run.folder(rounds - 1, "policy")),
        },
    }


def greedy(run: Run, policy: str) -> float:
    """Accuracy of one greedy completion a prompt on the same held-out prompts."""
    options = run.config.eval
    assert options is not None
    greedily = Sampling(temperature=0.0, max_tokens=run.config.generate.sampling.max_tokens)
    once = EvalOptions(benchmarks=options.benchmarks, samples=1, k=(1,), sampling=greedily, seed=options.seed)
    result: EvalResult = evaluate(replace(run, config=replace(run.config, eval=once)), policy=policy)[BENCHMARK]
    return result.pass_at[1].value


def table(results: list[dict[str, Any]]) -> Iterator[str]:
    """The results as a Markdown table."""
    names = ("arm", "seed", "pass@1 before", "after", "gain", "in standard errors", "pass@8 after", "greedy before",
             "greedy after", "length after")  # fmt: skip
    yield f"| {' | '.join(names)} |"
    yield f"|{' --- |' * len(names)}"
    for r in results:
        cells = [
            r["arm"],
            str(r["seed"]),
            f"{r['before']['value']:.3f}",
            f"{r['after']['value']:.3f}",
            f"{r['gain']['value']:+.3f}",
            f"{r['standard_errors']:.1f}",
            f"{r['pass@8']:.3f}",
            f"{r['greedy']['before']:.3f}",
            f"{r['greedy']['after']:.3f}",
            f"{r['mean_length']:.1f}",
        ]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure every arm for every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo-gain"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    arguments = parser.parse_args()
    results = []
    for seed in arguments.seeds:
        for arm in arguments.arms:
            results.append(measure(arm, seed, arguments.out, rounds=arguments.rounds))
            print(json.dumps(results[-1]), flush=True)
    (arguments.out / "table.md").write_text(
        "\n".join(table(sorted(results, key=lambda r: (r["arm"], r["seed"])))) + "\n"
    )


if __name__ == "__main__":
    main()
