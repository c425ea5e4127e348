"""Rows a second through every signal, without a model: the score stage from Parquet to Parquet on the direct runner.

    python benchmarks/bench_score.py [--rows 100000] [--only journal --repeats 5]

One JSON object a signal. `against` is a signal that does nothing: reading the rollouts, the Beam job, writing the
sidecar. Where each row costs a process, a computer algebra system or an HTTP request, fewer rows are taken (`rows`).
Models are stood in for by the recorded engine's made-up answers, the judge by an HTTP server on this machine.

What the journal of answers costs: processor time of the stage with and without it, in turn, per answer; the median of
the differences counts. The share is that of a GPU's time for such an answer on rollouts of 512 tokens: an 8B model that
reads 25,000 tokens/s (computed: 16 GFLOP each at 400 TFLOP/s), or samples 256 at 12,500 tokens/s (vllm#7117).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from pass_ops import shards
from pipelines.demo.arithmetic import ANSWER_PATTERN, FORMAT_PATTERN, PUPIL, Split, make_prompts, solve, write_trace
from pipelines.demo.assets import asset_folder
from pipelines.models.folder import describe_model, load_tokenizer
from pipelines.parts.journal import Journal
from pipelines.parts.operations import Operations
from pipelines.signals import Row, SignalBase, sidecar, signal_from_table
from pipelines.signals.stage import score

GROUP = 8
ROWS_A_PART = 4096
POLICY = str(asset_folder("policy"))
RECORDED = {"kind": "recorded", "recording": "synthetic:1"}
STEPS = {"separator": "\n"}
VERIFIED = {"verifier": "regex", "verifier_options": {"pattern": ANSWER_PATTERN}}
JUDGE = {"model": "scripted", "template": "{prompt} {step}"}


@dataclass(frozen=True, kw_only=True)
class Nothing(SignalBase):
    """What the stage itself costs."""

    kind: ClassVar[str] = "outcome"

    def code(self) -> dict[str, str]:
        """None: the script is run, not imported."""
        return {}

    def score(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> pa.Table:
        """One constant row each."""
        assert not inputs
        row = Row(values={"outcome_reward": 1.0, "verify_status": "ok"})
        return sidecar(self.kind, rollouts, [row] * len(rollouts))


#: name -> (the signal's table, the share of the rows it is given)
SIGNALS: dict[str, tuple[dict[str, Any], float]] = {
    "outcome number": ({"signal": "outcome", "verifier": "number"}, 1.0),
    "outcome regex": ({"signal": "outcome", **VERIFIED}, 1.0),
    "outcome squad": ({"signal": "outcome", "verifier": "squad"}, 1.0),
    "outcome choice": (
        {"signal": "outcome", "verifier": "choice", "verifier_options": {"letters": "ABCD0123456789"}},
        1.0,
    ),
    "outcome math": ({"signal": "outcome", "verifier": "math"}, 0.02),
    "format": ({"signal": "format", "pattern": FORMAT_PATTERN, "mode": "search"}, 1.0),
    "execution": ({"signal": "execution", "checker": "pipelines.demo.arithmetic:check_steps", **STEPS}, 1.0),
    "teacher": ({"signal": "logprobs", "model": str(asset_folder("teacher")), "engine": RECORDED}, 1.0),
    "base": ({"signal": "logprobs", "model": POLICY, "engine": RECORDED}, 1.0),
    "opd": ({"signal": "opd", "teacher": "teacher"}, 1.0),
    "opd per step": ({"signal": "opd", "teacher": "teacher", "per": "step", **STEPS}, 1.0),
    "g_opd": ({"signal": "g_opd", "teacher": "teacher", "base": "base"}, 1.0),
    "prm": ({"signal": "prm", "model": str(asset_folder("prm")), "engine": RECORDED, **STEPS}, 1.0),
    "combine": ({"signal": "combine", "signals": ["execution", "prm"]}, 1.0),
    "monte_carlo": ({"signal": "monte_carlo", **VERIFIED, "samples": 1, "engine": RECORDED, **STEPS}, 0.1),
    "judge": ({"signal": "judge", **JUDGE, **STEPS}, 0.01),
}
#: signals that ask a model -> seconds of a GPU for an answer
READ, SAMPLED = 512 / 25_000, 256 / 12_500
ASKING = {"teacher": READ, "prm": READ, "monte_carlo": SAMPLED, "judge": SAMPLED}


def main() -> None:
    """Print one line a signal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--signals", nargs="+", default=list(SIGNALS), choices=list(SIGNALS))
    parser.add_argument("--only", choices=["journal"], help="measure what the journal costs, and nothing else")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of runs with and without the journal")
    arguments = parser.parse_args()
    if arguments.only == "journal":
        asking = [name for name in arguments.signals if name in ASKING]
        measure_journal(asking, rows=arguments.rows, repeats=arguments.repeats)
        return
    with tempfile.TemporaryDirectory() as folder, scripted_judge() as url:
        stored: dict[int, Stored] = {}
        for name in arguments.signals:
            table, share = SIGNALS[name]
            parts = max(1, round(arguments.rows * share / ROWS_A_PART))
            if parts not in stored:
                stored[parts] = Stored(Path(folder) / str(parts), parts)
                stored[parts].rate("warm-up", Nothing())  # imports Beam
                stored[parts].baseline = stored[parts].rate("nothing", Nothing())
            store = stored[parts]
            rate = store.rate(name, signal_from_table(table | ({"url": url} if name == "judge" else {})))
            line = {"metric": f"score {name}", "value": round(rate), "unit": "rows/s", "rows": parts * ROWS_A_PART}
            ratio = round(rate / store.baseline, 3)
            print(json.dumps({**line, "against": "a signal that does nothing", "ratio": ratio}), flush=True)


def measure_journal(names: Sequence[str], *, rows: int, repeats: int) -> None:
    """One line a signal that asks a model."""
    with tempfile.TemporaryDirectory() as folder, scripted_judge() as url:
        for name in names:
            table, share = SIGNALS[name]
            parts = max(1, round(rows * share / ROWS_A_PART))
            store = Stored(Path(folder) / name, parts)
            signal = signal_from_table(table | ({"url": url} if name == "judge" else {}))
            with counted_answers() as answers:
                store.processor_seconds(name, signal, journal=True)
            differences = [
                store.processor_seconds(name, signal, journal=True)
                - store.processor_seconds(name, signal, journal=False)
                for _ in range(repeats)
            ]
            each = statistics.median(differences) / len(answers)
            line = {"metric": f"score_journal {name}", "value": round(1e6 * each, 1), "unit": "processor us an answer"}
            line |= {"share_of_gpu_time": round(each / ASKING[name], 5), "answers": len(answers), "pairs": repeats}
            print(json.dumps(line | {"bytes_an_answer": round(statistics.mean(answers))}), flush=True)


@contextmanager
def counted_answers() -> Iterator[list[int]]:
    """Sizes of what is added to journals meanwhile, in bytes."""
    add, sizes = Journal.add, []

    def counted(journal: Journal, name: str, content: bytes) -> None:
        sizes.append(len(content))
        add(journal, name, content)

    Journal.add = counted  # type: ignore[method-assign, assignment]
    try:
        yield sizes
    finally:
        Journal.add = add  # type: ignore[method-assign]


class Stored:
    """Prompts and rollouts of the arithmetic task, written once, and the signals made beside them."""

    baseline: float

    def __init__(self, folder: Path, parts: int) -> None:
        self._folder, self._parts = folder, parts
        groups = parts * ROWS_A_PART // GROUP
        prompts = make_prompts(groups, seed=0, split=Split.ROUNDS)
        self._write(prompts)

    def processor_seconds(self, name: str, signal: Any, *, journal: bool) -> float:
        """Of this process, for one signal over all parts; what it made is removed again."""
        begun = time.process_time()
        self.score(name, signal, journal=journal)
        spent = time.process_time() - begun
        shutil.rmtree(self._folder / "signals" / name)
        return spent

    def rate(self, name: str, signal: Any) -> float:
        """Rows a second of one signal over all parts."""
        started = time.perf_counter()
        self.score(name, signal)
        return self._parts * ROWS_A_PART / (time.perf_counter() - started)

    def score(self, name: str, signal: Any, *, journal: bool = True) -> None:
        """One signal over all parts."""
        inputs = {needed: str(self._folder / "signals" / needed) for needed in signal.inputs if needed != "prompts"}
        score(
            signal=signal,
            rollouts=str(self._folder / "rollouts"),
            prompts=str(self._folder / "prompts"),
            signals=inputs,
            tokenizer=POLICY,
            out=str(self._folder / "signals" / name),
            operations=Operations(journal=journal),
        )

    def _write(self, prompts: list[str]) -> None:
        tokenizer, facts = load_tokenizer(POLICY), describe_model(POLICY)
        source = {"source": shards.InputRef("made-up", shards.sha256_bytes(b"made up"))}
        first = shards.create_dataset(
            str(self._folder / "prompts"),
            shards.DatasetSpec(stage="prompts", stage_version=1, options={}, parts=self._parts, inputs=source),
        )
        each = len(prompts) // self._parts
        rng = random.Random(0)
        for part in range(self._parts):
            rows = [
                {"prompt_id": f"p{part * each + i}", "prompt": prompt, "answer": solve(prompt), "source": "made-up"}
                for i, prompt in enumerate(prompts[part * each : (part + 1) * each])
            ]
            shards.commit_part(first, part, pa.Table.from_pylist(rows, schema=shards.PROMPTS))
        shards.finalize(first)
        sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "max_tokens": 112, "group_size": GROUP}
        carried = {"sampling": sampling, "tokenizer_digest": facts.tokenizer_digest, "round": 0}
        carried |= {"vocabulary": asdict(facts.vocabulary), "policy_digest": facts.digest}
        second = shards.create_dataset(
            str(self._folder / "rollouts"),
            shards.DatasetSpec(
                stage="generate",
                stage_version=1,
                options={},
                parts=self._parts,
                inputs={"prompts": shards.open_dataset(first.url).ref(str(self._folder / "rollouts"))},
                models={"policy": shards.ModelRef(POLICY, facts.digest)},
                carried=carried,
            ),
        )
        for part in range(self._parts):
            asked = [
                (f"p{part * each + i}", prompt) for i, prompt in enumerate(prompts[part * each : (part + 1) * each])
            ]
            rows = [
                _rollout(name, index, prompt, write_trace(prompt, PUPIL, rng).text, tokenizer)
                for name, prompt in asked
                for index in range(GROUP)
            ]
            shards.commit_part(second, part, pa.Table.from_pylist(rows, schema=shards.ROLLOUTS))
        shards.finalize(second)


def _rollout(name: str, index: int, prompt: str, text: str, tokenizer: Any) -> dict[str, Any]:
    ids = [tokenizer.convert_tokens_to_ids(_token(character)) for character in text]
    return {
        "group_id": name,
        "sample_index": index,
        "rollout_id": f"{name}/{index}",
        "prompt_token_ids": [tokenizer.convert_tokens_to_ids(character) for character in prompt],
        "token_ids": ids,
        "text": text,
        "behavior_logprobs": np.full(len(ids), -0.5, np.float32),
        "loss_mask": [True] * len(ids),
        "finish_reason": "stop",
        "seed": index,
        "answer": solve(prompt),
    }


def _token(character: str) -> str:
    return "\u010a" if character == "\n" else character


@contextmanager
def scripted_judge() -> Iterator[str]:
    """A server that gives every step the same grade; yields its URL."""
    reply = json.dumps({"choices": [{"message": {"content": "Score: 7"}}], "usage": {}}).encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()


if __name__ == "__main__":
    main()
