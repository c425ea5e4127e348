"""A spool whose writer was killed goes on behind its last chunk, and what comes of it is the same to the byte."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pass_ops.shards import Store
from pipelines.imports import spooling
from pipelines.imports.formats import import_format
from pipelines.imports.known import PROOF
from pipelines.rows import read as rows_module

CHUNK = 5
#: spools until the third chunk is written, and then waits to be killed
WRITER = """
import sys
from pipelines.imports import spooling
from pipelines.imports.run import ImportOptions, import_rollouts

def tell(text):
    if text == "15 rows read":
        print(text, flush=True)
        sys.stdin.read()

spooling.CHUNK_ROWS = 5
form, source, out, *mapping = sys.argv[1:]
import_rollouts(source, out=out, options=ImportOptions(format=form, mapping=tuple(mapping)), tell=tell)
"""


def mapped(row: int) -> Any:
    """Every eleventh is rejected; three rollouts a group; one log-probability that is not round."""
    logprobs = [-0.5, -0.123456 if row == 2 else -0.25]
    good = {"prompt": f"p{row // 3}", "completion": f"s{row}", "ids": [5, 6], "lp": logprobs, "r": row / 7}
    return b"{oops" if row % 11 == 10 else good


def neighbour(row: int) -> Any:
    return {"step": 1, "prompt": f"p{row // 8}", "completion": f"s{row}", "right": row / 7, "advantage": 0.0}


MAPPING = ("response=completion", "token_ids=ids", "logprobs=lp", "reward.r=r")
CASES = {
    "JSON lines": ("rows", "rows.jsonl", mapped, MAPPING),
    "neighbours over chunks": ("trl", "completions.parquet", neighbour, ()),
}


@pytest.mark.parametrize("name", CASES)
def test_a_killed_spool_goes_on_behind_its_last_chunk(
    name: str, import_run, jsonl, parquet, tmp_path: Path, monkeypatch
) -> None:
    form, file, make, mapping = CASES[name]
    made = [make(row) for row in range(40)]
    source = (parquet if file.endswith(".parquet") else jsonl)(made, file)
    whole = import_run(form, source, mapping=mapping, max_reject_rate=0.5)

    command = [sys.executable, "-c", WRITER, form, str(source), str(tmp_path / "cut"), *mapping]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "15 rows read\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate(timeout=120)
    folder = Store(str(tmp_path / "cut" / "round-000" / "import"))
    (spool,) = folder.folders()
    assert len(folder.at(f"{folder.root}/{spool}").entries()) == 3

    read = _counted(monkeypatch, form)
    resumed = import_run(form, source, out="cut", mapping=mapping, max_reject_rate=0.5)
    assert read == list(range(15, 40))
    assert resumed.made.manifests == whole.made.manifests
    assert resumed.made.facts.logprobs == whole.made.facts.logprobs


def _counted(monkeypatch: pytest.MonkeyPatch, form: str) -> list[int]:
    """The rows, from 0, that are parsed from now on."""
    seen: list[int] = []
    first = 1 if form == "rows" else 0
    made = rows_module.SourceRow

    class Seen(made):  # type: ignore[misc, valid-type]
        def __new__(cls, where: str, number: int, values: dict) -> Any:
            seen.append(number - first)
            return made.__new__(cls, where, number, values)

    parsed = rows_module.parsed_row

    def counted(content: bytes, where: str, number: int) -> Any:
        seen.append(number - first)
        return parsed(content, where, number)

    if form == "rows":
        monkeypatch.setattr(rows_module, "parsed_row", counted)
    else:
        monkeypatch.setattr(rows_module, "SourceRow", Seen)
    return seen


def test_a_damaged_chunk_and_those_behind_it_are_made_again(import_run, jsonl, monkeypatch) -> None:
    monkeypatch.setattr(spooling, "CHUNK_ROWS", CHUNK)
    source = jsonl([mapped(row) for row in range(40)])
    whole = import_run("rows", source, mapping=MAPPING, max_reject_rate=0.5)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.imports.run.make_plan", killed)
        with pytest.raises(KeyboardInterrupt):
            import_run("rows", source, out="cut", mapping=MAPPING, max_reject_rate=0.5)
    folder = next((Path(whole.url).parent / "cut" / "round-000" / "import").iterdir())
    chunk = folder / "rows-000004.arrow"
    chunk.write_bytes(chunk.read_bytes()[:-200])
    read = _counted(monkeypatch, "rows")
    resumed = import_run("rows", source, out="cut", mapping=MAPPING, max_reject_rate=0.5)
    assert read == list(range(20, 40))
    assert resumed.made.manifests == whole.made.manifests


def logprobs_of(values: list[float], *, form: str, import_run: Callable, jsonl: Callable, tiny_model: str) -> tuple:
    """What an import says of such log-probabilities. prime_tokens declares exact ones, `rows` cannot know."""
    one = {"schema_version": 1, "token_ids": [1, *[5] * len(values)], "loss_mask": [False, *[True] * len(values)]}
    row = one | {"inference_logprobs": [0.0, *values], "prompt": "p", "ids": [5] * len(values), "lp": values}
    mapping = ("token_ids=ids", "logprobs=lp") if form == "rows" else ()
    out = f"{form}-{len(values)}-{abs(hash(tuple(values)))}"
    run = import_run(form, jsonl([row]), out=out, mapping=mapping, tokenizer=tiny_model)
    return run.block()["logprobs"], run.block().get("decimals")


def test_a_declared_exact_source_is_rounded_only_where_many_values_prove_it(import_run, jsonl, tiny_model) -> None:
    assert import_format("prime_tokens").logprobs == "exact"
    given = {"import_run": import_run, "jsonl": jsonl, "tiny_model": tiny_model}
    few = [-0.5, -0.25, -1.0]
    many = [round(-0.0137 * at, 4) for at in range(1, PROOF + 1)]
    assert logprobs_of(few, form="prime_tokens", **given) == ("exact", None)
    assert logprobs_of(few * PROOF, form="prime_tokens", **given) == ("exact", None)  # the same three, however often
    assert logprobs_of(many[:-1], form="prime_tokens", **given) == ("exact", None)
    assert logprobs_of(many, form="prime_tokens", **given) == ("rounded", 4)
    assert logprobs_of([*many, -0.123456], form="prime_tokens", **given) == ("exact", None)


def test_a_source_that_may_round_is_rounded_however_few_the_values(import_run, jsonl, tiny_model) -> None:
    given = {"import_run": import_run, "jsonl": jsonl, "tiny_model": tiny_model}
    assert logprobs_of([-0.5, -0.25], form="rows", **given) == ("rounded", 2)
    exact = (-np.random.default_rng(0).exponential(size=20)).tolist()
    assert logprobs_of(exact, form="rows", **given) == ("exact", None)
