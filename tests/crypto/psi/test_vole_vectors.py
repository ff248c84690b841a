"""Vectors of `vole`: the code's places, trees, rows and bins, tags, transfers, lengths of messages, and bad messages.

Those that say what comes out of what were computed by plain Python over a library's AES and SHA.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crypto import sodium
from crypto.errors import ProtocolError
from crypto.kernels import masks
from crypto.kernels.aes import expand_key
from crypto.kernels.okvs_kernels import count, encrypt_keys
from crypto.psi import base_ot, ggm, lpn, vole_psi, wide
from crypto.psi.okvs_shape import overflow_bound
from tests.crypto.memory_channel import ends
from tests.crypto.psi.sets import random_items

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "vole.json").read_text())


def block(digits: str) -> Any:
    return np.frombuffer(bytes.fromhex(digits), dtype="<u8").reshape(1, 2).copy()


@pytest.mark.parametrize("vector", VECTORS["places"])
def test_vectors_of_the_code(vector: dict[str, Any]) -> None:
    secret = np.zeros((vector["k"], 2), dtype=np.uint64)
    secret[:, 0] = np.arange(vector["k"])
    wanted = np.bitwise_xor.reduce(np.array(vector["places"], dtype=np.uint64))
    out = np.zeros((1, 2), dtype=np.uint64)
    lpn.add_bits(lpn.public_seed(bytes.fromhex(vector["seed"])), np.uint64(vector["row"]), secret, out)
    assert out.tolist() == [[int(wanted), 0]]
    assert lpn.places_reference(bytes.fromhex(vector["seed"]), vector["row"], vector["k"]) == vector["places"]


@pytest.mark.parametrize("vector", VECTORS["trees"])
def test_vectors_of_trees(vector: dict[str, Any]) -> None:
    depth = vector["depth"]
    leaves = np.empty((1 << depth, 2), dtype=np.uint64)
    sums = np.empty((1, depth + 1, 2), dtype=np.uint64)
    ggm.whole(block(vector["root"]), block(vector["delta"]), depth, vector["hashed"], leaves, sums)
    assert [leaf.tobytes().hex() for leaf in leaves] == vector["leaves"]
    assert [each.tobytes().hex() for each in sums[0]] == vector["sums"]


@pytest.mark.parametrize("vector", VECTORS["rows"])
def test_vectors_of_rows_and_bins(vector: dict[str, Any]) -> None:
    key, round_keys = block(vector["key"]), expand_key(bytes.fromhex(vector["seed"]))
    row, counts = np.empty_like(key), np.zeros(vector["bins"], dtype=np.int64)
    encrypt_keys(key, round_keys, row)
    count(key, round_keys, np.uint64(vector["bins"]), counts)
    assert row.tobytes().hex() == vector["row"] and np.flatnonzero(counts).tolist() == [vector["bin"]]


@pytest.mark.parametrize("vector", VECTORS["tags"])
def test_vectors_of_values_and_tags(vector: dict[str, Any]) -> None:
    row, value, tag = block(vector["row"]), block(vector["row"]), block(vector["decoded"])
    masks.values(row, value)
    assert value.tobytes().hex() == vector["value"]
    masks.sender_tags(row, block(vector["delta"]), tag)
    packed = np.empty((1, vector["size"]), dtype=np.uint8)
    masks.pack(tag, vector["size"], packed)
    assert packed.tobytes().hex() == vector["tag"]


@pytest.mark.parametrize("vector", VECTORS["transfers"])
def test_vectors_of_transfers(vector: dict[str, Any]) -> None:
    given = vector["step"], vector["number"]
    shared = bytes.fromhex(vector["shared"])
    assert base_ot._key(*given, vector["choice"], shared).hex() == vector["key"]
    assert base_ot._to_group(*given, shared) == sodium.from_hash(bytes.fromhex(vector["hashed"]))


@pytest.mark.parametrize("vector", VECTORS["messages"])
def test_vectors_of_the_lengths_of_messages(vector: dict[str, int]) -> None:
    sizes = wide.check_sizes(vector["receiver"], vector["sender"])
    assert (sizes.shape.bins, sizes.shape.width) == (vector["bins"], vector["places"])
    assert 8 * wide.WORDS * sizes.shape.width == vector["store_bytes"] and sizes.code == vector["tags_bytes"]
    assert -(-overflow_bound(vector["sender"], sizes.shape.bins) // 8) == vector["marks_bytes"]


@pytest.mark.parametrize(
    ("role", "vector"),
    [(role, vector) for role in ("receiver", "sender") for vector in VECTORS["bad"][role]],
    ids=lambda each: each if isinstance(each, str) else each["why"],
)
def test_vectors_of_what_is_refused(role: str, vector: dict[str, Any]) -> None:
    here, there = ends()
    for step, message in vector["messages"]:
        there.send(step, bytes.fromhex(message))
    take_part = vole_psi.receive if role == "receiver" else vole_psi.send
    with pytest.raises(ProtocolError) as caught:
        take_part(here, random_items(1))
    assert caught.value.step == vector["messages"][-1][0] or "psi.tags" in str(caught.value)
