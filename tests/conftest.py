"""Fixtures that several test folders use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.sites import Study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A small federation in a folder of its own."""
    return Study(tmp_path)


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """Two test workers on two cores: torch's own threads would only get in each other's way."""
    torch.set_num_threads(1)
