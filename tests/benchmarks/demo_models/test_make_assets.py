"""The script end to end with a few steps, and the pieces it is made of."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from benchmarks.demo_models import make_assets
from benchmarks.demo_models.fit import IGNORED, FitOptions, Progress, fit, log_of
from benchmarks.demo_models.measure import measure, sample
from benchmarks.demo_models.prm import (
    GradedBatch,
    Qwen2ForProcessRewardModel,
    Student,
    auc,
    class_loss,
    graded,
    graded_batch,
    new_prm,
    prm_input,
    right_characters,
    spoil,
    step_scores,
)
from benchmarks.demo_models.tokenizer import STEP_TAG, build_prm_tokenizer, build_tokenizer
from benchmarks.demo_models.traces import completion_loss, least_loss, training_pairs, write_pairs
from pipelines.demo.arithmetic import TEACHER, Split, Trace, check_format, check_steps, split_of, split_steps
from trainer.metrics import read_metrics
from trainer.model_folder import weights_digest

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


def tiny_prm() -> Qwen2ForProcessRewardModel:
    torch.manual_seed(0)
    return new_prm(build_prm_tokenizer().get_vocab(), hidden_size=32, layers=2, intermediate_size=32, context=128)


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
    stored = load_file(made / "prm" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}  # two bytes; computed with in four
    assert prm.dtype == torch.float32
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


def test_policy_and_teacher_read_every_pair_once_and_an_interrupted_script_goes_on(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    command = [*arguments(tmp_path), "--only", "policy"]
    with monkeypatch.context() as patched:
        patched.setattr(make_assets, "measure", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make_assets.main(command)
    unfinished = tmp_path / "policy.unfinished"
    lines = read_metrics(unfinished / "run")
    assert [(line["step"], line["rollouts"], line["epoch"]) for line in lines] == [(1, 32, 0), (2, 32, 0)]
    assert pq.read_metadata(unfinished / "pairs.parquet").num_rows == 64
    [line] = log_of(unfinished / "run")
    assert (line.step, line.loss) == (2, pytest.approx((lines[0]["loss"] + lines[1]["loss"]) / 2, abs=1e-5))
    monkeypatch.setattr("trainer.run.apply_gradients", interrupt)  # the training itself is not done again
    make_assets.main(command)
    assert weights_digest(tmp_path / "policy") == weights_digest(made / "policy")
    assert not unfinished.exists()


def test_pairs_are_prompts_of_their_split_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_pairs(tmp_path / name, training_pairs(TEACHER, count=50, seed=seed))
    rows = pq.read_table(tmp_path / "a").to_pylist()
    assert len({row["prompt"] for row in rows}) == 50
    assert {split_of(row["prompt"]) for row in rows} == {Split.ASSETS}
    assert all(check_format(row["completion"]) for row in rows)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


def test_the_validation_loss_is_the_mean_over_completion_tokens_and_ends_of_text() -> None:
    model, tokenizer = tiny_language_model(), build_tokenizer()
    pairs = [("57a+9?", Trace("A66", -0.5)), ("57a+9b-8?", Trace("a+9=66\nb-8=58\nA58", -0.1))]
    logprobs = []
    for prompt, trace in pairs:
        ids = torch.tensor([*tokenizer(prompt + trace.text).input_ids, tokenizer.eos_token_id])
        with torch.no_grad():
            of_vocabulary = torch.log_softmax(model(ids[None]).logits[0], dim=-1)
        logprobs += [float(of_vocabulary[at - 1, ids[at]]) for at in range(len(prompt), len(ids))]
    assert len(logprobs) == 4 + 18
    texts = [(prompt, trace.text) for prompt, trace in pairs]
    assert completion_loss(model, tokenizer, texts) == pytest.approx(-sum(logprobs) / 22, rel=1e-5)
    assert least_loss(pairs) == pytest.approx(0.6 / 22)


class Lesson:
    """A tiny PRM learning the same right traces again and again."""

    def __init__(self) -> None:
        self.model = Student(tiny_prm())
        self.drawn = 0

    def batches(self) -> Iterator[GradedBatch]:
        for steps in itertools.cycle([["a+9=66"], ["=57", "a+9=66"], ["a+9=66", "b-8=58"]]):
            self.drawn += 1
            yield graded_batch([graded(PROMPT, steps)], build_prm_tokenizer())

    def learn(self, state: Path, options: FitOptions, *, killed_at: int | None = None) -> list[Progress]:
        def loss_of(batch: GradedBatch) -> torch.Tensor:
            if self.drawn == killed_at:
                raise KeyboardInterrupt
            return self.model.loss(batch)

        return fit(self.model, self.batches(), loss_of, options=options, state=state)


LESSON = FitOptions(steps=30, learning_rate=1e-2, warmup_steps=3)


@pytest.fixture(autouse=True)
def frequent_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.demo_models.fit.LOG_EVERY", 10)


def test_fitting_lowers_the_loss_and_logs_what_it_does(tmp_path: Path) -> None:
    lines = Lesson().learn(tmp_path / "state.pt", LESSON)
    assert [line.step for line in lines] == [10, 20, 30]
    assert lines[-1].loss < 0.5 * lines[0].loss


def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, first, second = Lesson(), Lesson(), Lesson()
    expected = whole.learn(tmp_path / "whole.pt", LESSON)
    with pytest.raises(KeyboardInterrupt):
        first.learn(tmp_path / "state.pt", LESSON, killed_at=17)
    found = second.learn(tmp_path / "state.pt", LESSON)
    assert [(line.step, line.loss) for line in found] == [(line.step, line.loss) for line in expected]
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], tensor), name


def test_a_state_of_other_options_is_refused(tmp_path: Path) -> None:
    Lesson().learn(tmp_path / "state.pt", LESSON)
    with pytest.raises(ValueError, match="would make a model of no recipe"):
        Lesson().learn(tmp_path / "state.pt", dataclasses.replace(LESSON, steps=40))


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

    monkeypatch.setattr("benchmarks.demo_models.measure.sample", scripted)
    measures = measure(tiny_language_model(), build_tokenizer(), [PROMPT, PROMPT], samples=2, seed=0)
    assert (measures.pass_1, measures.pass_all, measures.greedy) == (0.25, 0.5, 1.0)
    assert measures.pass_1_error == pytest.approx(0.25)  # rates 0.5 and 0: deviation 0.3536, over the root of 2
    assert measures.padding_lines == 0.25
    assert measures.tokens == (8 + 4 + 4 + 4) / 4


def test_a_prm_reads_the_prompt_and_every_step_with_its_tag() -> None:
    tokenizer = build_prm_tokenizer()
    text = prm_input(PROMPT, STEPS)
    assert text == f"{PROMPT}a+9=66{STEP_TAG}=66{STEP_TAG}b-8=68{STEP_TAG}"
    batch = graded_batch([graded(PROMPT, STEPS)], tokenizer)
    assert batch.targets[batch.tags].tolist() == [1.0, 0.5, 0.0] == check_steps(PROMPT, STEPS)
    assert batch.input_ids[batch.tags].unique().tolist() == [tokenizer.convert_tokens_to_ids(STEP_TAG)]


def test_within_steps_a_prm_learns_where_a_line_goes_wrong() -> None:
    """66 - 8 = 58, the step says 68: right up to the tens. A padding line of another value is wrong from there on."""
    steps = ["a+9=66", "b-8=68", "=69"]
    batch = graded_batch([graded(PROMPT, steps)], build_prm_tokenizer())
    assert batch.targets[0, : len(PROMPT)].unique().tolist() == [IGNORED]
    assert batch.targets[0, len(PROMPT) :].tolist() == [*[1.0] * 6, 1.0, 1, 1, 1, 1, 0, 0, 0.0, 1, 1, 0, 0.0]


def test_what_follows_is_the_right_character_and_not_the_written_one() -> None:
    """After ``b-8=`` a 5 is right whatever is written; after a wrong digit nothing is; a step begins right again."""
    for steps, expected in (
        (["a+9=66", "b-8=68"], ["b", "-", "8", "=", "5", None, None]),
        (["a+9=66", "=66"], ["b", "6", "6", ""]),
        (["a+9=66", "c+4=70"], ["b", None, None, None, None, None, None]),
    ):
        assert right_characters(steps[1], graded(PROMPT, steps).right[1]) == expected


def test_the_second_heads_targets_stand_one_token_before() -> None:
    tokenizer = build_prm_tokenizer()
    steps = ["a+9=66", "b-8=68"]
    batch = graded_batch([graded(PROMPT, steps)], tokenizer)
    following = batch.following[0, len(PROMPT) - 1 :].tolist()
    expected = [*"a+9=66", STEP_TAG, *"b-8=5"]
    assert following == [*tokenizer.convert_tokens_to_ids(expected), IGNORED, IGNORED, IGNORED]
    assert batch.following[0, : len(PROMPT) - 1].unique().tolist() == [IGNORED]


def test_the_loss_of_classes_by_hand_weighs_a_tag_as_four_characters() -> None:
    """Logits of 0 for every class cost log 2 each; the tag's is 3 against its own class."""
    batch = graded_batch([graded(PROMPT, ["a+9=66"])], build_prm_tokenizer())
    logits = torch.zeros(*batch.targets.shape, 2)
    logits[0, -1, 0] = 3.0
    wrong = torch.log1p(torch.exp(torch.tensor(3.0)))
    assert float(class_loss(logits, batch)) == pytest.approx(float((6 * math.log(2) + 4 * wrong) / 10))


def test_a_students_loss_adds_the_second_head_and_what_ships_lacks_it() -> None:
    student = Student(tiny_prm())
    batch = graded_batch([graded(PROMPT, STEPS)], build_prm_tokenizer())
    student.next_character.weight.data.zero_()  # every token equally likely: log of their number, whatever is right
    classes = class_loss(student.prm(batch.input_ids), batch)
    assert float(student.loss(batch)) == pytest.approx(float(classes) + math.log(len(build_prm_tokenizer())), rel=1e-5)
    assert not any("next_character" in name for name in student.prm.state_dict())


def test_step_scores_come_one_a_step_whatever_the_padding() -> None:
    theirs, prm = build_prm_tokenizer(), tiny_prm()
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
