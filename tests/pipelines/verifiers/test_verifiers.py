"""The shipped verifiers by golden cases, and what a verifier may return."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pass_ops.support.importing import load_object, source_digest
from pipelines.verifiers import VERIFIERS, Verdict, exact, number, regex
from pipelines.verifiers.base import plain_verdict


def test_number_compares_by_value_and_reports_what_it_read() -> None:
    assert number.verify("so 1,072.0", "48/2=24\n#### 1072") == Verdict(correct=True, extracted="1072.0")
    assert number.verify("so 73", "#### 72") == Verdict(correct=False, extracted="73")
    assert number.verify("I do not know", "#### 72") == Verdict(correct=False, unparseable=True)


def test_number_refuses_a_reference_without_a_number() -> None:
    with pytest.raises(ValueError, match="reference answer 'unknown' holds no number"):
        number.verify("72", "unknown")


def test_number_reads_the_marker_it_is_given() -> None:
    assert number.verify("Answer: 5 (of 9)", "5", marker="Answer:").correct
    assert not number.verify("Answer: 5 (of 9)", "5").correct


def test_exact_ignores_white_space_around_and_case_where_told() -> None:
    assert exact.verify(" Paris\n", "Paris") == Verdict(correct=True, extracted="Paris")
    assert not exact.verify("paris", "Paris").correct
    assert exact.verify("paris", "Paris", ignore_case=True).correct
    assert exact.verify("  ", "Paris") == Verdict(correct=False, unparseable=True)


def test_regex_takes_the_first_group_of_the_last_match() -> None:
    assert regex.verify("A11\nA66", "66", pattern=r"A(\d\d)") == Verdict(correct=True, extracted="66")
    assert regex.verify("A66\nA11", "66", pattern=r"A(\d\d)") == Verdict(correct=False, extracted="11")
    assert regex.verify("66", "66", pattern=r"\d+").correct
    assert regex.verify("none", "66", pattern=r"A(\d\d)") == Verdict(correct=False, unparseable=True)
    assert regex.verify("A", "66", pattern=r"A(\d\d)?") == Verdict(correct=False, unparseable=True)
    assert regex.verify("yes", "YES", pattern=r"\w+", ignore_case=True).correct


@pytest.mark.parametrize("verify", [exact.verify, lambda t, a: regex.verify(t, a, pattern="x")])
def test_an_empty_reference_is_refused(verify) -> None:
    with pytest.raises(ValueError, match="reference answer is empty"):
        verify("x", " ")


@pytest.mark.parametrize(
    "verify", [exact.verify, lambda t, a, **options: regex.verify(t, a, pattern=r"[a-z0-9]+\Z", **options)]
)
def test_what_stands_before_the_end_of_the_reasoning_is_not_the_answer(verify) -> None:
    assert verify("<think>5</think>6", "6").correct
    assert not verify("<think>5</think>6", "5").correct
    assert verify("<think>5", "5").unparseable
    assert verify("6", "6", reasoning="required").unparseable
    assert verify("6", "6", reasoning="keep").correct


def test_format_patterns_match_the_whole_text_or_any_part() -> None:
    assert regex.matches("a\nb", pattern=r"a\nb", mode="fullmatch")
    assert not regex.matches("a\nbc", pattern=r"a\nb", mode="fullmatch")
    assert regex.matches("xxa\nbc", pattern=r"a\nb", mode="search")


def test_plain_verdicts() -> None:
    assert plain_verdict(True) == (1.0, "ok", None)
    assert plain_verdict(Verdict(correct=True, reward=0.75, extracted="x")) == (0.75, "ok", "x")
    assert plain_verdict(Verdict(correct=False, reward=-1)) == (-1.0, "wrong", None)
    assert plain_verdict(Verdict(correct=False, unparseable=True)) == (0.0, "unparseable", None)
    with pytest.raises(TypeError, match="returned float"):
        plain_verdict(0.5)
    with pytest.raises(ValueError, match="must be a finite float32 number"):
        plain_verdict(Verdict(correct=True, reward=float("nan")))


def test_every_named_verifier_can_be_loaded() -> None:
    assert {name: load_object(path).__name__ for name, path in VERIFIERS.items()} == dict.fromkeys(VERIFIERS, "verify")


def test_a_source_digest_follows_the_source_and_imports_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "digested_module.py").write_text("raise RuntimeError('imported')")
    before = source_digest("digested_module:f")
    (tmp_path / "digested_module.py").write_text("raise RuntimeError('imported!')")
    assert source_digest("digested_module:f") != before
    assert "digested_module" not in sys.modules


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("nocolon", ValueError, "write it as module:name"),
        ("mod:", ValueError, "write it as module:name"),
        ("no_such_module_x:f", ImportError, "no_such_module_x"),
        ("no_such_package_x.mod:f", ImportError, "no_such_package_x"),
    ],
)
def test_bad_import_paths_are_named(path: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        source_digest(path)
    with pytest.raises(error, match=message):
        load_object(path)
