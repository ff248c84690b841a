from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import ProtocolError
from crypto.psi import parameters
from crypto.psi.ecdh_cached import Key, new_key, publish, query_receive, query_send
from crypto.psi.ecdh_published import layout, look, open_published, pack
from tests.crypto.memory_channel import both, ends, run
from tests.crypto.psi.sets import VECTORS, blocks, expected, random_items, two_sets

_VECTOR = VECTORS["published"]


def _query(x, key, published, *, most=10**6, batch=64):
    return both(
        lambda channel: query_receive(channel, x, published, threads=1, batch=batch),
        lambda channel: query_send(channel, key, most=most, threads=1, batch=batch),
    )


@settings(deadline=None, max_examples=60)
@given(
    left=st.integers(0, 60),
    right=st.integers(0, 200),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32),
    batch=st.sampled_from([7, 64, 4096]),
)
def test_a_query_finds_what_pythons_sets_find(left, right, share, seed, batch):
    x, y = two_sets(left, right, int(share * min(left, right)), seed)
    key = new_key()
    found, asked = _query(x, key, open_published(publish(y, key, threads=1)), batch=batch)
    assert found.dtype == np.int64
    assert found.tolist() == expected(x, y)
    assert asked == left


@pytest.mark.parametrize("right", [0, 1, 2, 7, 8, 15, 16, 127, 128, 129, 1025])
@pytest.mark.parametrize("left", [0, 1, 64, 65])
def test_sizes_around_buckets_and_batches_work(left, right):
    x, y = two_sets(left, right, min(left, right), 11)
    key = Key((5).to_bytes(32, "little"))
    assert _query(x, key, open_published(publish(y, key)))[0].tolist() == expected(x, y)


def test_one_published_set_answers_many_queries():
    _, y = two_sets(0, 300, 0, 5)
    key = new_key()
    published = open_published(publish(y, key))
    for part in (y[:10], y[200:], random_items(20)):
        assert _query(part, key, published)[0].tolist() == expected(part, y)


def test_publishing_gives_the_bytes_of_the_vector_in_any_order_of_items():
    key, items = Key(bytes.fromhex(_VECTOR["key"])), blocks(*_VECTOR["items"])
    assert key.identity.hex() == _VECTOR["key_id"]
    assert publish(items, key, lifetime=_VECTOR["lifetime"]).hex() == _VECTOR["data"]
    assert publish(items[::-1].copy(), key, lifetime=_VECTOR["lifetime"]).hex() == _VECTOR["data"]


def test_the_vectors_set_is_read_and_asked():
    published = open_published(bytes.fromhex(_VECTOR["data"]))
    assert (published.items, published.lifetime) == (len(_VECTOR["items"]), _VECTOR["lifetime"])
    assert published.key_id.hex() == _VECTOR["key_id"]
    x = np.concatenate([random_items(3), blocks(*_VECTOR["items"])])
    found, _ = _query(x, Key(bytes.fromhex(_VECTOR["key"])), published)
    assert found.tolist() == list(range(3, len(x)))


@pytest.mark.parametrize("bad", VECTORS["published_refused"], ids=lambda v: v["why"])
def test_bytes_that_are_no_published_set_are_refused(bad):
    with pytest.raises(ProtocolError, match=bad["error"]) as caught:
        open_published(bytes.fromhex(bad["data"]))
    assert caught.value.step == "ecdh.published"


@settings(deadline=None, max_examples=60)
@given(at=st.integers(0, len(_VECTOR["data"]) // 2 - 1), flip=st.integers(1, 255))
def test_any_byte_changed_is_noticed(at, flip):
    data = bytearray.fromhex(_VECTOR["data"])
    data[at] ^= flip
    with pytest.raises(ProtocolError):
        open_published(bytes(data))


@settings(deadline=None, max_examples=40)
@given(at=st.integers(56, len(_VECTOR["data"]) // 2 - 33), flip=st.integers(1, 255))
def test_a_damaged_set_opened_without_check_gives_no_crash(at, flip):
    data = bytearray.fromhex(_VECTOR["data"])
    data[at] ^= flip
    found = look(open_published(bytes(data), check=False), random_items(50))
    assert found.size <= 50


@settings(deadline=None)
@given(items=st.integers(0, 2**40), lifetime=st.integers(1, 2**40))
def test_tags_are_long_enough_for_the_bound_over_all_pairs(items, lifetime):
    bits, width = layout(items, lifetime)
    assert 2 ** (bits + 8 * width) >= 2**parameters.LAMBDA * max(1, items) * lifetime * (1 - 1e-9)
    assert 64 - bits >= 8 * max(0, width - 8)


def test_false_matches_of_short_tags_are_as_many_as_reckoned(monkeypatch):
    monkeypatch.setattr(parameters, "LAMBDA", 0)
    made = np.random.default_rng(4)
    tags = made.integers(0, 2**64, size=(1 << 12, 2), dtype=np.uint64)
    published = open_published(pack(tags, bytes(16), 1 << 10))
    assert look(published, tags).size == 1 << 12
    others = made.integers(0, 2**64, size=(1 << 20, 2), dtype=np.uint64)
    wanted = 2**32 / 2 ** (published.bits + 8 * published.width)
    assert abs(look(published, others).size - wanted) <= 6 * wanted**0.5 + 6


def test_a_set_of_a_thousand_items_takes_less_than_eleven_bytes_each():
    tags = random_items(1000)
    assert len(pack(tags, bytes(16), 1 << 20)) < 11 * 1000


def test_another_key_is_refused_and_both_named():
    key, other = new_key(), new_key()
    published = open_published(publish(random_items(5), key))
    with pytest.raises(ProtocolError, match="published with key") as caught:
        _query(random_items(2), other, published)
    assert caught.value.step == "ecdh.query"
    assert {key.identity.hex(), other.identity.hex()} <= set(caught.value.message.replace(",", " ").split())


def test_more_items_than_allowed_are_refused_on_either_side():
    key = new_key()
    published = open_published(publish(random_items(5), key, lifetime=9))
    with pytest.raises(ValueError, match="published for 9 in all"):
        query_receive(ends()[0], random_items(10), published)
    with pytest.raises(ProtocolError, match="9 items asked for, 8 are allowed"):
        _query(random_items(9), key, published, most=8)


@pytest.mark.parametrize(("step", "side"), [("ecdh.asked", "left"), ("ecdh.answered", "right")])
@pytest.mark.parametrize("bad", VECTORS["not_elements"], ids=lambda v: v["why"])
def test_a_point_that_is_not_of_the_group_is_refused_with_its_step(step, side, bad):
    key = new_key()
    published = open_published(publish(random_items(5), key))
    for spoil in (lambda data: data[:-32] + bytes.fromhex(bad["element"]), lambda data: data[:-1]):
        left, right = ends()
        end = left if side == "left" else right
        end.spoil = lambda told, data, spoil=spoil: spoil(data) if told == step else data
        with pytest.raises(ProtocolError) as caught:
            run(
                lambda channel: query_receive(channel, random_items(8), published),
                left,
                lambda channel: query_send(channel, key, most=8),
                right,
            )
        assert caught.value.step == step


@pytest.mark.parametrize(
    ("at", "said"), [(0, "no query"), (8, "of the messages"), (10, "of the parameters"), (12, "in a message")]
)
def test_a_query_of_another_version_is_refused(at, said):
    key = new_key()
    published = open_published(publish(random_items(5), key))
    left, right = ends()
    left.spoil = lambda step, data: data[:at] + b"\x77" + data[at + 1 :] if step == "ecdh.query" else data
    with pytest.raises(ProtocolError, match=said):
        run(
            lambda channel: query_receive(channel, random_items(8), published),
            left,
            lambda channel: query_send(channel, key, most=8),
            right,
        )


def test_a_query_costs_bytes_for_the_small_set_only():
    key = new_key()
    published = open_published(publish(random_items(1000), key))
    left, right = ends()
    run(
        lambda channel: query_receive(channel, random_items(8), published),
        left,
        lambda channel: query_send(channel, key, most=8),
        right,
    )
    assert [size for _, size in left.sent] == [left.sent[0][1], 32 * 8]
    assert [size for _, size in right.sent] == [left.sent[0][1], 32 * 8]


def test_a_key_hides_its_secret_and_refuses_what_is_none():
    key = new_key()
    assert key.scalar.hex() not in repr(key)
    assert repr(key.scalar) not in repr(key)
    for bad in (b"", bytes(32), bytes(31)):
        with pytest.raises(ValueError, match="32 bytes"):
            Key(bad)


@pytest.mark.parametrize("lifetime", [0, -1, 2**63])
def test_a_lifetime_that_cannot_be_is_refused(lifetime):
    with pytest.raises(ValueError, match="lifetime"):
        publish(random_items(1), new_key(), lifetime=lifetime)
    with pytest.raises(ValueError, match="shorter lifetime"):
        layout(2**40, 2**62)
