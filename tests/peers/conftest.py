"""`make test-peers` runs this folder where the trainers are installed; without them it is not collected."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "docs")]
PEERS = {
    "test_trl.py": "trl",
    "test_verl.py": "verl",
    "test_verl_export.py": "verl",
    "test_tinker.py": "tinker",
    "test_skyrl.py": "skyrl",
    "test_openrlhf.py": "openrlhf",
}
collect_ignore = [file for file, package in PEERS.items() if importlib.util.find_spec(package) is None]
