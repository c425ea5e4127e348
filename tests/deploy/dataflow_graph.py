"""Build a stage's Dataflow job without a cloud and write its graph: dataflow_graph.py GRAPH PASSRL_ARGUMENT..."""

from __future__ import annotations

import sys
from pathlib import Path

from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner

from pipelines.cli.parser import main

FLAGS = [
    "--project=passrl-project",
    "--region=us-central1",
    "--temp_location=gs://nowhere/tmp",
    "--sdk_container_image=registry/passrl:1",
    "--dry_run=True",
    "--no_auth",
]

if __name__ == "__main__":
    graph, *arguments = sys.argv[1:]
    run = DataflowRunner.run_pipeline

    def captured(self, *args, **kwargs):
        result = run(self, *args, **kwargs)
        Path(graph).write_bytes(result.job.proto_pipeline.SerializeToString())
        return result

    DataflowRunner.run_pipeline = captured
    main([*arguments, "--runner", "dataflow", "--", *FLAGS])
