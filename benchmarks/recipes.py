"""What the recipes in configs/ take: GPU hours, GiB on a card, disk; all computed, nothing measured.

    python -m benchmarks.recipes             # the table of docs/how-to/recipes.md
    python -m benchmarks.recipes --write     # also writes it there, and each recipe's line "# Expected"

Each recipe goes through `passrl rounds RECIPE --dry-run --gpu CARDS` beside stand-ins: models that are a config, a
tokenizer and the headers of weight files, and prompts of assumed lengths. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import re
import shutil
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.first_gpu_run import SAMPLED, SCORING_MFU, TRAINED
from benchmarks.stand_ins import model_names, write_stand_ins
from pipelines.cli.parser import main as passrl
from pipelines.models.folder import tensor_shapes
from pipelines.runs.config import RunConfig, load_config
from pipelines.runs.cost import FLOPS, TOKENS_PER_SECOND, TRAINING_TFLOPS, checkpoint_bytes
from pipelines.runs.run import configured_signals
from pipelines.signals.base import Signal, SignalBase
from pipelines.signals.judge import JudgeSignal
from pipelines.signals.modelled import ModelSignal
from pipelines.signals.monte_carlo import MonteCarloSignal
from trainer.flops import PEAK_TFLOPS

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
PAGE = ROOT / "docs" / "how-to" / "recipes.md"
BEGIN, END = "<!-- python -m benchmarks.recipes --write -->", "<!-- end -->"
EXPECTED = re.compile(r"^# Expected on (\d+) x 80 GiB: .*$", re.MULTILINE)

LLAMA_3_8B = 8.03e9
STEP_TOKENS = 100  # of a step, assumed
REPLY_TOKENS = 200  # of a judge's reply to one step, assumed


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """What one card is assumed to do.

    sampled: tokens/s of an 8B model; a smaller one samples faster in proportion, but not beyond `faster` times.
    trained, scored: TFLOP/s of an update and of a forward pass, whatever the model's size.
    """

    sampled: float
    faster: float
    trained: float
    scored: float


#: others' figures of an H100 with Llama-3-8B (`benchmarks.first_gpu_run`)
PUBLISHED = Speeds(
    sampled=SAMPLED[0],
    faster=4.0,
    trained=FLOPS * LLAMA_3_8B * TRAINED[0] / 1e12,
    scored=SCORING_MFU * PEAK_TFLOPS["H100"],
)
#: what `--dry-run` assumes where nobody names speeds; a small model is no faster, and scores no better than it trains
CAUTIOUS = Speeds(sampled=TOKENS_PER_SECOND, faster=1.0, trained=TRAINING_TFLOPS, scored=TRAINING_TFLOPS)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of all rounds of a recipe.

    cards: how many of 80 GiB it is meant for. hours: of one card, at PUBLISHED and at CAUTIOUS speeds. gib: what the
    fullest stage holds on a card, at least. disk: GB of the run's folder and of the models' weights.
    """

    recipe: str
    policy: str
    signals: tuple[str, ...]
    cards: int
    hours: tuple[float, float]
    gib: float
    disk: float

    def line(self) -> str:
        """The comment in the recipe's header."""
        return (
            f"# Expected on {self.cards} x 80 GiB: {_range(self.hours)} GPU hours, {self.gib:.0f} GiB a card, "
            f"{self.disk:.0f} GB of disk. Computed, not measured: docs/how-to/recipes.md."
        )

    def row(self) -> str:
        """The recipe's row of the table."""
        figures = f"{self.cards} | {_range(self.hours)} | {self.gib:.0f} | {self.disk:.0f}"
        return f"| `{self.recipe}.toml` | {self.policy} | {', '.join(self.signals)} | {figures} |"


def recipes() -> list[Path]:
    """Every recipe, by name."""
    return sorted(CONFIGS.glob("*.toml"))


def stage(recipe: Path, folder: Path) -> Path:
    """A copy of a recipe below `folder`, with stand-ins for everything that it names; its path."""
    file = folder / "here" / "configs" / recipe.name
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(recipe, file)
    write_stand_ins(tomllib.loads(file.read_text(encoding="utf-8")), file.parent)
    return file


def dry_run(file: Path, *, cards: int) -> dict[str, Any]:
    """What `passrl rounds FILE --dry-run` prints, whatever disk is free here.

    Raises RuntimeError where it refuses; why is on standard error.
    """
    said = io.StringIO()
    with redirect_stdout(said):
        code = passrl([
            "rounds", str(file), "--out", str(file.with_suffix("")), "--dry-run", "--gpu", f"{cards} x 80 GiB",
            "--set", 'run.accept=["disk_space"]',
        ])  # fmt: skip
    if code:
        raise RuntimeError(f"{file.name}: passrl rounds --dry-run ended with exit code {code}")
    return dict(json.loads(said.getvalue()))


def cost(recipe: Path, folder: Path) -> Cost:
    """What a recipe takes. folder: where its stand-ins are written. Raises RuntimeError, ValueError."""
    found = EXPECTED.search(recipe.read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f'{recipe}: no line "# Expected on N x 80 GiB: ?" says how many cards; add one, then --write')
    file, cards = stage(recipe, folder), int(found[1])
    config = load_config(file)
    told = dry_run(file, cards=cards)
    estimate = told["estimate"]
    weights = sum(2 * _parameters(str(file.parent / name)) for name in _names(recipe))
    return Cost(
        recipe=recipe.stem,
        policy=Path(config.policy.model).name,
        signals=tuple(dict.fromkeys(str(table["signal"]) for table in config.signals.values())),
        cards=cards,
        hours=(all_hours(config, estimate, PUBLISHED), all_hours(config, estimate, CAUTIOUS)),
        gib=max(one["total_gib"] for one in told["memory"]),
        disk=weights / 1e9 + _written(config, estimate),
    )


def all_hours(config: RunConfig, estimate: Mapping[str, Any], speeds: Speeds) -> float:
    """Hours of one card that all rounds take. estimate: of one round, as `--dry-run` prints it."""
    sampling: float = estimate["tokens"] / sampling_speed(_parameters(config.policy.model), speeds) / 3600
    training: float = estimate["training_hours"] * estimate["training_tflops"] / speeds.trained
    scoring = sum(scoring_hours(signal, config, estimate, speeds) for signal in configured_signals(config).values())
    return config.run.rounds * (sampling + training + scoring)


def sampling_speed(parameters: int, speeds: Speeds = PUBLISHED) -> float:
    """Tokens/s that one card samples."""
    return speeds.sampled * min(speeds.faster, LLAMA_3_8B / parameters)


def scoring_hours(signal: Signal, config: RunConfig, estimate: Mapping[str, Any], speeds: Speeds = PUBLISHED) -> float:
    """Hours of one card that a signal's models take in a round: forward passes over the rollouts, or sampled tokens."""
    if not isinstance(signal, SignalBase):
        return 0.0
    rollouts, length = estimate["rollouts"], estimate["tokens"] / estimate["rollouts"]
    hours = 0.0
    of_the_policy = isinstance(signal, ModelSignal) and signal.model is None
    for model in [config.policy.model] if of_the_policy else list(signal.engines()):
        size = _parameters(model)
        if isinstance(signal, JudgeSignal):
            hours += rollouts * length / STEP_TOKENS * REPLY_TOKENS / sampling_speed(size, speeds)
        elif isinstance(signal, MonteCarloSignal):
            most = min(signal.samples * length / STEP_TOKENS, signal.max_continuations)
            continued = rollouts * most * length / 2  # tokens: on average from the middle to the end
            hours += continued / sampling_speed(size, speeds)
        else:
            forward = 2 * size * estimate["training_tokens"] / config.train.epochs
            hours += forward / (speeds.scored * 1e12)
    return hours / 3600


def table(costs: Sequence[Cost]) -> str:
    """The table of the page."""
    head = "| recipe | policy | signals | cards | GPU hours | GiB a card | GB of disk |"
    return "\n".join([head, "| --- " * 7 + "|", *(cost.row() for cost in costs)])


def written_page(page: str, costs: Sequence[Cost]) -> str:
    """The page with this table in it."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table(costs)}\n\n{END}{rest.partition(END)[2]}"


def _range(hours: tuple[float, float]) -> str:
    return " to ".join(f"{one:.1f}" if one >= 1 else f"{one:.2f}" for one in hours)


def _written(config: RunConfig, estimate: Mapping[str, Any]) -> float:
    """GB in the run's folder at most: rows and policies of all rounds, kept states, a checkpoint being written."""
    train, rounds = config.train, config.run.rounds
    state = checkpoint_bytes(list(tensor_shapes(config.policy.model).values()), train) / 1e9
    one = state / train.keep_checkpoints
    states = min(config.run.keep_states or rounds, rounds)
    left = estimate["gigabytes"] + estimate["training_gigabytes"] - state - one
    return float(rounds * left + states * state + one)


def _parameters(model: str) -> int:
    return sum(math.prod(shape) for shape in tensor_shapes(model).values())


def _names(recipe: Path) -> set[str]:
    return model_names(tomllib.loads(recipe.read_text(encoding="utf-8")))


def main() -> None:
    """Prints the table; --write also puts it, and each recipe's figures, where they stand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the page's table and the recipes' headers")
    write = parser.parse_args().write
    with tempfile.TemporaryDirectory() as folder:
        costs = [cost(recipe, Path(folder)) for recipe in recipes()]
    print(table(costs))
    if write:
        PAGE.write_text(written_page(PAGE.read_text(encoding="utf-8"), costs), encoding="utf-8")
        for recipe, found in zip(recipes(), costs, strict=True):
            text = recipe.read_text(encoding="utf-8")
            recipe.write_text(EXPECTED.sub(found.line(), text), encoding="utf-8")


if __name__ == "__main__":
    main()
