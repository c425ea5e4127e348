"""The script end to end with a few steps, and the pieces it is made of."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from pipelines.demo import make_assets
from pipelines.demo.arithmetic import Trace, check_steps, split_steps
from pipelines.demo.measure import measure, sample
from pipelines.demo.prm import (
    Qwen2ForProcessRewardModel,
    auc,
    from_language_model,
    graded_batch,
    prm_input,
    spoil,
    step_scores,
)
from pipelines.demo.tokenizer import STEP_TAG, build_prm_tokenizer, build_tokenizer
from pipelines.demo.training import (
    IGNORED,
    Batch,
    FitOptions,
    Progress,
    fit,
    language_loss,
    learning_rate_at,
    least_loss,
    trace_batch,
)

PROMPT = "57a+9b-8c+4d-9e+1f+8?"
STEPS = ["a+9=66", "=66", "b-8=68"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small lose time to a second thread, and equal threads make equal bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_language_model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(build_tokenizer()),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models")
    make_assets.main(arguments(out))
    return out


def arguments(out: Path) -> list[str]:
    steps = ["--policy-steps", "2", "--teacher-steps", "2", "--prm-steps", "2"]
    return [
        "--out",
        str(out),
        "--seed",
        "3",
        *steps,
        "--prompts",
        "4",
        "--samples",
        "2",
        "--validation",
        "4",
        "--threads",
        "1",
    ]


def test_the_script_writes_three_models_that_load_and_a_page_about_them(made: Path) -> None:
    for name in ("policy", "teacher"):
        model = AutoModelForCausalLM.from_pretrained(made / name)
        assert model.dtype == torch.float32
        assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(made / name))
        assert model.generation_config.eos_token_id == 1
    prm = Qwen2ForProcessRewardModel.from_pretrained(made / "prm")
    assert prm.config.architectures == ["Qwen2ForProcessRewardModel"]
    assert {key for key in prm.state_dict() if not key.startswith("model.")} == {
        "score.0.weight",
        "score.0.bias",
        "score.2.weight",
        "score.2.bias",
    }
    page = (made / "README.md").read_text()
    recorded = json.loads((made / "policy" / "made.json").read_text())["outcome"]
    assert f"| parameters | {recorded['parameters']:,} |" in page
    assert "--seed 3 --policy-steps 2" in page


def test_the_teacher_is_larger_than_the_policy(made: Path) -> None:
    sizes = {
        n: json.loads((made / n / "made.json").read_text())["outcome"]["parameters"] for n in ("policy", "teacher")
    }
    assert sizes["teacher"] > sizes["policy"]


def test_a_second_run_keeps_what_is_made_and_makes_anew_what_was_interrupted(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in made.rglob("*.safetensors")}
    make_assets.main(arguments(made))
    assert capsys.readouterr().out == ""
    (made / "policy" / "made.json").unlink()
    make_assets.main(arguments(made))
    assert [json.loads(line)["model"] for line in capsys.readouterr().out.splitlines()] == ["policy"]
    assert {path: path.read_bytes() for path in made.rglob("*.safetensors")} == before  # same seed, same weights


def test_only_the_completion_and_the_end_of_text_are_learned() -> None:
    tokenizer = build_tokenizer()
    batch = trace_batch([("57a+9?", Trace("A66", -0.5)), ("57a+9b-8?", Trace("A5", -0.1))], tokenizer)
    assert batch.input_ids.shape == batch.targets.shape == (2, 12)
    learned = [row[row != IGNORED].tolist() for row in batch.targets]
    assert learned == [[*tokenizer("A66").input_ids, 1], [*tokenizer("A5").input_ids, 1]]
    assert batch.input_ids[0, -2:].tolist() == [0, 0]
    assert least_loss([("", Trace("A66", -0.5)), ("", Trace("A5", -0.1))]) == pytest.approx(0.6 / 7)


class Lesson:
    """A tiny model learning one trace again and again."""

    def __init__(self) -> None:
        self.model = tiny_language_model()
        self.drawn = 0

    def batches(self) -> Iterator[Batch]:
        texts = itertools.cycle(["a+9=66\nA66", "=57\na+9=66\nA66", "a+9=56\nA56"])
        for text in texts:
            self.drawn += 1
            yield trace_batch([(PROMPT, Trace(text, -1.0))], build_tokenizer())

    def learn(self, state: Path, options: FitOptions, *, killed_at: int | None = None) -> list[Progress]:
        def loss_of(batch: Batch) -> torch.Tensor:
            if self.drawn == killed_at:
                raise KeyboardInterrupt
            return language_loss(self.model, batch)

        return fit(self.model, self.batches(), loss_of, validate=lambda: 0.5, options=options, state=state)


LESSON = FitOptions(steps=30, learning_rate=1e-2, warmup_steps=3, validate_every=10)


def test_fitting_lowers_the_loss_and_logs_what_it_does(tmp_path: Path) -> None:
    lines = Lesson().learn(tmp_path / "state.pt", LESSON)
    assert [(line.step, line.validation_loss) for line in lines] == [(10, 0.5), (20, 0.5), (30, 0.5)]
    assert lines[-1].train_loss < 0.5 * lines[0].train_loss


def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, first, second = Lesson(), Lesson(), Lesson()
    expected = whole.learn(tmp_path / "whole.pt", LESSON)
    with pytest.raises(KeyboardInterrupt):
        first.learn(tmp_path / "state.pt", LESSON, killed_at=17)
    found = second.learn(tmp_path / "state.pt", LESSON)
    assert [(line.step, line.train_loss) for line in found] == [(line.step, line.train_loss) for line in expected]
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], tensor), name


def test_a_state_of_other_options_is_refused(tmp_path: Path) -> None:
    Lesson().learn(tmp_path / "state.pt", LESSON)
    with pytest.raises(ValueError, match="would make a model of no recipe"):
        Lesson().learn(tmp_path / "state.pt", dataclasses.replace(LESSON, steps=40))


def test_the_learning_rate_warms_up_stays_and_falls_to_nothing() -> None:
    options = FitOptions(steps=100, learning_rate=1.0, warmup_steps=10, decay_share=0.4)
    rates = [learning_rate_at(step, options) for step in (0, 4, 9, 50, 60, 80, 99, 100)]
    assert rates == pytest.approx([0.1, 0.5, 1.0, 1.0, 1.0, 0.5, 0.025, 0.0])


def test_sampling_gives_each_prompt_its_own_completion_in_order() -> None:
    model, tokenizer = tiny_language_model(), build_tokenizer()
    prompts = [PROMPT, "57a+9b-8c+4d-9e+1f+8g+1?", PROMPT]
    alone = [sample(model, tokenizer, [prompt], temperature=0.0, seed=0)[0] for prompt in prompts]
    assert sample(model, tokenizer, prompts, temperature=0.0, seed=0, rows=2) == alone
    drawn = sample(model, tokenizer, prompts, temperature=1.0, seed=1)
    assert drawn == sample(model, tokenizer, prompts, temperature=1.0, seed=1)
    assert drawn[0] != drawn[2]


def test_measures_count_over_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two prompts one is right in one of two samples, the other never; greedy is right for both."""

    def scripted(*_: object, temperature: float, **__: object) -> list[str]:
        return ["=57\nA62", "A00", "A01", "A02"] if temperature else ["A62", "A62"]

    monkeypatch.setattr("pipelines.demo.measure.sample", scripted)
    measures = measure(tiny_language_model(), build_tokenizer(), [PROMPT, PROMPT], samples=2, seed=0)
    assert (measures.pass_1, measures.pass_all, measures.greedy) == (0.25, 0.5, 1.0)
    assert measures.pass_1_error == pytest.approx(0.25)  # rates 0.5 and 0: deviation 0.3536, over the root of 2
    assert measures.padding_lines == 0.25
    assert measures.tokens == (8 + 4 + 4 + 4) / 4


def test_a_prm_reads_the_prompt_and_every_step_with_its_tag() -> None:
    tokenizer = build_prm_tokenizer()
    text = prm_input(PROMPT, STEPS)
    assert text == f"{PROMPT}a+9=66{STEP_TAG}=66{STEP_TAG}b-8=68{STEP_TAG}"
    batch = graded_batch([(PROMPT, STEPS)], tokenizer)
    at_tags = batch.targets[batch.targets != IGNORED]
    assert at_tags.tolist() == [1.0, 0.5, 0.0] == check_steps(PROMPT, STEPS)
    assert batch.input_ids[batch.targets != IGNORED].unique().tolist() == [tokenizer.convert_tokens_to_ids(STEP_TAG)]


def test_within_steps_a_prm_learns_where_a_line_goes_wrong() -> None:
    """66 - 8 = 58, the step says 68: right up to the tens. A padding line of another value is wrong from there on."""
    steps = ["a+9=66", "b-8=68", "=69"]
    batch = graded_batch([(PROMPT, steps)], build_prm_tokenizer(), within_steps=True)
    assert batch.targets[0, : len(PROMPT)].unique().tolist() == [IGNORED]
    assert batch.targets[0, len(PROMPT) :].tolist() == [*[1.0] * 6, 1.0, 1, 1, 1, 1, 0, 0, 0.0, 1, 1, 0, 0.0]


def test_a_fresh_prm_reads_as_its_teacher_does() -> None:
    """Same text, other ids, two more layers: the hidden states agree, the tag being read as the line break."""
    teacher = tiny_language_model()
    ours, theirs = build_tokenizer(), build_prm_tokenizer()
    prm = from_language_model(teacher, layers=3, teacher_vocabulary=ours.get_vocab(), vocabulary=theirs.get_vocab())
    with torch.no_grad():
        expected = teacher.model(torch.tensor([ours("57a+9?a+9=66\n").input_ids])).last_hidden_state
        found = prm.model(torch.tensor([theirs("57a+9?a+9=66" + STEP_TAG).input_ids])).last_hidden_state
    torch.testing.assert_close(found, expected)


def test_step_scores_come_one_a_step_whatever_the_padding() -> None:
    ours, theirs = build_tokenizer(), build_prm_tokenizer()
    prm = from_language_model(
        tiny_language_model(), layers=2, teacher_vocabulary=ours.get_vocab(), vocabulary=theirs.get_vocab()
    )
    together = step_scores(prm, theirs, [(PROMPT, STEPS), (PROMPT, STEPS[:1])])
    alone = step_scores(prm, theirs, [(PROMPT, STEPS[:1])])
    assert [len(scores) for scores in together] == [3, 1]
    assert together[1] == pytest.approx(alone[0], abs=1e-6)


def test_the_area_under_the_curve_by_hand() -> None:
    # pairs right/wrong: (.9,.5) (.9,.2) (.5,.5) (.5,.2) -> 1 + 1 + 1/2 + 1
    assert auc([0.9, 0.5, 0.5, 0.2, 0.7], [1.0, 1.0, 0.0, 0.0, 0.5]) == pytest.approx(3.5 / 4)


def test_spoiled_traces_keep_lines_the_tokenizer_can_read_and_often_differ() -> None:
    rng = random.Random(0)
    lines = split_steps("a+9=66\nb-8=58\nA58")
    spoiled = [spoil(lines, rng) for _ in range(400)]
    assert all(build_prm_tokenizer()(prm_input(PROMPT, steps)).input_ids for steps in spoiled)
    assert 0.4 < sum(steps != lines for steps in spoiled) / 400 < 0.6
    assert {len(steps) for steps in spoiled} == {2, 3, 4}
