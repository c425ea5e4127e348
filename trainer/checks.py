"""What must fit together before a run writes anything: data, policy, sampling, carried state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pass_ops.shards import CompleteDataset
from trainer.errors import (
    LocalFolderError,
    PolicyMismatchError,
    SamplingTreatmentError,
    StateMismatchError,
    TrainDataError,
)
from trainer.options import TrainOptions


def local_folder(url: str, *, name: str) -> Path:
    """The path on this machine; raises LocalFolderError for a URL of another store."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return Path(url)
    if scheme in ("file", "local"):
        return Path(rest)
    raise LocalFolderError(
        f"{name} is {url}, but the trainer keeps its state and the exported model on a local disk. Give a local folder "
        "and copy it to the store afterwards; the shaped datasets may stay there."
    )


def sampling_temperature(sources: Sequence[CompleteDataset], options: TrainOptions) -> float:
    """The temperature T the ratio's logits are divided by, from `_dataset.json`'s sampling; one for all sources.

    Raises SamplingTreatmentError where the stored behaviour log-probabilities are not log softmax(logits / T) over the
    full vocabulary: greedy or truncated sampling, raw log-probabilities at T other than 1, or unlike temperatures.
    """
    found = {source.url: _temperature(source, options) for source in sources}
    if len(set(found.values())) > 1:
        raise SamplingTreatmentError(
            f"The shaped datasets were sampled at different temperatures ({found}); train on those of one temperature."
        )
    return next(iter(found.values()))


def _temperature(source: CompleteDataset, options: TrainOptions) -> float:
    return check_sampling(source.spec.carried.get("sampling"), options, where=source.url)


def check_sampling(sampling: Mapping[str, Any] | None, options: TrainOptions, *, where: str) -> float:
    """The temperature of rollouts that `where` holds; raises SamplingTreatmentError as `sampling_temperature` does."""
    if not sampling or "temperature" not in sampling:
        raise SamplingTreatmentError(
            f"{where} does not say how its rollouts were sampled (_dataset.json has no sampling.temperature), so "
            "the ratio to the sampler cannot be formed. Shape rollouts that carry their sampling."
        )
    temperature = float(sampling["temperature"])
    mode = sampling.get("logprobs_mode", "raw_logprobs")
    if temperature <= 0:
        raise SamplingTreatmentError(
            f"{where} was sampled greedily (temperature {temperature}); behaviour log-probabilities of greedy "
            "choices give no ratio. Sample at a temperature above 0."
        )
    if temperature != 1 and mode.startswith("raw"):
        raise SamplingTreatmentError(
            f"{where} was sampled at temperature {temperature} but stores {mode}, those before temperature: the "
            "ratio would mix two temperatures. Generate with logprobs_mode 'processed_logprobs'."
        )
    cuts = {"top_p": 1, "top_k": 0, "min_p": 0}
    truncated = {k: sampling[k] for k, off in cuts.items() if sampling.get(k, off) not in (off, -1, None)}
    if sampling.get("truncated") and sampling.get("extra"):
        truncated["extra"] = sampling["extra"]  # penalties, banned words, ...: the engine's own ways to bend it
    if truncated and options.truncated_sampling == "refuse":
        raise SamplingTreatmentError(
            f"{where} was sampled from a truncated distribution ({truncated}); its ratio to the full-vocabulary "
            "policy is biased. Set truncated_sampling to 'accept' to train on it nevertheless."
        )
    return temperature


def check_data_and_policy(
    sources: Sequence[CompleteDataset],
    *,
    options: TrainOptions,
    policy_digest: str | None,
    vocabulary: Mapping[str, Any] | None,
) -> None:
    """Refuses data that is stale, of another stage, vocabulary, or (unless off_policy is accepted) policy.

    policy_digest and vocabulary are those of the policy to train, as generate records them; None compares nothing.
    """
    if not sources:
        raise TrainDataError("No shaped dataset was given; there is nothing to train on.")
    for source in sources:
        if source.spec.stage != "shape":
            raise TrainDataError(
                f"{source.url} is a dataset of stage {source.spec.stage!r}; the trainer reads shaped ones."
            )
        source.check_inputs()
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
            f"The rollouts of {source.url} are of another model: {key} is {theirs!r} there and {ours!r} for the policy "
            f"given. {fix}"
        )


def check_same_run(stored: Mapping[str, Any], ours: Mapping[str, Any], *, folder: str) -> None:
    """Refuses to go on in a folder whose run was started with other data, policy, state or options; names the first."""
    for key in sorted(stored.keys() | ours.keys()):
        where, a, b = key, stored.get(key), ours.get(key)
        if a == b:
            continue
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            inner = next(k for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k))
            where, a, b = f"{key}.{inner}", a.get(inner), b.get(inner)
        raise StateMismatchError(
            f"{folder} holds a run with another {where}: {a!r} there, {b!r} now. Its state does not fit; give another "
            "folder, or remove this one to start anew."
        )
