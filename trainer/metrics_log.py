"""Where the metrics of a step are written: metrics.jsonl, TensorBoard, a tracker.

metrics.jsonl is the record; the others are views of it that may be lost. On resume its lines after the checkpoint are
removed and written again; a tracker, which cannot remove any, gets no step twice.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pass_ops.support.extras import require
from trainer.errors import StateError
from trainer.options import TrainOptions
from trainer.records import METRICS, parse_json, read_metrics

TRACKER_ID = "tracker.json"


class MetricsLog:
    """Everything a run writes its steps to. step, updates: how many are done already."""

    def __init__(self, folder: Path, *, step: int, updates: int, options: TrainOptions) -> None:
        self._path = folder / METRICS
        written = read_metrics(folder)
        kept = [line for line in written if line["step"] <= step]
        self._path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._events: Any = None
        if options.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=updates + 1)
        self._tracked = max((line["update"] for line in written), default=0)
        self._tracker = None if options.tracker == "none" else _start_tracker(folder, options)

    def write(self, values: Mapping[str, Any]) -> None:
        """Appends one step."""
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(values, allow_nan=False) + "\n")
        shown = {f"train/{name}": value for name, value in values.items() if value is not None}
        if self._events is not None:
            for name, value in shown.items():
                self._events.add_scalar(name, value, values["update"])
        if self._tracker is not None and values["update"] > self._tracked:
            self._tracker.log(shown, step=values["update"])

    def close(self) -> None:
        """Flushes TensorBoard and tracker."""
        if self._events is not None:
            self._events.close()
        if self._tracker is not None:
            self._tracker.finish()


def _start_tracker(folder: Path, options: TrainOptions) -> Any:
    """The tracker's module with a run started or resumed; trackio has wandb's functions."""
    tracker = require(options.tracker, f"train.tracker {options.tracker!r} (or set 'none')")
    place = folder / TRACKER_ID
    if not place.exists():
        place.write_text(json.dumps({"id": uuid.uuid4().hex[:12]}) + "\n", encoding="utf-8")
    fix = "remove it: the tracker then begins another run"
    run_id = parse_json(dict[str, str], place.read_bytes(), where=str(place), error=StateError, fix=fix).get("id", "")
    name = f"{'-'.join(folder.absolute().parts[-3:])}-{run_id}"
    own = {"id": run_id, "dir": str(folder)} if options.tracker == "wandb" else {}
    tracker.init(project=options.tracker_project, name=name, config=options.semantic(), resume="allow", **own)
    return tracker
