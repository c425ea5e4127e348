from __future__ import annotations

import pyarrow as pa
import pytest

from pass_ops.shards import PROMPTS, DatasetSpec, commit_part, create_dataset, finalize, open_dataset
from tests.trainer.rows import random_rows
from trainer.compatibility import check_data_and_policy, open_shaped, sampling_temperature
from trainer.errors import PolicyMismatchError, TrainDataError
from trainer.options import TrainOptions

ROWS = random_rows(groups=1, size=2)
OPTIONS = TrainOptions()


@pytest.fixture
def sampled(make_shaped):
    """A shaped dataset sampled so, opened."""
    return lambda name="shaped", **sampling: open_dataset(make_shaped([ROWS], name=name, sampling=sampling))


def test_the_temperature_is_the_datas(sampled):
    assert sampling_temperature([sampled(temperature=0.7, logprobs_mode="processed_logprobs")], OPTIONS) == 0.7


def test_raw_logprobs_at_another_temperature_are_refused(sampled):
    with pytest.raises(TrainDataError, match="mix two temperatures"):
        sampling_temperature([sampled(temperature=0.7)], OPTIONS)


def test_greedy_rollouts_are_refused(sampled):
    with pytest.raises(TrainDataError, match="greedily"):
        sampling_temperature([sampled(temperature=0.0)], OPTIONS)


@pytest.mark.parametrize(
    "cut",
    [{"top_p": 0.9}, {"top_k": 20}, {"min_p": 0.05}, {"truncated": True, "extra": {"repetition_penalty": 1.1}}],
)
def test_truncated_sampling_is_refused_unless_accepted(sampled, cut):
    source = sampled(**cut)
    with pytest.raises(TrainDataError, match=next(iter(cut))):
        sampling_temperature([source], OPTIONS)
    assert sampling_temperature([source], TrainOptions(truncated_sampling="accept")) == 1.0


def test_datasets_of_two_temperatures_are_refused(sampled):
    other = sampled(name="other", temperature=0.7, logprobs_mode="processed_logprobs")
    with pytest.raises(TrainDataError, match="different temperatures"):
        sampling_temperature([sampled(), other], OPTIONS)


def test_rollouts_of_another_policy_are_refused_unless_accepted(sampled):
    check_data_and_policy([sampled()], options=OPTIONS, policy_digest="p" * 64, vocabulary=None)
    with pytest.raises(PolicyMismatchError, match="policy_digest"):
        check_data_and_policy([sampled()], options=OPTIONS, policy_digest="q" * 64, vocabulary=None)
    accepting = TrainOptions(off_policy="accept")
    check_data_and_policy([sampled()], options=accepting, policy_digest="q" * 64, vocabulary=None)


def test_rollouts_of_another_vocabulary_are_refused(make_shaped):
    source = open_dataset(make_shaped([ROWS], carried={"vocabulary": {"size": 32, "digest": "a"}}))
    check_data_and_policy([source], options=OPTIONS, policy_digest=None, vocabulary={"size": 32, "digest": "a"})
    with pytest.raises(PolicyMismatchError, match="vocabulary"):
        check_data_and_policy([source], options=OPTIONS, policy_digest=None, vocabulary={"size": 32, "digest": "b"})


@pytest.mark.parametrize(("given", "named"), [([], "nothing to train on"), ("a/str", r"give a list .*\['a/str'\]")])
def test_what_is_no_list_of_datasets_is_refused(given, named):
    with pytest.raises(TrainDataError, match=named):
        open_shaped(given)


def test_a_dataset_of_another_stage_is_refused(tmp_path):
    dataset = create_dataset(
        str(tmp_path / "prompts"), DatasetSpec(stage="prompts", stage_version=1, options={}, parts=1)
    )
    commit_part(dataset, 0, pa.table({name: [] for name in PROMPTS.names}, schema=PROMPTS))
    finalize(dataset)
    with pytest.raises(TrainDataError, match="stage 'prompts'"):
        open_shaped([dataset.url])
