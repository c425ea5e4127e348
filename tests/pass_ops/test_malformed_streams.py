"""Streams that mean nothing are refused by name, word for word, with what to do; so are data that do not fit them."""

from __future__ import annotations

import dataclasses
import pickle
import re

import pyarrow as pa
import pytest
from malformed import INF, NAN, STEPS, TOKENS, drop, put

from pass_ops import Fused, ShapingConfig, Stream, Transform, Weights, errors, pool_statistics, shape

A = {"a": Stream(signal="process")}
CLIP = Transform("clip", low=0.0)

OPTIONS = {
    "no stream": (
        lambda: ShapingConfig(streams={}),
        "option streams: expected a table of at least one stream by name, got {}; "
        "give {'name': Stream(signal=...)}, or leave streams out",
    ),
    "a list of streams": (
        lambda: ShapingConfig(streams=["process"]),
        "option streams: expected a table of at least one stream by name, got ['process']; "
        "give {'name': Stream(signal=...)}, or leave streams out",
    ),
    "a name that is none": (
        lambda: ShapingConfig(streams={"my stream": Stream(signal="process")}),
        "option streams: 'my stream' is no name of a stream; begin with a letter and use letters, digits and _",
    ),
    "a stream that is a table": (
        lambda: ShapingConfig(streams={"a": {"signal": "process"}}),
        "option streams.a: expected a Stream, got {'signal': 'process'}; build a pass_ops.Stream",
    ),
    "no signal": (
        lambda: Stream(signal=""),
        "option signal: expected the name of a signal, got ''; name one",
    ),
    "a signal of None": (
        lambda: Stream(signal=None),
        "option signal: expected the name of a signal, got None; name one",
    ),
    "an unknown option": (
        lambda: Stream(signal="process", operater="none"),
        "Stream: unknown option 'operater'; did you mean 'operator'?",
    ),
    "an unknown operator": (
        lambda: Stream(signal="process", operator="ranks"),
        "option operator: unknown value 'ranks'; the choices are 'masked_norm', 'abs_max', 'mean_only', "
        "'leave_one_out', 'mean_normalized', 'rank', 'none'; did you mean 'rank'?",
    ),
    "an unknown pool": (
        lambda: Stream(signal="process", pool="correct"),
        "option pool: unknown value 'correct'; choose one of 'group', 'right', 'wrong', 'state', 'joint', 'dataset'",
    ),
    "an unknown gate": (
        lambda: Stream(signal="process", gate="wrongs"),
        "option gate: unknown value 'wrongs'; the choices are 'always', 'right', 'wrong', 'single_outcome', 'mixed', "
        "'format'; did you mean 'wrong'?",
    ),
    "always among several gates": (
        lambda: Stream(signal="process", gate=["always", "right"]),
        "option gate: unknown value 'always'; choose one of 'right', 'wrong', 'single_outcome', 'mixed', 'format'",
    ),
    "a gate twice": (
        lambda: Stream(signal="process", gate=["right", "right"]),
        "option gate: expected different gates, got ['right', 'right']; name each once, at least one",
    ),
    "a pool without its key": (
        lambda: Stream(signal="process", pool="state"),
        "option pool is 'state', which needs the column whose equal values make a pool; name it in key",
    ),
    "a key that no pool reads": (
        lambda: Stream(signal="process", key="state"),
        "option key is 'state', which only pool 'state' reads; set pool to it, or drop key",
    ),
    "a key of another type": (
        lambda: Stream(signal="process", pool="state", key=3),
        "option key: expected a name, got 3; give one, or leave it out",
    ),
    "ranks over the data set": (
        lambda: Stream(signal="process", operator="rank", pool="dataset"),
        "operator 'rank' needs every value of its pool, and of pool 'dataset' only sums are recorded; "
        "choose pool 'group', or another operator",
    ),
    "leave one out of a pool it is not in": (
        lambda: Stream(signal="process", operator="leave_one_out", pool="right"),
        "operator 'leave_one_out' compares a rollout with the others of its pool, but with pool "
        "'right' and gate 'always' "
        "rollouts outside the pool count too; set gate to 'right'",
    ),
    "otherwise of a gate that never closes": (
        lambda: Stream(signal="process", otherwise="b"),
        "option otherwise is 'b', but the gate is 'always', so it never closes; set a gate, or leave otherwise out",
    ),
    "otherwise to nowhere": (
        lambda: ShapingConfig(
            streams={"a": Stream(signal="process", gate="right", otherwise="outcom"), "outcome": A["a"]}
        ),
        "option streams.a.otherwise: there is no stream 'outcom'; did you mean 'outcome'?",
    ),
    "a circle of gates": (
        lambda: ShapingConfig(
            streams={
                "a": Stream(signal="process", gate="right", otherwise="b"),
                "b": Stream(signal="outcome", gate="wrong", otherwise="c"),
                "c": Stream(signal="format", gate="format", otherwise="b"),
            }
        ),
        "option streams.b.otherwise: b -> c -> b is a circle, so a weight would never arrive; leave one otherwise out",
    ),
    "a gate that hands the weight to itself": (
        lambda: ShapingConfig(streams={"a": Stream(signal="process", gate="right", otherwise="a")}),
        "option streams.a.otherwise: a -> a is a circle, so a weight would never arrive; leave one otherwise out",
    ),
    "joint pools of two operators": (
        lambda: ShapingConfig(
            streams={
                "a": Stream(signal="process", pool="joint"),
                "b": Stream(signal="outcome", pool="joint", operator="none"),
            }
        ),
        "option streams: streams of pool 'joint' share one set of values and one operator, but there are "
        "a 'masked_norm', b 'none'; give them the same operator",
    ),
    "only weights of 0": (
        lambda: ShapingConfig(streams={"a": Stream(signal="process", weight=0)}),
        "option streams: every weight is 0, so every advantage would be 0; give one stream a weight",
    ),
    "a weight that is none": (
        lambda: Stream(signal="process", weight="much"),
        "option weight: expected a finite number, got 'much'; give a number",
    ),
    "a weight of NaN": (
        lambda: Stream(signal="process", weight=NAN),
        "option weight: expected a finite number, got nan; choose a value in that range",
    ),
    "no weight by round": (
        lambda: Stream(signal="process", weight=[]),
        "option weight: the list of weights by round is empty; give one number or more",
    ),
    "a gap in the list of rounds": (
        lambda: Stream(signal="process", weight=[1.0, None, 0.5]),
        "option weight of round 1: expected a finite number, got None; give a number",
    ),
    "a gap in the table of rounds": (
        lambda: Stream(signal="process", weight={"0": 1.0, "3": 0.5}),
        "option weight: round 3 has a weight and round 1 has none; give every round from 0 to 3 one",
    ),
    "a round that is none": (
        lambda: Stream(signal="process", weight={"first": 1.0}),
        "option weight: 'first' is no round; give rounds as whole numbers from 0",
    ),
    "a round below 0": (
        lambda: Stream(signal="process", weight={-1: 1.0}),
        "option weight: -1 is no round; give rounds as whole numbers from 0",
    ),
    "a round twice": (
        lambda: Stream(signal="process", weight={0: 1.0, "0": 2.0}),
        "option weight: round 0 is there twice; keep one of them",
    ),
    "a round before the first": (
        lambda: ShapingConfig(streams=A).at_round(-1),
        "round -1: rounds are counted from 0; give one of at least 0",
    ),
    "a round in which nothing counts": (
        lambda: ShapingConfig(streams={"a": Stream(signal="process", weight=(0.0, 1.0))}).at_round(0),
        "round 0: option streams: every weight is 0, so every advantage would be 0; give one stream a weight",
    ),
    "a transform that is none": (
        lambda: Stream(signal="process", transform=("clipp",)),
        "option transform: unknown value 'clipp'; the choices are 'difference', 'min_form', 'clip', 'compress', "
        "'sparsify', 'return_to_go', 'length_normalization', 'function'; did you mean 'clip'?",
    ),
    "a transform outside a list": (
        lambda: Stream(signal="process", transform="return_to_go"),
        "option transform: expected a list of transforms, got 'return_to_go'; write ['return_to_go']",
    ),
    "a transform without a name": (
        lambda: Stream(signal="process", after=({"low": 1.0},)),
        "option after: {'low': 1.0} does not say which transform it is; give it a name",
    ),
    "a transform of another type": (
        lambda: Stream(signal="process", after=(3,)),
        "option after: 3 is no transform; give a name or a pass_ops.Transform",
    ),
    "an option that another transform has": (
        lambda: Transform("clip", low=0.0, keep=0.5),
        "transform 'clip' has no option 'keep'; choose one of 'low', 'high'",
    ),
    "a clip that changes nothing": (
        lambda: Transform("clip"),
        "transform 'clip' has neither low nor high, so it changes nothing; give one of them",
    ),
    "a clip upside down": (
        lambda: Transform("clip", low=2.0, high=-2.0),
        "transform 'clip': low 2 is above high -2; every value would become -2; exchange them",
    ),
    "sparsify without a share": (
        lambda: Transform("sparsify"),
        "transform 'sparsify' needs its option 'keep'; give it",
    ),
    "sparsify that keeps nothing": (
        lambda: Transform("sparsify", keep=0.0),
        "option transform 'sparsify': keep is 0; give a number above 0",
    ),
    "a discount above 1": (
        lambda: Transform("return_to_go", discount=1.5),
        "option transform 'return_to_go': discount: expected a finite number from 0 to 1, got 1.5; "
        "choose a value in that range",
    ),
    "a temperature of 0": (
        lambda: Transform("min_form", temperature=0),
        "option transform 'min_form': temperature is 0; give a number above 0",
    ),
    "a scale of infinity": (
        lambda: Transform("compress", scale=INF),
        "option transform 'compress': scale: expected a finite number, got inf; choose a value in that range",
    ),
    "a start that is none": (
        lambda: Transform("difference", start="last"),
        "option transform 'difference': start: unknown value 'last'; give a number, 'first' or 'outcome'",
    ),
    "a function that is no path": (
        lambda: Transform("function", path="mine"),
        "option transform 'function': path: 'mine' is not an import path; write it as module:name, "
        "for example mypackage.checks:judge",
    ),
    "chunks by no stream": (
        lambda: ShapingConfig(streams=A, chunk_by=("b",)),
        "option chunk_by: unknown value 'b'; choose one of 'a'",
    ),
    "chunks by a string": (
        lambda: ShapingConfig(streams=A, chunk_by="a"),
        "option chunk_by: expected a list of streams, got 'a'; write ['a']",
    ),
    "chunks by a stream twice": (
        lambda: ShapingConfig(streams=A, chunk_by=("a", "a")),
        "option chunk_by: a stream is named twice in ['a', 'a']; name each once",
    ),
    "fused by name alone": (
        lambda: ShapingConfig(streams=A, fused="masked_norm"),
        "option fused: expected Fused(operator=), got 'masked_norm'; build a pass_ops.Fused",
    ),
    "an operator that no sum has": (
        lambda: Fused(operator="leave_one_out"),
        "option fused.operator: unknown value 'leave_one_out'; choose one of "
        "'masked_norm', 'abs_max', 'mean_only', 'mean_normalized'",
    ),
    "three passes": (
        lambda: ShapingConfig(
            streams={"a": Stream(signal="process", pool="dataset")}, fused=Fused(operator="mean_only", pool="dataset")
        ),
        "option fused.pool is 'dataset' and so is the pool of stream 'a': that would take three passes over the data; "
        "keep one of the two",
    ),
    "divide": (
        lambda: ShapingConfig(streams=A, divide="yes"),
        "option divide: expected True or False, got 'yes'; give a bool",
    ),
    "right": (
        lambda: ShapingConfig(streams=A, right=""),
        "option right: expected the name of a signal, got ''; name one",
    ),
    "an option that only streams read": (
        lambda: ShapingConfig(right_above=0.5),
        "option right_above: only streams read it, and there are none; name them in streams, or leave right_above out",
    ),
    "an estimator beside streams": (
        lambda: ShapingConfig(streams=A, estimator="gdpo"),
        "option estimator: with streams it is not read; say in each stream how it is shaped, and leave estimator out",
    ),
    "weights beside streams": (
        lambda: ShapingConfig(streams=A, weights=Weights(process=2.0)),
        "option weights: with streams it is not read; give each stream its weight, and leave weights out",
    ),
}  # fmt: skip


OPTIONS["a round far away"] = (  # found without looking at every round up to it
    lambda: Stream(signal="process", weight={"0": 1.0, "999999999": 0.5}),
    "option weight: round 999999999 has a weight and round 1 has none; give every round from 0 to 999999999 one",
)
OPTIONS["a method of streams, and a sum standardized otherwise"] = (
    lambda: ShapingConfig(estimator="papo", fused=Fused(operator="abs_max")),
    "option fused: estimator 'papo' stands for streams that say how their sum is standardized; "
    "leave fused out, or write the streams (docs/reference/methods.md shows them)",
)
OPTIONS["a method of streams whose weights are all 0"] = (
    lambda: ShapingConfig(estimator="vineppo", weights=Weights(process=0.0)),
    "option weights: estimator 'vineppo' shapes process, and the weight is 0, so every advantage would be 0; "
    "give it another",
)
OPTIONS["keywords of a method as a list"] = (
    lambda: ShapingConfig(estimator="pure", method_options=["temperature"]),
    "option method_options: expected a table of keywords, got ['temperature']; give {'keyword': number}",
)
OPTIONS["a temperature that divides by 0"] = (
    lambda: ShapingConfig(estimator="pure", method_options={"temperature": 0.0}),
    "option method_options.temperature: expected a finite number from 1e-06 to 1e+06, got 0.0; "
    "choose a value in that range",
)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_is_refused_where_it_is_given(name):
    make, message = OPTIONS[name]
    with pytest.raises(errors.OptionError) as refused:
        make()
    assert str(refused.value) == message


def one(**options):
    return ShapingConfig(streams={"a": Stream(**options)})


STATES = STEPS.append_column("state", pa.array([["x", "y"], ["x"], ["y"]]))

TABLES = {
    "a signal without a column": (
        STEPS, one(signal="judge"), errors.MissingColumnError,
        "stream 'a': signal 'judge' has no column; its values are looked for in judge, judge_scores, judge_reward, "
        "judge_logprobs and so on; add one to the columns rollout_id, group_id, loss_mask, "
        "process_scores, process_ends, "
        "outcome_reward, format_reward, format_ok",
    ),
    "a transform along a rollout of one value": (
        STEPS, one(signal="outcome", transform=("return_to_go",)), errors.OptionError,
        "option streams.a: transform 'return_to_go' runs along the steps or tokens of a rollout, but "
        "signal 'outcome' has "
        "one value for each rollout; leave it out, or name a signal with a value for each step or token",
    ),
    "the same behind the operator": (
        STEPS, one(signal="outcome", after=(Transform("sparsify", keep=0.5),)), errors.OptionError,
        "option streams.a: transform 'sparsify' runs along the steps or tokens of a rollout, but signal 'outcome' has "
        "one value for each rollout; leave it out, or name a signal with a value for each step or token",
    ),
    "chunks by a stream of rollouts": (
        STEPS, ShapingConfig(streams={"a": Stream(signal="outcome")}, chunk_by=("a",)), errors.OptionError,
        "option chunk_by: stream 'a' has one value for each rollout, so it has no boundaries; "
        "name a stream of step or token level",
    ),
    "a signal of text": (
        put("outcome_reward", ["yes", "no", "yes"]), one(signal="outcome"), errors.ColumnTypeError,
        "stream 'a': column 'outcome_reward' is string, expected float32 or list<float32>; name a signal of numbers",
    ),
    "ends beside single numbers": (
        STEPS.append_column("judge", pa.array([1.0, 2.0, 3.0], pa.float32())).append_column(
            "judge_ends", STEPS["process_ends"]
        ),
        one(signal="judge"), errors.ColumnTypeError,
        "stream 'a': column 'judge' has one number for each rollout, and 'judge_ends' beside it says where steps end; "
        "store a list of one number for each step, or drop the ends",
    ),
    "nobody says what is right": (
        drop("outcome_reward"), one(signal="process", gate="right"), errors.MissingColumnError,
        "option right: signal 'outcome' has no column; its values are looked for in outcome, outcome_scores, "
        "outcome_reward, outcome_logprobs and so on; add one to the columns rollout_id, group_id, loss_mask, "
        "process_scores, process_ends, format_reward, format_ok",
    ),
    "steps say what is right": (
        STEPS, ShapingConfig(streams={"a": Stream(signal="process", pool="wrong")}, right="process"),
        errors.OptionError,
        "option right: signal 'process' has a value for each step; name one with a value for each rollout",
    ),
    "no format gate": (
        drop("format_ok"), one(signal="process", gate="format"), errors.MissingColumnError,
        "column 'format_ok' is missing: gate 'format' needs it; add it to the columns rollout_id, group_id, loss_mask, "
        "process_scores, process_ends, outcome_reward, format_reward",
    ),
    "no key": (
        STEPS, one(signal="process", pool="state", key="state"), errors.MissingColumnError,
        "column 'state' is missing: the pool 'state' of stream 'a' needs it; add it to the columns "
        "rollout_id, group_id, "
        "loss_mask, process_scores, process_ends, outcome_reward, format_reward, format_ok",
    ),
    "a key for each rollout where steps are": (
        STEPS, one(signal="process", pool="state", key="group_id"), errors.ColumnTypeError,
        "column 'group_id' is string; as the key of process_scores it must hold a list with a string "
        "or integer for each "
        "value of process_scores",
    ),
    "a key of numbers with fractions": (
        STEPS, one(signal="outcome", pool="state", key="format_reward"), errors.ColumnTypeError,
        "column 'format_reward' is float32; as the key of outcome_reward it must hold a string or "
        "integer for each rollout",
    ),
    "a key of another length": (
        STATES.set_column(8, "state", pa.array([["x"], ["x"], ["y"]])),
        one(signal="process", pool="state", key="state"), errors.LengthMismatchError,
        "rollout 'q1/0': state has 1 values and process_scores 2; give one state for each value",
    ),
    "a null state": (
        STATES.set_column(8, "state", pa.array([["x", None], ["x"], ["y"]])),
        one(signal="process", pool="state", key="state"), errors.NullValueError,
        "rollout 'q1/0': state holds a null inside its list; give every value its state, or make the whole list null",
    ),
    "scores that are no numbers": (
        put("process_scores", [[0.5, NAN], [2.0], [1.0]], pa.list_(pa.float32())), one(signal="process"),
        errors.NonFiniteError,
        "rollout 'q1/0': process_scores is nan at unmasked step 1; it would spoil its whole group; make the whole list "
        "null where the signal could not be computed",
    ),
    "a reward of infinity": (
        put("outcome_reward", [1.0, INF, 0.0], pa.float32()), one(signal="outcome"), errors.NonFiniteError,
        "rollout 'q1/1': outcome_reward is inf; it would spoil its whole group; "
        "store null where the value could not be computed",
    ),
    "fewer scores than tokens": (
        TOKENS.set_column(3, "process_scores", pa.array([[0.5], [2.0, 1.0], [1.0]], pa.list_(pa.float32()))),
        one(signal="process"), errors.LengthMismatchError,
        "rollout 'q1/0': process_scores has 1 values and loss_mask 3; give one for each completion token, "
        "or a column of step ends beside it",
    ),
    "more ends than scores": (
        put("process_ends", [[1, 2, 3], [2], [1]], pa.list_(pa.int32())), one(signal="process"),
        errors.LengthMismatchError,
        "rollout 'q1/0': process_scores has 2 values and process_ends 3; "
        "give one score and one exclusive token end for each step",
    ),
    "ends beyond the completion": (
        put("process_ends", [[1, 4], [2], [1]], pa.list_(pa.int32())), one(signal="process"), errors.StepEndsError,
        "rollout 'q1/0': process_ends is [1, 4] for a completion of 3 tokens; "
        "give exclusive token ends that increase strictly from above 0, the last one equal to that length",
    ),
    "a weight for each round, and no round": (
        STEPS, one(signal="process", weight=(1.0, 0.5)), errors.OptionError,
        "option streams.a.weight has one number for each round, and it is not said which round this is; "
        "shape with config.at_round(number)",
    ),
    "a function that is not there": (
        STEPS, one(signal="process", transform=(Transform("function", path="math:nothing"),)), errors.OptionError,
        "transform 'function': 'math:nothing' cannot be imported ('math:nothing': the module math has no 'nothing'); "
        "put the module on the import path (PYTHONPATH), or name another function",
    ),
    "a function that sums": (
        STEPS, one(signal="process", transform=(Transform("function", path="numpy:sum"),)), errors.EstimatorError,
        "rollout 'q1/0': transform 'numpy:sum' gave an array of shape () for 2 values; return one "
        "finite number for each",
    ),
    "a sum beyond float32": (
        put("outcome_reward", [1e30, 0.0, 0.0], pa.float32()), one(signal="outcome", operator="none", weight=1e30),
        errors.OutputOverflowError,
        "rollout 'q1/0': a credit, advantage or path score is beyond float32, so it cannot be stored; "
        "scale the rewards or the weights down",
    ),
}  # fmt: skip


TABLES["a mask as a signal"] = (
    STEPS, one(signal="loss_mask", operator="none"), errors.OptionError,
    "option streams.a: column 'loss_mask' would be read as a signal's values and as what masks tokens or ends steps; "
    "store the signal in a column of its own",
)  # fmt: skip
TABLES["states that are all null"] = (
    STEPS.append_column("state", pa.array([[None, None], None, []])),
    one(signal="process", pool="state", key="state"), errors.NullValueError,
    "rollout 'q1/0': state holds a null inside its list; give every value its state, or make the whole list null",
)  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_refused(name):
    table, config, error, message = TABLES[name]
    with pytest.raises(error) as refused:
        shape(table, config)
    assert str(refused.value) == message


POOLED = one(signal="outcome", pool="dataset")


def test_statistics_of_other_options_are_refused():
    statistics = pool_statistics([STEPS], POOLED)
    other = one(signal="outcome", pool="dataset", transform=(CLIP,))
    with pytest.raises(errors.StatisticsError) as refused:
        shape(STEPS, other, statistics=statistics)
    assert str(refused.value) == (
        "the statistics were recorded with other shaping options, so pools of the data set would be measured "
        "against values of another kind; record them again with pool_statistics"
    )


def test_statistics_hold_in_whatever_order_the_streams_are_given():
    streams = {name: Stream(signal=name, pool="dataset") for name in ("outcome", "format")}
    statistics = pool_statistics([STEPS], ShapingConfig(streams=streams))
    turned = ShapingConfig(streams=dict(reversed(streams.items())))
    assert shape(STEPS, turned, statistics=statistics).equals(shape(STEPS, turned))


def test_a_sum_beyond_float32_of_credits_within_it_is_refused():
    """3e38 twice: each is a float32, what is to go at the first is not."""
    given = {"group_id": ["q"], "loss_mask": [[True, True]], "process_scores": [[3e38, 3e38]]}
    table = pa.table({**given, "process_ends": pa.array([[1, 2]], pa.list_(pa.int32()))})
    with pytest.raises(errors.OutputOverflowError, match="beyond float32"):
        shape(table, ShapingConfig(streams={"a": Stream(signal="process", operator="none")}, k=0.0))


@pytest.mark.parametrize("config", [ShapingConfig(), one(signal="outcome")], ids=["no streams", "no such pool"])
def test_statistics_that_nobody_reads_are_refused(config):
    with pytest.raises(errors.OptionError, match=r"^statistics: .*leave it out$"):
        shape(STEPS, config, statistics=pool_statistics([STEPS], POOLED))


def test_a_first_pass_for_no_pool_is_refused():
    with pytest.raises(errors.OptionError, match=re.escape("config: no stream's pool is 'dataset'")):
        pool_statistics([STEPS], one(signal="outcome"))


def test_streams_are_plain_values():
    config = ShapingConfig(
        streams={
            "b": Stream(signal="outcome", weight={"0": 1, "1": 2}),
            "a": Stream(signal="process", transform=[CLIP]),
        }
    )
    assert list(config.streams) == ["a", "b"]
    assert config == pickle.loads(pickle.dumps(config)) == ShapingConfig.from_plain(config.plain())
    assert hash(config) == hash(dataclasses.replace(config))
    assert config.streams["b"].weight == (1.0, 2.0)
