from __future__ import annotations

import numpy as np
import pytest

from crypto.errors import ProtocolError
from crypto.psi import ecdh
from crypto.psi.planted import check_back, check_planted_count, planted
from tests.crypto.memory_channel import both
from tests.crypto.psi.sets import VECTORS, two_sets

_SEED = b"a seed of both sides"


@pytest.mark.parametrize("vector", VECTORS["planted"])
def test_the_vectors_come_out(vector):
    made = planted(len(vector["items"]), bytes.fromhex(vector["seed"]))
    assert [row.tobytes().hex() for row in made] == vector["items"]


def test_both_sides_derive_the_same_and_each_run_others():
    assert np.array_equal(planted(9, _SEED), planted(9, _SEED))
    assert np.unique(np.concatenate([planted(9, _SEED), planted(9, _SEED + b".")]), axis=0).shape == (18, 2)


def test_planted_items_come_back_beside_the_rest():
    mine, theirs = two_sets(40, 60, 13, 1)
    extra = planted(8, _SEED)
    x, y = np.concatenate([mine, extra]), np.concatenate([theirs, extra])
    found, other = both(
        lambda channel: ecdh.receive(channel, x, reveal="both", threads=1),
        lambda channel: ecdh.send(channel, y, reveal="both", threads=1),
    )
    check_back(int((found >= 40).sum()), 8, "check")
    check_back(int((other >= 60).sum()), 8, "check")
    real, other_real = found[found < 40], other[other < 60]
    assert len(real) == 13
    assert np.array_equal(mine[real], theirs[other_real])


@pytest.mark.parametrize("back", [0, 2, 4])
def test_a_planted_item_that_is_lost_voids_the_run(back):
    check_back(3, 3, "check")
    with pytest.raises(ProtocolError, match=f"{back} of 3 planted items") as caught:
        check_back(back, 3, "check")
    assert caught.value.step == "check"


def test_counts_are_checked_and_freed_of_planted_items():
    assert check_planted_count(8, 3, "check") == 5
    with pytest.raises(ProtocolError, match="2 of 3"):
        check_planted_count(2, 3, "check")


def test_a_short_seed_is_refused():
    with pytest.raises(ValueError, match="at least 16 bytes"):
        planted(1, b"short")
