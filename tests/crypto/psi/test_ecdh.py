from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import ProtocolError
from crypto.psi import ecdh, ecdh_rounds, parameters
from crypto.psi.group import mask_items
from tests.crypto.memory_channel import both, ends, run
from tests.crypto.psi.sets import VECTORS, expected, random_items, two_sets


def _run(x, y, **options):
    options.setdefault("threads", 1)
    return both(
        lambda channel: ecdh.receive(channel, x, **options), lambda channel: ecdh.send(channel, y, **options)
    )


@st.composite
def _cases(draw):
    left, right = draw(st.integers(0, 200)), draw(st.integers(0, 200))
    most = min(left, right)
    common = draw(st.one_of(st.integers(0, most), st.sampled_from([0, most])))
    return (*two_sets(left, right, common, draw(st.integers(0, 2**32))), draw(st.sampled_from([1, 16, 4096])))


@settings(deadline=None, max_examples=60)
@given(case=_cases())
def test_the_receiver_finds_what_pythons_sets_find(case):
    x, y, batch = case
    found, nothing = _run(x, y, batch=batch if len(x) < 30 else 64)
    assert found.dtype == np.int64
    assert found.tolist() == expected(x, y)
    assert nothing is None


@settings(deadline=None, max_examples=60)
@given(case=_cases())
def test_both_sides_get_their_rows_in_one_order(case):
    x, y, batch = case
    found, other = _run(x, y, reveal="both", batch=batch if len(y) < 30 else 64)
    assert sorted(found.tolist()) == expected(x, y)
    assert sorted(other.tolist()) == expected(y, x)
    assert np.array_equal(x[found], y[other])


@settings(deadline=None, max_examples=40)
@given(case=_cases(), threshold=st.integers(0, 60))
def test_cardinality_is_that_of_pythons_sets_or_refused(case, threshold):
    x, y, batch = case
    number, senders = _run(x, y, reveal="cardinality", threshold=threshold, batch=max(16, batch))
    wanted = len(expected(x, y))
    assert number == (wanted if wanted >= threshold else None)
    assert senders == (wanted if threshold else None)


@pytest.mark.parametrize("left", [0, 1, 2, 127, 128, 129])
@pytest.mark.parametrize("right", [0, 1, 127, 128, 129])
def test_sizes_around_batches_and_words_work_both_ways(left, right):
    x, y = two_sets(left, right, min(left, right) // 2, 7)
    assert _run(x, y, batch=64)[0].tolist() == expected(x, y)
    found, other = _run(x, y, reveal="both", batch=128)
    assert np.array_equal(x[found], y[other])


@pytest.mark.parametrize("common", [0, 150])
def test_all_equal_and_none_equal(common):
    x, y = two_sets(150, 150, common, 3)
    assert len(_run(x, y)[0]) == common
    assert _run(x, y, reveal="cardinality")[0] == common


def test_items_that_differ_in_one_bit_do_not_match():
    x = random_items(64)
    y = x.copy()
    y[:, 0] ^= np.uint64(1) << np.arange(64, dtype=np.uint64)
    assert _run(x, y)[0].size == 0


def test_an_item_twice_is_refused_before_anything_is_sent():
    left, _ = ends()
    with pytest.raises(ValueError, match="stands in the set before"):
        ecdh.receive(left, np.zeros((2, 2), np.uint64))
    assert not left.sent


@pytest.mark.parametrize(
    ("reveal", "right_gets", "left_gets"), [("receiver", 0, 1), ("both", 1, 1), ("cardinality", 0, 1)]
)
def test_the_messages_have_the_bytes_that_the_documentation_says(reveal, right_gets, left_gets):
    x, y = two_sets(100, 70, 5, 3)
    left, right = ends()
    run(
        lambda channel: ecdh.receive(channel, x, reveal=reveal, threads=1, batch=32),
        left,
        lambda channel: ecdh.send(channel, y, reveal=reveal, threads=1, batch=32),
        right,
    )
    width = parameters.mask_bytes(100, 70)
    greeting = left.sent[0][1]
    assert sum(size for _, size in left.sent) == greeting + 32 * 100 + right_gets * width * 70
    assert sum(size for _, size in right.sent) == greeting + 32 * 70 + left_gets * width * 100
    assert max(size for _, size in left.sent + right.sent) <= 32 * 32


def test_what_travels_is_masked_anew_in_each_run_and_in_another_order(monkeypatch):
    x, _ = two_sets(60, 0, 0, 1)
    seen = []
    for _ in range(2):
        left, right = ends()
        points = []

        def keep(step, data, points=points):
            if step == "ecdh.points":
                points.append(data)
            return data

        left.spoil = keep
        run(lambda channel: ecdh.receive(channel, x), left, lambda channel: ecdh.send(channel, x), right)
        seen.append(b"".join(points))
    assert seen[0] != seen[1]

    scalar = (12345).to_bytes(32, "little")
    monkeypatch.setattr(ecdh_rounds, "new_scalar", lambda: scalar)
    left, right = ends()
    run(lambda channel: ecdh.receive(channel, x), left, lambda channel: ecdh.send(channel, x), right)
    sent = bytearray()
    left, right = ends()
    right.spoil = lambda step, data: (sent.extend(data) if step == "ecdh.points" else None, data)[1]
    run(lambda channel: ecdh.receive(channel, x), left, lambda channel: ecdh.send(channel, x), right)
    in_order = mask_items(x, scalar).tobytes()
    assert bytes(sent) != in_order
    assert {bytes(sent[i : i + 32]) for i in range(0, len(sent), 32)} == {
        in_order[i : i + 32] for i in range(0, len(in_order), 32)
    }


def _spoilt(spoil, *, side="left", reveal="both"):
    x, y = two_sets(100, 90, 10, 5)
    left, right = ends()
    (left if side == "left" else right).spoil = spoil
    with pytest.raises(ProtocolError) as caught:
        run(
            lambda channel: ecdh.receive(channel, x, reveal=reveal, threads=1, batch=32),
            left,
            lambda channel: ecdh.send(channel, y, reveal=reveal, threads=1, batch=32),
            right,
        )
    return caught.value


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("step", ["ecdh.greeting", "ecdh.points", "ecdh.tags"])
def test_a_message_of_another_length_is_refused_with_its_step(step, side):
    for change in (
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"",
        lambda data: data * 9,
    ):
        error = _spoilt(lambda told, data, do=change: do(data) if told == step else data, side=side)
        assert error.step == step


def test_shuffled_tags_of_another_length_are_refused_with_their_step():
    error = _spoilt(
        lambda step, data: data[1:] if step == "ecdh.shuffled" else data, side="right", reveal="cardinality"
    )
    assert error.step == "ecdh.shuffled"


def test_a_message_that_comes_twice_is_refused_with_the_step_that_is_due():
    x, y = two_sets(100, 90, 10, 5)
    left, right = ends()
    done = []

    def twice(step, data):
        if step == "ecdh.points" and len(done) < 2:
            done.append(step)
            if len(done) == 2:
                left._out.put((step, data))
        return data

    left.spoil = twice
    with pytest.raises(ProtocolError, match=r"'ecdh\.points' came") as caught:
        run(
            lambda channel: ecdh.receive(channel, x, reveal="both", threads=1, batch=32),
            left,
            lambda channel: ecdh.send(channel, y, reveal="both", threads=1, batch=32),
            right,
        )
    assert caught.value.step == "ecdh.tags"


@pytest.mark.parametrize("bad", VECTORS["not_elements"], ids=lambda v: v["why"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_point_that_is_not_of_the_group_is_refused_with_its_step(bad, side):
    point = bytes.fromhex(bad["element"])
    error = _spoilt(lambda step, data: data[:-32] + point if step == "ecdh.points" else data, side=side)
    assert error.step == "ecdh.points"
    assert "ristretto255" in error.message


@settings(deadline=None, max_examples=10)
@given(noise=st.binary(min_size=1024, max_size=1024))
def test_random_bytes_for_points_are_refused(noise):
    error = _spoilt(lambda step, data: noise[: len(data)] if step == "ecdh.points" else data)
    assert error.step == "ecdh.points"


def test_two_sides_that_reveal_differently_refuse_each_other_and_name_both():
    with pytest.raises(ProtocolError, match=r"rows:.*rows:") as caught:
        both(
            lambda channel: ecdh.receive(channel, random_items(3), reveal="both"),
            lambda channel: ecdh.send(channel, random_items(3)),
        )
    assert caught.value.step == "ecdh.greeting"


def test_two_sides_with_other_thresholds_refuse_each_other():
    with pytest.raises(ProtocolError, match="threshold: this side has"):
        both(
            lambda channel: ecdh.receive(channel, random_items(3), reveal="cardinality", threshold=5),
            lambda channel: ecdh.send(channel, random_items(3), reveal="cardinality", threshold=6),
        )


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (0, 0x41, "no greeting"),
        (8, 9, "version of the messages: this side has 1, the other 9"),
        (10, 7, "version of the parameters: this side has 1, the other 7"),
        (33, 255, "items, 1099511627776 are allowed"),
        (36, 33, "items in a message"),
    ],
)
def test_a_greeting_that_does_not_fit_is_refused_and_both_values_named(at, value, said):
    def spoil(step, data):
        return data[:at] + bytes([value]) + data[at + 1 :] if step == "ecdh.greeting" else data

    error = _spoilt(spoil)
    assert error.step == "ecdh.greeting"
    assert said in error.message


def test_a_count_below_the_threshold_is_refused_by_the_receiver():
    x, y = two_sets(30, 30, 20, 1)
    left, right = ends()

    def spoil(step, data):
        return b"\1" + (3).to_bytes(8, "little") if step == "ecdh.cardinality" else data

    right.spoil = spoil
    with pytest.raises(ProtocolError, match="between 10 and 30") as caught:
        run(
            lambda channel: ecdh.receive(channel, x, reveal="cardinality", threshold=10),
            left,
            lambda channel: ecdh.send(channel, y, reveal="cardinality", threshold=10),
            right,
        )
    assert caught.value.step == "ecdh.cardinality"


def test_options_that_make_no_sense_are_refused():
    left, _ = ends()
    with pytest.raises(ValueError, match="reveal is"):
        ecdh.receive(left, random_items(1), reveal="all")
    with pytest.raises(ValueError, match="threshold is for"):
        ecdh.send(left, random_items(1), threshold=3)
    with pytest.raises(ValueError, match="a threshold is between"):
        ecdh.receive(left, random_items(1), reveal="cardinality", threshold=-1)
    with pytest.raises(ValueError, match="a message has between"):
        ecdh.receive(left, random_items(1), batch=0)
    assert not left.sent
