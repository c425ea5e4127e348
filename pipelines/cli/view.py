"""`passrl view`: its arguments, and what it does with them."""

from __future__ import annotations

import argparse
import json
from argparse import Namespace
from pathlib import Path

from pipelines.cli.argument_types import round_number

_ASKED = ("groups", "max_rollouts", "max_tokens", "seed", "truth", "tokenizer", "run", "title")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument(
        "datasets", nargs="+", metavar="SHAPED",
        help="shaped datasets of the same rollouts, or RUNs; the first is shown, the others are compared with it",
    )  # fmt: skip
    parser.add_argument("--out", default="credit.html", metavar="FILE", help="the HTML file (default credit.html)")
    parser.add_argument(
        "--grid", action="append", default=[], metavar="OPTION=V1,V2,...",
        help="compare further settings over what the first dataset stores, as for sweep",
    )  # fmt: skip
    parser.add_argument("--truth", metavar="SIGNAL", help="list the chunks that this truer process signal contradicts")
    parser.add_argument("--groups", nargs="+", metavar="GROUP", help="show these groups (default: all, or a sample)")
    parser.add_argument("--max-rollouts", type=int, metavar="N", help="sample whole groups up to it (default 4096)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="and up to so many tokens (default 500000)")
    parser.add_argument("--seed", type=int, help="seed of the sample (default 0)")
    parser.add_argument("--run", metavar="RUN", help="RUN of the run page (default: the one that SHAPED lies in)")
    parser.add_argument("--round", type=round_number, default=0, help="which round, where SHAPED is a RUN (default 0)")
    parser.add_argument("--tokenizer", metavar="FOLDER", help="the policy's folder (default: the one recorded)")
    parser.add_argument("--title", help="title of the file")


def view(options: Namespace) -> None:
    """Write the file. Raises UnwritablePlaceError, ConfigError, and what `make_view` raises."""
    from pipelines.options import build
    from pipelines.options.overrides import parse_grid
    from pipelines.runs.places import check_file
    from pipelines.runs.progress import Reporter
    from pipelines.view.options import ViewOptions
    from pipelines.view.view import make_view

    out = Path(options.out)
    check_file(out, key="--out")
    given = {name: getattr(options, name) for name in _ASKED}
    asked = build(ViewOptions, {name: value for name, value in given.items() if value is not None}, where="passrl view")
    reporter = Reporter(quiet=options.json)
    with reporter.step(f"view {options.datasets[0]}") as progress:
        made = make_view(
            options.datasets,
            options=asked,
            grid=parse_grid(options.grid),
            round_index=options.round,
            progress=progress,
        )
    out.write_bytes(made.content)
    if options.json:
        told = {"file": str(out), "bytes": len(made.content), "sampling": made.head["sampling"]}
        print(json.dumps({**told, "settings": [one["name"] for one in made.head["settings"]]}, indent=1))
        return
    reporter.line(made.head["sampling"]["rule"])
    if made.head["token_texts"] == "none":
        reporter.line(made.head["token_texts_note"])
    reporter.line(f"wrote {out} ({len(made.content) / 1e6:.1f} MB): open it in a browser")
