"""Advantages from the methods' own code, for tests/pass_ops/test_methods.py. Run in a throwaway environment:

    python -m venv peers && peers/bin/pip install torch numpy "mlx[cpu]"
    peers/bin/python tests/pass_ops/reference/authors.py --list            # OWNER/NAME COMMIT of every source
    git clone https://github.com/OWNER/NAME CLONES/OWNER/NAME              # each of them
    peers/bin/python tests/pass_ops/reference/authors.py CLONES > tests/pass_ops/reference/authors.json

The functions are read out of the named files at the named commits and run as they stand, by themselves: the packages
around them are not imported, so that nothing of what those need is installed. All rollouts are one batch.
"""

from __future__ import annotations
import __future__

import ast
import json
import math
import random
import subprocess
import sys
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

VERL = ("verl-project/verl", "1dda039b9c6311889a9c9a26040677e1254814f9")
PURE = ("CJReinforce/PURE", "41f9363b8cc4af044b7fc5f7f9bbbf62139e9553")
PAPO = ("tanzelin430/PAPO", "277dac1cfe29d465ad9aee0499b4869b698d2e97")
MRPO = ("dmis-lab/MRPO", "5922138ccc0cbe0373f94b3a8f1c99e672856131")
TEMPO = ("fatebreaker/tempo", "0a1c273d184a6ea31a384c8a665ad979db087810")
GIGPO = ("langfengQ/DrMAS", "3b556f2c0373fe23d6b637cbd3673c076713aebe")
TRL = ("huggingface/trl", "f2cd57710ae345ea6428ae95363267fcf38a3dc8")
TEXTPOLICY = ("teilomillet/textpolicy", "e88fc30e319ae6ce92613bd8c925b4b5381e99cd")
SAF = ("kissshhot/SAF-OPD", "46d42b88d4067bc5be2d995bc3c8bbfa3ced895a")
VINEPPO = ("McGill-NLP/VinePPO", "efe7228469f21bad8cc8d4e44a3f688ed8cc6aac")
SKYRL = ("NovaSky-AI/SkyRL", "a9564572eb8e91076be43c1bd5e4615e3de17265")
SOURCES = (VERL, PURE, PAPO, MRPO, TEMPO, GIGPO, TRL, TEXTPOLICY, SAF, VINEPPO, SKYRL)

CORE = "verl/trainer/ppo/core_algos.py"
MRPO_TRAINER = "VLM-R1/src/open-r1-multimodal/src/open_r1/trainer/grpo_trainer_MRPO_Qwen3.py"
VINEPPO_EPISODES = "src/treetune/episode_generators/math_episode_generator_with_mc_advantages.py"
MAKER = "openrlhf/trainer/ppo_utils/experience_maker.py"
PAPO_FUNCTIONS, SKYRL_UTILS = "roll/utils/functionals.py", "skyrl/backends/skyrl_train/utils/ppo_utils.py"
SAF_TRAINER, TRL_TRAINER = "verl/verl/trainer/ppo/ray_trainer.py", "trl/trainer/grpo_trainer.py"
GTPO, GIGPO_CORE = "textpolicy/algorithms/grpo.py", "gigpo/core_gigpo.py"
#: method -> where its function is
FROM = {
    **dict.fromkeys(("gdpo", "reinforce_pp", "reinforce_pp_baseline", "opo", "gpg", "pass_at_k"), (VERL, CORE)),
    "max_rl": (SKYRL, SKYRL_UTILS),
    "papo": (PAPO, PAPO_FUNCTIONS),
    "pure": (PURE, MAKER),
    "mrpo": (MRPO, MRPO_TRAINER),
    "tempo": (TEMPO, CORE),
    "gtpo": (TEXTPOLICY, GTPO),
    "gigpo": (GIGPO, GIGPO_CORE),
    "entropy_top": (TRL, TRL_TRAINER),
    "saf_opd": (SAF, SAF_TRAINER),
    "vineppo": (VINEPPO, VINEPPO_EPISODES),
}
#: what the functions find around themselves
AROUND = {"torch": torch, "np": np, "math": math, "defaultdict": defaultdict, "deepcopy": deepcopy}
#: rewards of each group: mixed ones of several sizes, one all wrong, one all right
OUTCOMES = ((1, 0), (0, 1, 0), (1, 1, 0, 0, 0), (0, 0, 0, 0), (1, 1, 1), (0, 1, 1, 1), (0, 0, 0, 0, 0, 1))
Row = dict[str, Any]
Advantages = list[list[float]]


class Clones:
    """The checked-out sources."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def tree(self, source: tuple[str, str], path: str) -> ast.Module:
        name, commit = source
        call = ["git", "-C", f"{self.folder}/{name}", "show", f"{commit}:{path}"]
        return ast.parse(subprocess.run(call, check=True, capture_output=True, text=True).stdout)

    def take(self, source: tuple[str, str], path: str, *names: str, **around: Any) -> SimpleNamespace:
        """The functions of these names, wherever the file has them, without their decorators."""
        found: dict[str, ast.stmt] = {}
        for node in ast.walk(self.tree(source, path)):
            if isinstance(node, ast.FunctionDef) and node.name in names:
                node.decorator_list = []
                found.setdefault(node.name, node)
        assert set(found) == set(names), f"{source} {path}: {set(names) - set(found)} not there"
        return SimpleNamespace(**execute(list(found.values()), AROUND | around))


def execute(statements: list[ast.stmt], space: dict[str, Any]) -> dict[str, Any]:
    """Run them with annotations left alone, and return what they leave."""
    module = ast.fix_missing_locations(ast.Module(body=statements, type_ignores=[]))
    space = dict(space)
    exec(compile(module, "theirs", "exec", flags=__future__.annotations.compiler_flag), space)
    return space


def make_rollouts() -> list[Row]:
    """All numbers are multiples of 1/64, so that they are the same in float32."""
    rng = random.Random(16)

    def number(low: float, high: float) -> float:
        return rng.randint(round(64 * low), round(64 * high)) / 64

    rows: list[Row] = []
    for g, outcomes in enumerate(OUTCOMES):
        for outcome in outcomes:
            length = rng.randint(2, 9)
            ends = sorted({*rng.sample(range(1, length), rng.randint(0, min(3, length - 1))), length})
            mask = [rng.random() > 0.2 for _ in range(length)]
            mask[rng.randrange(length)] = True
            row = {"group_id": f"q{g}", "outcome": float(outcome), "mask": mask, "ends": ends}
            row |= {
                "format": number(0, 1),
                "quality": rng.randint(0, 2) / 2,
                "process": [number(-0.9, 0.9) for _ in ends],
            }
            row |= {"label": [float(rng.random() < 0.6) for _ in ends], "value": [rng.randint(0, 8) / 8 for _ in ends]}
            row |= {"state": [rng.choice("abc") for _ in ends], "token_ids": [rng.randint(1, 2) for _ in range(length)]}
            row |= {"entropy": [number(0.05, 2) for _ in range(length)], "opd": [number(-3, 3) for _ in range(length)]}
            row["value"][live_steps(row)[-1][0]] = row["outcome"]  # the value behind the last step is its verdict
            rows.append(row)
    return rows


def live_steps(row: Row) -> list[tuple[int, list[int]]]:
    """Number and unmasked tokens of each step that has any."""
    steps = enumerate(zip([0, *row["ends"]], row["ends"], strict=False))
    found = [(j, [t for t in range(first, last) if row["mask"][t]]) for j, (first, last) in steps]
    return [(j, tokens) for j, tokens in found if tokens]


def groups_of(rows: list[Row]) -> Iterator[list[Row]]:
    for g in range(len(OUTCOMES)):
        yield [r for r in rows if r["group_id"] == f"q{g}"]


def padded(values: list[list[Any]], dtype: torch.dtype = torch.float64) -> torch.Tensor:
    longest = max(map(len, values))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in values], dtype=dtype)


def unpadded(advantages: torch.Tensor, rows: list[Row]) -> Advantages:
    return [values[: len(r["mask"])] for values, r in zip(advantages.tolist(), rows, strict=True)]


def masked(rows: list[Row]) -> torch.Tensor:
    return padded([r["mask"] for r in rows])


def at_the_end(rows: list[Row], name: str) -> torch.Tensor:
    """The reward at the last token that counts."""
    lies = torch.zeros_like(masked(rows))
    for i, r in enumerate(rows):
        lies[i, max(t for t, counts in enumerate(r["mask"]) if counts)] = r[name]
    return lies


def by_steps(rows: list[Row], values: list[list[float]]) -> Advantages:
    """One value for each live step of each rollout, at the step's unmasked tokens."""
    spread = [[0.0] * len(r["mask"]) for r in rows]
    for row, r, of_steps in zip(spread, rows, values, strict=True):
        for (_, tokens), value in zip(live_steps(r), of_steps, strict=True):
            for t in tokens:
                row[t] = value
    return spread


def by_verl(clones: Clones, rows: list[Row]) -> dict[str, Advantages]:
    names = ("masked_sum", "masked_mean", "masked_var", "masked_whiten")
    helpers = clones.take(VERL, "verl/utils/torch_functional.py", *names)
    wanted = ("grpo", "gdpo", "grpo_passk", "reinforce_plus_plus", "reinforce_plus_plus_baseline", "opo", "gpg")
    functions = [f"compute_{name}_outcome_advantage" for name in wanted]
    theirs = vars(clones.take(VERL, CORE, *functions, verl_F=helpers))
    grpo, gdpo, pass_at_k, plain, baseline, opo, gpg = (theirs[name] for name in functions)
    given = {"response_mask": masked(rows), "index": np.array([r["group_id"] for r in rows])}
    keys = ["outcome", "format", "quality"]
    lengths = padded([[1] * len(r["mask"]) for r in rows], torch.long)
    batch = {"prompts": torch.zeros((len(rows), 0)), "attention_mask": lengths}
    rewards = {key: np.array([r[key] for r in rows]) for key in keys}

    def run(function: Callable[..., Any], **options: Any) -> Advantages:
        found, _ = function(token_level_rewards=at_the_end(rows, "outcome"), **given, **options)
        return unpadded(found, rows)

    gdpo_options = {"gdpo_reward_keys": keys, "gdpo_reward_weights": [1.0, 0.5, 0.25]}
    return {
        "grpo": run(grpo),
        "gdpo": run(gdpo, config=gdpo_options, non_tensor_batch=rewards, batch=batch),
        "reinforce_pp": run(plain, config=SimpleNamespace(gamma=1.0)),
        "reinforce_pp_baseline": run(baseline),
        "opo": run(opo),
        "gpg as verl scales it": run(gpg),
        "pass_at_k": run(pass_at_k, config={"norm_adv_by_std_in_grpo": False}),
        "pass_at_k divided by std": run(pass_at_k, config={}),
    }


def by_skyrl(clones: Clones, rows: list[Row]) -> Advantages:
    max_rl = clones.take(SKYRL, SKYRL_UTILS, "compute_maxrl_advantage").compute_maxrl_advantage
    index = np.array([r["group_id"] for r in rows])
    return unpadded(max_rl(at_the_end(rows, "outcome"), masked(rows), index)[0], rows)


def by_papo(clones: Clones, rows: list[Row]) -> Advantages:
    theirs = clones.take(PAPO, PAPO_FUNCTIONS, "compute_grpo_dual_advantage").compute_grpo_dual_advantage
    found: Advantages = []
    for group in groups_of(rows):
        batch = {"scores": torch.tensor([r["outcome"] for r in group], dtype=torch.float64)}
        batch["prm_rewards"] = torch.tensor([r["quality"] for r in group], dtype=torch.float64)
        found += unpadded(theirs(SimpleNamespace(batch=batch), len(group), masked(group))[0], group)
    return found


def by_pure(clones: Clones, rows: list[Row]) -> Advantages:
    """Process rewards with a baseline per token, and verifiable rewards, as in examples/scripts/train_pure.sh."""
    names = ("right_padding", "turn_process_reward_logits_to_reward")
    helpers = vars(clones.take(PURE, "openrlhf/utils/utils.py", *names))
    process = clones.take(PURE, MAKER, "process_experiences", **helpers).process_experiences
    return [x for group in groups_of(rows) for x in _pure_group(helpers, process, group)]


def _pure_group(helpers: dict[str, Any], process: Callable[..., Any], group: list[Row]) -> Advantages:
    steps = [live_steps(r) for r in group]
    present = padded([[True] * len(s) for s in steps], torch.bool)
    scores = padded([[r["process"][j] for j, _ in s] for r, s in zip(group, steps, strict=True)])
    logits = torch.stack([torch.zeros_like(scores), 2 * torch.atanh(scores)], dim=-1)  # p(+) - p(-) is the score
    weighted = helpers["turn_process_reward_logits_to_reward"](logits, present, temperature=0.1)
    lies = padded([[False] * len(r["mask"]) for r in group], torch.bool)
    for i, s in enumerate(steps):
        lies[i, [tokens[-1] for _, tokens in s]] = True
    matrix = torch.zeros(lies.shape, dtype=torch.float64)
    matrix[lies] = weighted[present]
    solved = torch.tensor([r["outcome"] for r in group], dtype=torch.float64)
    info = {
        "process_reward": matrix,
        "process_reward_mask": lies,
        "num_steps": present.sum(1),
        "response_length": masked(group).sum(1),
        "num_tokens_per_step": padded([[len(tokens) for _, tokens in s] for s in steps]),
        "score_mask": present,
        "have_answers": torch.ones(len(group), dtype=torch.bool),
        "solved": solved,
    }
    args = SimpleNamespace(advantage_estimator="rloo", n_samples_per_prompt=len(group), reward_baseline="token")
    args.reward_mode, args.verifiable_reward_coef, args.micro_rollout_batch_size = "PRMVR", 1.0, len(group)
    maker = SimpleNamespace(strategy=SimpleNamespace(args=args))
    experience = SimpleNamespace(info=info, action_mask=masked(group).bool())
    _, (rewards,) = process(maker, [experience])
    returns = rewards.fliplr().cumsum(dim=1).fliplr()  # make_experience_list, without KL and separator tokens
    return unpadded(returns * masked(group), group)


def by_mrpo(clones: Clones, rows: list[Row]) -> Advantages:
    """The reweighting of a sentence, out of the middle of their trainer; it rounds its factors to two digits."""
    tree = clones.tree(MRPO, MRPO_TRAINER)
    (block,) = (
        n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "single_accuracy_reward > 0.6"
    )
    found: Advantages = []
    for group in groups_of(rows):
        rewards = torch.tensor([r["outcome"] for r in group], dtype=torch.float64)
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        for i, r in enumerate(group):
            steps, factors = live_steps(r), []
            for j, (step, _) in enumerate(steps):
                space = AROUND | {"row_idx": i, "sent_idx": j, "match_start": 0, "match_end": 1}
                space |= {"label": r["label"][step], "sentences": steps, "single_accuracy_reward": r["outcome"]}
                space |= {"advantage_list": advantages.tolist(), "token_adv_multiplier": torch.ones((len(group), 1))}
                factors.append(execute([block], space)["token_adv_multiplier"][i, 0].item())
            found += by_steps([r], [[factor * advantages[i].item() for factor in factors]])
    return found


def by_tempo(clones: Clones, rows: list[Row]) -> Advantages:
    """Their tree ends at the first masked token, so here all tokens count."""
    tempo = clones.take(TEMPO, CORE, "compute_tempo_outcome_advantage").compute_tempo_outcome_advantage
    rows = [r | {"mask": [True] * len(r["mask"])} for r in rows]
    ids, index = padded([r["token_ids"] for r in rows], torch.long), np.array([r["group_id"] for r in rows])
    return unpadded(tempo(at_the_end(rows, "outcome"), ids, masked(rows), None, index, None)[0], rows)


def by_gigpo(clones: Clones, rows: list[Row]) -> dict[str, Advantages]:
    """One row of their batch is one step; a step's reward is its process score, its state the anchor."""
    names = ("to_hashable", "build_step_group", "episode_norm_reward", "step_norm_reward")
    main = "compute_gigpo_outcome_advantage"
    theirs = clones.take(GIGPO, GIGPO_CORE, "compute_step_discounted_returns", main, *names, uuid=uuid)
    steps = [(i, k, j) for i, r in enumerate(rows) for k, (j, _) in enumerate(live_steps(rows[i]))]
    of_steps = {
        "rewards": np.array([rows[i]["process"][j] for i, _, j in steps]),
        "traj_uid": np.array([i for i, _, _ in steps]),
        "active_masks": np.ones(len(steps)),
        "env_step": np.array([k for _, k, _ in steps]),
    }
    batch = SimpleNamespace(non_tensor_batch=of_steps, batch={"input_ids": torch.zeros(1)})
    returns = theirs.compute_step_discounted_returns(batch, gamma=0.95)
    episode = torch.tensor([[rows[i]["outcome"]] for i, _, _ in steps], dtype=torch.float64)
    anchors = np.array([rows[i]["state"][j] for i, _, j in steps])
    index = np.array([rows[i]["group_id"] for i, _, _ in steps])
    found = {}
    for name, mode in (("gigpo", "mean_norm"), ("gigpo divided by std", "mean_std_norm")):
        scores, _ = theirs.compute_gigpo_outcome_advantage(
            episode, returns, torch.ones_like(episode), anchors, index, of_steps["traj_uid"], mode=mode
        )
        each: list[list[float]] = [[] for _ in rows]
        for (i, _, _), value in zip(steps, scores[:, 0].tolist(), strict=True):
            each[i].append(value)
        found[name] = by_steps(rows, each)
    return found


def by_saf(clones: Clones, rows: list[Row], grpo: Advantages) -> Advantages:
    theirs = clones.take(SAF, SAF_TRAINER, "apply_topk_sparse_filter", "apply_tanh_scaling")
    kept, _, keep = theirs.apply_topk_sparse_filter(padded([r["opd"] for r in rows]) * masked(rows), masked(rows), 20.0)
    return unpadded(padded(grpo) + theirs.apply_tanh_scaling(kept, keep, tanh_coef=0.1)[0], rows)


def by_trl(clones: Clones, rows: list[Row], grpo: Advantages) -> dict[str, Advantages]:
    pick = clones.take(TRL, TRL_TRAINER, "get_high_entropy_mask").get_high_entropy_mask
    one_process = SimpleNamespace(pad_across_processes=lambda x, dim, pad_index: x, gather=lambda x: x)
    trainer = SimpleNamespace(accelerator=one_process)

    def run(some: list[Row], advantages: Advantages) -> Advantages:
        entropy = padded([r["entropy"] for r in some])
        return unpadded(padded(advantages) * pick(trainer, entropy, masked(some), 0.8), some)

    by_group, done = [], 0
    for group in groups_of(rows):
        by_group += run(group, grpo[done : done + len(group)])
        done += len(group)
    return {"entropy_top": by_group, "entropy_top over the batch": run(rows, grpo)}


def by_textpolicy(clones: Clones, rows: list[Row]) -> Advantages:
    """GTPO after its Eq. 3, 5 and 6. It knows no masks, so all tokens count."""
    import mlx.core as mx

    names = ("compute_gtpo_shaped_rewards", "normalize_gtpo_advantages")
    theirs = clones.take(TEXTPOLICY, GTPO, *names, mx=mx)
    found: Advantages = []
    for group in groups_of(rows):
        entropy, lengths = mx.array([h for r in group for h in r["entropy"]]), [len(r["mask"]) for r in group]
        rewards, right = theirs.compute_gtpo_shaped_rewards([r["outcome"] for r in group], entropy, lengths)
        flat = theirs.normalize_gtpo_advantages(rewards, right).tolist()
        for length in lengths:
            found.append(flat[:length])
            flat = flat[length:]
    return found


def by_vineppo(clones: Clones, rows: list[Row]) -> Advantages:
    """The value of the prompt is the mean outcome of its rollouts."""
    theirs = clones.take(VINEPPO, VINEPPO_EPISODES, "_compute_step_advantages")._compute_step_advantages
    found: Advantages = []
    for group in groups_of(rows):
        start = sum(r["outcome"] for r in group) / len(group)
        for r in group:
            behind = [r["value"][j] for j, _ in live_steps(r)]
            given = {"values": [start, *behind[:-1], None], "step_rewards": [0.0] * (len(behind) - 1) + [r["outcome"]]}
            found += by_steps([r], [theirs(None, given)])
    return found


def run_all(clones: Clones, rows: list[Row]) -> dict[str, Advantages]:
    found = by_verl(clones, rows)
    found |= {"max_rl": by_skyrl(clones, rows), "papo": by_papo(clones, rows), "pure": by_pure(clones, rows)}
    found |= {"mrpo": by_mrpo(clones, rows), "tempo": by_tempo(clones, rows), "gtpo": by_textpolicy(clones, rows)}
    found |= by_gigpo(clones, rows) | by_trl(clones, rows, found["grpo"])
    found |= {"saf_opd": by_saf(clones, rows, found["grpo"]), "vineppo": by_vineppo(clones, rows)}
    assert {name.split(" ")[0] for name in found} == {"grpo", *FROM}
    return found


def write(rows: list[Row], found: dict[str, Advantages]) -> None:
    digits = {name: [[round(x, 9) + 0.0 for x in row] for row in advantages] for name, advantages in found.items()}
    sources = {name: f"{repository}@{commit[:7]} {path}" for name, ((repository, commit), path) in FROM.items()}
    rollouts = ",\n".join(json.dumps(r) for r in rows)
    lines = [f"{json.dumps(name)}: {json.dumps(advantages)}" for name, advantages in digits.items()]
    print('{\n"rollouts": [\n' + rollouts + '\n],\n"sources": ' + json.dumps(sources) + ",")
    print(",\n".join(lines) + "\n}")


def main() -> None:
    if sys.argv[1] == "--list":
        print("\n".join(f"{name} {commit}" for name, commit in SOURCES))
    else:
        rows = make_rollouts()
        with redirect_stdout(sys.stderr):  # some of them print
            found = run_all(Clones(sys.argv[1]), rows)
        write(rows, found)


if __name__ == "__main__":
    main()
