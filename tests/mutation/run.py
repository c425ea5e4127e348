"""Mutation testing of pass_ops: change one thing at a time and see whether a test notices.

    python tests/mutation/run.py [PATTERN ...]      patterns of mutants, such as 'pass_ops.columns.*'; all without
    python tests/mutation/run.py --sample 500       that many of all, drawn at random by a fixed seed

Works in .cache/mutation, on copies of pass_ops and tests/pass_ops; results of functions that did not change are kept
from one run to the next. Each mutant meets its quickest tests first, for a few seconds; the survivors of those that
survivors.toml does not explain then meet all of them, with more examples. Exits with 1 if fewer than 95 % are killed or
a survivor is not explained.
"""

from __future__ import annotations

import math
import os
import random
import re
import subprocess
import sys
import tomllib
from collections import Counter
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from undecorate import undecorate

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PLACE = ROOT / ".cache" / "mutation"
COPIED = ("pass_ops", "tests/pass_ops")
SINGLE = ("pyproject.toml", "tests/conftest.py", "docs/reference/estimators.md")
TO_KILL = 0.95
FIRST_SECONDS = 3.0
CAUGHT = ("killed", "timeout", "segfault", "suspicious")


def prepare() -> None:
    """Copy what is mutated and what its tests read; a file that is the same keeps its time, and so its results.

    Which test reaches which function is asked anew when a file is not: mutmut itself asks new tests only.
    """
    files = [path for folder in COPIED for path in sorted((ROOT / folder).rglob("*")) if path.is_file()]
    kept = {path.relative_to(ROOT) for path in [*files, *map(ROOT.joinpath, SINGLE)] if "__pycache__" not in path.parts}
    changed = False
    for path in sorted(kept):
        source = (ROOT / path).read_text()
        mutable = path.parts[0] == "pass_ops" and path.suffix == ".py"
        changed |= _write(PLACE / path, undecorate(source) if mutable else source)
    if changed:
        (PLACE / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)
    for place in (PLACE, PLACE / "mutants"):
        for folder in COPIED:
            for path in (place / folder).rglob("*.py"):
                if path.relative_to(place) not in kept:
                    path.unlink()


def _write(path: Path, text: str) -> bool:
    """Whether it had to be written."""
    if path.exists() and path.read_text() == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return True


def sample(number: int) -> list[str]:
    """Names of mutants drawn from all; those drawn for a smaller number are among them."""
    from mutmut import __main__ as mutmut

    mutmut.copy_src_dir()
    mutmut.create_mutants(2)
    names = sorted(results())
    random.Random(0).shuffle(names)
    return names[:number]


def mutate(patterns: list[str], *, seconds: float) -> None:
    """Run mutmut there, with that much processor time a mutant; its own exit code says only whether it ran."""
    python_path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": python_path, "MUTANT_SECONDS": str(seconds)}
    command = [str(Path(sys.executable).parent / "mutmut"), "run", "--max-children", "2", *patterns]
    subprocess.run(command, cwd=PLACE, env=environment, check=True)


def results() -> dict[str, str]:
    """What became of each mutant, by name."""
    from mutmut.mutation.data import SourceFileMutationData
    from mutmut.stats import status_by_exit_code
    from mutmut.utils.file_utils import walk_mutatable_files

    found = {}
    for path in walk_mutatable_files():
        data = SourceFileMutationData(path=path)
        data.load()
        found |= {name: status_by_exit_code[code] for name, code in data.exit_code_by_key.items()}
    return found


def change(mutant: str) -> str:
    """The lines that a mutant takes away and puts there."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    lines = get_diff_for_mutant(mutant).splitlines()
    return "\n".join(" ".join(line.split()) for line in lines if line[:1] in "+-" and line[:3] not in {"+++", "---"})


def function_of(mutant: str) -> tuple[str, str]:
    """Module and function of a mutant: pass_ops.x.xǁClassǁname__mutmut_3 is of Class.name in pass_ops.x."""
    module, _, mangled = mutant.partition("__mutmut_")[0].rpartition(".")
    return module, mangled.removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")


def main(arguments: list[str]) -> int:
    prepare()
    os.chdir(PLACE)
    mutate(sample(int(arguments[1])) if arguments[:1] == ["--sample"] else arguments, seconds=FIRST_SECONDS)
    if unexplained := [name for name in alive(results()) if not explained(name)]:
        mutate(unexplained, seconds=math.inf)
    status = {name: found for name, found in results().items() if found != "not checked"}
    modules = sorted({function_of(name)[0] for name in status})
    print("\nmutants  caught  alive")
    for module in modules:
        counts = Counter(found in CAUGHT for name, found in status.items() if function_of(name)[0] == module)
        print(f"{counts.total():7} {counts[True]:7} {counts[False]:6}  {module}")
    return judge(status)


def alive(status: dict[str, str]) -> list[str]:
    """The mutants that were run and not caught."""
    return [name for name, found in status.items() if found not in CAUGHT and found != "not checked"]


def explained(mutant: str) -> bool:
    """Whether survivors.toml says why no test can see it."""
    function, lines = ".".join(function_of(mutant)), change(mutant)
    return any(fnmatch(function, each["function"]) and re.search(each["change"], lines) for each in explanations())


@cache
def explanations() -> list[dict[str, str]]:
    """The entries of survivors.toml."""
    entries: list[dict[str, str]] = tomllib.loads((HERE / "survivors.toml").read_text())["survivors"]
    return entries


def judge(status: dict[str, str]) -> int:
    """Print what is alive and not explained; 1 if there is any, or too much is alive."""
    living = alive(status)
    unexplained = [name for name in living if not explained(name)]
    for name in unexplained:
        print(f"\n{status[name]}, not explained: {name}\n  in {'.'.join(function_of(name))}\n{change(name)}")
    caught = 1 - len(living) / len(status)
    print(
        f"\n{len(status)} mutants, {caught:.1%} caught, {len(living)} alive, {len(unexplained)} of them not explained"
    )
    return int(caught < TO_KILL or bool(unexplained))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
