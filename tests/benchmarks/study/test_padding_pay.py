"""What padding earns: the closed form against `pass_ops.shape`, and what it says of the trap."""

from __future__ import annotations

import pyarrow as pa
import pytest

from benchmarks.study.padding_pay import pay
from pass_ops import ShapingConfig, Weights, shape

CREDITS = [0.3, -0.2, 0.5, 0.1]


def shaped(credits: list[float], k: float) -> tuple[list[float], float]:
    """Chunk advantages and path score of a rollout of one-token steps whose scores are taken as they are."""
    count = len(credits)
    table = pa.table(
        {
            "group_id": ["g"],
            "loss_mask": [[True] * count],
            "process_scores": pa.array([credits], pa.list_(pa.float32())),
            "process_ends": pa.array([list(range(1, count + 1))], pa.list_(pa.int32())),
        }
    )
    weights = Weights(process=1.0, outcome=0.0, format=0.0)
    made = shape(table, ShapingConfig(k=k, standardize="none", weights=weights))
    assert made["chunk_ends"][0].as_py() == list(range(1, count + 1))
    return made["chunk_advantages"][0].as_py(), made["path_score"][0].as_py()


@pytest.mark.parametrize("k", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("place", [1, 2, 4, 5])
def test_the_closed_form_is_what_shape_gives(k: float, place: int) -> None:
    score = 0.05
    _, before = shaped(CREDITS, k)
    advantages, after = shaped([*CREDITS[: place - 1], score, *CREDITS[place - 1 :]], k)
    found = pay(CREDITS, place=place, score=score, k=k)
    assert found.own == pytest.approx(advantages[place - 1], abs=1e-6)
    assert found.path == pytest.approx(after - before, abs=1e-6)
    unscored, _ = shaped([*CREDITS[: place - 1], 0.0, *CREDITS[place - 1 :]], k)
    assert found.from_score == pytest.approx(advantages[place - 1] - unscored[place - 1], abs=1e-6)


@pytest.mark.parametrize("k", [0.0, 0.3, 0.7, 1.0])
def test_at_the_break_even_score_the_path_score_stays(k: float) -> None:
    score = pay(CREDITS, place=1, score=0.0, k=k).break_even
    assert pay(CREDITS, place=1, score=score, k=k).path == pytest.approx(0.0, abs=1e-12)
    assert pay(CREDITS, place=1, score=score + 0.01, k=k).path > 0


def test_without_division_every_positive_score_pays_and_with_k_1_only_one_above_the_mean() -> None:
    assert pay(CREDITS, place=1, score=0.0, k=0.0).break_even == 0.0
    assert pay(CREDITS, place=1, score=0.0, k=1.0).break_even == pytest.approx(sum(CREDITS) / 4)


def test_a_place_that_does_not_exist_is_refused() -> None:
    for place in (0, 6):
        with pytest.raises(ValueError, match="places 1 to 5"):
            pay(CREDITS, place=place, score=0.1, k=0.7)
