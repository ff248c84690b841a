"""Vectors of `vole-compact`: values, tags, the store of words, codes and what is none, sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crypto.kernels import elias_fano, masks64, okvs64_kernels
from crypto.kernels.aes import expand_key
from crypto.kernels.gf64 import gf64_mul_reference
from crypto.kernels.okvs_kernels import encrypt_keys
from crypto.psi import compact
from crypto.psi.okvs_shape import overflow_bound

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "compact.json").read_text())


def block(digits: str) -> Any:
    return np.frombuffer(bytes.fromhex(digits), dtype="<u8").reshape(1, -1).copy()


def number(digits: str) -> int:
    return int.from_bytes(bytes.fromhex(digits), "little")


@pytest.mark.parametrize("vector", VECTORS["products"])
def test_vectors_of_products(vector: dict[str, str]) -> None:
    a, b, product = (number(vector[name]) for name in ("a", "b", "product"))
    assert gf64_mul_reference(a, b) == product


@pytest.mark.parametrize("vector", VECTORS["tags"])
def test_vectors_of_values_and_tags(vector: dict[str, Any]) -> None:
    value = np.empty(1, dtype=np.uint64)
    masks64.values(block(vector["row"]), value)
    assert value.tobytes().hex() == vector["value"]
    tag = block(vector["decoded"])
    masks64.sender_tags(block(vector["row"]), block(vector["delta"]), tag)
    masks64.cut(tag, vector["bits"])
    assert tag.tobytes().hex() == vector["tag"]


def test_vectors_of_the_store() -> None:
    vector = VECTORS["store"]
    store = np.concatenate([block(place) for place in vector["places"]])
    for each in vector["decoded"]:
        row, out = block(each["key"]), np.empty((1, 2), dtype=np.uint64)
        encrypt_keys(row, expand_key(bytes.fromhex(vector["seed"])), row)
        okvs64_kernels.read(
            row, np.array([0, 1]), store, np.uint64(vector["sparse"]), np.uint64(vector["dense"]), out
        )
        assert out.tobytes().hex() == each["value"]


@pytest.mark.parametrize("vector", VECTORS["codes"])
def test_vectors_of_codes(vector: dict[str, Any]) -> None:
    numbers = np.concatenate([block(each) for each in vector["numbers"]])
    code = np.frombuffer(bytes.fromhex(vector["code"]), dtype=np.uint8)
    assert elias_fano.encode(numbers, vector["width"]).tobytes() == code.tobytes()
    got = elias_fano.decode(code, len(numbers), vector["width"])
    assert got is not None and np.array_equal(got, numbers)


@pytest.mark.parametrize("vector", VECTORS["not_codes"]["codes"], ids=lambda vector: vector["why"])
def test_vectors_of_what_is_no_code(vector: dict[str, str]) -> None:
    code = np.frombuffer(bytes.fromhex(vector["code"]), dtype=np.uint8)
    assert elias_fano.decode(code, VECTORS["not_codes"]["count"], VECTORS["not_codes"]["width"]) is None


@pytest.mark.parametrize("vector", VECTORS["sizes"])
def test_vectors_of_sizes(vector: dict[str, int]) -> None:
    sizes = compact.check_sizes(vector["receiver"], vector["sender"])
    assert sizes.shape.length == vector["places"]
    assert sizes.room == vector["room"] == overflow_bound(vector["sender"], sizes.shape.bins)
    assert (sizes.bits, sizes.code) == (vector["bits"], vector["code_bytes"])
