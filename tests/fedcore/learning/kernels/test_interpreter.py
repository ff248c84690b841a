"""Triton's interpreter does what the kernels ask of it, also where Triton was imported before it was wanted."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import triton
import triton.language as tl

from fedcore.learning.kernels import interpreter

EARLY = """
import triton, triton.language, os, torch
os.environ |= {"TRITON_INTERPRET": "1", "FEDCORE_KERNELS": "interpret"}
from fedcore.learning.kernels import dispatch, norms, triton_norms
assert dispatch.usable(torch.ones(1))
a = torch.ones(1, 3, 5)
print(float(triton_norms.ghost(a, a)), float(triton_norms.made(a, a)))
"""


@triton.jit
def _product(a, b, out, count, SIDE: tl.constexpr):
    places = tl.arange(0, SIDE)[:, None] * SIDE + tl.arange(0, SIDE)[None, :]
    found = tl.zeros([SIDE, SIDE], tl.float32)
    for _ in range(count):
        found = tl.dot(tl.load(a + places), tl.load(b + places), found)
    tl.store(out + places, found)


def test_a_loop_with_a_bound_of_run_time_sums_products_of_bfloat16() -> None:
    a, b = torch.randn(16, 16).bfloat16(), torch.randn(16, 16).bfloat16()
    out = torch.zeros(16, 16)
    _product[(1,)](a, b, out, 3, SIDE=16)

    torch.testing.assert_close(out, 3 * (a.float() @ b.float()))


def test_preparing_again_changes_nothing() -> None:
    from triton.runtime.interpreter import InterpreterBuilder

    own = InterpreterBuilder.create_dot
    interpreter.prepare()
    assert InterpreterBuilder.create_dot is own


@pytest.mark.slow
def test_it_works_where_triton_was_imported_before() -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("TRITON_", "FEDCORE_"))}
    said = subprocess.run([sys.executable, "-c", EARLY], env=env, capture_output=True, text=True, check=False)

    assert said.returncode == 0, said.stderr
    ghost, made = map(float, said.stdout.split())
    assert abs(ghost - 225) < 1e-2 and abs(made - 225) < 1e-2
