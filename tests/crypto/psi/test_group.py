from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import ProtocolError
from crypto.psi import group
from tests.crypto.psi import ristretto_reference as reference
from tests.crypto.psi.sets import VECTORS, blocks, random_items


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text)


def _points(*texts: str) -> np.ndarray:
    return np.frombuffer(b"".join(map(_bytes, texts)), dtype=np.uint8).reshape(-1, 32)


@pytest.mark.parametrize("vector", VECTORS["hash_to_group"], ids=lambda v: v["source"])
def test_hashing_to_the_group_gives_the_published_elements(vector):
    element = group.element_reference(_bytes(vector["message"]), _bytes(vector["dst"]))
    masked = group.multiply(np.frombuffer(element, np.uint8).reshape(1, 32), _bytes(vector["scalar"]), "x")
    assert masked.tobytes().hex() == vector["masked"]


@pytest.mark.parametrize("vector", VECTORS["map"], ids=lambda v: v["uniform"][:8])
def test_the_reference_maps_as_published(vector):
    assert reference.encode(reference.from_uniform(_bytes(vector["uniform"]))).hex() == vector["element"]


@pytest.mark.parametrize("vector", VECTORS["items"], ids=lambda v: v["item"][:8])
def test_items_are_masked_twice_and_tagged_as_the_vectors_say(vector):
    masked = group.mask_items(blocks(vector["item"]), _bytes(vector["scalar"]))
    assert masked.tobytes().hex() == vector["masked"]
    doubly = group.multiply(masked, _bytes(vector["other_scalar"]), "x")
    assert doubly.tobytes().hex() == vector["doubly_masked"]
    assert group.tags(doubly, b"ecdh tag").tobytes().hex() == vector["tag"]


@settings(deadline=None, max_examples=15)
@given(item=st.binary(min_size=16, max_size=16), wide=st.integers(1, reference.L - 1))
def test_masking_agrees_with_plain_integers(item, wide):
    scalar = wide.to_bytes(32, "little")
    masked = group.mask_items(np.frombuffer(item, "<u8").reshape(1, 2), scalar)
    assert masked.tobytes() == reference.masked(item, scalar, group.DST)
    other = group.new_scalar()
    assert group.multiply(masked, other, "x").tobytes() == reference.multiplied(masked.tobytes(), other)


@settings(deadline=None, max_examples=30)
@given(message=st.binary(max_size=300), size=st.integers(1, 64), dst=st.binary(min_size=1, max_size=255))
def test_expansion_agrees_with_the_general_one(message, size, dst):
    assert group.expand_reference(message, dst, size) == reference.expand(message, dst, size)


def test_any_number_of_threads_gives_the_same_bytes():
    items, scalar = random_items(333), group.new_scalar()
    one = group.mask_items(items, scalar, threads=1)
    assert np.array_equal(one, group.mask_items(items, scalar, threads=5))
    twice = group.multiply(one, scalar, "x", threads=1)
    assert np.array_equal(twice, group.multiply(one, scalar, "x", threads=5))
    tags = group.tags(one, b"a", items=items, threads=1)
    assert np.array_equal(tags, group.tags(one, b"a", items=items, threads=5))
    for place in (0, 131, 332):
        point, item = one[place].tobytes(), items[place].tobytes()
        assert tags[place].tobytes() == group.tag_reference(point, b"a", item)


def test_the_inverse_undoes_a_multiplication():
    items, scalar = random_items(3), group.new_scalar()
    back = group.multiply(group.mask_items(items, scalar), group.inverse(scalar), "x")
    assert [row.tobytes() for row in back] == [group.element_reference(item.tobytes()) for item in items]


def test_no_items_give_no_elements():
    none = group.mask_items(random_items(0), group.new_scalar())
    assert none.shape == (0, 32)
    assert group.multiply(none, group.new_scalar(), "x").shape == (0, 32)
    assert group.tags(none, b"a").shape == (0, 2)


@pytest.mark.parametrize("bad", VECTORS["not_elements"], ids=lambda v: v["why"])
def test_bytes_that_are_no_element_are_refused_with_step_and_place(bad):
    points = np.tile(group.mask_items(random_items(1), group.new_scalar()), (200, 1))
    points[150] = np.frombuffer(_bytes(bad["element"]), np.uint8)
    for threads in (1, 3):
        with pytest.raises(ProtocolError, match="element 150 of the 200") as caught:
            group.multiply(points, group.new_scalar(), "some.step", threads=threads)
        assert caught.value.step == "some.step"


def test_an_item_and_a_label_change_a_tag():
    points = group.mask_items(random_items(1), group.new_scalar())
    items = random_items(2)
    made = [
        group.tags(points, b"a"),
        group.tags(points, b"b"),
        group.tags(points, b"a", items=items[:1]),
        group.tags(points, b"a", items=items[1:]),
    ]
    assert len({tag.tobytes() for tag in made}) == 4
