"""Signals by name and import path, their options, and the tables they make."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from pass_ops.errors import PassError
from pass_ops.shards import signal_schema
from pass_ops.support.importing import load_object
from pipelines.signals import (
    SIGNALS,
    Row,
    SignalOptionError,
    SignalResultError,
    build_signal,
    sidecar,
    signal_from_table,
)

SMALLEST = {
    "outcome": {"verifier": "number"},
    "format": {"pattern": "a"},
    "execution": {"checker": "pipelines.demo.arithmetic:check_steps"},
    "logprobs": {"model": "folder"},
    "opd": {"teacher": "t"},
    "g_opd": {"teacher": "t", "base": "b"},
    "combine": {"signals": ["a", "b"]},
    "judge": {"model": "folder"},
    "monte_carlo": {"verifier": "number"},
    "prm": {"model": "folder"},
}

OWN = """
from dataclasses import dataclass
from typing import ClassVar
from pipelines.signals import Row, SignalBase, sidecar

@dataclass(frozen=True, kw_only=True)
class Length(SignalBase):
    kind: ClassVar[str] = "outcome"
    limit: int = 3

    def score(self, rollouts, inputs):
        rows = [Row(values={"outcome_reward": float(len(text) <= self.limit), "verify_status": "ok"})
                for text in rollouts["text"].to_pylist()]
        return sidecar(self.kind, rollouts, rows)

class Plain(Length.__mro__[1]):
    kind = "mystery"
    def __init__(self, colour): self.colour = colour
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_signals", raising=False)
    (tmp_path / "own_signals.py").write_text(OWN)
    return tmp_path / "own_signals.py"


def test_every_named_signal_can_be_built_and_pickled() -> None:
    assert set(SMALLEST) == set(SIGNALS)
    for name, options in SMALLEST.items():
        signal = build_signal(name, options)
        assert pickle.loads(pickle.dumps(signal)) == signal
        assert type(signal) is load_object(SIGNALS[name])


def test_a_signal_of_ones_own_is_given_by_import_path(own_module: Path, make_rollouts) -> None:
    signal = signal_from_table({"signal": "own_signals:Length", "limit": 1})
    table = signal.score(make_rollouts({"text": "a"}, {"text": "ab"}), {})
    assert table["outcome_reward"].to_pylist() == [1.0, 0.0]
    assert signal.options() == {"limit": 1}
    assert list(signal.code()) == ["own_signals:Length"]


def test_the_source_of_a_signal_of_ones_own_is_in_its_code_digest(own_module: Path) -> None:
    before = build_signal("own_signals:Length", {}).code()
    own_module.write_text(OWN + "# changed\n")
    assert build_signal("own_signals:Length", {}).code() != before
    assert build_signal("outcome", SMALLEST["outcome"]).code() == {}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("outcme", {}, "there is no signal 'outcme' .*did you mean 'outcome'"),
        ("unheard-of", {}, "choose one of 'outcome', 'format'"),
        ("outcome", {"verifer": "number"}, "verifer: unknown key; did you mean 'verifier'"),
        ("outcome", {}, "verifier: is required"),
        ("outcome", {"verifier": "nmber"}, "did you mean 'number'"),
        ("outcome", {"verifier": "no_such_module:f"}, "no_such_module"),
        ("outcome", {"verifier": "number", "timeout_s": 0}, "timeout_s is 0: it must be greater than 0"),
        ("outcome", {"verifier": "number", "timeout_s": "x"}, "timeout_s"),
        ("outcome", {"verifier": "number", "workers": 0}, "workers is 0"),
        ("format", {}, "neither is set"),
        ("format", {"pattern": "a", "function": "m:f"}, "both is set|both"),
        ("format", {"pattern": "("}, "is no regular expression"),
        ("format", {"pattern": "a", "mode": "match"}, "mode"),
        (
            "execution",
            {"checker": "pipelines.demo.arithmetic:check_steps", "separator": ""},
            "it must have at least 1 char",
        ),
        ("opd", {"teacher": "t", "policy": "t"}, "one signal stands for two models"),
        ("combine", {"signals": ["a"]}, "at least two"),
        ("combine", {"signals": ["a", "a"]}, "at least two different"),
        ("combine", {"signals": ["a", "b"], "weights": [1.0]}, "1 weights for 2 signals"),
        ("combine", {"signals": ["a", "b"], "weights": [0.0, 0.0]}, "at least one must be above 0"),
        ("combine", {"signals": ["a", "b"], "weights": [-1.0, 2.0]}, "weights.0 is -1.0: it must be"),
        ("logprobs", {"model": "m", "engine": {"kid": "vllm"}}, "engine.kid.*did you mean 'kind'"),
        ("logprobs", {"model": "m", "engine": {"kind": "vlm"}}, "engine.kind is 'vlm': it must be 'vllm'"),
        ("no_such_module:Class", {}, "no_such_module"),
        ("own_signals:Nothing", {}, "has no 'Nothing'"),
        ("own_signals:Length", {"limt": 1}, "limt: unknown key; did you mean 'limit'"),
        ("own_signals:Plain", {}, "missing a required argument: 'colour'"),
        ("own_signals:Plain", {"colour": 1}, "its kind is 'mystery'; a kind is one of outcome"),
    ],
)
def test_bad_names_and_options_are_refused_with_the_fix(
    own_module: Path, name: str, options: dict, message: str
) -> None:
    with pytest.raises(SignalOptionError, match=message):
        build_signal(name, options)


def test_a_table_without_the_key_signal_is_refused() -> None:
    with pytest.raises(SignalOptionError, match='no key "signal"'):
        signal_from_table({"verifier": "number"})


def test_the_errors_are_pass_errors_and_value_errors() -> None:
    assert issubclass(SignalOptionError, PassError)
    assert issubclass(SignalOptionError, ValueError)


def test_operational_options_are_not_among_those_that_decide_values() -> None:
    one, other = (build_signal("outcome", {"verifier": "number", "workers": workers}) for workers in (1, 2))
    assert one.options() == other.options()
    assert build_signal("outcome", {"verifier": "number", "timeout_s": 3}).options() != one.options()


@pytest.mark.parametrize("kind", ["outcome", "format", "process_steps", "process_tokens", "logprobs"])
def test_rows_that_are_not_ok_are_null_in_every_value(kind: str, make_rollouts) -> None:
    values = {
        "outcome_reward": 1.0,
        "verify_status": "error",
        "extracted_answer": "x",
        "format_reward": 1.0,
        "format_ok": True,
        "process_scores": [1.0],
        "process_ends": [1],
        "logprobs": [-1.0],
    }
    table = sidecar(kind, make_rollouts({}, {}), [Row(values=values), Row("error", "why", values)])
    assert table.schema == signal_schema(kind)
    assert table.slice(1).to_pylist()[0] == {
        **dict.fromkeys(table.column_names),
        "rollout_id": "g/1",
        "status": "error",
        "detail": "why",
        **({"verify_status": "error"} if kind == "outcome" else {}),
    }
    assert None not in [value for name, value in table.to_pylist()[0].items() if name != "detail"]


def test_a_sidecar_needs_one_row_a_rollout_and_known_statuses(make_rollouts) -> None:
    rollouts: pa.Table = make_rollouts({}, {})
    with pytest.raises(SignalResultError, match="1 rows for 2 rollouts"):
        sidecar("format", rollouts, [Row()])
    with pytest.raises(SignalResultError, match="status 'fine'"):
        sidecar("format", rollouts, [Row("fine"), Row()])
