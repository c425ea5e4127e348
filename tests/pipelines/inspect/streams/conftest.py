"""Lets the tests of this folder use the oracle of streams and its random cases (tests/pass_ops)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[3] / "pass_ops"), str(Path(__file__).parent)]
