"""Signals made of whole columns give the bits of the same arithmetic done row by row, on random and hostile values."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import pyarrow as pa
import pytest

from pass_ops.shards import signal_schema
from pass_ops.shards.schemas import STATUSES
from pipelines.engines.base import RequestRejected
from pipelines.signals import Row, Signal, SignalResultError, build_signal, columnar_sidecar, sidecar
from pipelines.signals.execution import ExecutionSignal
from pipelines.signals.opd import GOpdSignal
from pipelines.signals.prm import right_probability
from pipelines.signals.stage import rollout_columns
from pipelines.signals.steps import cut_steps, tokenizer_decode
from tests.conftest import byte_tokenizer

ROWS = 50
#: float32 values at which sums and products are likeliest to go another way
HOSTILE = np.float32([0.0, -0.0, 1e-45, -1e-45, 1e-38, 1.1754942e-38, -3e37, 3e37, 1.0, 1 + 2**-23, -1e-8, 16777217])


def hostile(rng: np.random.Generator, size: int) -> np.ndarray:
    """float32 values over many magnitudes, some of them HOSTILE."""
    values = (rng.normal(size=size) * 10.0 ** rng.integers(-12, 12, size)).astype(np.float32)
    return np.where(rng.random(size) < 0.3, rng.choice(HOSTILE, size), values)


def bits(table: pa.Table) -> list[tuple]:
    """Rows with every number as its bits, so that -0.0 is not 0.0."""

    def plain(value: object) -> object:
        if isinstance(value, list):
            return [plain(one) for one in value]
        return np.float64(value).tobytes() if isinstance(value, float) else value

    return [tuple(plain(value) for value in row.values()) for row in table.to_pylist()]


def lengths(rng: np.random.Generator) -> list[int]:
    """Of rows: empty, of one token, short and long."""
    return [int(rng.choice([0, 1, 2, 7, 8, 9, rng.integers(1, 100)])) for _ in range(ROWS)]


def logprobs(rng: np.random.Generator, counts: list[int], masks: list[list[bool]], *, share: float) -> pa.Table:
    """A logprobs signal, 0.0 where masked; a share of its rows is null."""
    rows = []
    for i, (count, mask) in enumerate(zip(counts, masks, strict=True)):
        ok = rng.random() >= share
        values = np.where(mask, hostile(rng, count), np.float32(0))
        rows.append({"rollout_id": f"g/{i}", "status": "ok" if ok else str(rng.choice(STATUSES[1:]))})
        rows[-1]["logprobs"] = values if ok else None
    return pa.Table.from_pylist(rows, schema=signal_schema("logprobs"))


@pytest.fixture(params=[(0, 0.0), (1, 0.1), (2, 1.0)], ids=["none null", "some null", "all null"])
def part(request, make_rollouts) -> tuple[pa.Table, dict[str, pa.Table]]:
    """Rollouts with masks (a second turn of the user's in the middle), and signals of three models, sliced."""
    seed, share = request.param
    rng = np.random.default_rng(seed)
    counts = lengths(rng)
    masks = [[not count // 3 <= t < count // 2 for t in range(count)] for count in counts]
    rollouts = make_rollouts(
        *(
            {
                "ids": rng.integers(0, 11, count).tolist(),
                "behavior_logprobs": np.where(mask, hostile(rng, count), 0).tolist(),
            }
            | {"loss_mask": mask}
            for count, mask in zip(counts, masks, strict=True)
        )
    )
    inputs = {name: logprobs(rng, counts, masks, share=share) for name in ("t", "p", "b")}
    return rollouts, inputs


def read_for(signal: Signal, rollouts: pa.Table) -> pa.Table:
    """The columns that a stage reads for the signal, and no other."""
    columns = rollout_columns(signal)
    return rollouts if columns is None else rollouts.select(columns)


def lacking(inputs: dict[str, pa.Table], roles: dict[str, str], row: int) -> str:
    found = {role: inputs[name]["status"][row].as_py() for role, name in roles.items()}
    return "; ".join(f"{role}: {status}" for role, status in found.items() if status != "ok")


def row_by_row(rollouts: pa.Table, inputs: dict[str, pa.Table], *, policy: str | None, lam: float | None) -> list[Row]:
    """(G-)OPD in plain float64, one rollout after the other."""
    roles = {"teacher": "t", **({"policy": policy} if policy else {}), **({"base": "b"} if lam is not None else {})}
    rows = []
    for i in range(len(rollouts)):
        if reasons := lacking(inputs, roles, i):
            rows.append(Row("no_input", reasons))
            continue
        own = inputs[policy]["logprobs"] if policy else rollouts["behavior_logprobs"]
        teacher_T, policy_T = (np.array(column[i].as_py(), np.float64) for column in (inputs["t"]["logprobs"], own))
        scores_T = teacher_T - policy_T
        if lam is not None:
            base_T = np.array(inputs["b"]["logprobs"][i].as_py(), np.float64)
            scores_T = scores_T + (lam - 1.0) * (teacher_T - base_T)
        rows.append(Row(values={"process_scores": scores_T.astype(np.float32)}))
    return rows


@pytest.mark.parametrize("policy", [None, "p"])
@pytest.mark.parametrize("lam", [None, 1.0, 1.25, -0.3])
def test_opd_and_g_opd_have_the_bits_of_a_loop_over_rows(part, policy: str | None, lam: float | None) -> None:
    rollouts, inputs = part
    options = {"teacher": "t"} | ({"policy": policy} if policy else {})
    signal = (
        build_signal("g_opd", options | {"base": "b", "lam": lam}) if lam is not None else build_signal("opd", options)
    )
    table = signal.score(read_for(signal, rollouts), inputs)
    assert bits(table) == bits(
        sidecar("process_tokens", rollouts, row_by_row(rollouts, inputs, policy=policy, lam=lam))
    )
    assert table.schema == signal_schema("process_tokens")


def test_sums_over_steps_have_the_bits_of_a_loop_over_rows(tokenizer_folder: str, part) -> None:
    rollouts, inputs = part
    decode = tokenizer_decode(tokenizer_folder)
    rows = []
    for i, row in enumerate(row_by_row(rollouts, inputs, policy=None, lam=None)):
        if row.status != "ok":
            rows.append(row)
            continue
        ends = cut_steps(rollouts["token_ids"][i].as_py(), "", separator="\n\n", decode=decode).ends
        scores_T = np.asarray(row.values["process_scores"], np.float64)
        sums = np.add.reduceat(scores_T, [0, *ends[:-1]]) if ends else scores_T
        rows.append(Row(values={"process_scores": sums.astype(np.float32), "process_ends": ends}))
    signal = build_signal("opd", {"teacher": "t", "per": "step"})
    signal.setup(tokenizer_folder)
    assert bits(signal.score(read_for(signal, rollouts), inputs)) == bits(sidecar("process_steps", rollouts, rows))


@pytest.mark.parametrize("per", ["step", "token"])
@pytest.mark.parametrize("signals", [2, 3, 7, 8, 9, 20])
@pytest.mark.parametrize("share", [0.0, 0.05])
def test_a_weighted_mean_has_the_bits_of_numpys_average_row_by_row(
    make_rollouts, per: str, signals: int, share: float
) -> None:
    rng = np.random.default_rng(signals)
    counts = lengths(rng)
    ends = [np.cumsum(rng.integers(1, 5, count)).tolist() for count in counts]
    rollouts = make_rollouts(*({"ids": [1] * (last[-1] if last else 0)} for last in ends))
    names, weights = [f"s{i}" for i in range(signals)], [0.0, *rng.random(signals - 1).tolist()]
    given: dict[str, list[Row]] = {
        name: [
            Row("timeout")
            if rng.random() < share
            else Row(values={"process_scores": hostile(rng, count), "process_ends": last})
            for count, last in zip(counts, ends, strict=True)
        ]
        for name in names
    }
    rows = []
    for i, last in enumerate(ends):
        reasons = "; ".join(f"{name}: timeout" for name in names if given[name][i].status != "ok")
        scores = [] if reasons else np.array([given[name][i].values["process_scores"] for name in names], np.float64)
        mean = {} if reasons else {"process_scores": np.average(scores, axis=0, weights=weights).astype(np.float32)}
        rows.append(Row("no_input", reasons) if reasons else Row(values=mean | {"process_ends": last}))
    kind = {"step": "process_steps", "token": "process_tokens"}[per]
    inputs = {name: sidecar(kind, rollouts, given[name]) for name in names}
    signal = build_signal("combine", {"signals": names, "weights": weights, "per": per})
    assert bits(signal.score(read_for(signal, rollouts), inputs)) == bits(sidecar(kind, rollouts, rows))


def test_whole_columns_and_rows_make_the_same_sidecar(make_rollouts) -> None:
    rollouts = make_rollouts({}, {}, {})
    rows = [
        Row(values={"outcome_reward": 0.1, "verify_status": "ok", "extracted_answer": "7"}),
        Row("timeout", "no result within 1 s", {"verify_status": "timeout", "outcome_reward": 0.5}),
        Row(detail="late", values={"outcome_reward": -1e-45, "verify_status": "wrong"}),
    ]
    columns = {"outcome_reward": [0.1, 0.5, -1e-45], "verify_status": ["ok", "timeout", "wrong"]}
    columns["extracted_answer"] = pa.chunked_array([["7"], [None, None]])
    status, detail = pa.array(["ok", "timeout", "ok"]), [None, "no result within 1 s", "late"]
    table = columnar_sidecar("outcome", rollouts, columns, status=status, detail=detail)
    assert table.equals(sidecar("outcome", rollouts, rows))
    assert columnar_sidecar("outcome", rollouts.slice(3), {}).num_rows == 0


def test_columns_that_are_left_out_are_null_and_rows_are_ok(make_rollouts) -> None:
    table = columnar_sidecar("process_tokens", make_rollouts({"ids": [1]}), {"process_scores": [[0.5]]})
    assert table.to_pylist() == [{"rollout_id": "g/0", "status": "ok", "detail": None, "process_scores": [0.5]}]
    assert columnar_sidecar("outcome", make_rollouts({}), {})["extracted_answer"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("values", "more", "said"),
    [
        (
            {"proces_scores": [[]]},
            {},
            r"a column 'proces_scores', which kind process_tokens does not have; did you mean",
        ),
        ({"rollout_id": ["g/0"]}, {}, "a column 'rollout_id'"),
        ({"process_scores": [[], []]}, {}, "'process_scores' has 2 rows for 1 rollouts"),
        ({"process_scores": ["a"]}, {}, "'process_scores' is not list<element: float not null>: .*; cast it"),
        ({"process_scores": [[]]}, {"status": ["fine"]}, "the status 'fine'; choose one of ok, timeout"),
        ({"process_scores": [[]], "status": ["fine"]}, {}, "the status 'fine'; choose one of ok, timeout"),
        ({"process_scores": [[]]}, {"status": [None]}, "the status None; choose one of"),
        ({"process_scores": [[]]}, {"detail": [1]}, "'detail' is not string"),
    ],
)
def test_a_column_that_is_none_of_the_kind_is_refused(make_rollouts, values: dict, more: dict, said: str) -> None:
    with pytest.raises(SignalResultError, match=said):
        columnar_sidecar("process_tokens", make_rollouts({}), values, **more)


ODD = np.float32([np.inf, -np.inf, np.nan])


class Drawn:
    """An engine with drawn answers, some of them not finite; it refuses some requests. `answers`: by place asked."""

    max_model_len = 150

    def __init__(self, seed: int, classes: int = 1) -> None:
        self._rng, self._classes = np.random.default_rng(seed), classes
        self.tokenizer = byte_tokenizer()
        self.answers: list[np.ndarray | None] = []

    def _answer(self, values: np.ndarray) -> Future[np.ndarray]:
        future: Future[np.ndarray] = Future()
        self.answers.append(None if self._rng.random() < 0.1 else values)
        if self.answers[-1] is None:
            future.set_exception(RequestRejected("request_failed", "no"))
        else:
            future.set_result(values)
        return future

    def score(self, token_ids: np.ndarray, *, start: int, temperature: float) -> Future[np.ndarray]:
        assert token_ids.dtype == np.int32
        assert temperature == 1.0
        values = hostile(self._rng, len(token_ids) - start)
        return self._answer(np.where(self._rng.random(len(values)) < 0.02, self._rng.choice(ODD, len(values)), values))

    def pool(self, token_ids: np.ndarray) -> Future[np.ndarray]:
        assert token_ids.dtype == np.int32
        return self._answer(30 * self._rng.normal(size=(len(token_ids), self._classes)).astype(np.float32))


def masked_by_row(found: Row | np.ndarray | None, mask: list[bool]) -> Row:
    """The row of one answer, None where it was refused."""
    if not isinstance(found, np.ndarray):
        return found or Row("error", "request_failed: no")
    logprobs_T = np.where(mask, found, np.float32(0))
    odd_T = np.flatnonzero(~np.isfinite(logprobs_T))
    if not odd_T.size:
        return Row(values={"logprobs": logprobs_T})
    status = "neg_inf" if np.isneginf(logprobs_T[odd_T]).all() else "error"
    return Row(status, f"{logprobs_T[odd_T[0]]} at completion token {odd_T[0]}")


@pytest.mark.parametrize("seed", range(3))
def test_logprobs_are_those_of_each_row_by_itself(seed: int, make_rollouts, monkeypatch) -> None:
    rng = np.random.default_rng(seed)
    counts = [*lengths(rng), 149, 148]
    rows = [{"ids": rng.integers(0, 9, n).tolist(), "loss_mask": (rng.random(n) < 0.7).tolist()} for n in counts]
    rollouts = make_rollouts({}, *rows)[1:]
    engine = Drawn(seed)
    monkeypatch.setattr("pipelines.engines.acquire", lambda *_: engine)
    table = build_signal("logprobs", {"model": "teacher"}).score(rollouts, {})
    answers, expected = iter(engine.answers), []
    for row in rollouts.select(["prompt_token_ids", "token_ids", "loss_mask"]).to_pylist():
        prompt, tokens = len(row["prompt_token_ids"]), len(row["token_ids"])
        found: Row | np.ndarray | None = Row(values={"logprobs": []})
        if prompt + tokens > 150:
            found = Row("too_long", f"{prompt} + {tokens} tokens, the model takes 150")
        elif tokens:
            found = next(answers)
        expected.append(masked_by_row(found, row["loss_mask"]))
    assert {"ok", "neg_inf", "error", "too_long"} == {row.status for row in expected}
    assert bits(table) == bits(sidecar("logprobs", rollouts, expected))


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_step_scores_are_those_of_each_rollout_by_itself(classes: int, monkeypatch) -> None:
    rng = np.random.default_rng(classes)
    steps = [["1=1"] * int(rng.choice([0, 1, 2, 3, 7, 30])) for _ in range(60)]
    engine = Drawn(classes, classes)
    monkeypatch.setattr("pipelines.engines.acquire", lambda *_: engine)
    signal = build_signal("prm", {"model": "m", "tag": "<think>", "positive": classes - 1})
    scores, found = signal.step_scores(["12?"] * len(steps), steps)
    answers = iter(engine.answers)
    for texts, row, status, detail in zip(steps, scores.to_pylist(), found.status, found.detail, strict=True):
        length = 1 + len("12?") + 4 * len(texts)  # <s>, the task, three characters and a tag a step
        if not texts:
            assert (status, row) == ("ok", [])
        elif (logits := next(answers)) is None:
            assert (status, detail, row) == ("error", "request_failed: no", None)
        else:
            tags = np.arange(7, length, 4)
            alone = right_probability(logits[tags], positive=classes - 1)
            assert status == "ok"
            assert np.float32(row).tobytes() == alone.tobytes()
    assert {"ok", "error"} == set(found.status)


def test_only_columns_that_a_signal_reads_are_read_for_it() -> None:
    assert rollout_columns(build_signal("combine", {"signals": ["a", "b"]})) == ["rollout_id", "token_ids", "loss_mask"]
    g_opd = build_signal("g_opd", {"teacher": "t", "base": "b"})
    assert rollout_columns(g_opd) == ["rollout_id", "token_ids", "loss_mask", "behavior_logprobs"]
    monte_carlo = build_signal("monte_carlo", {"verifier": "number"})
    named = ["rollout_id", "token_ids", "loss_mask", "prompt_token_ids", "text", "answer"]
    assert rollout_columns(monte_carlo) == named


def test_a_signal_of_ones_own_is_given_every_column_whatever_it_derives_from() -> None:
    class Mine(GOpdSignal):
        def score(self, rollouts, inputs):
            raise NotImplementedError

    class Checked(ExecutionSignal):
        pass

    assert rollout_columns(Mine(teacher="t", base="b")) is None
    checked = Checked(checker="pipelines.verifiers.equations:check_steps")
    assert rollout_columns(checked) == ["rollout_id", "token_ids", "loss_mask", "group_id", "text"]
