"""One of two ranks of a TRL training step, started by test_trl.py: writes down what it computed, trl_rank.py FOLDER."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from test_trl import STEPWISE, steps, trained


def main(folder: Path) -> None:
    rank = os.environ["RANK"]
    trainer = trained(
        folder / f"rank-{rank}", process=steps, shaping=STEPWISE, num_generations=8, per_device_train_batch_size=4,
        gradient_accumulation_steps=1, max_steps=1,
    )  # fmt: skip
    output, (rewards, signals, lengths) = trainer.generated[0]
    found = {
        "advantages": output["advantages"].tolist(), "rewards": rewards.tolist(), "signals": signals,
        "lengths": lengths, "weights": sum(weight.double().sum().item() for weight in trainer.model.parameters()),
    }  # fmt: skip
    (folder / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
