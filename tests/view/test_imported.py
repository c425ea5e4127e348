"""Rollouts of other people: texts encoded again, without log-probabilities, a verifier's word or a reason to finish."""

from __future__ import annotations

import json

import numpy as np

from pass_ops import Weights
from pipelines.shaped.stage import ShapeOptions, shape_dataset
from pipelines.view.options import ViewOptions
from pipelines.view.view import make_view
from tests.pipelines.imports.conftest import import_run
from tests.view.reading import parse

__all__ = ["import_run"]


def test_imported_texts_are_shown_without_log_probs(import_run, tiny_model, tmp_path):
    lines = [{"prompt": "2+3=", "completion": text, "right": right} for text, right in (("5", 1.0), ("6 or 7", 0.0))]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = import_run("rows", source, mapping=("response=completion", "reward.right=right"), tokenizer=tiny_model)
    weights = Weights(process=0.0, format=0.0)
    options = ShapeOptions(estimator="grpo_outcome", outcome="right", weights=weights)
    shape_dataset(
        rollouts=run.folder("rollouts"), signals=run.folder("signals"), out=run.folder("shaped"), options=options
    )

    head, (block,), _ = parse(make_view([run.url], options=ViewOptions(tokenizer=tiny_model)).content)
    assert head["datasets"][0]["imported"]["logprobs"] == "absent"
    assert [b"".join(block.tokens(number)) for number in range(2)] == [b"5", b"6 or 7"]
    assert block.arrays["prompt"].tobytes() == b"2+3="
    assert np.isnan(block.arrays["behavior_logprobs"]).all()
    assert head["groups"][0]["verdicts"] == {"unknown": 2}
    assert [rollout["finish_reason"] for rollout in block.head["rollouts"]] == [None, None]
    assert block.of("chunk_advantages/0", 0)[0] > 0 > block.of("chunk_advantages/0", 1)[0]
