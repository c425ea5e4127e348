"""One SDK worker process: what the pool (EXTERNAL) and a TaskManager (PROCESS) start.

It takes the arguments of Beam's boot program and does without that program, which is a Go binary of the container
images: the environment it runs in must hold passrl and the user's code already, so nothing staged is installed.
It ends when its standard input does, that is with the process that started it.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from typing import Any

import grpc
from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc
from google.protobuf import json_format, text_format


def provision_info(endpoint: str, worker_id: str) -> Any:
    """What the runner has for this worker: its pipeline options and the addresses it talks to."""
    with grpc.insecure_channel(endpoint) as channel:
        stub = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        request = beam_provision_api_pb2.GetProvisionInfoRequest()
        return stub.GetProvisionInfo(request, metadata=(("worker_id", worker_id),), wait_for_ready=True).info


def harness_environment(info: Any, worker_id: str) -> dict[str, str]:
    """The environment variables that Beam's `sdk_worker_main` reads."""
    return {
        "WORKER_ID": worker_id,
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options),
        "LOGGING_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.logging_endpoint),
        "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.control_endpoint),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
    }


def main() -> None:
    """Run one worker to its end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--id", required=True)
    parser.add_argument("--provision_endpoint", required=True)
    options, _ = parser.parse_known_args()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(harness_environment(provision_info(options.provision_endpoint, options.id), options.id))
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main([])


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
