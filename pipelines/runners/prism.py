"""`prism`: Beam's local portable runner, a Go binary, started for one command and ended with it.

`make prism` builds the binary at the SDK's version. Beam's own PrismRunner would download one; this never does:
--prism_location=FILE, or `prism` on PATH, or where `make prism` puts it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from pipelines.runners.base import Launch, RunnerFlagError
from pipelines.runners.portable import flag_value

BUILT = Path(".cache") / "prism" / "prism"


def launch(flags: Sequence[str]) -> Launch:
    """A runner that starts Prism when the job is submitted. Raises RunnerFlagError where there is no binary."""
    from apache_beam.runners.portability.prism_runner import PrismRunner

    location = flag_value(flags, "prism_location") or shutil.which("prism") or str(BUILT)
    if not Path(location).is_file():
        raise RunnerFlagError(
            f"there is no Prism binary at {location}. Build one with `make prism` (it needs Go), or give "
            "--prism_location=FILE after --."
        )
    added = [] if flag_value(flags, "prism_log_level") else ["--prism_log_level=error"]
    return Launch(runner=PrismRunner(), flags=(*flags, f"--prism_location={location}", *added))
