from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the one data file that the small files name."""
    (tmp_path / "rows.csv").write_text("x,y\n1,0\n")
    return tmp_path
