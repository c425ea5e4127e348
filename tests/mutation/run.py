"""Mutation testing: change one thing at a time and see whether a test notices.

    python tests/mutation/run.py [PATTERN ...]            patterns of mutants, such as 'pass_ops.fusion.*'; all without
    python tests/mutation/run.py --sample 500             that many of all, drawn at random by a fixed seed
    python tests/mutation/run.py trainer --each 6         the trainer: so many of each module
    python tests/mutation/run.py 'pass_ops.streams.*' --each 40      so many of each module that a pattern names

The first argument may name a file of targets/: pass_ops (without one), trainer, stages. Works on a copy of the
repository in .cache/mutation/TARGET; results of functions that did not change are kept from one run to the next. Each
mutant meets its quickest tests first, for a few seconds; the survivors of those that survivors.toml does not explain
then meet all of them, with more examples. Exits with 1 if fewer than 95 % are killed or a survivor is not explained.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import re
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from undecorate import undecorate

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TARGETS = HERE / "targets"
TO_KILL = 0.95
# Processor time of a mutant's first process: the tests of `pass_ops` take milliseconds, the others load a model.
FIRST_SECONDS = {"pass_ops": 3.0, "trainer": 12.0, "stages": 12.0}
CAUGHT = ("killed", "timeout", "segfault", "suspicious")


def prepare(target: str, place: Path) -> None:
    """Copy the repository; a file that is the same keeps its time, and so its results.

    Which test reaches which function is asked anew when a file is not: mutmut itself asks new tests only.
    """
    section = (TARGETS / f"{target}.toml").read_text()
    mutated = tomllib.loads(section)["tool"]["mutmut"]["source_paths"]
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True
    ).stdout.decode()
    kept = {Path(line) for line in listed.splitlines() if (ROOT / line).is_file()}
    changed = False
    for path in sorted(kept):
        content = (ROOT / path).read_bytes()
        if path.parts[0] in mutated and path.suffix == ".py":
            content = undecorate(content.decode()).encode()
        elif path == Path("pyproject.toml"):
            content += b"\n" + section.encode()
        changed |= _write(place / path, content)
    if changed:
        (place / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)
    for copy in (place, place / "mutants"):
        for path in [path for name in (*mutated, "tests") for path in (copy / name).rglob("*.py")]:
            if path.relative_to(copy) not in kept:
                path.unlink()


def _write(path: Path, content: bytes) -> bool:
    """Whether it had to be written."""
    if path.exists() and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return True


def sample(number: int | None, each: int | None, patterns: list[str]) -> list[str]:
    """Mutants drawn from those of the patterns, or of each module; those drawn for a smaller number are among them."""
    from mutmut import __main__ as mutmut

    mutmut.copy_src_dir()
    mutmut.create_mutants(2)
    names = [name for name in sorted(results()) if not patterns or any(fnmatch(name, one) for one in patterns)]
    random.Random(0).shuffle(names)
    if each is None:
        return names[:number]
    modules = defaultdict(list)
    for name in names:
        modules[function_of(name)[0]].append(name)
    return [name for drawn in modules.values() for name in drawn[:each]]


def mutate(patterns: list[str], *, place: Path, seconds: float, jobs: int) -> None:
    """Run mutmut there, with that much processor time a mutant; its own exit code says only whether it ran."""
    python_path = os.pathsep.join([str(HERE), str(place / "mutants")])  # not the repository: its copy is tested
    environment = {**os.environ, "PYTHONPATH": python_path, "MUTANT_SECONDS": str(seconds), "OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).parent / "mutmut"), "run", "--max-children", str(jobs), *patterns]
    subprocess.run(command, cwd=place, env=environment, check=True)


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
    target = arguments.pop(0) if arguments and (TARGETS / f"{arguments[0]}.toml").exists() else "pass_ops"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*")
    parser.add_argument("--sample", type=int, help="so many of all")
    parser.add_argument("--each", type=int, help="so many of each module")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at once (default 2)")
    options = parser.parse_args(arguments)
    place = ROOT / ".cache" / "mutation" / target
    prepare(target, place)
    os.chdir(place)
    drawn = options.patterns
    if options.sample or options.each:
        drawn = sample(options.sample, options.each, options.patterns)
    mutate(drawn, place=place, seconds=FIRST_SECONDS[target], jobs=options.jobs)
    if unexplained := [name for name in alive(results()) if not explained(name)]:
        mutate(unexplained, place=place, seconds=math.inf, jobs=options.jobs)
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
