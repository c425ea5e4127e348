"""Checks over several processes: ranks, tensor parallelism, and that a killed process leaves nothing on the card."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from pass_ops import shards
from pipelines.engines import node, start_engine
from pipelines.engines.base import SampleRequest, Sampling
from pipelines.engines.machine import GIB
from pipelines.gpu_check.base import CheckOptions, Limit, Machine, Result, judged
from pipelines.gpu_check.engine import SAME, Text, drawn, engine_options, largest, random_prompts, score_plain
from pipelines.gpu_check.isolation import MARK, alive, alone, marked, within
from pipelines.gpu_check.machine import used_bytes
from pipelines.gpu_check.memory import NONE, rounds_run
from pipelines.gpu_check.models import SHAPES, computed_bytes, model_folder, sizes
from pipelines.gpu_check.training import MEMORY, SAME_GRADIENT, Update, measure_update, train_options, write_rollouts
from pipelines.runs.rounds import make_rollouts, run_round
from trainer import TrainOptions, load_policy, make_optimizer
from trainer.distributed import joined_world

RANKS = 2
PARALLEL = {"tensor_parallel_size": 2}
SECONDS_TO_END = 30.0
LEFT = GIB // 4
LEFT_GIB = Limit(high=LEFT / GIB, speed=True)
SAMPLING = "sampling"
CPU_NODE: tuple[Literal["cpu"], ...] = ("cpu", "cpu")
FIRST_TOKENS = 8
SAME_ROLLOUTS = Limit(low=0.95)


def check_kill(machine: Machine, options: CheckOptions) -> Result:
    """A process is killed while its engines sample; nothing that it started lives on, and the cards are free again."""
    folder = model_folder(machine, options, sizes(machine).small)
    before = used_bytes()
    with marked() as environment:
        victim = subprocess.Popen(victim_command(folder, machine), env=environment, stdout=subprocess.PIPE, text=True)
        assert victim.stdout is not None
        told = any(line.startswith(SAMPLING) for line in victim.stdout)
        held = used_bytes() - before
        victim.kill()
        victim.wait()
        mark = environment[MARK]
        within(SECONDS_TO_END, lambda: not alive(mark))
        left = alive(mark)
        within(SECONDS_TO_END, lambda: used_bytes() - before <= LEFT)
    if not told:
        return Result(status="failed", why="the process ended before it sampled; see the log")
    figures: dict[str, float | int | str] = {"processes_left": len(left)}
    if machine.device == "cuda":
        left_bytes = used_bytes() - before
        figures |= {"held_gib": round(held / GIB, 2), "left_gib": round(left_bytes / GIB, 2)}
    return judged(
        machine, figures, {"processes_left": Limit(high=0), "left_gib": LEFT_GIB}, note="; ".join(left.values())
    )


def victim_command(folder: str, machine: Machine) -> list[str]:
    """What samples until it is killed, and says when it begins."""
    return [sys.executable, "-m", "pipelines.gpu_check.several", json.dumps(["victim", folder, len(machine.gpus)])]


def check_torchrun(machine: Machine, options: CheckOptions) -> Result:
    """The update of the small model on two ranks: the same gradient as one, memory as computed, and the speed-up."""
    name, trained = sizes(machine).small, train_options(machine)
    folder, shaped = model_folder(machine, options, name), write_rollouts(machine, options, name)
    one = alone(update_alone, folder, shaped, trained)
    two = torchrun(folder, shaped, trained)
    computed = computed_bytes(name, trained, gpus=RANKS)
    figures = {
        "ranks": RANKS,
        "tokens_per_second": round(two.tokens_per_second, 1),
        "speed_up": round(two.tokens_per_second / one.tokens_per_second, 3),
        "grad_norm_difference": abs(one.norms[0] - two.norms[0]) / one.norms[0],
        "peak_gib": round(two.peak / GIB, 3),
        "computed_gib": round(computed / GIB, 3),
        "memory_ratio": round(two.peak / computed, 4),
    }
    limits = {"grad_norm_difference": SAME_GRADIENT[machine.device], "memory_ratio": MEMORY}
    return judged(machine, figures, limits)


def check_node(machine: Machine, options: CheckOptions) -> Result:
    """A round with an engine on each of two GPUs and the update by torchrun, and its rollouts against one engine's."""
    gpus = [0, 1] if machine.device == "cuda" else list(CPU_NODE)
    figures, found = dict[str, float | int | str](), []
    for count, runner in ((1, {}), (2, {"gpus": gpus})):
        run = rounds_run(machine, options, Path(options.out) / f"node-{count}", runner=runner, dtype="float32")
        begun = time.perf_counter()
        make_rollouts(run, 0)
        figures[f"generate_seconds_{count}"] = round(time.perf_counter() - begun, 1)
        found.append(_first_tokens(run.folder(0, "rollouts")))
    run_round(run, 0)
    figures["same_rollouts"] = sum(found[0].get(name) == tokens for name, tokens in found[1].items()) / len(found[1])
    figures["broken_promises"] = sum(finding.severity == "error" for finding in shards.verify(run.url))
    return judged(machine, figures, {"same_rollouts": SAME_ROLLOUTS, "broken_promises": NONE})


def _first_tokens(rollouts: str) -> dict[str, list[int]]:
    """Rollout -> its first tokens; later ones differ after one that rounding decided."""
    dataset = shards.open_dataset(rollouts)
    rows = [row for part in range(dataset.spec.parts) for row in dataset.read_part(part).to_pylist()]
    return {row["rollout_id"]: row["token_ids"][:FIRST_TOKENS] for row in rows}


def check_tensor_parallel(machine: Machine, options: CheckOptions) -> Result:
    """One engine over two GPUs: the log-probabilities of what it samples, against transformers on one."""
    if machine.device == "cpu":
        return Result(status="skipped", why="needs two GPUs; tensor parallelism is not checked on a CPU")
    folder = model_folder(machine, options, sizes(machine).small)
    texts = alone(sample_in_parallel, machine, folder)
    off = largest((text.logprobs_T for text in texts), alone(score_plain, folder, texts))
    return judged(machine, {"sampled_difference": off}, {"sampled_difference": SAME[machine.device]})


def sample_in_parallel(machine: Machine, folder: str) -> list[Text]:
    """Rollouts of an engine spread over two GPUs, float32."""
    options = engine_options(machine, dtype="float32")
    engine = start_engine(folder, replace(options, extra={**options.extra, **PARALLEL}))
    prompts = random_prompts(SHAPES[sizes(machine).small]["vocab_size"], count=64, longest=256)
    texts = drawn(engine, prompts, tokens=128)
    engine.close()
    return texts


def update_alone(folder: str, shaped: str, options: TrainOptions) -> Update:
    """The steps in this process, or as one rank of torchrun's."""
    with joined_world(options.device) as world:
        policy = load_policy(folder, options, world)
        return measure_update(policy, make_optimizer(policy.model, options), shaped, options)


def torchrun(folder: str, shaped: str, options: TrainOptions) -> Update:
    """The steps on two ranks; rank 0's account."""
    request = json.dumps(["rank", folder, shaped, {**asdict(options), "betas": list(options.betas)}])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    done = subprocess.run([*command, "-m", "pipelines.gpu_check.several", request], stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return Update(**found | {"seconds": tuple(found["seconds"]), "norms": tuple(found["norms"])})


def _rank(folder: str, shaped: str, given: dict[str, Any]) -> None:
    measured = update_alone(folder, shaped, TrainOptions(**given))
    if os.environ["RANK"] == "0":
        print(json.dumps(asdict(measured)), flush=True)


def _victim(folder: str, gpus: int) -> None:
    """Samples until it is killed: on one GPU in this process, on several (or two shares of a CPU) in children."""
    options = engine_options(Machine(device="cuda" if gpus else "cpu"), dtype="float32")
    engine = start_engine(folder, options) if gpus == 1 else node.start(folder, options, "all" if gpus else CPU_NODE)
    sampling = Sampling(max_tokens=512, ignore_eos=True)
    while True:
        asked = [
            engine.submit(SampleRequest(prompt_token_ids=[300, 301, 302], seed=seed, sampling=sampling))
            for seed in range(16)
        ]
        print(SAMPLING, flush=True)
        for future in asked:
            future.result()


if __name__ == "__main__":
    role, *given = json.loads(sys.argv[1])
    if role == "victim":
        _victim(*given)
    else:
        _rank(*given)
