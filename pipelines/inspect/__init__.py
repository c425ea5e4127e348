"""Looking at what is stored, from the store alone: no model, no GPU."""

from pipelines.inspect.views.groups import GroupNotFoundError, group_summary, group_table, read_part, rollout_chunks

__all__ = ["GroupNotFoundError", "group_summary", "group_table", "read_part", "rollout_chunks"]
