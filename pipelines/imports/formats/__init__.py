"""The foreign formats, one small file each: what its source declares to know, and a pure function of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pass_ops.support.nearest import advice
from pipelines.imports.formats.inspect_ai import INSPECT_AI
from pipelines.imports.formats.labelled import LABELLED
from pipelines.imports.formats.lighteval import LIGHTEVAL
from pipelines.imports.formats.lm_eval import LM_EVAL
from pipelines.imports.formats.mapped import mapped, parse_mapping
from pipelines.imports.formats.nemo_gym import NEMO_GYM
from pipelines.imports.formats.nemo_rl import NEMO_RL
from pipelines.imports.formats.open_instruct import OPEN_INSTRUCT
from pipelines.imports.formats.openai_batch import OPENAI_BATCH
from pipelines.imports.formats.prime_tokens import PRIME_TOKENS
from pipelines.imports.formats.slime import SLIME
from pipelines.imports.formats.tinker import TINKER
from pipelines.imports.formats.trl import TRL
from pipelines.imports.formats.verifiers import VERIFIERS
from pipelines.imports.formats.verl import VERL
from pipelines.imports.formats.verl_tensors import VERL_TENSORS
from pipelines.imports.record import Format, ImportFormatError

#: those that need no mapping; `rows` takes one
FORMATS: Mapping[str, Format] = {
    form.name: form
    for form in (
        *(VERIFIERS, PRIME_TOKENS, NEMO_RL, NEMO_GYM, OPEN_INSTRUCT, SLIME, TINKER, VERL_TENSORS),
        *(TRL, VERL, OPENAI_BATCH, LM_EVAL, LIGHTEVAL, INSPECT_AI),
        *LABELLED.values(),
    )
}
MAPPED = "rows"


def import_format(name: str, mapping: Sequence[str] = ()) -> Format:
    """The format of a name; `rows` with the mapping of its columns. Raises ImportFormatError, which lists them."""
    if name == MAPPED:
        return mapped(parse_mapping(mapping))
    if name not in FORMATS:
        raise ImportFormatError(f"there is no format {name!r}; {advice(name, [*FORMATS, MAPPED], listed=True)}")
    if mapping:
        raise ImportFormatError(f"--map goes with the format {MAPPED}; {name} knows its own columns")
    return FORMATS[name]
