from __future__ import annotations

import numpy as np
import pytest

from crypto.errors import ProtocolError
from crypto.psi import ecdh
from crypto.psi.planted import check_planted, check_planted_count, planted
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


def test_planted_items_come_back_and_leave_the_order_of_the_rest():
    mine, theirs = two_sets(40, 60, 13, 1)
    extra = planted(8, _SEED)
    x, y = np.concatenate([mine, extra]), np.concatenate([theirs, extra])
    found, other = both(
        lambda channel: ecdh.receive(channel, x, reveal="both", threads=1),
        lambda channel: ecdh.send(channel, y, reveal="both", threads=1),
    )
    real, other_real = check_planted(found, 40, 8, "check"), check_planted(other, 60, 8, "check")
    assert len(real) == 13
    assert np.array_equal(mine[real], theirs[other_real])


def test_a_planted_item_that_is_lost_voids_the_run():
    positions = np.array([3, 10, 12], dtype=np.int64)
    assert check_planted(np.append(positions, 11), 10, 3, "check").tolist() == [3]
    with pytest.raises(ProtocolError, match="2 of 3 planted items") as caught:
        check_planted(positions, 10, 3, "check")
    assert caught.value.step == "check"
    with pytest.raises(ProtocolError, match="2 of 3 planted items"):
        check_planted(np.array([3, 10, 12, 12]), 10, 3, "check")


@pytest.mark.parametrize("place", [-1, 13])
def test_a_position_out_of_the_set_voids_the_run(place):
    with pytest.raises(ProtocolError, match="not within the 13"):
        check_planted(np.array([place, 10, 11, 12]), 10, 3, "check")


def test_counts_are_checked_and_freed_of_planted_items():
    assert check_planted_count(8, 3, "check") == 5
    with pytest.raises(ProtocolError, match="2 of 3"):
        check_planted_count(2, 3, "check")


def test_a_short_seed_is_refused():
    with pytest.raises(ValueError, match="at least 16 bytes"):
        planted(1, b"short")
