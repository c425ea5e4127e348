"""The fixtures by which imports are tested, for what is exported and imported again."""

from tests.pipelines.imports.conftest import import_run, jsonl, parquet

__all__ = ["import_run", "jsonl", "parquet"]
