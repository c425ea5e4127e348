"""Every wrong option is one TrainOptionError that names it, from Python and from TOML alike."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, field, fields, replace

import pydantic
import pytest
from pydantic.dataclasses import dataclass

from trainer import TrainOptions
from trainer.errors import TrainOptionError


@dataclass
class Config:
    """A configuration that holds the options, as the pipelines' one does."""

    train: TrainOptions = field(default_factory=TrainOptions)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"unit": "prompt"}, "'group' or 'rollout'"),
        ({"batch_size": 4, "updates": 2}, "both set the number of steps"),
        ({"updates": 1, "epochs": 2}, "below epochs"),
        ({"share_prompts": True, "layout": "pack"}, "share_prompts needs layout 'pad'"),
        ({"share_prompts": True, "gradient_checkpointing": True}, "share_prompts needs .* no gradient_checkpointing"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"betas": (0.9,)}, "betas"),
        ({"decay_share": 1.5}, "decay_share is 1.5"),
        ({"decay_share": -0.1}, "decay_share"),
        ({"clip_low": 1.5}, "clip_low"),
        ({"dual_clip": 0.5}, "dual_clip"),
        ({"dual_clip": 3.0, "loss": "gspo"}, "dual_clip"),
        ({"aggregation": "constant"}, "aggregation_constant"),
        ({"micro_batch_tokens": 0}, "micro_batch_tokens"),
        ({"importance": "token"}, "importance and importance_cap"),
        ({"importance_cap": 2.0}, "importance and importance_cap"),
        ({"importance": "token", "importance_cap": 2.0}, "twice"),
        ({"importance": "token", "importance_cap": 0.0, "loss": "policy_gradient"}, "importance_cap is 0.0"),
        ({"reject": "token", "reject_high": 2.0}, "all three"),
        ({"reject_low": 0.5}, "all three"),
        ({"reject": "token", "reject_low": 2.0, "reject_high": 0.5}, "not a range"),
        ({"max_mismatch": 1.5}, "old_policy 'recompute'"),
        ({"old_policy": "recompute", "max_mismatch": 0.5}, "max_mismatch is 0.5"),
        ({"stop_ratio": 0.0}, "stop_ratio"),
        ({"stop_ratio": math.nan}, "stop_ratio is nan"),
        ({"importance": "token", "importance_cap": math.nan, "loss": "policy_gradient"}, "importance_cap is nan"),
        ({"lr": math.inf}, "lr is inf: .*finite"),
        ({"kl_coef": math.inf}, "kl_coef is inf"),
        ({"lr": "1e-4"}, "lr is '1e-4': .*number"),
        ({"updates": 2.5}, "updates is 2.5: .*integer"),
        ({"seed": True}, "seed is True"),
        ({"gradient_checkpointing": "no"}, "gradient_checkpointing is 'no': .*boolean"),
        ({"betas": (0.9, 1.0)}, "betas.1 is 1.0: .*less than 1"),
        ({"betas": ("0.9", 0.99)}, "betas.0 is '0.9'"),
        ({"l\x1br": 1e-4}, r"'l\\x1br': unknown key"),
        ({"learning_rate": 1e-4}, "learning_rate: unknown key; did you mean 'lr'"),
        ({"batchsize": 4}, "did you mean 'batch_size'"),
        ({"kl_estimator": "k4"}, "'k1', 'k2', 'k3' or 'abs'"),
        ({"importance": "sequnce"}, "'none', 'token' or 'sequence'"),
    ],
)
def test_a_wrong_option_is_refused_by_name(changes, named):
    with pytest.raises(TrainOptionError, match=named):
        TrainOptions(**changes)


def test_options_are_given_by_name():
    with pytest.raises(TrainOptionError, match="by name"):
        TrainOptions(3)


def test_all_conflicts_are_named_at_once():
    with pytest.raises(TrainOptionError, match=r"(?s)updates 2 both set.*dual_clip is 3\.0"):
        TrainOptions(batch_size=1, updates=2, dual_clip=3.0, loss="gspo")


def test_what_belongs_together_is_allowed():
    assert TrainOptions(dual_clip=3.0, loss="clip").dual_clip == 3.0
    assert TrainOptions(share_prompts=True, layout="pad", gradient_checkpointing=False).share_prompts


def test_infinity_is_allowed_where_it_means_never():
    options = TrainOptions(stop_ratio=math.inf, stop_grad_norm=math.inf, old_policy="recompute", importance="token",
                           importance_cap=math.inf, reject="token", reject_low=0.5, reject_high=math.inf)  # fmt: skip
    assert replace(options, lr=1.0).importance_cap == math.inf


def test_a_nested_table_is_built_as_the_class_is():
    adapter = pydantic.TypeAdapter(Config)
    table = {"train": {"betas": [0.9, 0.95], "stop_ratio": math.inf, "lr": 1}}
    built = adapter.validate_json(json.dumps(table), strict=True).train
    assert built == TrainOptions(betas=(0.9, 0.95), stop_ratio=math.inf, lr=1.0)
    for wrong, place in (({"lr": "1e-4"}, ("train", "lr")), ({"batch_size": 1, "updates": 1}, ("train",))):
        with pytest.raises(pydantic.ValidationError) as refused:
            adapter.validate_json(json.dumps({"train": wrong}), strict=True)
        assert refused.value.errors()[0]["loc"] == place


def test_every_option_says_what_it_is():
    described = pydantic.TypeAdapter(TrainOptions).json_schema()["properties"]
    assert set(described) == {item.name for item in fields(TrainOptions)}
    for name, schema in described.items():
        assert schema["description"].rstrip().endswith((".", ").")), name
        assert len(schema["description"]) > 12, name


def test_what_a_run_is_compared_by_are_json_values_of_what_decides_the_result():
    semantic = TrainOptions(betas=[0.9, 0.95]).semantic()
    assert json.loads(json.dumps(semantic)) == semantic
    assert semantic["betas"] == [0.9, 0.95]
    assert set(asdict(TrainOptions())) - set(semantic) == {
        "micro_batch_tokens", "logits_elements", "gradient_checkpointing", "layout", "share_prompts", "head",
        "head_dtype", "deterministic", "compile_layers", "cpu_offload", "weights_dtype",
        "prefetch_steps", "decode_threads", "save_every", "keep_checkpoints", "tensorboard", "tracker",
        "tracker_project", "peak_tflops",
    }  # fmt: skip


def test_an_option_added_later_is_part_of_a_run_only_where_it_says_something():
    assert TrainOptions(weights_dtype="bfloat16", lora_rank=4).semantic()["weights_dtype"] == "bfloat16"


def test_options_cannot_be_changed_after_they_are_checked():
    with pytest.raises(FrozenInstanceError):
        TrainOptions().lr = -1.0


def test_the_options_are_imported_without_torch():
    code = "import sys, trainer; trainer.TrainOptions(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env=os.environ).returncode == 0
