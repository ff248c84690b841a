"""Sets of items for tests of set intersection, and the vectors."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import numpy as np

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "ecdh.json").read_text())


def blocks(*items: str) -> Any:
    """Items in hexadecimal digits as (n, 2) uint64."""
    return np.frombuffer(b"".join(bytes.fromhex(item) for item in items), dtype="<u8").reshape(-1, 2)


def two_sets(left: int, right: int, common: int, seed: int) -> tuple[Any, Any]:
    """Two sets in random orders with `common` items in both."""
    made = np.random.default_rng(seed)
    pool = made.integers(0, 2**64, size=(left + right - common, 2), dtype=np.uint64)
    return made.permutation(pool[:left]), made.permutation(pool[left - common :])


def keys(items: Any) -> set[tuple[int, int]]:
    """Items as Python has them."""
    return {(low, high) for low, high in items.tolist()}


def expected(mine: Any, theirs: Any) -> list[int]:
    """Positions of `mine` that are in `theirs`, by Python's sets."""
    other = keys(theirs)
    return [place for place, item in enumerate(mine.tolist()) if tuple(item) in other]


def random_items(count: int) -> Any:
    """Items nobody has seen."""
    return np.frombuffer(secrets.token_bytes(16 * count), dtype="<u8").reshape(-1, 2)
