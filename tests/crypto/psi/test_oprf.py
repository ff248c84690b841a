"""The oblivious pseudo-random function: both sides have the same F, bad messages are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from crypto.errors import ProtocolError
from crypto.kernels.aes import FIXED_KEY
from crypto.kernels.blocks import gf_mul_reference, numbers_from
from crypto.psi import okvs, oprf
from tests.crypto.memory_channel import both, ends, run
from tests.crypto.psi.sets import random_items
from tests.crypto.psi.star_parties import Dealer, byte_statistic


@pytest.fixture
def dealer(monkeypatch: pytest.MonkeyPatch) -> Dealer:
    made = Dealer()
    made.put(monkeypatch)
    return made


def meet(items: Any) -> tuple[Any, oprf.Function]:
    found, function = both(lambda channel: oprf.receive(channel, items), oprf.send)
    return found, function


def test_over_vole_both_sides_have_one_function() -> None:
    items = random_items(1000)
    found, function = meet(items)
    assert np.array_equal(function.evaluate(items), found) and function.asked == 1000


@pytest.mark.parametrize("count", [0, 1, 2, 127, 128, 129, 50_000])
def test_both_sides_have_one_function_for_any_number_of_items(count: int, dealer: Dealer) -> None:
    items = random_items(count)
    found, function = meet(items)
    assert found.shape == (count, 2)
    assert np.array_equal(function.evaluate(items), found)
    # Any blocks, in any order and number.
    some = np.concatenate([random_items(3), items[::-1]])
    assert np.array_equal(function.evaluate(some)[3:], found[::-1])


def test_a_store_of_several_messages_is_put_together(dealer: Dealer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oprf, "PIECE", 100)
    items = random_items(200)
    left, right = ends()
    found, function = run(lambda channel: oprf.receive(channel, items), left, oprf.send, right)
    assert [length for step, length in left.sent if step == "oprf.store"][:2] == [1600, 1600]
    assert np.array_equal(function.evaluate(items), found)


def test_the_function_is_the_one_that_is_said(dealer: Dealer) -> None:
    _, function = meet(random_items(10))
    blocks = random_items(5)

    def permuted(value: int) -> int:
        cipher = Cipher(algorithms.AES(FIXED_KEY), modes.ECB()).encryptor()
        return int.from_bytes(cipher.update(value.to_bytes(16, "little")), "little")

    decoded = numbers_from(okvs.decode(blocks, function.store, function.seed, function.shape))
    delta = numbers_from(function.delta)[0]
    expected = []
    for block, value in zip(numbers_from(blocks), decoded, strict=True):
        inner = permuted(value ^ gf_mul_reference(permuted(block) ^ block, delta))
        expected.append(permuted(inner ^ 0x7465_6B73_616D) ^ inner)
    assert numbers_from(function.evaluate(blocks)) == expected


def test_elsewhere_the_function_looks_random_to_the_receiver(dealer: Dealer) -> None:
    # Items with a pattern; what the receiver could compute from what it has is the tag of its own store.
    count = 3000
    mine = np.stack([np.arange(count), np.zeros(count)], axis=1).astype(np.uint64)
    theirs = np.stack([np.arange(count), np.ones(count)], axis=1).astype(np.uint64)
    found, function = meet(mine)
    values = function.evaluate(theirs)
    assert 100 < byte_statistic(values) < 450 and 100 < byte_statistic(values ^ found) < 450
    assert len(np.unique(np.concatenate([values, found]), axis=0)) == 2 * count


def test_every_run_has_another_function(dealer: Dealer) -> None:
    items = random_items(50)
    first, second = meet(items)[0], meet(items)[0]
    assert not np.any(np.all(first == second, axis=1))


def test_a_failed_store_is_made_again_before_anything_is_sent(
    dealer: Dealer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failing = okvs.encode, [True, True]

    def encode(*given: Any, **options: Any) -> Any:
        if failing:
            failing.pop()
            raise okvs.EncodingFailed("no luck")
        return real(*given, **options)

    monkeypatch.setattr(okvs, "encode", encode)
    items = random_items(20)
    left, right = ends()
    found, function = run(lambda channel: oprf.receive(channel, items), left, oprf.send, right)
    assert not failing and np.array_equal(function.evaluate(items), found)
    assert [step for step, _ in left.sent].count("oprf.items") == 1


def test_no_store_at_all_is_an_error_with_the_step(dealer: Dealer, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(*given: Any, **options: Any) -> Any:
        raise okvs.EncodingFailed("no luck")

    monkeypatch.setattr(okvs, "encode", encode)
    with pytest.raises(ProtocolError, match=r"oprf\.store: no store for these items"):
        meet(random_items(3))


@pytest.mark.parametrize(
    ("step", "change", "said"),
    [
        ("oprf.items", lambda data: data[:-1], "23 bytes came where 24 are expected"),
        ("oprf.items", lambda data: data + b"\0", "25 bytes came where 24 are expected"),
        ("oprf.items", lambda data: (2**32).to_bytes(8, "little") + data[8:], "at most 4294967295"),
        ("oprf.items", lambda data: b"\xff" * 24, "allowed are at most 4294967295"),
        ("oprf.store", lambda data: data[:-1], "bytes came where"),
        ("oprf.store", lambda data: data + b"\0", "bytes came where"),
        ("oprf.store", lambda data: b"", "0 bytes came where"),
    ],
)
def test_a_message_of_another_length_is_refused_with_its_step(
    step: str, change: Callable[[bytes], bytes], said: str, dealer: Dealer
) -> None:
    left, right = ends()
    left.spoil = lambda at, data: change(data) if at == step else data
    with pytest.raises(ProtocolError, match=said) as caught:
        run(lambda channel: oprf.receive(channel, random_items(5)), left, oprf.send, right)
    assert caught.value.step == step


@pytest.mark.parametrize("agreed", [0, 4, 6])
def test_another_number_of_items_than_was_agreed_is_refused_with_both(agreed: int, dealer: Dealer) -> None:
    items = random_items(5)
    with pytest.raises(ProtocolError, match=f"asks for 5 items, allowed are the {agreed} that were agreed"):
        both(lambda channel: oprf.receive(channel, items), lambda channel: oprf.send(channel, asked=agreed))


@pytest.mark.parametrize(
    "wrong", [np.zeros((3, 2), np.int64), np.zeros((3, 3), np.uint64), np.zeros(4, np.uint64)]
)
def test_an_array_of_another_form_is_refused(wrong: Any, dealer: Dealer) -> None:
    with pytest.raises(ValueError, match="items: an"):
        oprf.receive(ends()[0], wrong)
    with pytest.raises(ValueError, match="blocks: an"):
        meet(random_items(1))[1].evaluate(wrong)


def test_an_item_that_stands_twice_is_refused(dealer: Dealer) -> None:
    items = random_items(5)
    with pytest.raises(ValueError, match="twice"):
        oprf.receive(ends()[0], np.concatenate([items, items[:1]]))


def test_no_secret_shows_in_a_repr(dealer: Dealer) -> None:
    assert repr(meet(random_items(7))[1]) == "Function(asked=7)"
