"""Fixtures that several test folders use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.sites import Study

# The same examples in each run, and none that fails because the machine is busy. New ones are looked for with
# HYPOTHESIS_PROFILE=search, as `make slow` does.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A small federation in a folder of its own."""
    return Study(tmp_path)


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """Two test workers on two cores: torch's own threads would only get in each other's way."""
    torch.set_num_threads(1)
