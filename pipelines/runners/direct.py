"""`direct`: Beam's FnApiRunner on this machine, pinned.

Beam's own "DirectRunner" first tries to download the Prism runner and falls back to FnApiRunner without network, so
that the same command would behave differently on two machines. FnApiRunner runs a stage as one bundle on the calling
thread; --direct_running_mode=multi_threading or multi_processing with --direct_num_workers=N gives N bundles at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def launch(flags: Sequence[str]) -> tuple[Any, list[str]]:
    """The runner, and the flags that `direct` sets where the user did not: worker processes stay quiet."""
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

    quiet = "--default_sdk_harness_log_level"
    return FnApiRunner(), [] if any(flag.startswith(quiet) for flag in flags) else [f"{quiet}=ERROR"]
