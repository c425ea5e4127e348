"""Tokens/s of the generate stage against bare `vllm.LLM.generate`: one JSON object a line.

    python benchmarks/bench_generate.py [--prompts 192] [--group 8] [--parts 4 16 64] [--repeats 3] [--only journal]

The same prompts, seeds and logprobs in two processes that take turns, each with its engine started before: the bare one
calls LLM.generate once over all rollouts, the other runs the whole stage: Beam job, reading prompts, Parquet, finalize.
The model is a random Llama (512 wide, 8 layers, 26M parameters) over characters; rollouts end by their end token, so
that lengths spread as a geometric distribution does, up to 256. The shortest repeat counts.

What the journal of finished rollouts costs is measured without a model, on made-up rollouts of 256 tokens: processor
time of the stage with and without it, in turn; the median of the differences counts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.engines import Engine, EngineOptions, SampleRequest, Sampling

ENGINE = EngineOptions(dtype="float32", kv_cache_gib=1.0, max_num_seqs=256)
MAX_TOKENS = 256
Side = Callable[[str], tuple[float, float]]  # a command -> seconds and tokens
CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz+-=?.: \n"


def make_model(folder: Path) -> str:
    """A random Llama of 26M parameters and its character tokenizer."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = ["<pad>", "<eos>", *CHARACTERS]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=8, max_position_embeddings=512, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def write_parts(root: Path, *, prompts: int, per_part: int) -> str:
    """The prompts dataset in parts of `per_part`."""
    from pipelines.prompts.stage import PromptSource, write_prompts

    file, out = root / "prompts.jsonl", root / f"prompts-{per_part}"
    file.write_text("".join(json.dumps({"prompt": f"{i}+{7 * i}-{i % 5}=?"}) + "\n" for i in range(prompts)))
    write_prompts(PromptSource(source=str(file), prompts_per_part=per_part), out=str(out))
    return str(out)


def bare(model: str, prompts: str, group: int) -> Side:
    """What runs LLM.generate once: by command seeded or unseeded; returns seconds and tokens."""
    from pass_ops import shards
    from pipelines.engines.vllm import scan_own_modules, set_environment
    from pipelines.engines.vllm_arguments import engine_arguments
    from pipelines.models.folder import load_tokenizer
    from pipelines.rollouts.stage import derive_seed

    set_environment(ENGINE)  # in process, quiet, off the network, as our engine; before vLLM's first import
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    arguments = engine_arguments(model, ENGINE, device="cpu", dtype="float32", context_length=512)
    scan_own_modules()
    llm = LLM(**arguments)
    tokenizer, dataset = load_tokenizer(model), shards.open_dataset(prompts)
    rows = [row for part in range(dataset.spec.parts) for row in dataset.read_part(part).to_pylist()]
    asked = [
        (TokensPrompt(prompt_token_ids=tokenizer(row["prompt"])["input_ids"]), derive_seed(0, 0, row["prompt_id"], i))
        for row in rows
        for i in range(group)
    ]

    def run(command: str) -> tuple[float, float]:
        params = [
            SamplingParams(
                max_tokens=MAX_TOKENS, seed=seed if command == "seeded" else None, logprobs=0, flat_logprobs=True,
                detokenize=False,
            )
            for _, seed in asked
        ]  # fmt: skip
        begun = time.perf_counter()
        outputs = llm.generate([prompt for prompt, _ in asked], params, use_tqdm=False)
        return time.perf_counter() - begun, sum(len(output.outputs[0].token_ids) for output in outputs)

    return run


def stage(model: str, root: Path, group: int) -> Side:
    """What runs the generate stage once over the prompts dataset that the command names; seconds and tokens."""
    from pipelines.engines import acquire
    from pipelines.rollouts.stage import GenerateOptions, generate

    engine = acquire(model, ENGINE)
    options = GenerateOptions(group_size=group, sampling=Sampling(max_tokens=MAX_TOKENS))

    def run(prompts: str) -> tuple[float, float]:
        if prompts == "identical":
            return identical(engine)
        out = root / "rollouts"
        begun = time.perf_counter()
        manifest = generate(prompts=prompts, out=str(out), model=model, engine=ENGINE, options=options)
        seconds = time.perf_counter() - begun
        shutil.rmtree(out)
        return seconds, int(manifest.totals["tokens"])

    return run


def identical(engine: Engine, *, count: int = 64, crowd: int = 256) -> tuple[float, float]:
    """Shares of rollouts with the same tokens, and with the same bits of logprobs, alone and in a crowd."""
    sampling = Sampling(max_tokens=MAX_TOKENS)
    requests = [
        SampleRequest(prompt_token_ids=engine.tokenizer(f"{i}+{i}=?")["input_ids"], seed=i, sampling=sampling)
        for i in range(crowd)
    ]
    together = [future.result() for future in [engine.submit(request) for request in requests]][:count]
    alone = [engine.submit(request).result() for request in requests[:count]]
    pairs = list(zip(alone, together, strict=True))
    tokens = sum(a.token_ids.tolist() == b.token_ids.tolist() for a, b in pairs)
    bits = sum(a.logprobs.tobytes() == b.logprobs.tobytes() for a, b in pairs)
    return tokens / count, bits / count


class Child:
    """One side in a process of its own, asked line by line."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, __file__, *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._reply()

    def ask(self, command: str) -> tuple[float, float]:
        """What one run returned."""
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        first, second = self._reply()
        return first, second

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=60)

    def _reply(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("reply "):
                return json.loads(line.removeprefix("reply "))
        raise RuntimeError(f"the child ended with status {self._process.wait()}")


def serve(run: Side) -> None:
    """A child's loop: a command in, a reply out."""
    print("reply null", flush=True)
    for line in sys.stdin:
        print("reply", json.dumps(run(line.strip())), flush=True)


def measure(root: Path, options: argparse.Namespace) -> None:
    """Both sides in turn; prints the results."""
    model = make_model(root / "model")
    prompts = {per_part: write_parts(root, prompts=options.prompts, per_part=per_part) for per_part in options.parts}
    first = next(iter(prompts.values()))
    common = ("--group", str(options.group), "--model", model, "--prompts-at", first)
    children = {role: Child("--role", role, *common) for role in ("bare", "stage")}
    asked = [("bare", "seeded"), ("bare", "unseeded"), *(("stage", url) for url in prompts.values())]
    children["stage"].ask(first)  # warm: Beam's imports, the first batch shapes
    children["bare"].ask("seeded")
    best: dict[str, tuple[float, float]] = {}
    for _ in range(options.repeats):
        for role, command in asked:
            best[command] = min(best.get(command, (float("inf"), 0)), children[role].ask(command))
    same = children["stage"].ask("identical")
    for child in children.values():
        child.close()
    rates = {command: tokens / seconds for command, (seconds, tokens) in best.items()}
    sizes = {"rollouts": options.prompts * options.group, "tokens": int(best["seeded"][1])}
    tell("generate_bare", rates["seeded"], "itself", 1.0, sizes)
    tell("generate_bare_without_seeds", rates["unseeded"], "with seeds", rates["unseeded"] / rates["seeded"], sizes)
    for per_part, url in prompts.items():
        assert abs(best[url][1] / best["seeded"][1] - 1) < 0.01, "the same seeds give (nearly) the same rollouts"
        ratio = rates[url] / rates["seeded"]
        tell("generate", rates[url], "vllm.LLM.generate", ratio, sizes | {"prompts_per_part": per_part})

    for what, share in zip(("same_tokens", "same_bits"), same, strict=True):
        found = {"metric": f"generate_alone_and_in_a_crowd_{what}", "value": round(share, 3), "unit": "share"}
        print(json.dumps(found | {"against": "itself", "ratio": round(share, 3), "rollouts": 64, "crowd": 256}))


def measure_journal(root: Path, options: argparse.Namespace, *, anchor: float = 12_500) -> None:
    """The journal's share of the time in which a GPU samples `anchor` tokens/s (an 8B model on an H100)."""
    from pipelines.parts.operations import Operations
    from pipelines.rollouts.stage import GenerateOptions, generate

    model = make_model(root / "model")
    prompts = write_parts(root, prompts=options.prompts, per_part=64)
    engine = EngineOptions(kind="recorded", recording="synthetic:0")
    drawn = GenerateOptions(group_size=options.group, sampling=Sampling(max_tokens=MAX_TOKENS, ignore_eos=True))

    def seconds(*, journal: bool) -> float:
        out = root / "rollouts"
        begun = time.process_time()
        generate(
            prompts=prompts, out=str(out), model=model, engine=engine, options=drawn,
            operations=Operations(journal=journal),
        )  # fmt: skip
        spent = time.process_time() - begun
        shutil.rmtree(out)
        return spent

    seconds(journal=True)  # warm
    differences = [seconds(journal=True) - seconds(journal=False) for _ in range(options.repeats)]
    rollouts = options.prompts * options.group
    each = statistics.median(differences) / rollouts
    share = each * anchor / MAX_TOKENS
    line = {"metric": "generate_journal", "value": round(1e6 * each, 1), "unit": "processor us a rollout"}
    line |= {"share_of_gpu_time": round(share, 5), "at_tokens_per_second": anchor, "tokens_a_rollout": MAX_TOKENS}
    print(json.dumps(line | {"rollouts": rollouts, "pairs": options.repeats}), flush=True)


def tell(metric: str, rate: float, against: str, ratio: float, sizes: dict[str, int]) -> None:
    """One result."""
    line = {"metric": metric, "value": round(rate), "unit": "tokens/s", "against": against, "ratio": round(ratio, 3)}
    print(json.dumps(line | sizes), flush=True)


def main() -> None:
    """Measure, or be one of the two sides."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=192)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--parts", type=int, nargs="+", default=[4, 16, 64], help="prompts per part")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["journal"], help="leave out what needs vLLM")
    parser.add_argument("--role", choices=["bare", "stage"], help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--prompts-at", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.role == "bare":
            serve(bare(options.model, options.prompts_at, options.group))
        elif options.role == "stage":
            serve(stage(options.model, Path(folder), options.group))
        else:
            measure_journal(Path(folder), options)
            if options.only is None:
                measure(Path(folder), options)


if __name__ == "__main__":
    main()
