from __future__ import annotations

import pyarrow as pa
import pytest

from pipelines.inspect.views import GroupNotFoundError, group_summary, group_table, rollout_chunks


@pytest.fixture
def part() -> pa.Table:
    return pa.table(
        {
            "group_id": ["a", "a", "b"],
            "sample_index": pa.array([0, 2, 0], pa.int32()),
            "token_ids": [[5, 6, 7], [5], [6, 6]],
            "loss_mask": [[True, False, True], [True], [True, True]],
            "finish_reason": ["stop", "length", "stop"],
            "outcome_reward": pa.array([1.0, None, 0.0], pa.float32()),
            "process_scores": [[0.5, 0.25], [1.0], [0.0]],
            "process_ends": [[2, 3], [1], [2]],
            "chunk_ends": [[2, 3], [1], [2]],
            "chunk_credits": [[1.0, -2.0], [0.0], [4.0]],
            "chunk_advantages": [[-0.5, -2.0], [0.0], [4.0]],
            "path_score": pa.array([-1.0, None, 4.0], pa.float32()),
            "trainable": [True, False, True],
            "text": ["x", "y", "z"],
        }
    )


def test_a_group_shows_one_row_a_rollout(part):
    view = group_table(part, "a")
    assert view.get_column("sample_index").to_list() == [0, 2]
    assert view.get_column("length").to_list() == [3, 1]
    assert view.get_column("masked").to_list() == [1, 0]
    assert view.get_column("chunks").to_list() == [2, 1]
    assert view.get_column("first_advantage").to_list() == [-0.5, 0.0]
    assert view.get_column("outcome_reward").to_list() == [1.0, None]


def test_the_first_group_is_shown_where_none_is_named(part):
    assert group_table(part).equals(group_table(part, "a"))


def test_a_rollout_shows_one_row_a_chunk_with_the_score_of_its_step(part):
    assert rollout_chunks(part, "a", 0).rows() == [(1, 0, 2, 0.5, 1.0, -0.5), (2, 2, 3, 0.25, -2.0, -2.0)]


def test_signals_that_only_streams_name_are_shown_beside(part):
    more = {
        "brief_outcome_reward": pa.array([0.5, 1.0, 0.0], pa.float32()),
        "judge_process_scores": [[3.0], [4.0], [5.0]],
        "judge_process_ends": [[3], [1], [2]],
    }
    for name, values in more.items():
        part = part.append_column(name, [values] if isinstance(values, list) else values)
    assert rollout_chunks(part, "a", 0).get_column("judge_score").to_list() == [3.0, 3.0]
    assert group_table(part, "a").get_column("brief_outcome_reward").to_list() == [0.5, 1.0]
    assert group_summary(part).get_column("brief_outcome_reward").to_list() == [0.75, 0.0]


def test_per_token_scores_are_read_at_the_chunks_last_token(part):
    tokens = part.drop_columns(["process_scores", "process_ends"]).append_column(
        "process_scores", [[[1.0, 2.0, 3.0], [4.0], [5.0, 6.0]]]
    )
    assert rollout_chunks(tokens, "a", 0).get_column("score").to_list() == [2.0, 3.0]


def test_a_part_is_summed_up_by_group(part):
    assert group_summary(part).select("group_id", "rollouts", "mean_length").rows() == [("a", 2, 2.0), ("b", 1, 2.0)]


def test_a_signal_part_has_groups_by_its_rollout_ids():
    signal = pa.table({"rollout_id": ["a/0", "a/3", "b/0"], "outcome_reward": pa.array([1.0, 0.0, 1.0], pa.float32())})
    assert group_table(signal, "a").rows() == [(0, 1.0), (3, 0.0)]


def test_an_unknown_group_names_its_neighbours(part):
    with pytest.raises(GroupNotFoundError, match=r"aa.*did you mean 'a'"):
        group_table(part, "aa")


def test_an_unknown_rollout_is_refused(part):
    with pytest.raises(GroupNotFoundError, match="sample_index 1"):
        rollout_chunks(part, "a", 1)
