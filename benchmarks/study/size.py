"""How large a study is: the same code runs the smoke test and the full grid."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.study.arms import ARMS, CORE, FURTHER, Cell

#: the first seed of the grid; 0 is that of the pilots, after which the grid of rates was set
FIRST_SEED = 1
#: seeds from here on are tuning seeds
TUNING_SEED = 1000
RATES = (1e-4, 3e-4, 1e-3)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Rounds of ``prompts`` x ``copies`` rollouts, cut into ``updates`` optimizer steps of whole groups each."""

    rounds: int = 20
    updates: int = 2
    prompts: int = 16
    copies: int = 8
    cap: int = 256
    """most tokens of a completion: three times the start policy's mean"""
    evaluation_prompts: int = 64
    evaluate_every: int = 10
    arms: tuple[str, ...] = CORE
    further: tuple[str, ...] = FURTHER
    seeds: int = 12
    teacher_seeds: int = 8
    """most seeds of an arm whose signal is a teacher's KL: it differs less from seed to seed"""
    tuning_seeds: int = 1
    rates: tuple[float, ...] = RATES
    tuning_level: str = "slight"


SMOKE = Size(
    rounds=2, prompts=4, copies=4, cap=128, evaluation_prompts=8, evaluate_every=2, seeds=1, rates=(1e-3,), further=()
)
STUDY = Size(further=(), seeds=4)
CORE_ONLY = Size(further=())
FULL = Size()


def tuning_cells(size: Size) -> list[Cell]:
    """Every arm at every rate of the grid, on seeds of its own; arms that read the PRM at one level."""
    return [
        Cell(arm, size.tuning_level if ARMS[arm].signal == "prm" else ARMS[arm].levels[0], rate, TUNING_SEED + seed)
        for seed in range(size.tuning_seeds)
        for arm in (*size.arms, *size.further)
        for rate in size.rates
    ]


def grid(size: Size, rates: dict[str, float]) -> list[Cell]:
    """All cells but those of tuning, seeds outermost: in any prefix of whole seeds arms of as many seeds are paired.

    rates: the learning rate of each arm, as tuning chose it. The further arms come after all seeds of the first ones.
    """
    return [
        Cell(arm, level, rates[arm], seed)
        for arms in (size.arms, size.further)
        for seed in range(FIRST_SEED, FIRST_SEED + size.seeds)
        for arm in arms
        if seed < FIRST_SEED + seeds_of(arm, size)
        for level in ARMS[arm].levels
    ]


def seeds_of(arm: str, size: Size) -> int:
    """The number of seeds of an arm."""
    return min(size.seeds, size.teacher_seeds) if ARMS[arm].signal in ("opd", "g_opd") else size.seeds
