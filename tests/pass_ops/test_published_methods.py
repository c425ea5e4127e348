"""Every row of the table in docs/reference/estimators.md gives the numbers of the method it names."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from cases import check_against_oracle, to_table
from oracle import Options

import pass_ops
from pass_ops import ShapingConfig, shape, token_advantages

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reference" / "estimators.md"
ROW = re.compile(r"^\| (?P<method>[^|]+) \| `(?P<options>ShapingConfig\(.*\))` \| (?P<against>[^|]+) \|$", re.MULTILINE)
ROWS = [match.groupdict() for match in ROW.finditer(PAGE.read_text(encoding="utf-8"))]
NAMES = {name: getattr(pass_ops, name) for name in ("ShapingConfig", "Standardizers", "Weights")}
#: beginning of a method's name -> the reference file and what it calls it
THEIRS = {
    "GRPO (": ("verl", "grpo"),
    "Dr. GRPO": ("verl", "grpo without std"),
    "RLOO": ("verl", "rloo"),
    "GDPO": ("verl", "gdpo"),
    "PRIME": ("prime", "prime"),
}


def rollouts(reference):
    """The reference's rollouts, as the oracle takes them, and its results."""
    found = json.loads((HERE / "reference" / f"{reference}.json").read_text(encoding="utf-8"))
    groups: dict[str, list[dict]] = {}
    for r in found.pop("rollouts"):
        row = {"mask": [True] * len(r["scores"]), "scores": [float(np.float32(s)) for s in r["scores"]]}
        row |= {"outcome": r["outcome"], "format": float(np.float32(r["format"]))}
        groups.setdefault(r["group_id"], []).append(row)
    return list(groups.values()), found


def to_options(config: ShapingConfig) -> Options:
    operators, weights = config.standardizers, config.weights
    return Options(
        estimator=config.estimator,
        signal=config.signal,
        standardize=(operators.process, operators.outcome, operators.format),
        weights=(weights.process, weights.outcome, weights.format),
        k=config.k,
        eta=config.eta,
        chunk=config.chunk,
    )


def test_the_table_names_every_estimator():
    configs = [eval(row["options"], NAMES) for row in ROWS]
    assert {config.estimator for config in configs} == set(pass_ops.options.config.ESTIMATORS)
    assert len(ROWS) == PAGE.read_text(encoding="utf-8").count("| `ShapingConfig(")


@pytest.mark.parametrize("row", [r for r in ROWS if r["against"] == "its equations"], ids=lambda r: r["method"])
def test_a_row_follows_its_equations(row):
    config = eval(row["options"], NAMES)
    groups, _ = rollouts("verl")
    if config.signal == "prm":  # two tokens a step, and what is left
        for r in (r for group in groups for r in group):
            length = len(r["mask"])
            r["ends"] = [*range(2, length, 2), length]
            r["scores"] = r["scores"][: len(r["ends"])]
    assert check_against_oracle(groups, to_options(config), shape(to_table(groups), config)) == 0


@pytest.mark.parametrize("row", [r for r in ROWS if r["against"] != "its equations"], ids=lambda r: r["method"])
def test_a_row_gives_the_numbers_of_its_own_code(row):
    reference, name = next(value for key, value in THEIRS.items() if row["method"].startswith(key))
    groups, found = rollouts(reference)
    shaped = shape(to_table(groups), eval(row["options"], NAMES))
    ours_N, theirs_N = token_advantages(shaped).values.to_numpy().astype(np.float64), np.concatenate(found[name])
    if "before its batch whitening" in row["method"]:
        ours_N = (ours_N - ours_N.mean()) / ours_N.std(ddof=1)
    assert ours_N == pytest.approx(theirs_N, rel=1e-5)


def test_prime_over_a_batch_differs_by_a_shift_and_a_scale_for_each_group():
    """docs/decisions/031: what whitening over the group leaves out."""
    groups, found = rollouts("prime")
    (options,) = [row["options"] for row in ROWS if row["method"].startswith("PRIME")]
    ours = token_advantages(shape(to_table(groups), eval(options, NAMES))).to_pylist()
    fits = []
    for first in range(0, len(ours), len(groups[0])):
        ours_N, theirs_N = (
            np.concatenate(rows[first : first + len(groups[0])]) for rows in (ours, found["prime over the batch"])
        )
        scale, shift = np.polyfit(ours_N, theirs_N, 1)
        assert scale * ours_N + shift == pytest.approx(theirs_N, abs=1e-5)
        fits.append((scale, shift))
    assert abs(fits[0][0] - fits[1][0]) > 0.01  # and it is not the same one for both
