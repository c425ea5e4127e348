"""The trainer's update beside TRL's GRPO update and a bare forward and backward pass: one JSON object a line.

    python benchmarks/bench_train.py [--model demo|smollm2|both] [--spread 0.5 0.9] [--micro 4 8 16 64] [--repeats 1]

All three train the same model in float32 on the same rollouts, advantages and steps, each in a process of its own, in
turns, on the same threads; the first step of each is not counted, of the others the shortest repeat is. --clock cpu
counts processor time instead, for a machine that others use; of one thread it is what the wall clock shows alone. TRL
(the newest its index has, in an environment of its own under .cache/bench-trl, made at the first run) runs at its best
of the given micro-batch sizes (of those that divide a step). Bare is the model's forward over padded micro-batches of
like length, log-softmax of every position, backward, fused AdamW: no loss, no mask, no metrics, no reading. Peak memory
is the process's peak resident set.
demo: the demo's policy (0.7M parameters). smollm2: SmolLM2-135M-Instruct (benchmarks/convert_smollm2.py makes it).
The gradient norms of the first step are compared, so that both updates are known to be the same one.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pass_ops.shards import open_dataset
from pipelines.gpu_check.workload import Workload, write_order, write_workload
from trainer import TrainOptions, train
from trainer.batching import plan_micro_batches
from trainer.data import ShapedData, build_index, select
from trainer.defaults import CPU_TOKENS
from trainer.metrics import read_metrics
from trainer.order import all_steps

ROOT = Path(__file__).parents[1]
TRL_ENVIRONMENT = ROOT / ".cache" / "bench-trl"
MODELS = {"demo": ROOT / "pipelines/demo/assets/policy", "smollm2": ROOT / ".cache/smollm2-135m-instruct"}
WORKLOADS = {
    "demo": Workload(vocabulary=28, groups=16, group=8, steps=9, longest=136, spread=0.5, prompt=22),
    "smollm2": Workload(vocabulary=49152, groups=2, group=4, steps=3, longest=192, spread=0.5, prompt=48),
}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
NORM_TOLERANCE = 1e-3


def main() -> None:
    """Reads the sizes and prints the lines; with --worker, runs one contestant and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=(*MODELS, "both"), default="both")
    parser.add_argument("--spread", type=float, nargs="+", default=[0.5, 0.9], help="mean over max of the lengths")
    parser.add_argument("--micro", type=int, nargs="+", default=[4, 8, 16, 64], help="TRL's rollouts a micro-batch")
    parser.add_argument("--budget", type=int, help="our micro_batch_tokens", default=CPU_TOKENS)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--steps", type=int, help="updates of each, the first not counted (default by model)")
    parser.add_argument("--groups", type=int, help="groups a step (default by model)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--worker", choices=("ours", "bare"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        torch.set_num_threads(given.threads)
        print(json.dumps({"ours": run_ours, "bare": run_bare}[given.worker](given)))
        return
    for name in MODELS if given.model == "both" else [given.model]:
        for spread in given.spread:
            for line in measure(name, spread, given):
                print(json.dumps(line), flush=True)


def workload_of(name: str, given: argparse.Namespace) -> Workload:
    """The model's workload, with as many steps, and groups a step, as were asked for."""
    workload = WORKLOADS[name]
    return replace(workload, steps=given.steps or workload.steps, groups=given.groups or workload.groups)


def options_for(name: str, given: argparse.Namespace) -> TrainOptions:
    """What both sides train with."""
    steps = workload_of(name, given).steps
    return TrainOptions(
        updates=steps, warmup_steps=1, micro_batch_tokens=given.budget, device="cpu", tensorboard=False
    )  # fmt: skip


def measure(name: str, spread: float, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The lines for one model and spread."""
    given.model = name
    workload = replace(workload_of(name, given), spread=spread)
    if not MODELS[name].exists():
        subprocess.run([sys.executable, str(Path(__file__).with_name("convert_smollm2.py"))], check=True, cwd=ROOT)
    fitting = [micro for micro in given.micro if workload.groups * workload.group % micro == 0]
    if not fitting:
        raise SystemExit(
            f"None of --micro {given.micro} divides a step of {workload.groups * workload.group} rollouts."
        )
    with tempfile.TemporaryDirectory() as temporary:
        given.folder = Path(temporary)
        write_workload(str(given.folder / "shaped"), workload)
        write_order(str(given.folder / "shaped"), given.folder / "order.json", options_for(name, given))
        results: dict[str, list[dict[str, Any]]] = {}
        for _ in range(given.repeats):
            for contestant in ("ours", "bare", *(f"trl-{micro}" for micro in fitting)):
                results.setdefault(contestant, []).append(run_contestant(contestant, workload, given))
    seconds = {who: sum(map(min, zip(*(r["seconds"][1:] for r in runs), strict=True))) for who, runs in results.items()}
    peaks = {who: min(r["peak_kib"] for r in runs) for who, runs in results.items()}
    best = min((who for who in seconds if who.startswith("trl")), key=seconds.__getitem__)
    compare_norms(results["ours"][0], results[best][0])
    lengths = workload.lengths()[workload.groups * workload.group :]  # without the first step
    tokens = int(lengths.sum()) + workload.prompt * len(lengths)
    sizes = {"model": name, "spread": spread, "rollouts": len(lengths), "tokens": tokens, "threads": given.threads}
    sizes["clock"] = given.clock
    yield ratio_line("train_tokens_per_second", tokens, seconds, best, unit="tokens/s") | sizes
    yield ratio_line("train_tokens_per_second", tokens, seconds, "bare", unit="tokens/s") | sizes
    yield {
        "metric": "train_peak_memory", "value": round(peaks["ours"] / 1024), "unit": "MiB", "against": best,
        "ratio": round(peaks["ours"] / peaks[best], 3), "theirs": round(peaks[best] / 1024), **sizes,
    }  # fmt: skip
    waits = min(sum(r["waits"][1:]) / sum(r["walls"][1:]) for r in results["ours"])
    yield {
        "metric": "train_data_wait", "value": round(waits, 5), "unit": "share of step time", "against": "goal 0.01",
        "ratio": round(waits / 0.01, 3), **sizes,
    }  # fmt: skip


def ratio_line(metric: str, tokens: int, seconds: dict[str, float], against: str, *, unit: str) -> dict[str, Any]:
    """Our speed over another's."""
    return {
        "metric": metric, "value": round(tokens / seconds["ours"]), "unit": unit, "against": against,
        "ratio": round(seconds[against] / seconds["ours"], 3), "theirs": round(tokens / seconds[against]),
    }  # fmt: skip


def run_contestant(contestant: str, workload: Workload, given: argparse.Namespace) -> dict[str, Any]:
    """One contestant in a process of its own."""
    if contestant.startswith("trl"):
        command = [
            str(trl_python()), str(ROOT / "pipelines/gpu_check/trl_update.py"), "--model", str(MODELS[given.model]),
            "--shaped", str(given.folder / "shaped"), "--order", str(given.folder / "order.json"),
            "--out", str(given.folder / "trl"), "--micro", contestant.removeprefix("trl-"),
            "--group", str(workload.group), "--device", "cpu",
        ]  # fmt: skip
    else:
        command = [sys.executable, __file__, "--worker", contestant, "--model", given.model]
        command += ["--folder", str(given.folder), "--budget", str(given.budget)]
        command += ["--steps", str(workload.steps)]
    command += ["--threads", str(given.threads), "--clock", given.clock]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{contestant} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{contestant}: {[round(s, 2) for s in result['seconds']]} s", file=sys.stderr, flush=True)
    return result


def trl_python() -> Path:
    """The interpreter of TRL's environment, which is made where it is missing."""
    python = TRL_ENVIRONMENT / "bin" / "python"
    if not python.exists():
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(TRL_ENVIRONMENT)], check=True)
        packages = ["trl", f"torch=={torch.__version__.split('+')[0]}", "transformers", "pyarrow"]
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), *packages], check=True)
    return python


def compare_norms(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Stops where the first step's gradients are not the same."""
    a, b = ours["norms"][0], theirs["norms"][0]
    if abs(a - b) > NORM_TOLERANCE * b:
        raise SystemExit(f"The updates differ: the first gradient norm is {a} here and {b} in TRL.")


def run_ours(given: argparse.Namespace) -> dict[str, Any]:
    """`train` on the workload."""
    clock = CLOCKS[given.clock]
    ends = [clock()]
    with tempfile.TemporaryDirectory(dir=given.folder) as out:
        train(
            [str(given.folder / "shaped")], policy=str(MODELS[given.model]), out=out,
            options=options_for(given.model, given), progress=lambda *_: ends.append(clock()),
        )  # fmt: skip
        lines = read_metrics(Path(out))
    return {
        "seconds": np.diff(ends).tolist(),  # reading, metrics and their writing included
        "walls": [line["seconds"] for line in lines],
        "waits": [line["data_wait"] for line in lines],
        "norms": [line["grad_norm"] for line in lines],
        "peak_kib": peak_kib(),
    }


def run_bare(given: argparse.Namespace) -> dict[str, Any]:
    """The model alone over tokens of the same lengths."""
    from transformers import AutoModelForCausalLM

    workload, options = workload_of(given.model, given), options_for(given.model, given)
    data = ShapedData((open_dataset(str(given.folder / "shaped")),))
    index = build_index(data, threads=1)
    model = AutoModelForCausalLM.from_pretrained(MODELS[given.model], dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    seconds, clock = [], CLOCKS[given.clock]
    for step in all_steps(select(index, options, context=2**31).units, options):
        started = clock()
        bare_step(model, index.length_R[step.rows_R], workload.vocabulary, given.budget)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(clock() - started)
    return {"seconds": seconds, "peak_kib": peak_kib()}


def bare_step(model: torch.nn.Module, lengths: np.ndarray, vocabulary: int, budget: int) -> None:
    """Forward and backward over rollouts of these lengths."""
    for chosen in plan_micro_batches(lengths, budget=budget, pack=False):
        ids = torch.randint(1, vocabulary, (len(chosen), int(lengths[chosen].max())))
        logits = model(input_ids=ids, use_cache=False).logits
        torch.log_softmax(logits, -1).gather(-1, ids.unsqueeze(-1)).mean().backward()


def peak_kib() -> int:
    """The largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
