"""Generate, until its gate (gate.py) is opened: generating.py ENGINE PROMPTS MODEL OUT [BEAM FLAGS].

ENGINE: vllm, a real one; recorded, made-up answers.
"""

from __future__ import annotations

import sys

from pass_ops.errors import PassError
from pipelines.engines.base import EngineOptions, Sampling
from pipelines.parts.operations import Operations
from pipelines.rollouts.stage import GenerateOptions, generate
from pipelines.runners import RunnerOptions

ENGINES = {
    "vllm": EngineOptions(dtype="float32", kv_cache_gib=0.25, max_num_seqs=32, max_model_len=400),
    "recorded": EngineOptions(kind="recorded", recording="synthetic:0", max_model_len=400),
}


def main(engine: str, prompts: str, model: str, out: str, *flags: str) -> None:
    sampling = Sampling(max_tokens=380, ignore_eos=True)
    options = GenerateOptions(group_size=8, sampling=sampling, program="gate:once")
    operations = Operations(runner=RunnerOptions(flags=flags))
    generate(prompts=prompts, out=out, model=model, engine=ENGINES[engine], options=options, operations=operations)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except PassError as error:
        sys.exit(str(error))
