"""Every method side by side on one stored run: agreement with a truth, policy gradient, pay for added steps.

    python benchmarks/credit_methods.py runs/credit/run.toml --out runs/credit \
        --truth execution --truth monte_carlo --page docs/how-to/choose-credit.md

writes the Markdown table between the two markers of the page (without --page: prints it). The methods are those of
`pass_ops.methods`, so that a new one is in the next table; PROCESS says which signal of the run is the process signal
of those that the run's own does not fit, and VARIANTS adds settings of one's own. Run the command again after a change;
nothing is sampled or scored anew.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pass_ops import ShapingConfig, Weights
from pass_ops.options.config import ESTIMATORS
from pass_ops.options.published import PUBLISHED
from pipelines.inspect.forecast import pays_from
from pipelines.inspect.resample import Estimate
from pipelines.inspect.sweep.choose import ChooseOptions, Chooser
from pipelines.inspect.sweep.results import Setting, SettingResult
from pipelines.inspect.sweep.settings import sweep
from pipelines.options import as_dict, build
from pipelines.runs.config import RunConfig, load_config, module_folders
from pipelines.runs.run import Run
from pipelines.shaped.stage import ShapeOptions, check_streams

#: the process signal of methods that are about another kind of value than the run's own
PROCESS = {"vineppo": "monte_carlo", "pav": "monte_carlo", "capo": "execution", "saf_opd": "opd"}
#: methods of the table that this run cannot give what they read
LEFT_OUT = {
    "gigpo": "it compares steps of equal states, and no signal of a run stores a state for each step; `pass_ops.shape` "
    "takes a table of your own that has them",
}
TITLES = {
    "pass": "PASS",
    "reward_shaping": "reward shaping",
    "grpo_process": "GRPO (process)",
    "grpo_outcome": "GRPO (outcome)",
    "rloo": "RLOO",
    "dr_grpo": "Dr. GRPO",
    "gdpo": "GDPO",
    "prime": "PRIME",
}
_REWARD = {"operator": "masked_norm"}
#: settings besides the methods as they are: name -> what it changes in [shape]
VARIANTS: dict[str, dict[str, Any]] = {
    "PASS, k = 1": {"k": 1.0},
    "PASS without DL (k = 0)": {"k": 0.0},
    "PASS without CV": {"chunk": False},
    "PASS, process alone": {"weights": {"process": 1.0, "outcome": 0.0, "format": 0.0}},
    "PASS, teacher's log-ratio": {"process": "opd", "standardize": {"process": "abs_max"}},
    "GDPO, three rewards": {
        "streams": {name: {"signal": name, **_REWARD} for name in ("outcome", "format", "concise")},
        "divide": False,
    },
    "OPSD (policy that was shown the answer)": {
        "streams": {"process": {"signal": "hindsight", "operator": "none"}},
        "chunk": False,
        "divide": False,
    },
}


def _methods() -> dict[str, dict[str, Any]]:
    """What each row of the table changes in [shape]: every named method, and the variants."""
    found = {}
    for name in (*ESTIMATORS, *PUBLISHED):
        if name not in LEFT_OUT:
            title = PUBLISHED[name].title if name in PUBLISHED else TITLES[name]
            process = {"process": PROCESS[name]} if name in PROCESS else {}
            found[f"{title} (`{name}`)"] = {"estimator": name, **process}
    return found | VARIANTS


METHODS = _methods()
BEGIN, END = "<!-- methods: begin -->", "<!-- methods: end -->"
STEPS = (1, 8)
#: a change of the total credit below this is that of float32
ROUNDING = 1e-7


def method_settings(base: ShapeOptions, methods: Mapping[str, Mapping[str, Any]]) -> list[Setting]:
    """A setting for each method. Raises ConfigError or OptionError, which name the method's option."""
    settings = []
    for name, changes in methods.items():
        options = build(ShapeOptions, {**as_dict(replace(base, reference=None, logprobs=())), **changes}, where=name)
        check_streams(options)
        settings.append(Setting(name, options))
    return settings


def compare(run: Run, truths: Sequence[str], *, groups: int, gradients: bool) -> dict[str, list[SettingResult]]:
    """The methods' results against each truth. Forecasts are made once, gradients for each truth."""
    settings = method_settings(run.config.shape, METHODS)
    found = {}
    for truth in truths:
        asked = ChooseOptions(
            truth=truth,
            forecast=truth == truths[0],
            forecast_steps=STEPS,
            policy=run.starting_policy(0) if gradients else None,
            groups=groups,
        )
        signals = run.folder(0, "signals")
        watcher = Chooser(asked, signals=signals, train=run.config.train)
        found[truth] = sweep(rollouts=run.folder(0, "rollouts"), signals=signals, settings=settings, watcher=watcher)
    return found


def table(found: Mapping[str, Sequence[SettingResult]]) -> Iterator[str]:
    """One line a method, best aligned with the first truth first."""
    heads = ["method", "process signal"]
    for truth in found:
        heads += [f"alignment with {truth} (95 %)", "S/N", "gradient cosine"]
    heads += [f"+{count} step{'s' * (count > 1)}, {side}" for side in ("right", "wrong") for count in STEPS]
    heads += ["pays from, right", "wrong"]
    yield f"| {' | '.join(heads)} |"
    yield f"|{' --- |' * len(heads)}"
    for results in sorted(zip(*found.values(), strict=True), key=lambda results: _rank(results[0])):
        cells = [results[0].name, process_signal(results[0].options)]
        for result in results:
            assert result.truth is not None
            cells += [_interval(result.truth.alignment), _short(result.truth.signal_to_noise["median"])]
            cells.append(_short(result.gradient.cosine_truth if result.gradient else None))
        yield f"| {' | '.join([*cells, *_forecast_cells(results[0])])} |"
    for name, why in LEFT_OUT.items():
        yield f"| {PUBLISHED[name].title} (`{name}`) | not here: {why} |{' |' * (len(heads) - 2)}"


def process_signal(options: Mapping[str, Any]) -> str:
    """The signal with a value for each step or token that a setting reads, if it reads one."""
    streams = options["streams"]
    if streams is not None:
        rewards = (options["outcome"], options["format"], "outcome", "format", "concise")
        return ", ".join(one["signal"] for one in streams.values() if one["signal"] not in rewards)
    shaping = ShapingConfig(estimator=options["estimator"], weights=Weights(**options["weights"]))
    return str(options["process"]) if shaping.reads_process else ""


def _forecast_cells(result: SettingResult) -> Iterator[str]:
    """At the end of a rollout, scored at the median of the stored scores."""
    ends = [one for one in result.forecast if one.position == "end"]
    middle = {one.steps: one for one in ends if one.quantile == 0.5} or {one.steps: one for one in ends}
    for side in ("right", "wrong"):
        for count in STEPS:
            yield _short(middle[count].total[side].value, sign=True)
    for side in ("right", "wrong"):
        lowest = pays_from(ends, position="end", steps=STEPS[0], side=side)
        if all(abs(one.total[side].value or 0.0) < ROUNDING for one in ends):
            lowest = None
        yield "never" if lowest is None else _short(lowest)


def _rank(result: SettingResult) -> int:
    assert result.truth is not None
    return result.truth.rank


def _interval(estimate: Estimate) -> str:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "none"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _short(value: float | None, *, sign: bool = False) -> str:
    return "" if value is None else "0" if abs(value) < ROUNDING else f"{value:+.2g}" if sign else f"{value:.2g}"


def into_page(page: Path, lines: Sequence[str]) -> None:
    """Replace what lies between the page's markers. Raises ValueError where it has none."""
    text = page.read_text(encoding="utf-8")
    made, count = re.subn(
        f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: "\n".join([BEGIN, "", *lines, "", END]), text, flags=re.S
    )
    if count != 1:
        raise ValueError(f"{page} has no {BEGIN} ... {END}, between which the table goes; write them where it belongs")
    page.write_text(made, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Compare and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="TOML configuration of the run")
    parser.add_argument("--out", required=True, metavar="RUN", help="run folder with rollouts and signals")
    parser.add_argument("--truth", action="append", required=True, help="a truer process signal; may be given again")
    parser.add_argument("--groups", type=int, default=32, help="groups drawn for forecast and gradients (default 32)")
    parser.add_argument("--no-gradients", action="store_true", help="load no model")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--page", type=Path, help="Markdown page with the markers")
    given = parser.parse_args(argv)
    config: RunConfig = load_config(given.config, given.overrides)
    run = Run(config=config, url=given.out, modules=module_folders(given.config))
    lines = list(table(compare(run, given.truth, groups=given.groups, gradients=not given.no_gradients)))
    if given.page is None:
        print("\n".join(lines))
    else:
        into_page(given.page, lines)


if __name__ == "__main__":
    main()
