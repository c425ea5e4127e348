"""The arms of the study, the levels of the process reward model's taste for padding, and the names of cells."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pass_ops import ShapingConfig, Weights

#: what the process reward model was taught that a true padding step is worth (a right one 1, a wrong one 0)
TASTES = {"low": 0.5, "slight": 0.8, "high": 1.0}
#: the level of an arm that reads no process reward model
NONE = "none"


@dataclass(frozen=True)
class Arm:
    """An estimator as users get it, where its process signal comes from (prm, opd, g_opd, or none), and whether it is
    given the format reward.
    """

    shaping: ShapingConfig
    signal: str = "prm"
    form: bool = True

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels it is run at."""
        return tuple(TASTES) if self.signal == "prm" else (NONE,)


#: the first eleven answer the paper's claims, the twelfth is PASS without the stream whose weight in it stands out
#: (docs/study/index.md); it and the others are run as seeds allow
ARMS = {
    "grpo_outcome": Arm(ShapingConfig(estimator="grpo_outcome"), "none"),
    "pass_k07": Arm(ShapingConfig()),
    "grpo_process": Arm(ShapingConfig(estimator="grpo_process")),
    "reward_shaping": Arm(ShapingConfig(estimator="reward_shaping")),
    "pass_k0": Arm(ShapingConfig(k=0.0)),
    "pass_k1": Arm(ShapingConfig(k=1.0)),
    "pass_no_cv": Arm(ShapingConfig(chunk=False)),
    "grpo_opd": Arm(ShapingConfig(estimator="grpo_process", signal="kl"), "opd"),
    "pass_opd": Arm(ShapingConfig(signal="kl"), "opd"),
    "grpo_gopd": Arm(ShapingConfig(estimator="grpo_process", signal="kl"), "g_opd"),
    "pass_gopd": Arm(ShapingConfig(signal="kl"), "g_opd"),
    "pass_no_format": Arm(ShapingConfig(weights=Weights(format=0.0)), form=False),
    "pass_k03": Arm(ShapingConfig(k=0.3)),
    "pass_k05": Arm(ShapingConfig(k=0.5)),
    "pass_absmax": Arm(ShapingConfig(signal="kl", standardize="abs_max"), "opd"),
    "prime": Arm(ShapingConfig(estimator="prime")),
    "pure": Arm(ShapingConfig(estimator="pure")),
    "papo": Arm(ShapingConfig(estimator="papo")),
    "verigate": Arm(ShapingConfig(estimator="verigate")),
    "gdpo": Arm(ShapingConfig(estimator="gdpo"), "none"),
}
CORE = tuple(ARMS)[:11]
FURTHER = tuple(ARMS)[11:]


@dataclass(frozen=True)
class Cell:
    """One training run of the study."""

    arm: str
    level: str
    lr: float
    seed: int

    @property
    def name(self) -> str:
        """The name of its result file."""
        return f"{self.arm}-{self.level}-lr{self.lr:g}-s{self.seed}"


_NAME = re.compile(r"(?P<arm>\w+)-(?P<level>\w+)-lr(?P<lr>[\d.e-]+)-s(?P<seed>\d+)")


def cell_of(name: str) -> Cell:
    """The cell of a name. Raises ValueError where it names none."""
    found = _NAME.fullmatch(name)
    if found is not None and found["arm"] in ARMS and found["level"] in ARMS[found["arm"]].levels:
        cell = Cell(found["arm"], found["level"], float(found["lr"]), int(found["seed"]))
        if cell.name == name:
            return cell
    raise ValueError(
        f"{name!r} names no cell of the study, so nothing is run; names read like pass_k07-slight-lr0.001-s0, with an "
        f"arm of {', '.join(ARMS)} and a level that it has"
    )
