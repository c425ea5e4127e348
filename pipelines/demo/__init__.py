"""The demo's task, a chain of small sums whose every step can be checked, and the models shipped for it."""

from pipelines.demo.arithmetic import (
    ANSWER_PATTERN,
    FORMAT_PATTERN,
    MAX_COMPLETION_TOKENS,
    Split,
    check_format,
    check_outcome,
    check_step,
    check_steps,
    extract_answer,
    make_prompts,
    padding_lines,
    prompt_rows,
    solve,
    split_of,
    split_steps,
)
from pipelines.demo.assets import MODELS, asset_folder

__all__ = [
    "ANSWER_PATTERN",
    "FORMAT_PATTERN",
    "MAX_COMPLETION_TOKENS",
    "MODELS",
    "Split",
    "asset_folder",
    "check_format",
    "check_outcome",
    "check_step",
    "check_steps",
    "extract_answer",
    "make_prompts",
    "padding_lines",
    "prompt_rows",
    "solve",
    "split_of",
    "split_steps",
]
