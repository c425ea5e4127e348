"""`passrl gpu-check`: whether this machine's GPUs do what the documentation says, in at most twenty minutes.

Each check is a function `(Machine, CheckOptions) -> Result` in a file per family, run in a process of its own, so that
a crash, an out-of-memory error or a hang is one failed line. Without a GPU the same checks run with tiny models on the
CPU: results are judged there, speed and memory are only shown.
"""

from __future__ import annotations

from pipelines.gpu_check.base import CheckOptions, Machine, Result
from pipelines.gpu_check.run import gpu_check

__all__ = ["CheckOptions", "Machine", "Result", "gpu_check"]
