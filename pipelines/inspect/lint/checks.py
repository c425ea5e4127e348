"""`passrl lint`: what would spoil a training on stored data, before it runs.

A rule is a function from the dataset's facts and the thresholds to findings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pass_ops import ShapingConfig
from pass_ops.shards import SamplingFacts, open_dataset
from pipelines.inspect.forecast import Forecast, pays_from
from pipelines.inspect.lint.carried import STREAMS
from pipelines.inspect.lint.facts import Facts, gather
from pipelines.inspect.lint.findings import SEVERITIES, LintFinding, LintOptions, above, finding, percent
from pipelines.inspect.scored import PROCESS
from pipelines.parts.inputs import WrongInputError

#: a change of the total credit below this is rounding
LEAST_PAY = 1e-6


def lint(
    url: str, options: LintOptions | None = None, *, progress: Callable[[int, int], None] | None = None
) -> list[LintFinding]:
    """Look at one dataset: shaped (every rule), rollouts or a signal (the rules whose columns it has).

    Returns the findings, errors first. Raises NotADatasetError, IncompleteDatasetError, CorruptDatasetError, and
    WrongInputError for prompts, of which there is nothing to find.
    """
    dataset = open_dataset(url)
    if dataset.spec.stage == "prompts":
        raise WrongInputError(f"{url} holds prompts; lint looks at rollouts, a signal or a shaped dataset: give one")
    options = options or LintOptions()
    return lint_facts(gather(dataset, progress, padding_score=options.padding_score), options)


def lint_facts(facts: Facts, options: LintOptions) -> list[LintFinding]:
    """The findings of every rule, errors first."""
    rules = (
        _settings,
        _learning,
        _groups,
        _verifier,
        _signals,
        _truncation,
        _streams,
        _gate,
        _process,
        _length,
        _padding,
        _chunks,
        _logprobs,
    )
    found = [one for rule in rules for one in rule(facts, options)]
    found += _mode(facts)
    return sorted(found, key=lambda one: SEVERITIES.index(one.severity))


def _settings(facts: Facts, options: LintOptions) -> Iterator[LintFinding]:  # noqa: ARG001 - as every rule
    """What `passrl run` asks consent for (`run.accept`), or refuses."""
    for option, signal, weight in _weights(facts.config):
        if weight < 0:
            yield finding(
                "warning", "negative_weight",
                f"{option} is {weight:g}: what the {signal} signal calls good is made less likely",
                f"Set shape.{option} to 0 or more; if the signal is a cost, give it with its sign changed.",
            )  # fmt: skip
    if facts.sampling.get("group_size") == 1:
        yield finding(
            "warning", "group_size_1", "every prompt was sampled once, so no rollout has another to be compared with",
            "Raise generate.group_size, or use an estimator that needs no group.",
        )  # fmt: skip
    if facts.round is not None and facts.round < 0:
        yield finding(
            "error", "negative_round", f"the rollouts say that they are of round {facts.round}; rounds count from 0",
            "train.min_round and the order of rounds cannot be trusted: make the rollouts again as round 0 or later.",
        )  # fmt: skip


def _weights(config: ShapingConfig | None) -> Iterator[tuple[str, str, float]]:
    """Option, signal and value of every weight that is read."""
    if config is None:
        return
    if config.streams is not None:
        for name, stream in config.streams.items():
            yield f"streams.{name}.weight", stream.signal, min(stream.weights)
        return
    for name in STREAMS:
        if name != "process" or config.reads_process or config.method is None:
            yield f"weights.{name}", name, getattr(config.weights, name)


def _learning(facts: Facts, options: LintOptions) -> Iterator[LintFinding]:
    if facts.trainable is None or not facts.rollouts:
        return
    if facts.trainable == facts.zero_advantage:
        yield finding(
            "error", "nothing_to_learn", f"no rollout of {facts.rollouts} has an advantage other than 0",
            "Look at the signals (`passrl inspect`): they are missing, or equal within every group.",
        )  # fmt: skip
        return
    share = 1.0 - facts.trainable / facts.rollouts
    yield from above(
        share, "untrainable", (options.untrainable, options.untrainable_error),
        f"{percent(share)} of the rollouts are not trainable (a used signal is null, or no token counts)",
        "`passrl explain` says why for each; score again, or set the weight of the missing stream to 0.",
        examples=facts.examples.get("untrainable"),
    )  # fmt: skip
    share = facts.zero_advantage / facts.trainable
    yield from above(
        share, "zero_advantage", (options.zero_advantage, None),
        f"{percent(share)} of the trainable rollouts have advantage 0 everywhere",
        "They cost training time and move nothing: choose prompts of middle difficulty, or drop them in training "
        "(train.zero_advantage = 'drop').",
        examples=facts.examples.get("zero advantage"),
    )  # fmt: skip


def _groups(facts: Facts, options: LintOptions) -> Iterator[LintFinding]:
    if facts.scored_groups:
        share = facts.constant_groups / facts.scored_groups
        yield from above(
            share, "zero_variance_groups", (options.constant_groups, None),
            f"{percent(share)} of the groups have one and the same outcome reward",
            "Their outcome adds nothing to the advantage: filter prompts by pass rate, or raise group_size.",
            examples=facts.examples.get("constant"),
        )  # fmt: skip
    if not facts.groups:
        return
    share = facts.partial_groups / facts.groups
    yield from above(
        share, "partial_groups", (options.partial_groups, None),
        f"{percent(share)} of the groups have fewer than {facts.sampling.get('group_size')} usable rollouts",
        "Look into _rejected of the rollouts and at the signals' statuses; score or generate again if many were lost.",
        examples=facts.examples.get("partial"),
    )  # fmt: skip
    share = facts.singletons / facts.groups
    yield from above(
        share, "singletons", (options.singletons, 1.0),
        f"{percent(share)} of the groups have one usable rollout",
        "A pool of one standardizes to 0, so its rewards are lost. Raise generate.group_size, or drop these prompts.",
        examples=facts.examples.get("singleton"), reached=True,
    )  # fmt: skip


def _verifier(facts: Facts, options: LintOptions) -> Iterator[LintFinding]:
    count = facts.verify.total()
    if not count:
        return
    for status, advice in (
        (
            "error",
            "Read detail of these rows: the verifier or a reference answer is broken; null rewards are not random.",
        ),
        ("timeout", "Raise the verifier's time limit, or set timeout_reward; what times out is not a random sample."),
    ):
        share = facts.verify[status] / count
        yield from above(
            share, f"verifier_{status}s", (options.verifier, options.verifier_error),
            f"the verifier ended in {status} for {percent(share)} of the rollouts", advice,
            examples=facts.examples.get(f"verify_status {status}"),
        )  # fmt: skip
    share = facts.verify["unparseable"] / count
    yield from above(
        share, "unparseable_answers", (options.unparseable, None),
        f"{percent(share)} of the answers could not be parsed and count as wrong",
        "Show the answer format in the prompt, add a format reward, or fix the verifier's extraction.",
        examples=facts.examples.get("verify_status unparseable"),
    )  # fmt: skip


def _signals(facts: Facts, options: LintOptions) -> Iterator[LintFinding]:
    for name, counts in facts.statuses.items():
        bad = {status: count for status, count in counts.items() if status != "ok"}
        if not bad or (facts.verify and name in (facts.outcome_signal, "")):  # the verifier's rule says it
            continue
        share = sum(bad.values()) / counts.total()
        listed = ", ".join(f"{status} {count}" for status, count in sorted(bad.items()))
        yield from above(
            share, "missing_signal", (options.missing, options.missing_error),
            f"signal {name or 'values'} could not be computed for {percent(share)} of the rollouts ({listed})",
            "Their rows are not trainable where the stream counts. Read their details and score again.",
            examples=facts.examples.get(f"status {name}"),
        )  # fmt: skip


def _truncation(facts: Facts, options: LintOptions) -> Iterator[LintFinding]:
    share = facts.finish["length"] / max(facts.finish.total(), 1)
    yield from above(
        share, "truncation", (options.truncation, options.truncation_error),
        f"{percent(share)} of the completions were cut off by length",
        "Raise generate.sampling.max_tokens, or mask or drop them in training.",
        examples=facts.examples.get("finish_reason length"),
    )  # fmt: skip


def _streams(facts: Facts, options: LintOptions) -> Iterator[LintFinding]:
    variances = {stream: (spread.std or 0.0) ** 2 for stream, spread in facts.spread.items()}
    total = sum(variances.values())
    if total > 0.0:
        stream, variance = max(variances.items(), key=lambda item: item[1])
        shares = ", ".join(f"{name} {percent(value / total)}" for name, value in variances.items())
        by_streams = facts.config is not None and facts.config.streams is not None
        option = f"streams.{stream}.weight" if by_streams else f"weights.{stream}"
        yield from above(
            variance / total, "dominant_stream", (options.dominance, None),
            f"the {stream} stream makes up {percent(variance / total)} of the fused advantage's variance ({shares})",
            f"Lower {option} (try `passrl sweep --grid {option}=...`), or set the others to 0.",
        )  # fmt: skip
    yield from _abs_max(facts)


def _abs_max(facts: Facts) -> Iterator[LintFinding]:
    config = facts.config
    if config is not None and config.streams is not None:
        for name, column in facts.rewards.items():
            if config.streams[name].operator == "abs_max" and facts.binary.get(column, False):
                yield finding(
                    "warning", "abs_max_on_binary_rewards",
                    f"abs_max standardizes the stream {name}, which is 0 or 1: it gives no negative advantage",
                    f"Set streams.{name}.operator = 'masked_norm'; abs_max is meant for KL-style process signals.",
                )  # fmt: skip
        return
    if config is None or config.method is None or not config.method.rewards_apart:
        return
    for stream in ("outcome", "format"):
        used = getattr(config.weights, stream) != 0.0 and facts.binary.get(f"{stream}_reward", False)
        if used and getattr(config.standardizers, stream) == "abs_max":
            gate = " and the format gate becomes 0" if stream == "format" else ""
            yield finding(
                "warning", "abs_max_on_binary_rewards",
                f"abs_max standardizes the {stream} reward, which is 0 or 1: it gives no negative advantage{gate}",
                f"Set standardize.{stream} = 'masked_norm'; abs_max is meant for KL-style process signals.",
            )  # fmt: skip


def _gate(facts: Facts, options: LintOptions) -> Iterator[LintFinding]:
    """W r~_fmt on every chunk of a gated rollout (Eq. 4), which Divide-Length sums."""
    (failed, carried), (passed, others) = (facts.gate.get(opened, (0, 0.0)) for opened in (False, True))
    if not failed or not carried + others:
        return
    rollouts, share = failed / (failed + passed), carried / (carried + others)
    if share > 2 * rollouts:  # more than rollouts so numerous should have
        yield from above(
            share, "format_gate_dominates", (options.gate, None),
            f"{percent(rollouts)} of the trainable rollouts fail the format and carry {percent(share)} of the squared "
            "advantages",
            "Each of their chunks has the standardized format reward times the sum of all weights, and Divide-Length "
            "adds them up: training is about format first. Fine while formats are being learned; after that leave the "
            "format signal out (shape.format), or raise k.",
        )  # fmt: skip


def _process(facts: Facts, options: LintOptions) -> Iterator[LintFinding]:
    by_streams = facts.config is not None and facts.config.streams is not None
    for column, pairs in facts.process_outcome.items():
        if pairs.count < options.rollouts or pairs.correlation is None or pairs.correlation >= options.correlation:
            continue
        against = pairs.correlation < -options.correlation
        what = "mean process score" if column == PROCESS else f"the mean of {column}"
        yield finding(
            "warning", "process_against_outcome" if against else "process_uncorrelated",
            f"within groups, {what} and outcome reward correlate with {pairs.correlation:+.2f} "
            f"over {pairs.count} rollouts",
            "The process signal rewards what does not lead to right answers: check its steps (`passrl inspect`), its "
            f"sign, and its model, or lower {'the weight of its stream' if by_streams else 'weights.process'}.",
        )  # fmt: skip


def _length(facts: Facts, options: LintOptions) -> Iterator[LintFinding]:
    for side, limit, severity in (("wrong", options.length_wrong, "warning"), ("right", options.length_right, "info")):
        pairs = facts.pay.get(side)
        if pairs is None or pairs.count < options.rollouts or pairs.correlation is None:
            continue
        found = pairs.correlation
        if found > limit or (side == "right" and found < -limit):
            yield finding(
                "warning" if severity == "warning" else "info", f"length_slope_{side}",
                f"among {side} rollouts of one prompt, the first advantage correlates with length by {found:+.2f} "
                f"({pairs.slope:+.3g} a token)",
                f"Training will make completions {'longer' if found > 0 else 'shorter'}: compare k with "
                "`passrl sweep --grid k=0,0.3,0.7,1`, and look for padding that the process signal likes.",
            )  # fmt: skip


def _padding(facts: Facts, options: LintOptions) -> Iterator[LintFinding]:
    """What the estimator itself pays for a poor step more (`pipelines.inspect.forecast`)."""
    if facts.padding_unknown is not None:
        yield finding(
            "info", "padding_not_forecast", f"what added steps would earn is not known: {facts.padding_unknown}",
            "Run lint where the module of the estimator, or of the transform, can be imported; or give padding_score a "
            "score that the estimator takes.",
        )  # fmt: skip
    asked = [one for one in facts.padding if one.quantile is None and one.score is not None]
    for side in ("right", "wrong") if any(one.rollouts["right"] + one.rollouts["wrong"] for one in asked) else ("all",):
        paid = [one for one in asked if one.rollouts[side] >= options.rollouts and _is_paid(one, side)]
        if not paid:
            continue
        most = max(paid, key=lambda one: one.total[side].value or 0.0)
        lowest = pays_from(facts.padding, position=most.position, steps=most.steps, side=side)
        of = "" if most.column in (None, PROCESS) else f" ({most.column})"
        who = "a rollout" if side == "all" else f"a {side} rollout"
        yield finding(
            "warning", f"padding_pays_{side}",
            f"a step scored {most.score:.3g}{of} that is added at the {' or '.join(one.position for one in paid)} "
            f"raises the total credit of {who} by {most.total[side].value:.3g} ({most.total[side].low:.3g} to "
            f"{most.total[side].high:.3g}); steps pay from a score of {lowest:.3g} on",
            "A policy that pads is paid for it. Raise k, subtract a baseline (standardize), or have the process signal "
            "score padding lower; `passrl sweep --forecast --grid k=0,0.7,1` says what each setting would pay.",
        )  # fmt: skip


def _is_paid(one: Forecast, side: str) -> bool:
    """Beyond what chance and float32 can do."""
    return (one.total[side].low or 0.0) > LEAST_PAY


def _chunks(facts: Facts, options: LintOptions) -> Iterator[LintFinding]:
    config = facts.config
    if config is None or not config.chunk or not facts.chunked_tokens:
        return
    if config.streams is not None:
        detected = facts.by_token and config.divide
    else:
        detected = config.signal == "kl" and config.method is not None and config.method.divides
    share = facts.chunks / facts.chunked_tokens
    if detected and share > options.chunks:
        yield finding(
            "info", "chunks_are_tokens",
            f"{percent(share)} as many chunks as tokens that count, at eta = {config.eta:g}",
            "Chunk-by-Value merges nothing, as with chunk = false. Raise eta to the noise of the trace: "
            "`passrl sweep --grid eta=0.01,0.1,0.3`.",
        )  # fmt: skip


def _logprobs(facts: Facts, options: LintOptions) -> Iterator[LintFinding]:
    sampling = facts.sampling
    if not facts.counting:
        return
    if facts.wrong_logprobs:
        yield finding(
            "error", "impossible_logprobs",
            f"{facts.wrong_logprobs} behaviour log-probabilities are above 0, infinite or NaN",
            "They are no log-probabilities of sampled tokens: check the engine (raw logits?) and generate again.",
            facts.examples.get("wrong logprobs"),
        )  # fmt: skip
    greedy = sampling.get("top_k") == 1 or sampling.get("temperature") == 0
    processed = str(sampling.get("logprobs_mode", "")).startswith("processed")
    if greedy and processed:
        if facts.uncertain_logprobs:
            yield finding(
                "error", "logprobs_not_of_sampling",
                f"{facts.uncertain_logprobs} log-probabilities are not 0, but sampling was greedy and they are stated "
                "to be processed, so that every chosen token has probability 1",
                "They are raw ones, or the sampling was another: state logprobs_mode and sampling as they were.",
                facts.examples.get("uncertain"),
            )  # fmt: skip
    elif facts.zero_logprobs / facts.counting > options.zero_logprobs:
        yield finding(
            "error", "logprobs_all_zero",
            f"{percent(facts.zero_logprobs / facts.counting)} of the behaviour log-probabilities are exactly 0",
            "They were not recorded, or are those of a greedy choice: generate with logprobs of the sampled tokens.",
        )  # fmt: skip


def _mode(facts: Facts) -> Iterator[LintFinding]:
    sampling = SamplingFacts.of(facts.sampling)
    if not facts.counting or sampling.temperature is None:
        return
    if sampling.greedy:
        yield finding(
            "error", "greedy_sampling", "the rollouts were sampled greedily (temperature 0)",
            "Behaviour log-probabilities of greedy choices give no ratio: sample at a temperature above 0.",
        )  # fmt: skip
    elif sampling.mixes_temperatures:
        yield finding(
            "error", "raw_logprobs_at_temperature",
            f"sampled at temperature {sampling.temperature:g}, but {sampling.logprobs_mode} precede temperature",
            "The ratio would mix two temperatures: generate with processed_logprobs.",
        )  # fmt: skip
    if sampling.truncated:
        listed = ", ".join(f"{name} {value}" for name, value in sampling.truncated.items())
        yield finding(
            "warning", "truncated_sampling", f"part of the distribution was cut away ({listed})",
            "The ratio to the full-vocabulary policy is biased: sample with top_p 1, top_k 0, min_p 0, or decide with "
            "train.truncated_sampling = 'accept'.",
        )  # fmt: skip
