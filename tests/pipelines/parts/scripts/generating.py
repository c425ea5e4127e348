"""Generate on a real vLLM engine, long enough to be killed meanwhile: generating.py PROMPTS MODEL OUT [BEAM FLAGS]."""

from __future__ import annotations

import sys

from pass_ops.errors import PassError
from pipelines.engines.base import EngineOptions, Sampling
from pipelines.parts.operations import Operations
from pipelines.rollouts.stage import GenerateOptions, generate
from pipelines.runners import RunnerOptions

ENGINE = EngineOptions(dtype="float32", kv_cache_gib=0.25, max_num_seqs=32, max_model_len=400)


def main(prompts: str, model: str, out: str, *flags: str) -> None:
    options = GenerateOptions(group_size=8, sampling=Sampling(max_tokens=380, ignore_eos=True))
    operations = Operations(runner=RunnerOptions(flags=flags))
    generate(prompts=prompts, out=out, model=model, engine=ENGINE, options=options, operations=operations)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except PassError as error:
        sys.exit(str(error))
