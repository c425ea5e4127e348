"""Writes the pages that are made from the code; tests/docs fails where a committed one is stale.

python docs/generate.py          # what `make reference` runs
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from pass_ops import ShapingConfig
from pass_ops.options.presets import PRESETS
from pass_ops.options.published import LEFT_OUT, PUBLISHED
from pass_ops.shards import schemas
from pipelines.cli import build_parser
from pipelines.cli.failures import ExitCode
from pipelines.cli.results import RESULTS, result_schema

DOCS = Path(__file__).parent
NOTICE = "<!-- Generated from the code by docs/generate.py: run `make reference` instead of editing this page. -->"

METHODS_INTRO = (
    "Published ways of forming advantages, besides [PASS and its neighbours](estimators.md). Each is a name for",
    "`estimator`, in Python, in TOML, on the command line (`passrl shape --set shape.estimator=...`) and in",
    "`passrl sweep --grid estimator=pass,pure,...`, which compares them on rollouts you have.",
    "",
    "`r` is a rollout's reward, `w_out * outcome + w_fmt * format` (`weights.format = 0` leaves the format out);",
    "`s_j` the process signal of step `j` of `K` (under `kl` of a token); `N(x)` is `(x - mean) / (std +",
    "std_eps)` over the group; `L` and `n_j` count unmasked tokens. `weights.process` multiplies the process",
    "part. What a method does in its loss (clipping, its own length normalization) is the trainer's. A rollout",
    "alone in its group is measured against itself: what is centred on the group is 0 there, where verl leaves",
    "the reward as it is.",
    "",
    "Each is tested in `tests/pass_ops/test_methods.py`: against numbers that its authors', or a trainer's, own",
    "code gave (`tests/pass_ops/reference/authors.py` runs it), or worked by hand where no code was found. Where",
    "the formula itself is second-hand, the method says so.",
    "",
    "Some are streams, which your own configuration may change; the others are functions of a group, with keywords:",
    "`[shape.method_options]` in TOML, `method_options={...}` in Python, `--grid method_options.temperature=0.1,1`.",
)
METHODS_COSTS = (
    "Costs are processor time of one thread, next to PASS on the same rollouts (groups of 16, 500 tokens each,",
    "steps of 19 tokens), as `python benchmarks/bench_methods.py` measured them on a busy machine of two cores. A",
    "function of a group pays some numpy calls for each rollout; PASS runs compiled over whole blocks.",
)

COMMANDS_INTRO = (
    "Every command takes `--json`: one JSON value on standard output, nothing else there. It is the result or, where",
    "the command fails, an object with the one key `error`: `kind` (the error's class), `message` (all of it), `place`",
    "(the option, key, file or URL it is about), `fix` (what to do) and `exit_code`; place and fix are null where the",
    "error does not say them apart. `gpu-check` prints one object a line, as each check ends. Each command has a JSON",
    "Schema, which `passrl schema COMMAND` prints too. Unknown flags after `--` go to the Beam runner.",
)
SIGNALS = (
    "A command that finds what it looks for (`verify`, `lint`, `explain`, `gpu-check`, `doctor`) prints it as its",
    "result and ends with 1. Where a signal ends it, shells show 128 and the signal's number as the code: 143 for",
    "SIGTERM, 137 for SIGKILL. What is committed stays then too.",
)

KERNELS_INTRO = (
    "What each compiled loop of `pass_ops` saves, as `python benchmarks/kernel_shares.py` measured it on a busy",
    "machine of two cores: processor nanoseconds a token of the whole of `shape`, one thread, with the kernel and with",
    "numpy in its place (`benchmarks/plain_operations.py`, `plain_streams.py`), in turns on the same rollouts, and how",
    "much of a shape stage without the kernel that is (shards read, joined, shaped, checked, written and digested). Of",
    "the settings that run a kernel the one with the largest share is shown; both ways give the same chunks there, up",
    "to the order of sums. The cases are those of `benchmarks/bench_shape.py`: groups of 16, 500 tokens a rollout,",
    "scores of steps of 19 tokens (`prm`) or of tokens (`kl`), with a tool's masked output in three of four rollouts",
    "(`mixed_mask`). On this machine two runs of the same code differ by up to a tenth.",
    "",
    "The share is of the stage, not of the method: the numbers of [Performance](performance.md) are of `shape` alone,",
    "and a kernel of one percent of a stage can be a third of that. Three loops saved less than one percent of a",
    "stage, and nothing of `shape` beyond the noise; they are numpy now, with the same bits: `fusion.fuse`,",
    "`streams.cells.spread` and `streams.pools.add_parts`.",
)
LEAST_SHARE = 0.02
#: kernels below it -> why they stay; one without a line here is an error
KERNELS_STAY = {
    "chunking.count_unmasked": "without it `shape` itself took 1.03 to 1.6 times as long where tokens are masked; "
    "PASS's ratios may not fall by more than 3 %",
    "streams.pools.scale_runs": "without it `shape` itself took 1.13 to 1.34 times as long in five of 28 settings: "
    "a return-to-go, one stream of steps, rewards alone; in the others the machine's noise was larger than "
    "the difference",
    "divide_length.first_beyond_float32": "without it `shape` itself took 1.4 to 1.6 times as long in four of twenty "
    "settings; in the others the machine's noise was larger than the difference",
}

#: what a column holds; a column without a line here is an error
MEANINGS = {
    "prompt_id": 'unique; "/" in an id from your data is percent-encoded',
    "prompt": "the task as text; null where `messages` is set",
    "messages": "the task as chat messages; null where `prompt` is set",
    "answer": "the reference answer, which the verifier reads (a list becomes JSON)",
    "source": "file or dataset the prompt came from",
    "extra": "the columns named in `prompts.extra`, as a JSON object",
    "group_id": "the prompt_id; the rows of a group are adjacent",
    "sample_index": "0 to G - 1; a rejected rollout leaves a gap",
    "rollout_id": "`{group_id}/{sample_index}`",
    "prompt_token_ids": "what the engine was given",
    "token_ids": "the completion, including the sampled end token",
    "text": "the completion without special tokens, except those kept; for people and verifiers, never encoded again",
    "behavior_logprobs": "log-probability of each sampled token (nats) at the sampling temperature; 0.0 where masked",
    "entropy": "entropy (nats) of the distribution that the token's log-probability belongs to; 0.0 where masked",
    "sum_pi_squared": "sum of that distribution's squared probabilities; 0.0 where masked",
    "loss_mask": "True = the policy chose the token, and it counts",
    "finish_reason": "stop or length",
    "seed": "the rollout's own seed",
    "stage": "the stage that rejected it",
    "reason": "short name of the reason",
    "detail": "one sentence on what happened",
    "transient": "whether another attempt might succeed; informational",
    "attempts": "attempts made",
    "payload": "what there was, as JSON",
    "status": "ok, timeout, error, too_long, no_input or neg_inf; the value columns are null unless it is ok",
    "outcome_reward": "the reward",
    "verify_status": "ok, wrong, unparseable, timeout, error, or unknown of an imported reward",
    "extracted_answer": "the answer the verifier found in the text",
    "format_reward": "the reward",
    "format_ok": "the gate: False replaces the advantage by W times the standardized format reward",
    "process_scores": "one score per step, or one per token (0.0 where masked)",
    "process_ends": "exclusive token end of each step; strictly increasing, the last is the length",
    "logprobs": "log-probability of the sampled tokens under another model, at temperature 1, full vocabulary",
    "NAME_logprobs": "a logprobs signal carried along under its name",
    "reference_logprobs": "the logprobs signal named in `shape.reference`, for the KL term",
    "status_NAME": "status of the signal NAME",
    "detail_NAME": "detail of the signal NAME",
    "chunk_ends": "exclusive token end of each chunk; strictly increasing, the last is the length",
    "chunk_credits": "a_j: the fused advantage at the chunk's last unmasked token",
    "chunk_advantages": "A_DL(j): what the trainer multiplies with",
    "path_score": "S(o); null for estimators that have none and for rows that are not trainable",
    "trainable": "False = nothing to learn from this row; it is in no denominator",
    "policy_digest": "the policy that sampled the rollout",
    "round": "the round it was sampled in",
}
OPTIONS_INTRO = [
    "A configuration is a TOML file of the tables below; `passrl init` writes one to start from. On the command line",
    "`--set engine.max_num_seqs=64` overrides a key; in Python the same names are arguments, as in",
    "`EngineOptions(max_num_seqs=64)`. All three check a value alike. `passrl options [SECTION]` prints this page.",
    "",
    "A relative path is looked up beside the file first. A secret is written as `env:NAME` and read from that",
    "environment variable where it is used.",
    "",
    "Editors complete and check a configuration by its JSON Schema: `passrl schema > passrl.schema.json`, and",
    "`#:schema ./passrl.schema.json` as its first line.",
    "",
]
SIGNAL_TITLES = {
    "outcome": "an outcome signal",
    "format": "a format signal",
    "process_steps": "a process signal, one score per step",
    "process_tokens": "a process signal, one score per token",
    "logprobs": "another model's log-probabilities",
}


def columns() -> str:
    """reference/columns.md, from the Arrow schemas of the dataset protocol."""
    given = list(schemas.ROLLOUTS.names)
    shaped = schemas.shaped_schema({"NAME": "logprobs"})
    reference = schemas.shaped_schema({"NAME": "logprobs"}, reference="NAME").field("reference_logprobs")
    added = [field for field in shaped if field.name not in given]
    return "\n".join(
        [
            "# Columns",
            "",
            NOTICE,
            "",
            'Every dataset is Parquet. A "?" after a type means that the column may be null.',
            "The rules that relate columns are in section 3 of [the contract](../spec/contract.md).",
            "",
            *_table("prompts", list(schemas.PROMPTS)),
            *_table("rollouts", list(schemas.ROLLOUTS)),
            "With `generate.sampling.token_statistics` also:",
            "",
            *list(_table("", list(schemas.TOKEN_STATISTICS)))[2:],
            *(
                line
                for kind in schemas.SIGNAL_KINDS
                for line in _table(f"signals/NAME: {SIGNAL_TITLES[kind]}", list(schemas.signal_schema(kind)))
            ),
            *_table(
                "shaped", [reference, *added], "Every column of `rollouts`, the value columns of its signals, and:"
            ),
            *_table("_rejected", list(schemas.REJECTED), "Only where a stage rejected something."),
        ]
    )


def _table(title: str, fields: list[pa.Field], intro: str = "") -> Iterator[str]:
    yield from (
        f"## {title}",
        "",
        *([intro, ""] if intro else []),
        "| column | type | meaning |",
        "| --- | --- | --- |",
    )
    for field in fields:
        yield f"| `{field.name}` | `{_type(field.type)}{'?' if field.nullable else ''}` | {MEANINGS[field.name]} |"
    yield ""


def _type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list<{_type(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return "struct<" + ", ".join(f"{field.name}: {_type(field.type)}" for field in kind) + ">"
    return {"float": "float32"}.get(str(kind), str(kind))


def commands() -> str:
    """reference/commands.md, from the command line's own parser."""
    parser = build_parser()
    subcommands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    lines = ["# Commands", "", NOTICE, "", *COMMANDS_INTRO, "", "| exit code | meaning |", "| --- | --- |"]
    lines += [*(f"| {code.value} | {code.meaning} |" for code in ExitCode), "", *SIGNALS, ""]
    for name, command in subcommands.choices.items():
        arguments = [action for action in command._actions if action.dest not in ("help", "json")]
        lines += [f"## passrl {name}", "", command.description or "", ""]
        lines += [f"Under `--json`: [schema](json/{name}.schema.json).", "", "| argument | meaning |", "| --- | --- |"]
        lines += [f"| {_argument(action)} | {_escaped(action.help or '')} |" for action in arguments]
        lines += [""]
    return "\n".join(lines)


def _argument(action: argparse.Action) -> str:
    name = ", ".join(action.option_strings) or f"{action.metavar or action.dest}"
    takes_value = bool(action.option_strings) and action.nargs != 0
    value = f" {action.metavar or action.dest.upper()}" if takes_value else ""
    return f"`{name}{value}`" + (" (required)" if action.required and action.option_strings else "")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("%%", "%")


def metrics() -> str:
    """reference/metrics.md, from the table of `trainer.metrics`."""
    import trainer.metrics

    text = trainer.metrics.__doc__ or ""
    table = [line for line in text.splitlines() if line.startswith("|")]
    intro = "`train/metrics.jsonl` holds one object per optimizer step."
    where = "TensorBoard and a tracker get the same numbers under `train/`, with `update` as the step."
    return "\n".join(["# Metrics", "", NOTICE, "", intro, where, "", *table, ""])


def decisions() -> str:
    """decisions/index.md, from the decisions' own titles."""
    intro = (
        "Where two designs were possible: what was chosen, what was rejected, and what would show that we were wrong."
    )
    lines = ["# Decisions", "", NOTICE, "", intro, ""]
    for page in sorted((DOCS / "decisions").glob("[0-9]*.md")):
        title = page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        lines.append(f"- [{title}]({page.name})")
    return "\n".join([*lines, ""])


def methods() -> str:
    """reference/methods.md, from `pass_ops.options.published` and what benchmarks/methods.json says of costs."""
    costs = json.loads((DOCS.parent / "benchmarks" / "methods.json").read_text(encoding="utf-8"))
    lines = ["# Methods", "", NOTICE, "", *METHODS_INTRO, ""]
    lines += ["| `estimator` | method | needs | ns a token | beside PASS |", "| --- | --- | --- | --- | --- |"]
    for name, method in PUBLISHED.items():
        cost, about = costs[name], f"[{method.title}](#{name}), {method.source}"
        lines.append(f"| `{name}` | {about} | {method.needs} | {cost['ns_per_token']:.3g} | {cost['ratio']:.3g} x |")
    lines += ["", *METHODS_COSTS, ""]
    for name, method in PUBLISHED.items():
        lines += [f"## {name}", "", f"{method.title} ({method.source}).", "", f"    {method.formula}", ""]
        checked = method.against if method.against.startswith("worked by hand") else f"checked against {method.against}"
        lines += [f"{checked[0].upper()}{checked[1:]}." + (f" {method.note}" if method.note else ""), ""]
        if name in PRESETS:
            lines += ["It is these streams:", "", "```toml", *_streams_in_toml(name), "```", ""]
        if method.options:
            lines += ["| keyword | default | meaning |", "| --- | --- | --- |"]
            lines += [f"| `{key}` | {o.default} | {_escaped(o.meaning)} |" for key, o in method.options.items()]
            lines += [""]
    lines += ["## Left out", "", "| method | why |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {name} | {why} |" for name, why in LEFT_OUT.items()), ""])


def kernels() -> str:
    """explanation/measured/kernels.md, from benchmarks/kernel_shares.json."""
    measured = json.loads((DOCS.parent / "benchmarks" / "kernel_shares.json").read_text(encoding="utf-8"))
    lines = ["# Kernels", "", NOTICE, "", *KERNELS_INTRO, ""]
    lines += ["| kernel | in | compiled | numpy | saves of a stage |", "| --- | --- | --- | --- | --- |"]
    for m in measured:
        lines.append(
            f"| `{m['kernel']}` | {m['setting']} | {m['shape_ns']:.3g} | {m['without_ns']:.3g} | {m['share']:.1%} |"
        )
    small = [m["kernel"] for m in measured if m["share"] < LEAST_SHARE]
    lines += ["", f"Below {LEAST_SHARE:.0%}, and why each stays:", "", "| kernel | why |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| `{name}` | {KERNELS_STAY[name]} |" for name in small), ""])


def _streams_in_toml(name: str) -> Iterator[str]:
    """The configuration that a preset's name stands for."""
    plain = ShapingConfig(estimator=name).plain()
    yield "[shape]"
    yield from (f"{key} = {_toml(plain[key])}" for key in ("divide", "chunk") if not plain[key])
    for table, options in {f"streams.{n}": o for n, o in plain["streams"].items()}.items():
        yield from ("", f"[shape.{table}]", *(f"{key} = {_toml(value)}" for key, value in options.items()))
    if "fused" in plain:
        yield from ("", "[shape.fused]", *(f"{key} = {_toml(value)}" for key, value in plain["fused"].items()))


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def options() -> str:
    """reference/options.md, from the options classes, signals and verifiers themselves."""
    from pipelines.cli.reference import markdown, sections

    return "\n".join(["# Options", "", NOTICE, "", *OPTIONS_INTRO, *markdown(sections())])


def schema() -> str:
    """reference/passrl.schema.json: what `passrl schema` prints."""
    from pipelines.cli.reference import config_schema

    return json.dumps(config_schema(), indent=1, ensure_ascii=False) + "\n"


def printed(command: str) -> str:
    """reference/json/COMMAND.schema.json: of what a command prints under --json."""
    return json.dumps(result_schema(command), indent=1, ensure_ascii=False) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "decisions/index.md": decisions,
    "explanation/measured/kernels.md": kernels,
    "reference/columns.md": columns,
    "reference/commands.md": commands,
    "reference/methods.md": methods,
    "reference/metrics.md": metrics,
    "reference/options.md": options,
    "reference/passrl.schema.json": schema,
    **{f"reference/json/{command}.schema.json": partial(printed, command) for command in RESULTS},
}


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
