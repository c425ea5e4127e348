"""What a dataset is: the content of `_dataset.json`, and the fingerprint over what decides the dataset's bytes."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from pass_ops.errors import CorruptDatasetError, SpecError, UnknownColumnError
from pass_ops.shards.documents import as_object, parse_json
from pass_ops.shards.fingerprint import canonical_json, json_file, plain_json, sha256_bytes
from pass_ops.shards.schemas import MAY_BE_UNKNOWN

FORMAT_VERSION = 2  # of new datasets
READABLE_VERSIONS = (1, 2)
MOST_PARTS = 10_000_000
#: stage -> raised with every change of what the stage writes
STAGE_VERSIONS: Mapping[str, int] = {"prompts": 1, "generate": 1, "score": 1, "shape": 2}
STAGES = tuple(STAGE_VERSIONS)


@dataclass(frozen=True)
class InputRef:
    """An input: where it lies (relative to the dataset where both are in one store) and what it holds.

    folder: a dataset's folder, or a source file's path. content_digest: the dataset's content digest, or the file's
    sha256.
    """

    folder: str
    content_digest: str


@dataclass(frozen=True)
class ModelRef:
    """A model: what people call it, and the digest of its files."""

    id: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """Everything that decides a dataset's bytes, plus where its inputs and models were found.

    stage: prompts, generate, score or shape; stage_version: raised with every change of what the stage writes.
    options: the stage's semantic options by name. parts: how many.
    inputs: name -> InputRef (of prompts: source path -> the file).
    models: role -> ModelRef. environment: versions of the libraries that decide results, dtype, device kind.
    carried: further top-level keys of `_dataset.json` (sampling, tokenizer_digest, vocabulary, round, policy_digest);
    a generate stage needs sampling.group_size. They enter the fingerprint;
    folders of inputs and ids of models do not.
    format_version: of the files; a dataset keeps the one it was begun in.

    Raises SpecError.
    """

    stage: str
    stage_version: int
    options: Mapping[str, Any]
    parts: int
    inputs: Mapping[str, InputRef] = field(default_factory=dict)
    models: Mapping[str, ModelRef] = field(default_factory=dict)
    seed: int | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    carried: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise SpecError(f"stage is {self.stage!r}; it is one of {', '.join(STAGES)}")
        if type(self.parts) is not int or self.parts < 1:
            raise SpecError(f"parts is {self.parts!r}; a dataset has at least one part")
        if self.parts > MOST_PARTS:
            raise SpecError(f"parts is {self.parts}; a dataset has at most {MOST_PARTS}, give each part more rows")
        for name in ("options", "environment", "carried"):
            if not isinstance(getattr(self, name), Mapping):
                raise SpecError(f"{name} is {reprlib.repr(getattr(self, name))}; it maps names to values")
            object.__setattr__(self, name, plain_json(getattr(self, name), name))
        taken = set(self.carried) & (_OWN_KEYS | {"fingerprint", "replaced"})
        if taken:
            raise SpecError(
                f"carried holds {', '.join(sorted(taken))}, which are keys of _dataset.json itself; rename them"
            )
        if beyond := set(self.unknown_columns) - set(MAY_BE_UNKNOWN):
            raise SpecError(
                f"imported.unknown holds {', '.join(sorted(map(str, beyond)))}; unknown may be only "
                f"{', '.join(MAY_BE_UNKNOWN)}"
            )
        if self.stage == "generate" and self.group_size is None:
            raise SpecError(
                "carried holds no sampling.group_size; without it rejected prompts cannot be counted as rollouts"
            )

    @cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits over `payload`."""
        return sha256_bytes(canonical_json(self.payload()).encode())

    @property
    def group_size(self) -> int | None:
        """G, rollouts asked for per prompt, where the dataset knows it."""
        sampling = self.carried.get("sampling")
        size = sampling.get("group_size") if isinstance(sampling, Mapping) else None
        return size if type(size) is int else None

    @property
    def missing_facts(self) -> tuple[str, ...]:
        """What `shape` and `train` need of rollouts and of what is shaped from them, and what is not in `carried`."""
        if self.stage not in ("generate", "shape"):
            return ()
        sampling = self.carried.get("sampling")
        facts = {f"sampling.{name}": value for name, value in sampling.items()} if isinstance(sampling, Mapping) else {}
        facts |= self.carried
        said = {name for name, value in facts.items() if value is None} if self.imported else set()
        return tuple(name for name, fits in _FACTS.items() if not fits(facts.get(name)) and name not in said)

    @property
    def imported(self) -> Mapping[str, Any]:
        """What an import knows of its source: format, files, ids, logprobs, mask, unknown; empty for other datasets."""
        imported = self.carried.get("imported")
        return imported if isinstance(imported, Mapping) else {}

    @property
    def unknown_columns(self) -> tuple[str, ...]:
        """The columns of imported rollouts, and of what is shaped from them, that may be null."""
        unknown = self.imported.get("unknown") if self.stage in ("generate", "shape") else None
        return tuple(unknown) if isinstance(unknown, Sequence) else ()

    def require_known(self, columns: Sequence[str], *, where: str, purpose: str) -> None:
        """Refuse what needs columns that an import left unknown. Raises UnknownColumnError."""
        missing = [name for name in columns if name in self.unknown_columns]
        if missing:
            raise UnknownColumnError(
                f"{where} was imported from {self.imported.get('format')}, which leaves {', '.join(missing)} unknown; "
                f"{purpose} needs {'it' if len(missing) == 1 else 'them'}. {_REMEDIES[missing[0]]}"
            )

    def payload(self) -> dict[str, Any]:
        """What the fingerprint is taken over. Sources of prompts count by content and order, not by path."""
        digests = {name: ref.content_digest for name, ref in self.inputs.items()}
        return {
            "format_version": self.format_version,
            "stage": self.stage,
            "stage_version": self.stage_version,
            "options": self.options,
            "parts": self.parts,
            "inputs": list(digests.values()) if self.stage == "prompts" else digests,
            "models": {role: ref.digest for role, ref in self.models.items()},
            "seed": self.seed,
            "environment": self.environment,
            **self.carried,
        }

    def to_json(self, *, replaced: tuple[str, ...] = ()) -> bytes:
        """The content of `_dataset.json`."""
        document = {
            "format_version": self.format_version,
            "stage": self.stage,
            "fingerprint": self.fingerprint,
            "stage_version": self.stage_version,
            "options": self.options,
            "parts": self.parts,
            "inputs": {
                name: {"folder": r.folder, "content_digest": r.content_digest} for name, r in self.inputs.items()
            },
            "models": {role: {"id": r.id, "digest": r.digest} for role, r in self.models.items()},
            "seed": self.seed,
            "environment": self.environment,
            **self.carried,
            "replaced": list(replaced),
        }
        return json_file(document)


_REMEDIES: Mapping[str, str] = {
    **dict.fromkeys(
        ("prompt_token_ids", "token_ids", "loss_mask"),
        "`passrl rescore RUN --out NEW --tokenizer FOLDER` encodes the texts and marks them re-encoded, as does an "
        "import with --tokenizer",
    ),
    "behavior_logprobs": "`passrl rescore RUN --out NEW --model FOLDER` computes them by a model and marks them "
    "recomputed",
    **dict.fromkeys(("finish_reason", "seed"), "No import can add what the source did not store"),
}


def _is_whole(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_there(value: object) -> bool:
    return value not in (None, "", {}, [])


#: key of `carried` -> whether a value can be what it should be
_FACTS: Mapping[str, Callable[[object], bool]] = {
    "sampling.group_size": lambda value: _is_whole(value) and value != 0,
    "sampling.temperature": lambda value: type(value) in (int, float),
    "tokenizer_digest": _is_there,
    "vocabulary": _is_there,
    "round": _is_whole,
    "policy_digest": _is_there,
}


@dataclass(frozen=True, kw_only=True)
class _Head:
    """The keys that every `_dataset.json` has, before the rest is looked at."""

    format_version: int
    fingerprint: str
    stage: str
    stage_version: int
    parts: int
    options: Mapping[str, Any]
    inputs: Mapping[str, Any]
    models: Mapping[str, Any]
    environment: Mapping[str, Any]
    seed: int | None
    replaced: Sequence[str]


_OWN_KEYS = {item.name for item in fields(DatasetSpec)} - {"carried"}


def parse_dataset_json(content: bytes, where: str) -> tuple[DatasetSpec, tuple[str, ...]]:
    """`_dataset.json` back as a spec, and the fingerprints it replaced. Raises CorruptDatasetError."""
    try:
        document = parse_json(content)
        if isinstance(document, dict) and "format_version" in document:
            check_version(document["format_version"], where)
        head = as_object(_Head, document)
        replaced = tuple(head.replaced)
        own = {key: document[key] for key in document if key in _OWN_KEYS} | {
            "inputs": {name: as_object(InputRef, ref) for name, ref in head.inputs.items()},
            "models": {role: as_object(ModelRef, ref) for role, ref in head.models.items()},
        }
        taken = _OWN_KEYS | {"fingerprint", "replaced"}
        spec = DatasetSpec(**own, carried={key: value for key, value in document.items() if key not in taken})
        if spec.stage_version > STAGE_VERSIONS[spec.stage]:
            raise CorruptDatasetError(
                f"{where} was made by version {spec.stage_version} of stage {spec.stage}; this program knows up to "
                f"{STAGE_VERSIONS[spec.stage]}: use the one that made it"
            )
        there = spec.fingerprint
        if there[:8] in {fingerprint[:8] for fingerprint in replaced}:
            raise ValueError("it says that its own fingerprint was replaced")
    except CorruptDatasetError:
        raise
    except (ValueError, RecursionError) as error:
        raise CorruptDatasetError(
            f"{where} cannot be read as a dataset's description ({error}); restore it or remove the folder"
        ) from error
    if there != head.fingerprint:
        raise CorruptDatasetError(
            f"{where} says fingerprint {head.fingerprint[:16]}..., but its fields give {there[:16]}...: "
            "it was edited; restore it, or make the dataset again in an empty folder"
        )
    return spec, replaced


def check_version(version: Any, where: str) -> None:
    """Raises CorruptDatasetError for a format that this program cannot read."""
    if type(version) is not int or version not in READABLE_VERSIONS:
        readable = " and ".join(str(known) for known in READABLE_VERSIONS)
        raise CorruptDatasetError(
            f"{where} has format_version {version!r}; this program reads {readable}: use the one that made it"
        )


def differences(there: DatasetSpec, asked: DatasetSpec) -> list[str]:
    """One line for each field in which two specs' fingerprints differ: "options.k: 0.7 there, 1 asked"."""
    old, new = _flat(there.payload()), _flat(asked.payload())
    return [
        f"{key}: {old.get(key, 'absent')} there, {new.get(key, 'absent')} asked"
        for key in [*old, *(key for key in new if key not in old)]
        if old.get(key) != new.get(key)
    ]


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, Mapping):
        return {
            k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}.{key}" if prefix else key).items()
        }
    return {prefix: canonical_json(value)}
