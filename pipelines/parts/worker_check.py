"""Does a worker have what the dataset's fingerprint stands for: libraries, dtype, device, weights, the user's code?

The client records them in the fingerprint; every worker compares its own before its first part.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from pass_ops.errors import PassError
from pass_ops.shards import DatasetSpec


class WorkerMismatchError(PassError, RuntimeError):
    """A worker has other libraries, weights or user code than the dataset's fingerprint stands for."""


def check_worker(
    spec: DatasetSpec,
    *,
    environment: Mapping[str, Any],
    models: Mapping[str, str] | None = None,
    code: Mapping[str, str] | None = None,
) -> None:
    """Refuse this worker if it would make other bytes than the client asked for. Raises WorkerMismatchError.

    environment: as the client computed it. models: role -> digest. code: import path -> source digest.
    """
    there = {
        "environment": dict(spec.environment),
        "models": {role: ref.digest for role, ref in spec.models.items()},
        "code": dict(spec.options.get("code", {})),
    }
    here = {"environment": dict(environment), "models": dict(models or {}), "code": dict(code or {})}
    for kind, found in here.items():
        for name, value in found.items():
            if there[kind].get(name) != value:
                raise WorkerMismatchError(
                    f"{kind} {name} is {value!r} on {socket.gethostname()}, but the dataset's fingerprint says "
                    f"{there[kind].get(name)!r}: parts of two environments would lie in one dataset. Give every worker "
                    "the image, code and weights that the client has, or submit from a machine like the workers."
                )
