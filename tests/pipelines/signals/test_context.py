"""Completions scored after another prompt: against plain forward passes, and every way in which a row has none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pass_ops.shards import PROMPTS, DatasetSpec, signal_schema
from pipelines.engines import release
from pipelines.models.folder import vocabulary
from pipelines.signals import SignalInputError, SignalOptionError, build_signal

# One row a batch: what else is in a batch would change logprobs by rounding.
ENGINE = {"kind": "transformers", "dtype": "float32", "extra": {"batch_size": 1}}
#: per rollout: text, verify_status
GROUP = (("2+2=4.", "wrong"), ("2+3=5.", "ok"), ("3+2=5.", "ok"), ("", "unparseable"), ("5", "timeout"))


@pytest.fixture(autouse=True)
def _no_engine_is_left() -> Iterator[None]:
    yield
    release()


@pytest.fixture(scope="module")
def tokenizer(tiny_model: str):
    from pipelines.models.folder import load_tokenizer

    return load_tokenizer(tiny_model)


@pytest.fixture
def make_group(make_rollouts: Callable[..., pa.Table], tokenizer) -> Callable[..., pa.Table]:
    def make(texts: list[str], *, group: str = "g", **columns) -> pa.Table:
        rows = [{"text": text, "ids": tokenizer(text).input_ids, **columns} for text in texts]
        return make_rollouts(*rows, group=group)

    return make


def prompts(*rows: dict) -> pa.Table:
    full = [{"prompt_id": "g", "prompt": "2+3=?", "answer": "5", "source": "sums", **row} for row in rows or [{}]]
    return pa.Table.from_pylist(full, schema=PROMPTS)


def verdicts(*statuses: str) -> pa.Table:
    rows = [
        {"rollout_id": f"g/{i}", "status": "timeout" if said == "timeout" else "ok", "verify_status": said}
        for i, said in enumerate(statuses)
    ]
    return pa.Table.from_pylist(rows, schema=signal_schema("outcome"))


def contextual(model: str, *, bind: dict | None = None, where: dict | None = None, **context):
    """The signal as the stage makes it for rollouts that were sampled so."""
    options = {"model": model, "engine": ENGINE, "context": context} | ({"where": where} if where else {})
    signal = build_signal("logprobs", options)
    return signal.for_policy(model, sampled(**bind or {}))


def sampled(**options) -> DatasetSpec:
    carried = {"sampling": {"group_size": 2}}
    return DatasetSpec(stage="generate", stage_version=1, options=options, parts=1, carried=carried)


def sampled_by(model: str) -> DatasetSpec:
    return replace(sampled(), carried={"sampling": {"group_size": 2}, "vocabulary": asdict(vocabulary(model))})


def forward(model: str, prompt: str, ids: list[int], tokenizer) -> np.ndarray:
    """log p(ids | prompt) by one plain forward pass of transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    before = tokenizer(prompt).input_ids
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        logits_TV = loaded(torch.tensor([[*before, *ids]])).logits[0, len(before) - 1 : -1]
    return logits_TV.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0].numpy()


def statuses(table: pa.Table) -> list[tuple[str, str | None]]:
    return list(zip(table["status"].to_pylist(), table["detail"].to_pylist(), strict=True))


def test_after_the_answer_the_values_are_those_of_a_plain_forward_pass(
    tiny_model: str, tiny_model_updated: str, make_group, tokenizer
) -> None:
    rollouts = make_group(["2+3=5.", "1"])
    for model in (tiny_model, tiny_model_updated):
        signal = contextual(model, template="{prompt} it is {answer} {source}\n")
        found = signal.score(rollouts, {"prompts": prompts()})["logprobs"].to_pylist()
        for ids, values in zip(rollouts["token_ids"].to_pylist(), found, strict=True):
            expected = forward(model, "2+3=? it is 5 sums\n", ids, tokenizer)
            np.testing.assert_allclose(values, expected, atol=2e-5)
        release()


def test_the_completions_own_ids_are_scored_and_masked_ones_are_0(tiny_model: str, make_rollouts, tokenizer) -> None:
    """A rollout of several turns: ids 3 and 4 were inserted; the ids are not those of its text, which says nothing."""
    ids = [5, 9, 3, 4, 11, 1]
    mask = [True, True, False, False, True, True]
    rollouts = make_rollouts({"ids": ids, "loss_mask": mask, "text": "another text"})
    table = contextual(tiny_model, template="{answer}:{prompt}").score(rollouts, {"prompts": prompts()})
    (values,) = table["logprobs"].to_pylist()
    np.testing.assert_allclose(values, forward(tiny_model, "5:2+3=?", ids, tokenizer) * mask, atol=2e-5)


def test_a_chat_keeps_its_form_and_gets_another_last_user_message(tiny_model: str, make_group, tokenizer) -> None:
    rollouts = make_group(["5."])
    sampled = {"chat": True, "system": "be brief", "chat_template_kwargs": {}}
    signal = contextual(tiny_model, bind=sampled, template="{prompt} hint: {answer}")
    (values,) = signal.score(rollouts, {"prompts": prompts()})["logprobs"].to_pylist()
    (ids,) = rollouts["token_ids"].to_pylist()
    asked = "s: be brief\nu: 2+3=? hint: 5\na: "
    np.testing.assert_allclose(values, forward(tiny_model, asked, ids, tokenizer), atol=2e-5)
    plain = build_signal("logprobs", {"model": tiny_model, "engine": ENGINE})
    asked_ids = tokenizer(asked.replace(" hint: 5", "")).input_ids
    own = plain.score(rollouts.set_column(3, "prompt_token_ids", pa.array([asked_ids])), {})
    same = contextual(tiny_model, bind=sampled, template="{prompt}").score(rollouts, {"prompts": prompts()})
    assert same["logprobs"].equals(own["logprobs"])  # a context of the task alone is no context
    talk = [("user", "hello"), ("assistant", "yes?"), ("user", "2+3=?")]
    messages = [{"role": role, "content": said} for role, said in talk]
    (values,) = signal.score(rollouts, {"prompts": prompts({"prompt": None, "messages": messages})})["logprobs"]
    asked = "s: be brief\nu: hello\na: yes?\nu: 2+3=? hint: 5\na: "
    np.testing.assert_allclose(values.as_py(), forward(tiny_model, asked, ids, tokenizer), atol=2e-5)


def test_a_peer_is_a_right_rollout_of_the_group_and_never_the_rollout_itself(
    tiny_model: str, make_group, tokenizer
) -> None:
    rollouts = make_group([text for text, _ in GROUP])
    inputs = {"prompts": prompts(), "right": verdicts(*(said for _, said in GROUP))}
    signal = contextual(tiny_model, template="{peer}\n{prompt}", peer="right", outcome="right")
    assert signal.inputs == ("prompts", "right")
    table = signal.score(rollouts, inputs)
    found = table["logprobs"].to_pylist()
    ids = rollouts["token_ids"].to_pylist()
    for row, peers in {0: ("2+3=5.", "3+2=5."), 1: ("3+2=5.",), 2: ("2+3=5.",), 4: ("2+3=5.", "3+2=5.")}.items():
        expected = [forward(tiny_model, f"{peer}\n2+3=?", ids[row], tokenizer) for peer in peers]
        assert any(np.allclose(found[row], values, atol=2e-5) for values in expected), row
    assert found[3] == []  # an empty completion needs no context
    again = signal.score(rollouts, inputs)
    assert again.equals(table)


def test_without_a_peer_the_row_is_null_and_says_why(tiny_model: str, make_group) -> None:
    rollouts = make_group(["2+3=5.", "2+2=4.", " 2+3=5.\n"])
    signal = contextual(tiny_model, template="{peer}{prompt}", peer="right", outcome="right")
    lonely = signal.score(rollouts, {"prompts": prompts(), "right": verdicts("ok", "wrong", "ok")})
    own = "no right peer: 2 of the group's 3 rollouts are right, with no other text"
    assert statuses(lonely) == [("no_input", own), ("ok", None), ("no_input", own)]
    none = signal.score(rollouts, {"prompts": prompts(), "right": verdicts("wrong", "wrong", "timeout")})
    said = "no right peer: 0 of the group's 3 rollouts are right, with no other text"
    assert statuses(none) == [("no_input", said)] * 3
    assert none["logprobs"].to_pylist() == [None] * 3


def test_a_context_too_long_for_the_model_is_too_long(tiny_model: str, make_group) -> None:
    rollouts = make_group(["5.", "5" * 9])
    signal = contextual(tiny_model, template="{prompt}" + "." * 500)
    assert statuses(signal.score(rollouts, {"prompts": prompts()})) == [
        ("ok", None),
        ("too_long", "505 + 9 tokens, the model takes 512"),
    ]


def test_columns_of_prompts_and_signals_by_name(tiny_model_factory, make_rollouts) -> None:
    from pipelines.models.folder import load_tokenizer

    tiny_model = tiny_model_factory(seed=4, characters="56.: acdefhinoptu3{}")
    tokenizer = load_tokenizer(tiny_model)
    rollouts = make_rollouts(*({"text": text, "ids": tokenizer(text).input_ids} for text in ("5.", "6.")))
    extra = '{"hint": "count up", "level": 3, "none": null}'
    judged = verdicts("ok", "wrong").set_column(2, "detail", pa.array(["fine", None]))
    signal = contextual(tiny_model, template="{hint} {level} {right.detail} {{hint}} {}: ")
    assert signal.inputs == ("prompts", "right")
    table = signal.score(rollouts, {"prompts": prompts({"extra": extra}), "right": judged})
    assert statuses(table) == [("ok", None), ("no_input", "right.detail is null, which the context needs")]
    expected = forward(tiny_model, "count up 3 fine {hint} {}: ", rollouts["token_ids"][0].as_py(), tokenizer)
    np.testing.assert_allclose(table["logprobs"][0].as_py(), expected, atol=2e-5)
    missing = contextual(tiny_model, template="{none}").score(rollouts, {"prompts": prompts({"extra": extra})})
    assert statuses(missing)[0] == ("no_input", "none is null, which the context needs")


def spec(stage: str, kind: str | None = None, **options) -> DatasetSpec:
    return DatasetSpec(stage=stage, stage_version=1, options={"kind": kind, **options}, parts=1)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{anwser}", r"context.template has {anwser}, and there is no such column; did you mean 'answer'\?"),
        ("{hints}", r"did you mean 'hint'\?"),
        (r"\frac{a}{2}", r"has {a}, and there is no such column.*write {{a}} for the text {a}"),
        ("{right.detial}", r"did you mean 'right.detail'\?"),
    ],
)
def test_an_unknown_column_is_refused_before_anything_runs(tiny_model: str, template: str, said: str) -> None:
    rollouts = sampled_by(tiny_model)
    inputs = {"prompts": spec("prompts", extra=["hint"]), "right": spec("score", "outcome")}
    contextual(tiny_model, template=r"\boxed{} {1} {{a}} {hint} {prompt}").check(rollouts, inputs)
    with pytest.raises(SignalInputError, match=said):
        contextual(tiny_model, template=template).check(rollouts, inputs)


def test_an_outcome_of_another_kind_and_a_chat_without_a_template_are_refused(tiny_model: str) -> None:
    inputs = {"prompts": spec("prompts"), "right": spec("score", "format")}
    context = contextual(tiny_model, template="{peer}", peer="right", outcome="right").context
    with pytest.raises(SignalInputError, match="signal 'right' is of kind format, not outcome"):
        context.check(inputs, templated=True)
    chat = contextual(tiny_model, bind={"chat": True}, template="{prompt}").context
    with pytest.raises(SignalOptionError, match=r"the model that scores has none; set context.chat = false"):
        chat.check(inputs, templated=False)


@pytest.mark.parametrize(
    ("context", "said"),
    [
        ({}, "of template and function neither is set"),
        ({"template": "a", "function": "m:f"}, "of template and function both is set"),
        ({"template": "{peer}"}, r"has \{peer\}, but peer is not set"),
        ({"template": "{prompt}", "peer": "right", "outcome": "o"}, r"has no \{peer\}, but peer is set"),
        ({"template": "{peer}", "peer": "right"}, "peer is set and outcome is not"),
        ({"template": "a", "signals": ["x"]}, "belong to a function, and there is none"),
        ({"function": "no_such_module:f"}, "no module 'no_such_module'"),
        ({"template": "a", "chat_template_kwargs": {"tokenize": False}}, "sets 'tokenize'"),
    ],
)
def test_options_that_contradict_each_other_are_refused(context: dict, said: str) -> None:
    with pytest.raises(SignalOptionError, match=said):
        build_signal("logprobs", {"context": context})


FUNCTION = """
def shown(row, *, word):
    if row["answer"] == "6": return None
    if row["answer"] == "7": raise ValueError("seven")
    if row["answer"] == "8": return 8
    if row["answer"] == "9": return [{"role": "user", "content": word}]
    return f"{word} {row['extra'].get('hint')} {row['peer']} {row['signals']['right']['verify_status']}\\n"
"""


@pytest.fixture
def function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "shown_contexts", raising=False)
    (tmp_path / "shown_contexts.py").write_text(FUNCTION)
    return "shown_contexts:shown"


def test_a_function_makes_the_context_or_none(tiny_model: str, make_group, tokenizer, function: str) -> None:
    rollouts = make_group(["2+3=5.", "3+2=5."])
    inputs = {"right": verdicts("ok", "ok")}
    options = {"function": function, "function_options": {"word": "see"}, "signals": ["right"], "workers": 1}
    signal = contextual(tiny_model, peer="right", outcome="right", **options)

    def score(answer: str) -> pa.Table:
        return signal.score(rollouts, {**inputs, "prompts": prompts({"answer": answer, "extra": '{"hint": "up"}'})})

    ids = rollouts["token_ids"][0].as_py()
    values = score("5")["logprobs"][0].as_py()
    np.testing.assert_allclose(values, forward(tiny_model, "see up 3+2=5. ok\n", ids, tokenizer), atol=2e-5)
    assert statuses(score("6"))[0] == ("no_input", "the context's function gave none")
    assert statuses(score("7"))[0] == ("error", "the context's function: ValueError: seven")
    status, detail = statuses(score("8"))[0]
    assert status == "error"
    assert "returned int; it must return a text, messages or None" in str(detail)
    values = score("9")["logprobs"][0].as_py()
    np.testing.assert_allclose(values, forward(tiny_model, "u: see\na: ", ids, tokenizer), atol=2e-5)


def test_template_and_function_are_in_the_fingerprint(tiny_model: str, function: str, tmp_path: Path) -> None:
    plain = build_signal("logprobs", {"model": tiny_model, "engine": ENGINE})
    assert plain.options() == {}  # as before there were contexts
    assert plain.inputs == ()
    assert not plain.needs_tokenizer
    one, other = (contextual(tiny_model, template=text) for text in ("{prompt}a", "{prompt}b"))
    assert one.options()["context"]["template"] == "{prompt}a"
    assert one.options() != other.options()
    assert set(one.environment()) - set(plain.environment()) == {"context_tokenizer", "context_chat_template"}
    named = contextual(tiny_model, function=function, function_options={"word": "see"}, workers=3)
    assert "workers" not in named.options()["context"]
    before = named.code()[function]
    (tmp_path / "shown_contexts.py").write_text(FUNCTION + "\n# another version\n")
    assert named.code()[function] != before


def test_names_of_special_tokens_in_a_peers_text_are_spelled_out() -> None:
    from pipelines.signals.context import _Form, context_ids
    from pipelines.signals.spelled import protected
    from tests.conftest import byte_tokenizer

    tokenizer = byte_tokenizer()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    peer = protected(tokenizer, "5<|im_end|>")
    plain = context_ids(tokenizer, f"1+4: {peer}", None, form=_Form(False, None, {}))
    spelled = [tokenizer(letter, add_special_tokens=False).input_ids[0] for letter in "1+4: 5<|im_end|>"]
    assert plain == [tokenizer.bos_token_id, *spelled]
    chat = context_ids(tokenizer, f"1+4: {peer}", None, form=_Form(True, None, {}))
    assert chat.count(end) == 1  # the template's own
    assert tokenizer.decode(chat).count("<|im_end|>") == 2
    # nothing to spell: the very ids that sampling would be given
    from pipelines.engines.prompts import encode_prompt

    form = _Form(True, "s", {})
    assert context_ids(tokenizer, "1+4", None, form=form) == encode_prompt(tokenizer, "1+4", None, options=form)


def test_a_context_that_no_token_spells_is_refused_as_such() -> None:
    from pipelines.engines import RequestRejected
    from pipelines.signals.context import _Form, context_ids
    from pipelines.signals.spelled import protected
    from tests.conftest import refusing_tokenizer

    tokenizer = refusing_tokenizer()
    for text in ("a+", f"ab{protected(tokenizer, '<eos>')}"):
        with pytest.raises(RequestRejected, match="unspelled_text"):
            context_ids(tokenizer, text, None, form=_Form(False, None, {}))


def test_only_prompts_with_the_named_values_are_scored(tiny_model: str, make_group, tokenizer) -> None:
    rollouts = pa.concat_tables([make_group(["5."], group=group) for group in "gh"])
    both = prompts({"extra": '{"domain": "math"}'}, {"prompt_id": "h", "extra": '{"domain": "code"}'})
    for wanted in ("math", ["math", "logic"]):
        signal = build_signal("logprobs", {"model": tiny_model, "engine": ENGINE, "where": {"domain": wanted}})
        assert signal.inputs == ("prompts",)
        table = signal.score(rollouts, {"prompts": both})
        said = "'math'" if wanted == "math" else "'math' or 'logic'"
        assert statuses(table) == [("ok", None), ("no_input", f"domain is 'code'; this signal is about {said}")]
    plain = build_signal("logprobs", {"model": tiny_model, "engine": ENGINE}).score(rollouts, {})
    assert table["logprobs"][0].equals(plain["logprobs"][0])
    with pytest.raises(SignalInputError, match=r"where names the column 'domain'.*prompts.extra says"):
        signal.check(sampled_by(tiny_model), {"prompts": spec("prompts", extra=["level"])})
