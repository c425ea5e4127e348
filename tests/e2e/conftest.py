"""What every end-to-end test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.project import Project, make_project


@pytest.fixture
def project(tmp_path: Path, tiny_model: str) -> Project:
    return make_project(tmp_path, tiny_model)
