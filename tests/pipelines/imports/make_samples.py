"""Small files as the real libraries write them, for `test_samples.py`: python make_samples.py [NAME ...]

Each library gets a throwaway environment of its own (uv, some 6 GB in all, a quarter of an hour), in which this file
runs again; what it writes is committed to `samples/`. Nothing is trained or asked that matters: a random model of two
layers, and models that recite.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

SAMPLES = Path(__file__).parent / "samples"
PROMPTS = ("2+3=", "1+4=", "4+4=")
#: what each environment installs
LIBRARIES = {
    "trl": ["trl==1.16.0", "torch==2.13.0"],
    "verl": ["verl==0.9.1", "torch==2.13.0", "tensordict==0.10.0", "TransferQueue==0.1.11", "cachetools", "uvicorn"],
    "verifiers": ["verifiers==0.4.0"],
    "lm_eval": ["lm-eval==0.4.13", "torch==2.13.0", "transformers"],
    "lighteval": ["lighteval==0.13.0", "xxhash<4"],  # it hashes texts, which xxhash 4 refuses
    "inspect_ai": ["inspect-ai==0.3.285"],
    "datasets": ["datasets==5.2.0"],
}


def trl(out: Path) -> None:
    """One step of GRPOTrainer with its completions logged."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    vocabulary = {token: number for number, token in enumerate(["<pad>", "<eos>", *"0123456789+=?"])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>")
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip

    def digits(completions: list[str], **_: Any) -> list[float | None]:
        return [None if not text else sum(letter.isdigit() for letter in text) / len(text) for text in completions]

    with tempfile.TemporaryDirectory() as folder:
        options = GRPOConfig(
            output_dir=folder, max_steps=1, per_device_train_batch_size=8, num_generations=4, max_completion_length=8,
            log_completions=True, logging_steps=1, use_cpu=True, report_to=[], save_strategy="no", seed=0, bf16=False,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=LlamaForCausalLM(config), args=options, processing_class=tokenizer, reward_funcs=[digits],
            train_dataset=Dataset.from_dict({"prompt": list(PROMPTS)}),
        )  # fmt: skip
        trainer.train()
        (written,) = Path(folder, "completions").glob("*.parquet")
        shutil.copy(written, out / written.name)


def verl(out: Path) -> None:
    """A step's JSONL, and a DataProto put into plain objects by the two lines of the documentation."""
    import numpy as np
    import torch
    from verl import DataProto
    from verl.trainer.ppo.ray_trainer import RayPPOTrainer

    inputs = [prompt for prompt in PROMPTS for _ in range(2)]
    outputs, scores = ["5", "6", "5", "4", "8", "9"], [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]
    extras = {"acc": [bool(score) for score in scores], "pred": outputs}
    RayPPOTrainer._write_generations(inputs, outputs, ["5", "5", "5", "5", "8", "8"], scores, extras, str(out), 1)

    generator = torch.Generator().manual_seed(0)
    responses = torch.randint(2, 15, (6, 4), generator=generator)
    lengths = torch.tensor([4, 3, 4, 2, 1, 4])
    mask = torch.arange(4) < lengths[:, None]
    tensors = {
        "prompts": torch.tensor([[0, 4, 12, 5, 13]] * 2 + [[0, 3, 12, 6, 13]] * 2 + [[0, 6, 12, 6, 13]] * 2),
        "responses": responses * mask,
        "attention_mask": torch.cat([torch.tensor([[0, 1, 1, 1, 1]] * 6), mask.long()], dim=1),
        "response_mask": mask.long(),
        "rollout_log_probs": -torch.rand(6, 4, generator=generator) * mask,
        "rm_scores": torch.tensor(scores)[:, None] * (torch.arange(4) == lengths[:, None] - 1),
    }
    uids = np.array([f"u{row // 2}" for row in range(6)], dtype=object)
    data = DataProto.from_dict(tensors=tensors, non_tensors={"uid": uids}, meta_info={"temperature": 1.0})
    torch.save({"batch": dict(data.batch.items()), "meta_info": data.meta_info,
                "non_tensor_batch": {name: list(values) for name, values in data.non_tensor_batch.items()}},
               out / "data.pt")  # fmt: skip


def verifiers(out: Path) -> None:
    """Episodes with one trace each, as their `to_record` writes them."""
    from verifiers.v1.configs.agent import WireAgentConfig
    from verifiers.v1.episode import Episode, GroupInfo
    from verifiers.v1.graph import MessageNode
    from verifiers.v1.task import WireTaskData
    from verifiers.v1.trace import AgentInfo, ModelCall, Trace, TraceTask
    from verifiers.v1.types import AssistantMessage, Sampling, UserMessage

    def trace(task: TraceTask, group: int, sample: int) -> Trace:
        made: Trace = Trace(task=task, agent=AgentInfo(config=WireAgentConfig()))
        asked = [3 + group, 12, 5, 13]
        logprobs = [-0.123456789 * (sample + 1 + token) for token in range(6)]
        made.nodes = [
            MessageNode(message=UserMessage(content=PROMPTS[group]), token_ids=asked, mask=[False] * 4),
            MessageNode(
                parent=0, message=AssistantMessage(content="5" * 6), sampled=True, token_ids=[7] * 6, mask=[True] * 6,
                logprobs=logprobs,
            ),
        ]  # fmt: skip
        made.calls = [ModelCall(node=1, model="tiny", sampling=Sampling(temperature=1.0), finish_reason="stop")]
        made.record_reward("right", float(sample % 2))
        made.is_completed = made.ok = True
        return made

    with (out / "traces.jsonl").open("w") as file:
        for group in range(2):
            task = TraceTask(type="Sum", data=WireTaskData(idx=group, prompt=PROMPTS[group]), key=f"sum-{group}")
            for sample in range(2):
                made = trace(task, group, sample)
                episode: Any = Episode(group=GroupInfo(id=f"g{group}"), task=task, traces=[made])
                file.write(json.dumps(episode.to_record()) + "\n")


def lm_eval(out: Path) -> None:
    """A task of our own, three answers a document, by a model that recites."""
    from lm_eval import evaluator
    from lm_eval.api.model import LM
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    class Reciting(LM):
        def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
            return ["5" if number % 3 else "6" for number, _ in enumerate(requests)]

        def loglikelihood(self, requests: list[Any], **_: Any) -> list[Any]:
            raise NotImplementedError

        def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> list[Any]:
            raise NotImplementedError

    with tempfile.TemporaryDirectory() as folder:
        rows = "".join(json.dumps({"question": prompt, "answer": "5"}) + "\n" for prompt in PROMPTS)
        Path(folder, "test.jsonl").write_text(rows)
        for name, repeats in (("sums", 1), ("sums_often", 3)):
            Path(folder, f"{name}.yaml").write_text(
                f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder}/test.jsonl}}}}\n"
                "test_split: test\noutput_type: generate_until\ndoc_to_text: '{{question}}'\n"
                "doc_to_target: '{{answer}}'\n"
                f"repeats: {repeats}\ngeneration_kwargs: {{until: ['\\n'], do_sample: true, temperature: 1.0}}\n"
                "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
                "metadata: {version: 1}\n"
            )
        found = evaluator.simple_evaluate(
            model=Reciting(), tasks=["sums", "sums_often"], log_samples=True, bootstrap_iters=0,
            task_manager=TaskManager(include_path=folder, include_defaults=False),
        )  # fmt: skip
        tracker = EvaluationTracker(output_path=folder)
        tracker.general_config_tracker.model_name_sanitized = "reciting"
        tracker.save_results_aggregated(results=found, samples=found["samples"])
        for name, samples in found["samples"].items():
            tracker.save_results_samples(task_name=name, samples=samples)
            (written,) = Path(folder).rglob(f"samples_{name}_2*.jsonl")
            shutil.copy(written, out / f"samples_{name}_2026-11-27T00-00-00.000000.jsonl")


def lighteval(out: Path) -> None:
    """Details of two answers a document."""
    from lighteval.logging.evaluation_tracker import EvaluationTracker
    from lighteval.models.dummy.dummy_model import DummyModelConfig
    from lighteval.models.model_output import ModelResponse
    from lighteval.tasks.requests import Doc

    with tempfile.TemporaryDirectory() as folder:
        tracker = EvaluationTracker(output_dir=folder)
        tracker.general_config_logger.log_model_info(DummyModelConfig(seed=0))
        for number, prompt in enumerate(PROMPTS):
            doc = Doc(query=prompt, choices=["5"], gold_index=0, task_name="sums|0", id=str(number))
            answer = ModelResponse(
                input=prompt, input_tokens=[3, 12, 5, 13], text=["5", "66"], output_tokens=[[7], [8, 8]]
            )
            tracker.details_logger.log("sums|0", doc, answer, {"exact_match": 0.5})
        tracker.save()
        (written,) = Path(folder).rglob("details_*.parquet")
        shutil.copy(written, out / "details_sums_2026-11-27T00-00-00.000000.parquet")


def inspect_ai(out: Path) -> None:
    """Two epochs of a task by the library's mock of a model."""
    from inspect_ai import Task
    from inspect_ai import eval as evaluate
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ModelOutput, ModelUsage, get_model
    from inspect_ai.scorer import match
    from inspect_ai.solver import generate

    said = [ModelOutput.from_content("mockllm/model", text) for text in ("5", "6")]
    for one in said:
        one.usage = ModelUsage(input_tokens=4, output_tokens=1, total_tokens=5)  # else it fetches a tokenizer
    samples = [Sample(input=prompt, target="5", id=f"s{number}") for number, prompt in enumerate(PROMPTS[:1])]
    with tempfile.TemporaryDirectory() as folder:
        task = Task(dataset=samples, solver=generate(), scorer=match(), name="sums")
        evaluate(
            task,
            model=get_model("mockllm/model", custom_outputs=said),
            epochs=2,
            log_dir=folder,
            log_realtime=False,
            display="none",
        )
        (written,) = Path(folder).glob("*.eval")
        shutil.copy(written, out / "sums.eval")


def datasets(out: Path) -> None:
    """Rows of rollouts as a dataset writes them to Parquet and to JSON lines."""
    from datasets import Dataset

    rows = [
        {"question": prompt, "completion": f"{at}", "problem_id": group, "score": at / 2}
        for group, prompt in enumerate(PROMPTS)
        for at in range(2)
    ]
    made = Dataset.from_list(rows)
    made.to_parquet(out / "rows.parquet")
    made.to_json(out / "rows.jsonl")


MAKERS: dict[str, Callable[[Path], None]] = {
    made.__name__: made for made in (trl, verl, verifiers, lm_eval, lighteval, inspect_ai, datasets)
}


def in_environment(name: str) -> None:
    """Make the library's environment, and its samples in it."""
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder, "bin", "python")
        subprocess.run(["uv", "venv", "--quiet", "--python", "3.11", folder], check=True)
        subprocess.run(["uv", "pip", "install", "--quiet", "--python", python, *LIBRARIES[name]], check=True)
        subprocess.run([python, __file__, "--here", name], check=True)


def main(names: list[str]) -> None:
    """All of them, or those named; with --here in this interpreter."""
    here = "--here" in names
    for name in [name for name in names if name != "--here"] or list(MAKERS):
        out = SAMPLES / name
        if not here:
            in_environment(name)
            continue
        os.environ |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        MAKERS[name](out)


if __name__ == "__main__":
    main(sys.argv[1:])
