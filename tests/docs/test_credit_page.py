"""The page on choosing a method runs as it stands, on two prompts and with transformers in vLLM's place."""

from __future__ import annotations

import io
import re
import shlex
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from benchmarks import credit_methods
from pass_ops.options.config import ESTIMATORS
from pass_ops.options.published import PUBLISHED
from pipelines.cli import main
from pipelines.runs.config import load_config
from tests.docs.pages import DOCS, ROOT, blocks

PAGE = DOCS / "how-to" / "choose-credit.md"
SMALL = [
    "engine.kind=transformers", "prompts.limit=2", "prompts.prompts_per_part=1", "generate.group_size=2",
    "generate.sampling.max_tokens=48", "signals.monte_carlo.samples=1",
    "signals.monte_carlo.engine.kind=transformers",
]  # fmt: skip
SOME = (
    "PASS (`pass`)",
    "GRPO (process) (`grpo_process`)",
    "RLOO (`rloo`)",
    "80/20: the tokens of highest entropy (`entropy_top`)",
)
LEFT_OUT = [f"{PUBLISHED[name].title} (`{name}`)" for name in credit_methods.LEFT_OUT]
OVERRIDES = [word for override in SMALL for word in ("--set", override)]


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """A folder in which the page's commands ran, and what each printed."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "pipelines/demo/assets", folder / "pipelines/demo/assets")
    for language in ("python", "toml"):
        for title, body in blocks(PAGE, language):
            (folder / title).parent.mkdir(parents=True, exist_ok=True)
            (folder / title).write_text(body)
    (folder / "docs/how-to").mkdir(parents=True)
    shutil.copy(PAGE, folder / "docs/how-to")
    printed = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(credit_methods, "METHODS", {name: credit_methods.METHODS[name] for name in SOME})
        for _, body in blocks(PAGE, "sh"):
            for line in body.splitlines():
                with redirect_stdout(io.StringIO()) as shown:
                    run(shlex.split(line))
                printed[line] = shown.getvalue()
    return folder, printed


def run(words):
    if words[0] == ".venv/bin/passrl":
        assert main([*words[1:], *OVERRIDES]) == 0, words
    elif words[1] == "benchmarks/credit_methods.py":
        credit_methods.main([*words[2:], *OVERRIDES])
    else:
        assert words[:1] == [".venv/bin/python"]
        exec(compile(Path(words[1]).read_text(), words[1], "exec"), {})


def shape_of(table):
    """Heads and first column of the Markdown table between the markers."""
    found = re.search(f"{credit_methods.BEGIN}\n(.*?){credit_methods.END}", table, re.DOTALL)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].strip().splitlines()]
    return rows[0], [row[0] for row in rows[2:]], rows[2:]


@pytest.mark.deep
def test_the_commands_run_and_print_the_tables_of_the_page(followed):
    _, printed = followed
    (sweep,) = [text for line, text in printed.items() if " sweep " in line]
    (on_page,) = [body for _, body in blocks(PAGE, "text")]
    for title in ("Agreement with the truth", "Policy gradients", "Pay for added steps"):
        assert title in sweep
        assert title in on_page
    heads = [line for line in on_page.splitlines() if line.strip().startswith("setting")]
    assert all(re.sub(r" +", " ", head.strip()) in re.sub(r" +", " ", sweep) for head in heads)


@pytest.mark.deep
def test_only_the_table_of_the_page_is_changed(followed):
    folder, _ = followed
    before, after = PAGE.read_text(), (folder / "docs/how-to" / PAGE.name).read_text()
    assert shape_of(before)[0] == shape_of(after)[0]
    assert sorted(shape_of(after)[1]) == sorted([*SOME, *LEFT_OUT])
    begin, end = credit_methods.BEGIN, credit_methods.END
    assert before.partition(begin)[0] == after.partition(begin)[0]
    assert before.partition(end)[2] == after.partition(end)[2]


@pytest.mark.deep
def test_outcome_methods_pay_nothing_for_padding(followed):
    folder, _ = followed
    heads, names, rows = shape_of((folder / "docs/how-to" / PAGE.name).read_text())
    row = rows[names.index("RLOO (`rloo`)")]
    pay = {head: cell for head, cell in zip(heads, row, strict=True) if head.startswith("+")}
    assert set(pay.values()) <= {"0", ""}
    assert row[-2:] == ["never", "never"]


def test_the_table_of_the_page_has_every_method_of_the_script():
    """A method added to `pass_ops.methods`, or to VARIANTS, wants the page's command run again."""
    assert sorted(shape_of(PAGE.read_text())[1]) == sorted([*credit_methods.METHODS, *LEFT_OUT])


def test_every_named_method_is_in_the_table_or_left_out_with_a_reason():
    named = {changes.get("estimator") for changes in credit_methods.METHODS.values()} - {None}
    assert named | set(credit_methods.LEFT_OUT) == {*ESTIMATORS, *PUBLISHED}
    assert not named & set(credit_methods.LEFT_OUT)


def test_every_method_is_a_setting_of_the_pages_configuration(tmp_path):
    ((title, config),) = blocks(PAGE, "toml")
    (tmp_path / Path(title).name).write_text(config)
    base = load_config(tmp_path / Path(title).name).shape
    settings = credit_methods.method_settings(base, credit_methods.METHODS)
    assert [setting.name for setting in settings] == list(credit_methods.METHODS)
    assert len({str(setting.options) for setting in settings}) == len(settings)  # no method is there twice


def test_a_page_without_markers_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n")
    with pytest.raises(ValueError, match="has no <!-- methods: begin -->"):
        credit_methods.into_page(page, ["| a |"])
    assert page.read_text() == "# Page\n"
