"""Whether what a RUN says of itself is so: its lineage, trainings, policies and evaluations, beside its datasets.

`pass_ops.shards.verify` checks each dataset; here is what connects them.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pass_ops import shards
from pass_ops.errors import CorruptDatasetError, NotADatasetError, PassError, ShardError
from pass_ops.shards import Finding, Store, names
from pass_ops.shards.dataset import dataset_folders
from pass_ops.shards.finalize import read_run_record
from pipelines.models.folder import model_digest
from pipelines.runs.evaluate import RESULTS, EvalResult, evaluate_rollouts, read_results
from pipelines.runs.folders import round_folder, round_of, rounds_among
from pipelines.runs.lineage import FILE, read_lineage
from trainer.errors import StateError
from trainer.model_folder import weights_digest
from trainer.records import (
    Done,
    check_export,
    check_files,
    check_metrics,
    complete_checkpoints,
    read_done,
    read_identity,
    read_metrics,
)

#: round -> what the lineage says of it
Rounds = Mapping[int, Mapping[str, Any]]
_EVAL = re.compile(r"eval(-\d+)?")


def verify(url: str) -> list[Finding]:
    """Everything wrong with a dataset, or with a RUN folder. Raises NotADatasetError where it is neither."""
    if not is_run(url):
        return [*shards.verify(url), *_run_records(url)]
    findings = [*_datasets(url), *_run_records(url)]
    try:
        lineage = read_lineage(url)
    except PassError as error:
        findings.append(Finding("error", "lineage", url, str(error)))
        lineage = {"rounds": []}
    rounds = {entry["round"]: entry for entry in lineage["rounds"]}
    findings += _lineage(url, rounds)
    if not Store(url).exists(FILE) and (_evaluations(url) or any(_trainings(url))):
        findings.append(Finding("error", "lineage", url, f"{FILE} is gone: restore it, or run every round again"))
    if Store(url).is_local:
        run, indices = Path(Store(url).path()), sorted({*_rounds(url), *rounds})
        for index in indices:
            findings += _training(run, rounds.get(index, {"round": index}), is_last=index == indices[-1])
        findings += _policies(url, rounds)
    findings += _evaluated(url, lineage)
    for folder in _evaluations(url):
        findings += _evaluation(folder, rounds)
    return list(dict.fromkeys(findings))


def is_run(url: str) -> bool:
    """Whether a folder is that of a run: it has a lineage, a round or a first evaluation."""
    store = Store(url)
    return store.exists(FILE) or bool(_rounds(url)) or "start" in store.folders()


def _rounds(url: str) -> list[int]:
    return rounds_among(Store(url).folders())


def _trainings(url: str) -> Iterator[str]:
    """The train folder of every round that has one."""
    for index in _rounds(url):
        if "train" in Store(round_folder(url, index)).folders():
            yield round_folder(url, index, "train")


# -- datasets and the lineage --------------------------------------------------------------------------------------


def _datasets(url: str) -> Iterator[Finding]:
    """Those near enough to the top for `shards.verify`, and the signals of evaluations, which lie one folder deeper."""
    for place in (url, *(posixpath.join(folder, "signals") for folder in _evaluations(url))):
        try:
            yield from shards.verify(place)
        except NotADatasetError:
            continue  # a run that has none yet, or whose datasets the lineage misses below


def _run_records(url: str) -> Iterator[Finding]:
    for store in _stores(url):
        try:
            read_run_record(store)
        except CorruptDatasetError as error:
            yield Finding("error", "run_record", store.path(names.RUN_RECORD), str(error))


def _stores(url: str) -> list[Store]:
    try:
        return dataset_folders(url)
    except NotADatasetError:
        return []


def _lineage(url: str, rounds: Rounds) -> Iterator[Finding]:
    """The datasets that the lineage names against those that are there."""
    named = set()
    for index, entry in rounds.items():
        for name, digest in entry.get("datasets", {}).items():
            folder = round_folder(url, index, name)
            named.add(Store(folder).path())
            yield from _named(folder, digest)
    for store in _stores(url):
        below = store.path().removeprefix(f"{Store(url).path()}/")
        top, _, rest = below.partition("/")
        if round_of(top) is not None and not _EVAL.fullmatch(rest.split("/")[0]) and store.path() not in named:
            yield Finding("info", "lineage", store.root, f"{FILE} does not name it: its stage has not ended yet")


def _named(folder: str, digest: str) -> Iterator[Finding]:
    """A dataset that the lineage names, with the content digest it has there."""
    try:
        found = shards.open_dataset(folder).content_digest
    except NotADatasetError:
        message = f"{FILE} names it, but it is gone: restore it, or run its stage again"
        yield Finding("error", "lineage", folder, message)
        return
    except ShardError:
        return  # damaged or incomplete: `shards.verify` says how
    if found != digest:
        message = f"its content digest is {found[:16]}..., in {FILE} {digest[:16]}...: it was made again; run its round"
        yield Finding("error", "lineage", folder, message)


# -- trainings and policies ----------------------------------------------------------------------------------------


def _training(run: Path, entry: Mapping[str, Any], *, is_last: bool) -> Iterator[Finding]:
    """What a round's train folder says of itself, its checkpoints, and the policy it exported.

    entry: what the lineage says of the round.
    """
    place = Path(round_folder(str(run), entry["round"]))
    folder, policy = place / "train", place / "policy"
    has_ended = "train" in entry.get("metrics", {})
    try:
        identity, done, steps = read_identity(folder), read_done(folder), read_metrics(folder)
        checkpoints = complete_checkpoints(folder / "state")
        for checkpoint in checkpoints:
            check_files(checkpoint)
    except PassError as error:
        yield Finding("error", "train", str(folder), str(error))
        return
    if identity is None:
        if policy.exists() or done is not None or steps or has_ended:
            yield Finding("error", "train", str(folder), "what was trained here is not known: _train.json is gone")
        return
    yield from _trained_on(run, entry["round"], identity)
    if done is None:
        message = f"{FILE} has its metrics, but _done.json is gone" if has_ended else "the training has not ended"
        yield Finding("error" if has_ended else "info", "train", str(folder), f"{message}: run its round again")
        return
    try:
        check_metrics(folder, done)
    except StateError as error:
        yield Finding("error", "train", str(folder), str(error))
    if [line["step"] for line in steps] != list(range(1, done.steps + 1)):
        yield Finding("error", "train", str(folder), f"metrics.jsonl holds {len(steps)} of {done.steps} steps")
    if not checkpoints:
        severity: Literal["error", "info"] = "error" if is_last else "info"
        yield Finding(severity, "train", str(folder), "state holds no checkpoint: no round can go on from this one")
    yield from _exported(policy, done)


def _trained_on(run: Path, index: int, identity: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether the shaped dataset and the policy before are those that were trained on and from."""
    folder = Path(round_folder(str(run), index))
    try:
        digest = shards.open_dataset(str(folder / "shaped")).content_digest
        if digest not in identity.get("datasets", ()):
            message = f"it was trained on another shaped dataset than the round holds ({digest[:16]}...): train again"
            yield Finding("error", "train", str(folder / "train"), message)
        before = Path(round_folder(str(run), index - 1, "policy"))
        if index and before.exists() and weights_digest(before) != identity.get("policy_weights"):
            message = f"it was trained from other weights than {before} holds now: restore them, or train again"
            yield Finding("error", "train", str(folder / "train"), message)
    except (PassError, OSError):
        return  # gone or damaged: said where it is named


def _exported(policy: Path, done: Done) -> Iterator[Finding]:
    if not policy.exists():
        yield Finding("error", "policy", str(policy), "the policy of a finished training is gone: run its round again")
        return
    try:
        check_export(policy, done)
    except StateError as error:
        yield Finding("error", "policy", str(policy), str(error))
    except (PassError, OSError) as error:
        yield Finding("error", "policy", str(policy), f"cannot be read: {error}")


def _policies(url: str, rounds: Rounds) -> Iterator[Finding]:
    """A round's policy is the folder that the next round sampled from: its configuration too, not the weights alone."""
    for index, entry in rounds.items():
        policy = Path(Store(round_folder(url, index - 1, "policy")).path())
        if not index or not policy.exists() or "policy_digest" not in entry:
            continue
        try:
            found = model_digest(str(policy))
        except (PassError, OSError, ValueError) as error:
            yield Finding("error", "policy", str(policy), f"cannot be read: {error}")
            continue
        if found != entry["policy_digest"]:
            message = f"is not the policy that round {index} was sampled from: a file of it was changed"
            yield Finding("error", "policy", str(policy), message)


# -- evaluations ---------------------------------------------------------------------------------------------------


def _evaluations(url: str) -> list[str]:
    """The folder of every evaluation: start/eval/NAME, round-000/eval[-N]/NAME, eval/DIGEST/NAME."""
    evaluated = [name for name in Store(url).folders() if name == "start" or round_of(name) is not None]
    tops = [posixpath.join(url, name) for name in evaluated]
    folders = [posixpath.join(top, name) for top in tops for name in Store(top).folders() if _EVAL.fullmatch(name)]
    folders += [posixpath.join(url, "eval", name) for name in Store(posixpath.join(url, "eval")).folders()]
    return [posixpath.join(folder, name) for folder in folders for name in Store(folder).folders()]


def _evaluated(url: str, lineage: Mapping[str, Any]) -> Iterator[Finding]:
    """Evaluations that the lineage has figures of."""
    places = {posixpath.join(url, "start"): lineage.get("start", {})}
    places |= {round_folder(url, entry["round"]): entry for entry in lineage["rounds"]}
    there = {folder for folder in _evaluations(url) if Store(folder).exists(RESULTS)}
    for folder, entry in places.items():
        for name in entry.get("metrics", {}).get("eval", {}):
            if not any(found.startswith(f"{folder}/") and found.endswith(f"/{name}") for found in there):
                message = f"{FILE} has figures of benchmark {name}, but no {RESULTS} of it is there: evaluate again"
                yield Finding("error", "results", folder, message)


def _evaluation(folder: str, rounds: Rounds) -> Iterator[Finding]:
    """Whether results.json is what the stored rollouts and verdicts give."""
    if not Store(folder).exists(RESULTS):
        yield Finding("info", "results", folder, f"holds no {RESULTS}: the evaluation has not ended; evaluate again")
        return
    try:
        stored = read_results(folder)
        counted = _counted(folder, stored, rounds)
    except NotADatasetError as error:
        yield Finding("error", "results", folder, f"what its {RESULTS} was counted from is gone: {error}")
    except ShardError:
        return  # damaged or incomplete: `shards.verify` says how
    except PassError as error:
        yield Finding("error", "results", folder, str(error))
    else:
        for field in ("prompts", "samples", "correct_P", "prompt_ids", "policy_digest", "unscored"):
            said, found = getattr(stored, field), getattr(counted, field)
            if said != found:
                message = f"{RESULTS} says {field} {_short(said)}, its rollouts and verdicts give {_short(found)}"
                yield Finding("error", "results", folder, f"{message}: evaluate again")


def _counted(folder: str, stored: EvalResult, rounds: Rounds) -> EvalResult:
    signals = Store(posixpath.join(folder, "signals")).folders()
    outcomes = {((entry.get("config") or {}).get("eval") or {}).get("outcome", "outcome") for entry in rounds.values()}
    outcome = next((name for name in signals if name in outcomes), "outcome")
    prompts, rollouts, verdicts = (
        shards.open_dataset(posixpath.join(folder, place)) for place in ("prompts", "rollouts", f"signals/{outcome}")
    )
    return evaluate_rollouts(
        prompts, rollouts, verdicts, benchmark=stored.benchmark, k=tuple(stored.pass_at), ruling=stored.ruling
    )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
