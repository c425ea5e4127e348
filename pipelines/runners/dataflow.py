"""`dataflow`: Google Cloud Dataflow (extra `gcp`). docs/how-to/dataflow.md is the runbook.

    -- --project=P --region=R --temp_location=gs://BUCKET/tmp --sdk_container_image=IMAGE

The image is the workers' whole environment (deploy/images): nothing is staged or installed at start.
"""

from __future__ import annotations

from collections.abc import Sequence

from pass_ops.support.extras import require
from pipelines.runners.base import Launch, RunnerFlagError
from pipelines.runners.portable import flag_value

NEEDED = ("project", "region", "temp_location", "sdk_container_image")


def launch(flags: Sequence[str]) -> Launch:
    """A runner that submits to Dataflow.

    Raises RunnerFlagError where a flag is missing, MissingExtraError where Google's libraries are.
    """
    missing = [name for name in NEEDED if flag_value(flags, name) is None]
    if missing:
        raise RunnerFlagError(f"runner dataflow needs --{', --'.join(missing)} after --; see docs/how-to/dataflow.md.")
    require("apitools", "runner dataflow")  # without it Beam fails only in the middle of a submission
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner

    return Launch(runner=DataflowRunner(), flags=(*flags, "--sdk_location=container"))
