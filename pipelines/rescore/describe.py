"""What re-scored rollouts are: the description of the dataset, and what is refused before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from pass_ops import shards
from pass_ops.errors import PassError
from pass_ops.shards import CompleteDataset, DatasetSpec, InputRef
from pipelines.models.folder import tokenizer_digest, vocabulary
from pipelines.models.source import local_model
from pipelines.rescore.encode import ENCODED, Encoding
from pipelines.signals.base import Signal

#: the mark of every dataset of a re-scored run; its number is raised with every change of what is written
MARK: Mapping[str, Any] = {"rescored": 1}
#: columns of the distribution that the log-probabilities before belonged to
STATISTICS = ("entropy", "sum_pi_squared")

#: `imported` of rollouts that were not: everything is known
OWN: Mapping[str, Any] = {
    "format": "passrl",
    "files": [],
    "ids": "source",
    "logprobs": "exact",
    "mask": "source",
    "temperature": "source",
    "unknown": [],
}


class RescoreError(PassError, ValueError):
    """Rollouts cannot be re-scored as asked: nothing is to be done, another tokenizer, or no temperature."""


def encoding_of(source: CompleteDataset, encoding: Encoding) -> Encoding | None:
    """The encoding where texts have to be encoded; None where all ids are there.

    Raises RescoreError where the ids that are there are another tokenizer's.
    """
    theirs = source.spec.carried.get("tokenizer_digest")
    if theirs is not None and theirs != tokenizer_digest(local_model(encoding.tokenizer)):
        raise RescoreError(
            f"{source.url} has ids of another tokenizer (digest {theirs[:8]}) than {encoding.tokenizer}: they would "
            "name other tokens. Give --tokenizer, or a --model, with the one they were made with."
        )
    return encoding if set(ENCODED) & set(source.spec.unknown_columns) else None


def known_temperature(source: CompleteDataset, given: float | None) -> float | None:
    """What the rollouts were sampled at, as they or the user say. Raises RescoreError where the two differ."""
    recorded = _sampling(source.spec).get("temperature")
    if recorded is not None and given is not None and recorded != given:
        raise RescoreError(
            f"{source.url} was sampled at temperature {recorded}, --temperature says {given}. Leave it out."
        )
    return given if recorded is None else float(recorded)


def scoring_temperature(source: CompleteDataset, given: float | None) -> float:
    """The temperature of the log-probabilities to be made. Raises RescoreError where nobody knows."""
    found = known_temperature(source, given)
    if found is None:
        raise RescoreError(
            f"{source.url} does not say at what temperature it was sampled, and log-probabilities are log softmax("
            "logits / temperature). Give --temperature."
        )
    return found


def rescored_spec(
    source: CompleteDataset,
    *,
    prompts: InputRef,
    out: str,
    encoding: Encoding | None,
    tokenizer: str,
    scorer: Signal,
    temperature: float | None,
) -> DatasetSpec:
    """The description of the new rollouts. tokenizer: folder of the one that the ids are of.

    scorer: who makes the log-probabilities; one without models takes the stored ones. temperature: what was sampled
    at, None where nobody knows.
    """
    before, models = source.spec, scorer.models()
    folder = local_model(tokenizer)
    sampling = {**_sampling(before), "temperature": temperature}
    carried = {**before.carried, **MARK, "round": 0, "imported": imported_block(before, encoding, scored=bool(models))}
    carried |= {"tokenizer_digest": tokenizer_digest(folder), "vocabulary": asdict(vocabulary(folder))}
    if models:
        carried.pop("token_statistics", None)
        sampling["logprobs_mode"] = "raw_logprobs" if temperature in (0.0, 1.0) else "processed_logprobs"
    if temperature is not None and _sampling(before).get("temperature") is None:
        carried["imported"]["temperature"] = "given"
    form = {} if encoding is None else asdict(encoding.form)
    return replace(
        before,
        stage_version=shards.STAGE_VERSIONS["generate"],
        options={**before.options, **form},
        inputs={"prompts": prompts, "rollouts": source.ref(out)},
        models={**before.models, **models},
        environment={**scorer.environment(), **({} if encoding is None else encoding.environment())},
        carried={**carried, "sampling": sampling},
        format_version=shards.FORMAT_VERSION,
    )


def imported_block(before: DatasetSpec, encoding: Encoding | None, *, scored: bool) -> dict[str, Any]:
    """`imported` of the new rollouts: what is re-encoded and recomputed now. Our own rollouts become imported ones."""
    block = dict(before.imported or OWN)
    known: set[str] = set()
    if encoding is not None:
        known |= set(ENCODED)
        if "token_ids" in before.unknown_columns:
            block |= {"ids": "re-encoded", "mask": "assumed"}
    if scored:
        known.add("behavior_logprobs")
        block["logprobs"] = "recomputed"
        block.pop("decimals", None)
    return block | {"unknown": [name for name in block["unknown"] if name not in known]}


def _sampling(spec: DatasetSpec) -> Mapping[str, Any]:
    return spec.carried.get("sampling") or {}
