"""The documented metrics are those that a step writes, and the page about training names options that exist."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import trainer.metrics
from tests.trainer.rows import random_rows, split_groups
from trainer import TrainOptions, train
from trainer.metrics import read_metrics
from trainer.summary import metric_names

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "train.md"


def table(text: str) -> list[str]:
    """The rows of the last table of a text."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return rows[rows.index("| key | meaning |") :]


def keys(rows: list[str]) -> set[str]:
    """The keys a table's first column stands for; "and _min, _max" repeats the stem of the key before."""
    found: set[str] = set()
    for row in rows[2:]:
        names = re.split(r", (?:and )?", row.split("|")[1].strip())
        stem = names[0].rpartition("_")[0]
        found |= {stem + name if name.startswith("_") else name for name in names}
    return found


def test_a_step_writes_exactly_the_documented_keys(tmp_path, make_shaped, policy_folder):
    data = make_shaped(split_groups(random_rows(groups=2, size=2), 1))
    train([data], policy=policy_folder, out=str(tmp_path / "out"), options=TrainOptions(device="cpu", updates=1))
    (line,) = read_metrics(tmp_path / "out")
    assert set(line) == keys(table(trainer.metrics.__doc__ or ""))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kl_coef": 0.01},
        {"loss": "next_token", "zero_advantage": "drop"},
        {"too_long": "drop"},
    ],
    ids=str,
)
def test_the_metrics_of_a_round_are_those_that_its_options_announce(tmp_path, make_shaped, policy_folder, options):
    data = make_shaped(split_groups(random_rows(groups=2, size=2), 1))
    given = TrainOptions(device="cpu", updates=1, tensorboard=False, **options)
    result = train([data], policy=policy_folder, out=str(tmp_path / "out"), options=given)
    assert sorted(result.metrics) == sorted(metric_names(given))
    assert "entropy" not in metric_names(replace(given, head="fused"))


def test_every_option_on_the_page_is_one():
    named = set(re.findall(r"`([a-z_]+) = ", PAGE.read_text()))
    assert named <= set(TrainOptions.__dataclass_fields__)
    assert len(named) > 10
