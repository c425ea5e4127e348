"""The dataset protocol: content-named parts, exclusive markers as the only commit, digests up the chain
(docs/spec/contract.md section 2).
"""

from pass_ops.shards.commit import (
    PendingParts,
    PreparedPart,
    begin_attempt,
    commit_part,
    commit_prepared,
    committed,
    fail_part,
    pending_parts,
    prepare_part,
)
from pass_ops.shards.dataset import Dataset, create_dataset, load_dataset
from pass_ops.shards.finalize import finalize, record_run
from pass_ops.shards.fingerprint import canonical_json, folder_digest, sha256_bytes
from pass_ops.shards.paths import relative_folder, resolve_folder
from pass_ops.shards.reader import CompleteDataset, open_dataset
from pass_ops.shards.records import Manifest, PartRecord
from pass_ops.shards.sampling import SamplingFacts
from pass_ops.shards.schemas import PROMPTS, ROLLOUTS, TOKEN_STATISTICS, shaped_schema, signal_schema
from pass_ops.shards.spec import FORMAT_VERSION, STAGE_VERSIONS, DatasetSpec, InputRef, ModelRef
from pass_ops.shards.status import DatasetStatus, RunStatus, status
from pass_ops.shards.store import Store
from pass_ops.shards.tables import Rejection
from pass_ops.shards.verify import Finding, verify

__all__ = [
    "FORMAT_VERSION",
    "PROMPTS",
    "ROLLOUTS",
    "STAGE_VERSIONS",
    "TOKEN_STATISTICS",
    "CompleteDataset",
    "Dataset",
    "DatasetSpec",
    "DatasetStatus",
    "Finding",
    "InputRef",
    "Manifest",
    "ModelRef",
    "PartRecord",
    "PendingParts",
    "PreparedPart",
    "Rejection",
    "RunStatus",
    "SamplingFacts",
    "Store",
    "begin_attempt",
    "canonical_json",
    "commit_part",
    "commit_prepared",
    "committed",
    "create_dataset",
    "fail_part",
    "finalize",
    "folder_digest",
    "load_dataset",
    "open_dataset",
    "pending_parts",
    "prepare_part",
    "record_run",
    "relative_folder",
    "resolve_folder",
    "sha256_bytes",
    "shaped_schema",
    "signal_schema",
    "status",
    "verify",
]
