"""Kernels run in Triton's interpreter, on tensors of the CPU.

Triton reads `TRITON_INTERPRET` when a kernel's module is imported, so it is set here, before any is. That kernels are chosen for
tensors of the CPU (`FEDCORE_KERNELS=interpret`) holds within the tests of this folder only.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest

from fedcore.learning.kernels import dispatch, interpreter

# A torch for the CPU brings no Triton.
collect_ignore_glob = [] if find_spec("triton") else ["test_*.py"]


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dispatch chooses kernels; nothing of what another test's faults ruled out is remembered."""
    monkeypatch.setenv("FEDCORE_KERNELS", "interpret")
    dispatch.forget()
    interpreter.prepare()
