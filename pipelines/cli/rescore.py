"""`passrl rescore`: its arguments, and what it does with them."""

from __future__ import annotations

import argparse
from argparse import Namespace
from dataclasses import asdict

from pipelines.cli.argument_types import share
from pipelines.cli.arguments.common import round_argument, set_argument
from pipelines.cli.show import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("run", help="RUN folder whose rollouts lack ids or log-probabilities: an import, say")
    parser.add_argument("--out", required=True, metavar="NEW", help="run folder for the rollouts as they are then")
    parser.add_argument("--model", metavar="FOLDER", help="scores the stored ids: their log-probabilities, recomputed")
    parser.add_argument(
        "--tokenizer", metavar="FOLDER", help="encodes texts without ids, marked re-encoded (default: the model's)"
    )
    parser.add_argument("--chat", action="store_true", help="plain prompts went through the tokenizer's chat template")
    parser.add_argument("--system", metavar="TEXT", help="a system message before the prompts")
    parser.add_argument("--temperature", type=float, help="what was sampled at, where the rollouts do not say")
    round_argument(parser)
    set_argument(parser, "how the model is run, an option of [engine]: kind=transformers, dtype=bfloat16, ...")
    parser.add_argument(
        "--max-reject-rate",
        type=share,
        default=0.05,
        help="above this share of rejects: refuse (default 0.05)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace datasets that were re-scored otherwise")
    parser.add_argument("--runner", default="direct", help="Beam runner (default direct)")


def rescore(options: Namespace) -> None:
    """Re-score a round."""
    from pipelines.engines.base import EngineOptions
    from pipelines.imports.encode import PromptForm
    from pipelines.options import build
    from pipelines.options.overrides import apply_override
    from pipelines.parts.operations import Operations
    from pipelines.rescore.run import RescoreOptions, rescore
    from pipelines.runners import RunnerOptions
    from pipelines.runs.progress import Reporter

    engine: dict[str, object] = {}
    for override in options.overrides:
        apply_override(engine, override)
    made = rescore(
        options.run,
        out=options.out,
        options=RescoreOptions(
            model=options.model,
            tokenizer=options.tokenizer,
            prompt_form=PromptForm(chat=options.chat, system=options.system),
            temperature=options.temperature,
            engine=build(EngineOptions, engine, where="--set"),
        ),
        round_index=options.round,
        operations=Operations(
            runner=RunnerOptions(name=options.runner, flags=tuple(options.beam_args)),
            overwrite=options.overwrite,
            max_reject_rate=options.max_reject_rate,
        ),
        tell=Reporter(quiet=options.json).line,
    )
    rollouts, known = made.manifests["rollouts"], made.spec.imported
    lines = [f"{options.out}: {rollouts.totals['rows']:,} rollouts"]
    lines += [f"  rejected: {count:,} x {reason}" for reason, count in rollouts.rejected.items()]
    lines.append(f"  token ids {known['ids']}, log-probabilities {known['logprobs']}, mask {known['mask']}")
    lines += [f"  left out: signal {name}, computed from the log-probabilities before" for name in made.left_out]
    datasets = {name: asdict(manifest) for name, manifest in made.manifests.items()}
    show(options, "\n".join(lines), {"imported": known, "left_out": made.left_out, "datasets": datasets})
