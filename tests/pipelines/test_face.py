"""The library face: every public name is there, and importing the package costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pass_ops
import pipelines
import trainer


@pytest.mark.parametrize("package", [pass_ops, pipelines, trainer], ids=lambda package: package.__name__)
def test_every_public_name_leads_somewhere_and_says_what_it_is(package):
    for name in package.__all__:
        assert (getattr(package, name).__doc__ or "").strip(), name
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


def test_importing_pipelines_imports_nothing_else():
    heavy = {"numpy", "pyarrow", "pydantic", "pass_ops", "apache_beam"}
    code = f"import pipelines, sys; print(sorted({{m.split('.')[0] for m in sys.modules}} & {heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
