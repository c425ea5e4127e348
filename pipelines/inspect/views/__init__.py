"""Tables and pictures of what is stored: groups, the state of a run, its trainings."""

from pipelines.inspect.views.groups import GroupNotFoundError, group_summary, group_table, read_part, rollout_chunks

__all__ = ["GroupNotFoundError", "group_summary", "group_table", "read_part", "rollout_chunks"]
