"""The block function on tensors: the standard's vector, and every block that the CPU's streams have."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.kernels.chacha import keystream_reference
from fedcore.errors import JobError
from fedcore.learning.kernels import chacha


def test_the_vector_of_the_standard() -> None:
    # RFC 8439, section 2.3.2.
    key = bytes(range(32)) + bytes.fromhex("000000090000004a00000000")
    found = chacha.words(chacha.states([key])[0], 1, 1).numpy().tobytes()
    assert found.hex().startswith("10f1e7e4d13b5915500fdd1fa32071c4")


@settings(deadline=None, max_examples=20)
@given(st.binary(min_size=44, max_size=44), st.integers(0, 2**32 - 9), st.integers(0, 9))
def test_blocks_are_those_of_another_implementation(key: bytes, first: int, blocks: int) -> None:
    found = chacha.words(chacha.states([key])[0], first, blocks)
    assert found.dtype == torch.int32 and found.shape == (blocks, 16)
    assert found.numpy().tobytes() == keystream_reference(key, 64 * blocks, first)


@pytest.mark.parametrize("size", [0, 32, 43, 45])
def test_a_key_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(JobError, match=f"44 bytes of key and nonce, not {size}"):
        chacha.states([bytes(size)])
