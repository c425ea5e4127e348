"""Whether shaped data can train a policy: its stage, sampling, policy and vocabulary, checked before a run writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pass_ops.shards import CompleteDataset, SamplingFacts, open_dataset
from trainer.data import given_urls
from trainer.errors import PolicyMismatchError, TrainDataError
from trainer.options import TrainOptions


def open_shaped(shaped: Sequence[str]) -> tuple[CompleteDataset, ...]:
    """Opens shaped datasets. Raises TrainDataError for anything else, and errors of pass_ops.errors."""
    sources = tuple(open_dataset(url) for url in given_urls(shaped, name="shaped", what="dataset URLs"))
    digests = [source.content_digest for source in sources]
    if twice := {source.url for source in sources if digests.count(source.content_digest) > 1}:
        raise TrainDataError(f"{', '.join(sorted(twice))} would be trained on twice; give every dataset once.")
    for source in sources:
        if source.spec.stage != "shape":
            raise TrainDataError(
                f"{source.url} is a dataset of stage {source.spec.stage!r}; the trainer reads shaped ones."
            )
        source.check_inputs()
    return sources


def sampling_temperature(sources: Sequence[CompleteDataset], options: TrainOptions) -> float:
    """The temperature T that all sources were sampled at, from `_dataset.json`; the ratio's logits are divided by it.

    Raises TrainDataError where the stored behaviour log-probabilities are not log softmax(logits / T) over the full
    vocabulary: greedy or truncated sampling, raw log-probabilities at T other than 1, or different temperatures.
    """
    found = {source.url: _temperature(source, options) for source in sources}
    if len(set(found.values())) > 1:
        raise TrainDataError(
            f"The shaped datasets were sampled at different temperatures ({found}); train on one temperature at a time."
        )
    return next(iter(found.values()))


def _temperature(source: CompleteDataset, options: TrainOptions) -> float:
    check_imported(source, options)
    return check_sampling(source.spec.carried.get("sampling"), options, where=source.url)


def check_imported(source: CompleteDataset, options: TrainOptions) -> None:
    """Refuse imported rollouts whose behaviour log-probabilities are not the sampler's, unless options accept them.

    Raises TrainDataError where they are rounded or recomputed, UnknownColumnError where there are none.
    """
    source.spec.require_known(("behavior_logprobs",), where=source.url, purpose="training")
    found = source.spec.imported.get("logprobs", "exact")
    if found != "exact" and options.imported_logprobs == "refuse":
        scorer = source.spec.models.get("scorer")
        by = f"by {scorer.id}" if scorer is not None else f"imported from {source.spec.imported.get('format')}"
        raise TrainDataError(
            f"The behaviour log-probabilities of {source.url} are {found} ({by}), so the ratio to the sampler is off "
            "by as much as these differ from its own. Set imported_logprobs to 'accept' to train on them anyway."
        )


def check_sampling(sampling: Mapping[str, Any] | None, options: TrainOptions, *, where: str) -> float:
    """The temperature of rollouts that `where` holds; raises TrainDataError as `sampling_temperature` does."""
    sampled = SamplingFacts.of(sampling)
    if sampled.temperature is None:
        raise TrainDataError(
            f"{where} does not say how its rollouts were sampled (_dataset.json has no sampling.temperature), so "
            "the ratio to the sampler cannot be formed. Shape rollouts that carry their sampling; imported ones get it "
            "by --temperature."
        )
    if sampled.greedy:
        raise TrainDataError(
            f"{where} was sampled greedily (temperature {sampled.temperature}), so there is no sampling "
            "distribution to form a ratio with. Sample at a temperature above 0."
        )
    if sampled.mixes_temperatures:
        raise TrainDataError(
            f"{where} was sampled at temperature {sampled.temperature} but stores {sampled.logprobs_mode}, taken "
            "before temperature: the ratio would mix two temperatures. Generate with logprobs_mode "
            "'processed_logprobs'."
        )
    if sampled.truncated and options.truncated_sampling == "refuse":
        raise TrainDataError(
            f"{where} was sampled from a truncated distribution ({dict(sampled.truncated)}); its ratio to the "
            "full-vocabulary policy is biased. Set truncated_sampling to 'accept' to train on it anyway."
        )
    return sampled.temperature


def check_data_and_policy(
    sources: Sequence[CompleteDataset],
    *,
    options: TrainOptions,
    policy_digest: str | None,
    vocabulary: Mapping[str, Any] | None,
) -> None:
    """Raises PolicyMismatchError for data of another vocabulary or (unless off_policy is "accept") another policy.

    policy_digest and vocabulary are those of the policy to train, as generate records them; None skips the comparison.
    """
    for source in sources:
        carried = source.spec.carried
        _compare(source, "vocabulary", carried.get("vocabulary"), vocabulary, fix="Train the model that sampled them.")
        if options.off_policy == "refuse":
            _compare(
                source, "policy_digest", carried.get("policy_digest"), policy_digest,
                fix="Train the policy that sampled them, or set off_policy to 'accept'.",
            )  # fmt: skip


def _compare(source: CompleteDataset, key: str, theirs: Any, ours: Any, *, fix: str) -> None:
    if ours is not None and theirs is not None and theirs != ours:
        raise PolicyMismatchError(
            f"The rollouts of {source.url} were sampled by another model: {key} is {theirs!r} there and {ours!r} for "
            f"this policy. {fix}"
        )
