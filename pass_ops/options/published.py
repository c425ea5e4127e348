"""Every published method that an `estimator` name stands for, besides those of `pass_ops.estimators`, in one place.

A method is streams (`pass_ops.options.presets`), or a function of a group in one of the other files beside this one.
docs/reference/methods.md is made from this table. Imports nothing but the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pass_ops.errors import OptionError
from pass_ops.options.checking import check_number
from pass_ops.support.nearest import advice

PublishedName = Literal[
    "gdpo_batch", "reinforce_pp", "reinforce_pp_baseline", "max_rl", "opo", "pass_at_k", "grpo_lambda", "pure", "papo",
    "verigate", "capo", "mrpo", "vineppo", "pav", "gigpo", "saf_opd", "tempo", "entropy_top", "gtpo",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Option:
    """A number, or a switch, that a function takes as a keyword."""

    default: float | bool
    low: float = 0.0
    high: float = 1.0
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Published:
    """What an estimator's name stands for.

    Attributes:
        title, source: its name in the literature; where it is published.
        formula: one line, in the terms of docs/reference/methods.md.
        against: what the test compares with: repository@commit file, or "worked by hand".
        needs: columns, in words.
        function: module:function of a group; None where the method is streams.
        options: the function's keywords.
        reads_process: whether the function reads the process signal (where its weight is not 0).
        asks: the streams that the function asks about by themselves, so that their weight may not be 0.
        note: how it differs from the paper or from other implementations.
    """

    title: str
    source: str
    formula: str
    against: str
    needs: str
    function: str | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    reads_process: bool = False
    asks: tuple[Literal["process", "outcome"], ...] = ()
    note: str = ""


_VERL = "verl-project/verl@1dda039 verl/trainer/ppo/core_algos.py"

PUBLISHED: dict[str, Published] = {
    "gdpo_batch": Published(
        title="GDPO with its batch whitening",
        source="arXiv 2601.05242",
        formula="A = W(sum over rewards n of w_n N_group(r_n)), W over the tokens of the data set",
        against=_VERL,
        needs="outcome and format; N rewards: a stream for each",
    ),
    "reinforce_pp": Published(
        title="REINFORCE++",
        source="arXiv 2501.03262",
        formula="A = W(r), W over the tokens of the data set",
        against=_VERL,
        needs="outcome",
        note="The KL penalty that the paper puts into the reward is the trainer's.",
    ),
    "reinforce_pp_baseline": Published(
        title="REINFORCE++-baseline",
        source="arXiv 2501.03262",
        formula="A = W(r - mean_group(r)), W over the tokens of the data set",
        against=_VERL,
        needs="outcome",
    ),
    "max_rl": Published(
        title="MaxRL",
        source="arXiv 2602.02710",
        formula="A = (r - mean_group(r)) / mean_group(r); 0 where the mean is 0 or less",
        against="NovaSky-AI/SkyRL@a956457 skyrl/backends/skyrl_train/utils/ppo_utils.py",
        needs="outcome",
    ),
    "opo": Published(
        title="OPO",
        source="arXiv 2505.23585",
        formula="A = r - sum_j L_j r_j / sum_j L_j, L the unmasked tokens of a rollout",
        against=_VERL,
        needs="outcome",
        function="pass_ops.methods.rewards:opo",
    ),
    "pass_at_k": Published(
        title="Pass@k training, k the size of the group",
        source="arXiv 2503.19595",
        formula="A = r_(1) - r_(2) for the first best rollout, 0 for the others",
        against=_VERL,
        needs="outcome",
        function="pass_ops.methods.rewards:pass_at_k",
        options={"divide_by_std": Option(default=False, meaning="divide by std + eps, verl's default")},
    ),
    "grpo_lambda": Published(
        title="GRPO-lambda",
        source="arXiv 2510.00194",
        formula="A_j = N(r) sum_(t >= j) tr(t, j), tr = d^(t - j), or max(d^(t - j), d^j)",
        against="worked by hand, and the gradient of its objective by finite differences",
        needs="outcome",
        function="pass_ops.methods.rewards:grpo_lambda",
        options={
            "decay": Option(default=0.99, meaning="d, the product of gamma and lambda"),
            "both": Option(default=False, meaning='the trace "both" instead of "recent"'),
        },
        note="The paper traces log ratios inside the loss. These advantages give its gradient where all ratios are 1.",
    ),
    "pure": Published(
        title="PURE",
        source="arXiv 2504.15275",
        formula="A_t = sum_(j from t's step on) (r~_j - n_j b) + r - mean of the others' r; r~ = r softmax(-r / T)",
        against="CJReinforce/PURE@41f9363 openrlhf/trainer/ppo_utils/experience_maker.py",
        needs="process, outcome",
        function="pass_ops.methods.steps:pure",
        options={
            "temperature": Option(default=0.1, low=1e-6, high=1e6, meaning="T; towards 0 the minimum of the scores")
        },
        reads_process=True,
        note="b is the others' process reward per token, as in the authors' scripts; n_j the tokens of step j.",
    ),
    "papo": Published(
        title="PAPO",
        source="arXiv 2603.26535",
        formula="A = N_group(r) + [right] N_right(q), q the process signal",
        against="tanzelin430/PAPO@277dac1 roll/utils/functionals.py",
        needs="outcome; process as one score a rollout (column process_reward) or a step",
    ),
    "verigate": Published(
        title="VeriGate",
        source="arXiv 2605.30451",
        formula="A = N(r); in groups that are all wrong alike A_j = N(c_j), c_j = sum_(j' >= j) s_j', over the steps",
        against="worked by hand; no code was found, and the formula is that of a digest which quotes the paper's "
        "equations",
        needs="process, outcome",
        function="pass_ops.methods.steps:verigate",
        reads_process=True,
        asks=("outcome",),
    ),
    "capo": Published(
        title="CAPO",
        source="arXiv 2508.02298",
        formula="A = N_tokens(2 r - [t in a wrong step])",
        against="worked by hand; the authors' repository holds no code, and the reward is that of a digest which "
        "quotes the paper's equation and weights",
        needs="outcome 0 or 1; process: 1 for a right step, 0 for a wrong one (a judge's votes)",
        note="A score of 1 for what is right instead of -1 for what is wrong is a constant that N removes.",
    ),
    "mrpo": Published(
        title="MRPO",
        source="arXiv 2606.31825",
        formula="A = N(r); on wrong rollouts abs(N(r)) at valid steps, -abs(N(r)) exp(1 - j / (K - 1)) at invalid ones",
        against="dmis-lab/MRPO@5922138 .../trainer/grpo_trainer_MRPO_Qwen3.py",
        needs="process (above valid_above = valid), outcome",
        function="pass_ops.methods.steps:mrpo",
        options={
            "right_above": Option(default=0.6, low=-1e6, high=1e6, meaning="a rollout is right above this outcome"),
            "valid_above": Option(default=0.5, low=-1e6, high=1e6, meaning="a step is valid above this score"),
        },
        reads_process=True,
        asks=("process", "outcome"),
        note="OpenRLHF's pull request 1260 damps wrong rollouts' rewards by decay^(K - j) instead; the authors do not.",
    ),
    "vineppo": Published(
        title="VinePPO, SPO",
        source="arXiv 2410.01679, 2505.23564",
        formula="A_j = V_j - V_(j-1), V_0 the mean outcome of the group",
        against="McGill-NLP/VinePPO@efe7228 .../math_episode_generator_with_mc_advantages.py",
        needs="process: the value behind each step (signal monte_carlo); outcome",
        note="SPO's segments are steps here; its probability mask is left out.",
    ),
    "pav": Published(
        title="PAV",
        source="arXiv 2410.08146",
        formula="A_j = r - mean(r) + w_prc (B(V_j) - B(V_(j-1))), B(v) = 1 - (1 - v)^n",
        against="worked by hand from the paper's Eq. 2 and 5 and its best-of-K prover; no code was found",
        needs="process: the value behind each step (signal monte_carlo); outcome",
        function="pass_ops.methods.steps:pav",
        options={"best_of": Option(default=4, low=1, high=1e6, meaning="n, samples of the prover")},
        reads_process=True,
        asks=("outcome",),
        note="The prover is the best of n samples of the policy itself; weights.process is the paper's alpha. The "
        "rollout's reward less the group's mean estimates its Q. Values and outcomes outside 0 .. 1 are refused.",
    ),
    "gigpo": Published(
        title="GiGPO",
        source="arXiv 2505.10978",
        formula="A_j = r - mean_group(r) + R_j - mean_state(R), R_j = sum_(j' >= j) 0.95^(j' - j) s_j'",
        against="langfengQ/DrMAS@3b556f2 gigpo/core_gigpo.py",
        needs="outcome; process: the reward of each step; state: a list of one string or integer for each step",
        note="With masked_norm in both streams it is the authors' mode mean_std_norm.",
    ),
    "saf_opd": Published(
        title="SAF-OPD",
        source="arXiv 2607.29209",
        formula="A_t = N(r) + 0.1 w_prc tanh(d_t) at the fifth of each rollout's tokens where abs(d) is largest",
        against="kissshhot/SAF-OPD@46d42b8 verl/verl/trainer/ppo/ray_trainer.py",
        needs="outcome; process for each token: teacher's less policy's log-probability (signal opd)",
        note="Its warm-up and annealing are a weight for each round; ending the warm-up by the KL is left out.",
    ),
    "tempo": Published(
        title="TEMPO",
        source="arXiv 2509.18314",
        formula="A_t = (r - mean(r) + V(ids[:t]) - V(ids[:t-1])) / (std(r) + eps), V the mean r below a prefix",
        against="fatebreaker/tempo@0a1c273 verl/trainer/ppo/core_algos.py",
        needs="outcome, token_ids",
        function="pass_ops.methods.tokens:tempo",
    ),
    "entropy_top": Published(
        title="80/20: the tokens of highest entropy",
        source="arXiv 2506.01939",
        formula="A_t = N(r) where H_t is at or above the group's (1 - keep) quantile, else 0",
        against="huggingface/trl@f2cd577 trl/trainer/grpo_trainer.py",
        needs="outcome, entropy",
        function="pass_ops.methods.tokens:entropy_top",
        options={"keep": Option(default=0.2, meaning="the share of tokens kept")},
        note="The quantile is the group's; the paper's and TRL's is the training batch's.",
    ),
    "gtpo": Published(
        title="GTPO",
        source="arXiv 2508.04349",
        formula="A_t = N(a1 r + a2 d_t H_t / sum H_t); on wrong rollouts N(-a1 - a2 h_t (1/H_t) / sum (1/H_t))",
        against="teilomillet/textpolicy@e88fc30 textpolicy/algorithms/grpo.py",
        needs="outcome, entropy",
        function="pass_ops.methods.tokens:gtpo",
        options={
            "reward_share": Option(default=1.0, high=1e6, meaning="a1"),
            "entropy_share": Option(default=0.1, high=1e6, meaning="a2"),
        },
        asks=("outcome",),
    ),
}

#: methods of the literature that are not here, and why
LEFT_OUT = {
    "GPG (arXiv 2504.02546)": "`dr_grpo` divided by one number for the whole batch, the share of its rollouts in "
    "groups of different rewards (the authors divide the loss, AMAP-ML/GPG@e096da8; verl counts rewards other than 0)",
    "SC-GRPO (arXiv 2606.18810)": "weights tokens by a divergence over the whole vocabulary, which log-probabilities "
    "of sampled tokens do not give",
    "HSD (arXiv 2606.15576)": "its loss could not be read; a survey counts it among those that match the teacher's "
    'whole distribution; its signal is a context with `peer = "right"`',
    "OPPO (arXiv 2605.21851)": "its recursion could be read, logit V_t = logit V_(t-1) + log-ratio, but not how it "
    "anchors directions and clips evidence, to which its ablation gives most of the gain",
    "MRPO as OpenRLHF's pull request 1260 has it": "it damps rewards where the authors' code raises penalties",
    "SPO-tree, Tree-GRPO, TreeRL": "they sample trees",
    "OTB, TIR-OTB": "not written yet; the sum of squared probabilities that they need is `group.sum_pi_squared`",
}


def check_weights(estimator: str, weights: Mapping[str, float]) -> None:
    """Refuse weight 0 of a stream that a method asks about by itself: a stream of weight 0 is not read.

    Raises:
        OptionError: it is 0.
    """
    asked = PUBLISHED[estimator].asks if estimator in PUBLISHED else ()
    for name in asked:
        if weights[name] == 0.0:
            lost = "every rollout would count as wrong" if name == "outcome" else "no step would be valid or invalid"
            raise OptionError(
                f"option weights.{name}: estimator {estimator!r} asks about {name} by itself, and weight 0 leaves it "
                f"out, so that {lost}; give it another weight"
            )


def check_options(estimator: str, given: Mapping[str, float] | None) -> dict[str, float] | None:
    """The keywords of a method as numbers and bools; None where there are none.

    Raises:
        OptionError: the estimator has no such keyword, or a value is of another type or out of range.
    """
    if given is None or given == {}:
        return None
    if not isinstance(given, Mapping):
        raise OptionError(
            f"option method_options: expected a table of keywords, got {given!r}; give {{'keyword': number}}"
        )
    known = PUBLISHED[estimator].options if estimator in PUBLISHED else {}
    found: dict[str, float] = {}
    for name, value in given.items():
        if name not in known:
            remedy = advice(name, list(known), listed=True) if known else "leave method_options out"
            raise OptionError(f"option method_options: estimator {estimator!r} has no keyword {name!r}; {remedy}")
        option, where = known[name], f"method_options.{name}"
        if isinstance(option.default, bool):
            if not isinstance(value, bool):
                raise OptionError(f"option {where}: expected True or False, got {value!r}; give a bool")
            found[name] = value
        else:
            found[name] = check_number(value, option=where, low=option.low, high=option.high)
    return found
