"""`direct`: Beam's FnApiRunner on this machine, pinned.

Beam's own "DirectRunner" first tries to download the Prism runner and falls back to FnApiRunner without network, so
that the same command would behave differently on two machines. FnApiRunner runs a stage as one bundle on the calling
thread; --direct_running_mode=multi_threading or multi_processing with --direct_num_workers=N gives N bundles at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.runners.base import Launch

_LOG_LEVEL = "--default_sdk_harness_log_level"


def launch(flags: Sequence[str]) -> Launch:
    """FnApiRunner for these flags. Worker processes log by --default_sdk_harness_log_level, else hardly."""
    from apache_beam.portability.api import beam_provision_api_pb2
    from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo, FnApiRunner

    level = next((flag.partition("=")[2] for flag in flags if flag.startswith(f"{_LOG_LEVEL}=")), "CRITICAL")
    # FnApiRunner gives its worker processes no pipeline options; their log level stands in these (Beam 2.77).
    provision = beam_provision_api_pb2.ProvisionInfo(retrieval_token="unused")
    provision.pipeline_options.update({_LOG_LEVEL[2:]: level})
    return Launch(runner=FnApiRunner(provision_info=ExtendedProvisionInfo(provision)), flags=tuple(flags))
