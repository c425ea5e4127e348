"""Check before paying: what cannot end well is refused before the first token, all of it at once, by every command."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from pass_ops.shards import open_dataset
from pipelines.cli.parser import main
from pipelines.models.folder import tensor_shapes, weight_bytes
from pipelines.prompts.stage import PromptRow
from pipelines.runs import check, lengths
from pipelines.runs.check import RunRefused, check_run, find_problems
from pipelines.runs.config import load_config
from pipelines.runs.cost import ROLLOUT_BYTES, checkpoint_bytes, estimate_evaluation, estimate_round, training_bytes
from pipelines.runs.disk import disk_problem
from pipelines.runs.run import Run
from tests.conftest import refusing_tokenizer

STARTS = ("run", "rounds", "eval")


def opened(project, *overrides: str) -> Run:
    return Run(config=load_config(project.config, overrides), url=project.out, modules=(str(project.folder),))


def problems(project, *overrides: str, **scope) -> list[str]:
    return list(find_problems(opened(project, *overrides), **scope).problems)


def refused(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    return capsys.readouterr().err


def test_processes_of_a_stages_own_runner_count_as_those_of_the_runs(project, monkeypatch):
    told = []
    monkeypatch.setattr(check, "machine_problems", lambda *_, processes, **__: told.append(processes) or [])
    flags = "{flags=['--direct_running_mode=multi_processing']}"
    for given in ((), (f"runners.generate={flags}",), (f"runner={flags}",), (f"runner={flags}", "runners.shape={}")):
        problems(project, *given)
    assert told == [False, True, True, True]


def test_a_configuration_that_fits_has_no_problem_and_leaves_no_trace(project):
    assert problems(project) == []
    assert not Path(project.out).exists()


@pytest.mark.parametrize("command", STARTS)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    "wrong", ["eval.outcome='outcme'", "eval.outcome='format'", "signals.outcome.verifier='nowhere:judge'"]
)
def test_every_command_and_its_dry_run_refuse_alike_and_make_nothing(project, capsys, command, dry, wrong):
    shown = refused(capsys, command, project.config, "--out", project.out, "--set", wrong, *dry)
    assert "not started" in shown
    assert not Path(project.out).exists()


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_an_evaluation_without_benchmarks_is_refused_alike(project, capsys, dry):
    shown = refused(capsys, "eval", project.config, "--out", project.out, "--set", "eval.benchmarks={}", *dry)
    assert "the configuration has no [eval.benchmarks.NAME]; name the held-out prompts there" in shown


@pytest.mark.parametrize("command", STARTS)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_options_that_another_would_make_count_for_nothing_are_refused(project, capsys, command, dry):
    both = ("--set", "run.prompts_per_round=4", "--set", "prompts.limit=8")
    shown = refused(capsys, command, project.config, "--out", project.out, *both, *dry)
    assert "prompts.limit is 8, but run.prompts_per_round is 4" in shown
    assert not Path(project.out).exists()


def test_all_problems_are_told_at_once_one_a_line(project, capsys):
    wrong = ("shape.weights.outcome=-1", "generate.group_size=1", "prompts.source='absent.jsonl'",
             "train.kl_coef=0.1", "generate.sampling.top_p=0.9", "eval.outcome='format'")  # fmt: skip
    shown = refused(capsys, "run", project.config, "--out", project.out, *(f"--set={one}" for one in wrong))
    lines = shown.splitlines()[1:]
    assert len(lines) == len(wrong)
    for word in ("weights.outcome", "group_size", "absent.jsonl", "kl_coef", "truncated", "kind format"):
        assert sum(word in line for line in lines) == 1, word


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["shape.process='outcome'"], "named for two streams"),
        (["shape.process='format'", "shape.format='steps'"], "is of kind format"),
        (["shape.estimator='nowhere:own'"], "nowhere"),
        (["signals.steps.checker='pipelines.demo.arithmetic:nothing'"], "has no 'nothing'"),
        (["signals.outcome.verifier_options={stric = true}"], "cannot be called"),
        (["signals.opd={signal='opd', teacher='steps'}"], "give one of kind logprobs"),
        (["signals.a={signal='format', patern='x'}", "signals.b={signal='outcom'}"], "signals.b"),
        (["generate.program='nowhere:play'"], "nowhere"),
        (["policy.model='absent'"], "absent does not exist"),
        (["engine.recording='absent.jsonl'"], "absent.jsonl"),
        (["eval.benchmarks.small.source='absent.jsonl'"], "eval.benchmarks.small"),
        (["generate.sampling.max_tokens=512"], "leaves no room for a prompt"),
        (["generate.sampling.max_tokens=508"], "leave less than sampling.max_tokens (508)"),
        (["generate.max_prompt_tokens=3"], "10 of the 10 prompts"),
        (["generate.sampling.temperature=0.0"], "greed"),
        (["prompts.template='{prompt}'", "prompts.columns={prompt='answer', answer='prompt'}"], ""),
    ],
)  # fmt: skip
def test_what_would_stop_a_run_later_is_found_before_it(project, overrides, said):
    found = problems(project, *overrides)
    assert bool(found) == bool(said)
    assert not said or any(said in problem for problem in found), found


def test_prompts_that_the_tokenizer_cannot_spell_are_refused_or_told(project, capsys, caplog):
    tokenizer = project.folder / "model" / "tokenizer.json"
    content = json.loads(tokenizer.read_text())
    content["model"]["unk_token"] = "<pad>"
    tokenizer.write_text(json.dumps(content))
    rows = [{"prompt": f"{n}a+3b-2?", "answer": "1"} for n in range(9)] + [{"prompt": "2÷3é1?", "answer": "5"}]
    project.write("prompts.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    command = ["generate", project.config, "--out", project.out]
    assert main(command) == 2
    assert "1 of the 10 prompts looked at have characters that the tokenizer of" in (said := capsys.readouterr().err)
    assert "(the first, prompts-9: '÷é'); operations.max_reject_rate is 0.05. Take them out" in said
    assert not Path(project.out).exists()
    with caplog.at_level(logging.WARNING):
        assert main([*command, "--set", "operations.max_reject_rate=0.2"]) == 0
    told = [record.getMessage() for record in caplog.records if "cannot spell" in record.getMessage()]
    assert len(told) == 1
    assert "rollouts, part 2: 1 of 2 prompts have characters" in told[0]
    assert "(the first, prompts-9: ÷é)" in told[0]


def test_prompts_that_would_be_rejected_are_told_where_the_models_context_is_not_known_too(project, monkeypatch):
    monkeypatch.setattr(lengths, "_model_context", lambda _: None)
    monkeypatch.setattr(lengths, "load_tokenizer", lambda _: refusing_tokenizer())
    found = [problem for problem in problems(project) if "would be rejected" in problem]
    assert "10 of the 10 prompts looked at would be rejected, the first as unspelled_text (WordLevel" in found[0]


def test_another_vocabulary_is_told_by_its_first_token(project, tiny_model_factory):
    teacher = tiny_model_factory(seed=5, characters="0123456789")
    (found,) = problems(project, f"signals.teacher={{signal='logprobs', model='{teacher}'}}")
    assert found.startswith("signals.teacher: ")
    assert "token id 12 is None there and 'a' here" in found


@pytest.mark.parametrize("kept", [20, -1])
def test_weights_that_are_cut_off_are_found_without_reading_them(project, kept):
    weights = project.folder / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    (found,) = problems(project)
    assert "model.safetensors is not a readable safetensors file" in found


@pytest.mark.parametrize(
    ("wrong", "consent"),
    [
        ("generate.group_size=1", "group_size_1"),
        ("shape.weights.process=-0.5", "negative_weights"),
    ],
)
def test_what_is_hardly_meant_needs_consent(project, wrong, consent):
    (found,) = problems(project, wrong)
    assert consent in found
    assert problems(project, wrong, f"run.accept=['{consent}']") == []


def test_a_full_disk_needs_consent(project, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    (found,) = problems(project)
    assert "0.0 GB are free" in found
    assert problems(project, "run.accept=['disk_space']") == []


def test_the_room_for_a_round_is_its_own_and_that_of_the_evaluations_that_the_command_makes(project, monkeypatch):
    many = ("eval.samples=1000", "eval.benchmarks.small.limit=10")
    run = opened(project, *many)
    rows = [{"prompt": "10a+3b-2?", "messages": None}]
    round_bytes = estimate_round(run.config, rows * 10, policy=run.config.policy.model).disk_gigabytes * 1e9
    evaluation = estimate_evaluation(run.config, {"small": rows * 10}).gigabytes * 1e9

    def refused(free: float, **scope: int) -> bool:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
        return bool(problems(project, *many, **scope))

    slack = 2000  # estimates round to kB
    assert refused(round_bytes + evaluation - slack)
    assert not refused(round_bytes + evaluation + slack)
    assert refused(round_bytes + evaluation + slack, rounds=1)  # evaluates the starting policy too
    assert not refused(round_bytes + 2 * evaluation + slack, rounds=1)


def test_of_rounds_whose_states_go_only_one_checkpoint_is_being_written_at_a_time(project, monkeypatch):
    run = opened(project, "run.keep_states=1", "train.keep_checkpoints=2")
    rows = [{"prompt": "1+1", "messages": None}]

    def wanted(rounds: int, benchmarks: Mapping[str, Sequence[PromptRow]] = MappingProxyType({})) -> int:
        """Bytes that must be free."""
        low, high = 0, 10**9
        while low < high:
            free = (low + high) // 2
            monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
            refused = disk_problem(run, rows, policy=run.config.policy.model, rounds=rounds, benchmarks=benchmarks)
            low, high = (free + 1, high) if refused else (low, free)
        return low

    shapes = list(tensor_shapes(run.config.policy.model).values())
    stored = weight_bytes(run.config.policy.model)
    policy = training_bytes(shapes, run.config.train, stored=stored)
    policy -= checkpoint_bytes(shapes, run.config.train) * 3 // 2
    rows_of_a_round = estimate_round(run.config, rows, policy=run.config.policy.model).gigabytes * 1e9
    assert wanted(5) - wanted(1) == pytest.approx(4 * (policy + rows_of_a_round), abs=4000)  # estimates round to kB
    sampled = 6 * 1000 * 2 * run.config.generate.sampling.max_tokens / 2  # six policies, 1,000 prompts, two samples
    assert wanted(5, {"small": rows * 1000}) - wanted(5) == pytest.approx(sampled * ROLLOUT_BYTES, abs=1000)


def test_the_estimate_of_rounds_has_their_evaluations(project, capsys):
    between = ("--set", "eval.between=3", "--dry-run")

    def estimated(command: str, *arguments: str) -> dict[str, float]:
        assert main([command, project.config, "--out", project.out, *between, *arguments]) == 0
        return json.loads(capsys.readouterr().out)

    whole, few = 4 * 2, 3 * 2
    assert estimated("rounds", "--rounds", "5")["evaluation"]["rollouts"] == 2 * whole + 4 * few
    assert estimated("run", "--round", "0")["evaluation"]["rollouts"] == whole
    assert estimated("eval")["estimate"]["rollouts"] == whole
    assert estimated("eval")["evaluation"] is None
    assert estimated("generate", "--round", "0")["evaluation"] is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_exported_policy_is_estimated_in_the_type_that_it_is_written_in(project, dtype):
    weights, model = project.folder / "model" / "model.safetensors", str(project.folder / "model")
    save_file({k: v.to(getattr(torch, dtype)) for k, v in load_file(weights).items()}, weights, {"format": "pt"})
    shapes = list(tensor_shapes(model).values())

    def exported(*given: str) -> int:
        options = opened(project, *given).config.train
        return training_bytes(shapes, options, stored=weight_bytes(model)) - checkpoint_bytes(shapes, options) * 3 // 2

    assert main(["run", project.config, "--out", project.out, "--set", "train.updates=1"]) == 0
    assert exported() == weight_bytes(f"{project.out}/round-000/policy")
    numbers = sum(math.prod(shape) for shape in shapes)
    assert weight_bytes(model) == numbers * {"float32": 4, "bfloat16": 2}[dtype]
    assert [exported(f"train.export_dtype='{name}'") for name in ("float32", "float16")] == [4 * numbers, 2 * numbers]
    adapter = exported("train.lora_rank=4")
    assert adapter == 4 * sum(4 * sum(shape) for shape in shapes if len(shape) == 2)
    assert exported("train.lora_rank=4", "train.export_dtype='bfloat16'") == adapter // 2


@pytest.mark.parametrize(
    "arguments",
    [("run", "--round", "-1"), ("rounds", "--rounds", "0"), ("rounds", "--rounds", "-2"), ("score", "--round", "x")],
)
def test_rounds_that_cannot_be_are_refused_by_the_command_line(project, capsys, arguments):
    command, *rest = arguments
    with pytest.raises(SystemExit) as ended:
        main([command, project.config, "--out", project.out, *rest])
    assert ended.value.code == 2
    assert "whole number" in capsys.readouterr().err


@pytest.mark.parametrize("scope", [{"round_index": -1}, {"rounds": 0}])
def test_rounds_that_cannot_be_are_refused_from_python(project, scope):
    with pytest.raises(RunRefused, match="rounds count from 0"):
        check_run(opened(project), **scope)


def test_a_stage_is_checked_for_what_it_needs_alone(project):
    wrong = ("eval.outcome='format'", "signals.outcome.verifier='nowhere:judge'", "prompts.source='absent.jsonl'")
    assert problems(project, *wrong, stages={"shape"}) == []
    signals, rollouts = problems(project, *wrong, stages={"score"})
    assert signals.startswith("signals.outcome: ")
    assert "round-000/rollouts is no dataset" in rollouts


def test_signals_are_built_once_for_a_round(project, monkeypatch):
    from pipelines.runs import run as run_module

    built = []
    real = run_module.signal_from_table
    monkeypatch.setattr(run_module, "signal_from_table", lambda table: built.append(table["signal"]) or real(table))
    assert main(["run", project.config, "--out", project.out]) == 0
    assert sorted(built) == ["execution", "format", "outcome"]


VERIFIER = """
def judge(text, answer, *, digit="3"):
    return digit in text
"""
ESTIMATOR = """
def own(group, config):
    return [[float(i)] * len(mask) for i, mask in enumerate(group.mask)]
"""


@pytest.mark.parametrize(
    "flags", [(), ("--", "--direct_running_mode=multi_processing", "--direct_num_workers=2")], ids=["here", "workers"]
)
def test_modules_beside_the_configuration_are_found_here_and_in_workers(project, capsys, flags, tmp_path, monkeypatch):
    name = f"beside_{len(flags)}"  # a module of its own: this process keeps what it imported
    project.write(f"{name}.py", VERIFIER + ESTIMATOR)
    monkeypatch.chdir("/")
    own = ("--set", f"signals.outcome.verifier='{name}:judge'", "--set", f"shape.estimator='{name}:own'")
    for stage in ("generate", "score", "shape"):
        assert main([stage, project.config, "--out", project.out, *own, *flags]) == 0, capsys.readouterr().err
    assert open_dataset(f"{project.out}/round-000/signals/outcome").spec.options["verifier"] == f"{name}:judge"
    assert f"{name}:own" in open_dataset(f"{project.out}/round-000/shaped").spec.options["code"]


SIGNAL = """
from dataclasses import dataclass
from typing import ClassVar
from pipelines.signals import Row, SignalBase, sidecar

@dataclass(frozen=True, kw_only=True)
class Short(SignalBase):
    kind: ClassVar[str] = "outcome"
    limit: int = 8

    def score(self, rollouts, inputs):
        rows = [Row(values={"outcome_reward": float(len(ids) <= self.limit), "verify_status": "ok"})
                for ids in rollouts["token_ids"].to_pylist()]
        return sidecar(self.kind, rollouts, rows)
"""


def test_a_signal_beside_the_configuration_travels_to_worker_processes(project, monkeypatch):
    project.write("short_beside.py", SIGNAL)
    monkeypatch.chdir("/")
    own = ("--set", "signals.short={signal='short_beside:Short', limit=4}", "--signal", "short")
    workers = ("--", "--direct_running_mode=multi_processing", "--direct_num_workers=2")
    assert main(["generate", project.config, "--out", project.out]) == 0
    assert main(["score", project.config, "--out", project.out, *own, *workers]) == 0
    assert open_dataset(f"{project.out}/round-000/signals/short").spec.options["limit"] == 4


READER = """
from dataclasses import dataclass
from typing import ClassVar
from pipelines.signals import Row, SignalBase, sidecar

@dataclass(frozen=True, kw_only=True)
class Reader(SignalBase):
    kind: ClassVar[str] = "outcome"

    @property
    def inputs(self):
        return ("format",)

    def score(self, rollouts, inputs):
        rows = [Row(values={"outcome_reward": float(bool(ok)), "verify_status": "ok"})
                for ok in inputs["format"]["format_ok"].to_pylist()]
        return sidecar(self.kind, rollouts, rows)
"""


def test_an_evaluation_scores_what_its_outcome_reads_too(project, capsys):
    project.write("reader_beside.py", READER)
    own = ("--set", "signals.both={signal='reader_beside:Reader'}", "--set", "eval.outcome='both'")
    assert main(["eval", project.config, "--out", project.out, *own, "--json"]) == 0
    assert sorted(p.name for p in Path(project.out, "start/eval/small/signals").iterdir()) == ["both", "format"]
    assert json.loads(capsys.readouterr().out)["small"]["unscored"] == 0


def test_the_estimate_includes_training(project, capsys):
    assert main(["run", project.config, "--out", project.out, "--dry-run", "--training-tflops", "0.001"]) == 0
    told = json.loads(capsys.readouterr().out)
    estimate = told["estimate"]
    assert estimate["training_tokens"] == int(30 * 8 + 30 * len("10a+3b-2?") / 4)
    parameters = sum(p.numel() for p in _parameters(project))
    assert estimate["training_gigabytes"] == pytest.approx((3 * 12 + 4) * parameters / 1e9, abs=1e-6)
    hours = 6 * parameters * estimate["training_tokens"] / 1e9 / 3600
    assert estimate["training_hours"] == pytest.approx(hours, abs=1e-6)
    assert told["unchecked"] == []


def _parameters(project):
    from safetensors.torch import load_file

    return load_file(project.folder / "model" / "model.safetensors").values()
