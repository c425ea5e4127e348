"""What `_run.json` says of the job that made a dataset: for people, in no digest."""

from __future__ import annotations

import socket
import time
from datetime import UTC, datetime
from typing import Any


def job_record(started: float, **job: Any) -> dict[str, Any]:
    """When (started: seconds since the epoch), how long until now, on which machine; `job` says which."""
    return {
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 1),
        "host": socket.gethostname(),
        **job,
    }
