"""An environment with the trainers of others, for `make test-peers`: python make_environment.py FOLDER.

They ask for other versions of torch and transformers than this project, and for each other's absence, so they get an
environment XX
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UV = Path(sys.executable).parent / "uv"


def main(folder: Path) -> None:
    """Makes the environment."""
    python = folder / "bin" / "python"
    for command in (
        [UV, "venv", "--clear", "--python", sys.executable, folder],
        [UV, "pip", "sync", "--python", python, ROOT / "requirements" / "peers.txt"],
        [UV, "pip", "install", "--python", python, "--no-deps", "-r", ROOT / "requirements" / "peers-alone.txt"],
        [UV, "pip", "install", "--python", python, "--no-deps", "--editable", ROOT],
    ):
        subprocess.run([*map(str, command), "--quiet"], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
