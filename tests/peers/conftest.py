"""`make test-peers` runs this folder where the trainers are installed; without them it is not collected."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
PEERS = {"test_trl.py": "trl", "test_verl.py": "verl", "test_tinker.py": "tinker"}
collect_ignore = [file for file, package in PEERS.items() if importlib.util.find_spec(package) is None]
