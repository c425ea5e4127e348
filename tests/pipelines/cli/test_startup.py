"""What a start does not pay for: --help and completion import no library, questions import no model and no Beam."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.e2e.project import make_project

HEAVY = ("apache_beam", "matplotlib", "numba", "numpy", "polars", "pyarrow", "pydantic", "rich", "torch",
         "transformers", "vllm")  # fmt: skip
MODELS = ("apache_beam", "matplotlib", "torch", "transformers", "vllm")
DRIVER = """
import sys
from pipelines.cli import main
try:
    code = main(sys.argv[2:])
except SystemExit as ended:
    code = ended.code
print(code, *sorted(set(sys.argv[1].split(",")) & set(sys.modules)), file=sys.stderr)
"""


def imported(names: tuple[str, ...], *command: str) -> list[str]:
    """Exit code of a command, and which of the packages it imported."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, ",".join(names), *command], capture_output=True, text=True, check=True
    )
    return done.stderr.splitlines()[-1].split()


@pytest.mark.parametrize("command", [["--help"], ["run", "--help"]], ids=" ".join)
def test_help_imports_no_library(command):
    assert imported(HEAVY, *command) == ["0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model):
    from pipelines.cli import main

    made = make_project(tmp_path_factory.mktemp("startup"), tiny_model)
    for stage in ("generate", "score", "shape"):
        assert main([stage, made.config, "--out", made.out]) == 0
    return made.out


@pytest.mark.parametrize("command", ["inspect", "lint", "verify", "status", "top"])
def test_a_question_imports_no_model_and_no_beam(run, command):
    assert imported(MODELS, command, f"{run}/round-000/shaped") in (["0"], ["1"])


def test_lint_loads_its_kernels_without_the_compiler(run):
    """A cached kernel needs neither numba's functions for arrays nor scipy's linear algebra, which those import."""
    asked = ("numba.np.arraymath", "scipy.linalg")
    imported(asked, "lint", f"{run}/round-000/shaped")  # fills the cache
    assert imported((*asked, "numba"), "lint", f"{run}/round-000/shaped") in (["0", "numba"], ["1", "numba"])


SHAPING = """
import sys
from pass_ops import ShapingConfig, shape
from pass_ops.shards import open_dataset
table = open_dataset(sys.argv[1]).read_part(0)
for estimator in ("pass", "grpo_outcome", "reward_shaping"):
    shape(table, ShapingConfig(estimator=estimator))
"""


def test_the_second_process_that_shapes_compiles_nothing(run):
    def start():
        """What numba says of its cache."""
        done = subprocess.run(
            [sys.executable, "-c", SHAPING, f"{run}/round-000/shaped"],
            env=os.environ | {"NUMBA_DEBUG_CACHE": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout + done.stderr

    start()
    again = start()
    assert again.count("[cache] data loaded from") > 0
    assert again.count("[cache] data saved to") == 0
