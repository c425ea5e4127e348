"""PASS on a polars frame: no dataset on disk, no model, one function.

python examples/pass_on_polars.py
"""

from __future__ import annotations

import polars as pl

from pass_ops import ShapingConfig, Weights, shape, token_advantages

# Two rollouts of one prompt. The first has three steps that end at tokens 2, 4 and 6, the second one of two.
ROLLOUTS = pl.DataFrame(
    {
        "group_id": ["2+3*4", "2+3*4"],
        "loss_mask": [[True] * 6, [True] * 4],
        "process_scores": [[0.9, 0.8, 0.9], [0.7, 0.1]],
        "process_ends": [[2, 4, 6], [2, 4]],
        "outcome_reward": [1.0, 0.0],
    },
    schema_overrides={"process_ends": pl.List(pl.Int32)},
)


def main() -> None:
    """Shape the frame, and print each token's advantage."""
    config = ShapingConfig(k=0.7, weights=Weights(process=1.0, outcome=1.0, format=0.0))
    shaped = shape(ROLLOUTS, config)
    frame = pl.DataFrame(shaped).with_columns(pl.Series("advantages", token_advantages(shaped)))
    for row in frame.iter_rows(named=True):
        advantages = " ".join(f"{advantage:+.2f}" for advantage in row["advantages"])
        print(
            f"{row['group_id']}  reward {row['outcome_reward']:.0f}  path score {row['path_score']:+.2f}  {advantages}"
        )


if __name__ == "__main__":
    main()
