from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def include(tmp_path: Path) -> Path:
    """A copy of include/ whose specs a test may change."""
    import shutil

    root = Path(__file__).resolve().parents[2] / "include"
    return Path(shutil.copytree(root, tmp_path / "include"))
