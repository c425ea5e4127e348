"""The fused head: liger-kernel's own Triton kernel, run by Triton's interpreter where there is no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from pass_ops.support.extras import MissingExtraError
from trainer.errors import PolicyMismatchError, TrainOptionError
from trainer.fused import check_fused
from trainer.options import TrainOptions
from trainer.policy import load_policy

# In a process of its own: the interpreter is chosen when Triton is imported.
BOTH_HEADS = """
import json, sys
from tests.trainer.rows import gradient_of, largest_difference, random_rows, step_of
from trainer.options import TrainOptions
from trainer.policy import load_policy

for folder in sys.argv[1:]:
    for dtype, temperature in (("float32", 1.0), ("float32", 0.7), ("bfloat16", 0.7)):
        found = {}
        step = step_of(random_rows(groups=2, size=3), temperature=temperature)
        for head in ("chunked", "fused"):
            options = TrainOptions(device="cpu", head=head, compute_dtype=dtype, kl_coef=0.1)
            policy = load_policy(folder, options)
            outputs = policy.token_outputs(step.micro_batches[0])
            assert (outputs.entropy_N is None) == (head == "fused")
            found[head] = outputs, gradient_of(policy, step, options)
        (chunked, gradient), (fused, other) = found["chunked"], found["fused"]
        apart = {
            "logprobs": float((chunked.logprobs_N - fused.logprobs_N).abs().max()),
            "logprobs at 1": float((chunked.logprobs_t1_N - fused.logprobs_t1_N).abs().max()),
            "gradient": largest_difference(other, gradient),
        }
        print(json.dumps([dtype, apart]))
"""


def test_the_fused_head_gives_the_logprobs_and_gradients_of_the_chunked_one(policy_folder, tied_policy_folder):
    command = [sys.executable, "-c", BOTH_HEADS, policy_folder, tied_policy_folder]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    compared = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(compared) == 6
    for dtype, apart in compared:
        assert max(apart.values()) < (1e-5 if dtype == "float32" else 0.05), (dtype, apart)


def test_an_entropy_bonus_needs_the_chunked_head():
    with pytest.raises(TrainOptionError, match="computes no entropy"):
        TrainOptions(head="fused", entropy_coef=0.1)


def test_a_head_the_kernel_does_not_compute_is_refused(policy_folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(policy_folder)
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(PolicyMismatchError, match="set head to 'chunked'"):
        check_fused(model, policy_folder, torch.device("cuda"))


def test_without_the_library_the_extra_is_named(policy_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    for name in [name for name in sys.modules if name.startswith("liger_kernel.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtraError, match=r"passrl\[liger\]"):
        check_fused(None, policy_folder, torch.device("cuda"))


def test_a_cpu_is_refused(policy_folder):
    with pytest.raises(TrainOptionError, match="a kernel for a GPU"):
        load_policy(policy_folder, TrainOptions(device="cpu", head="fused"))
