from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import ProtocolError
from crypto.paillier import keys as paillier
from crypto.psi import sum_of_intersection
from crypto.psi.sum_of_intersection import Amounts, Total, hold, match, whole_numbers
from tests.crypto.memory_channel import both, ends, run
from tests.crypto.psi.sets import expected, random_items, two_sets

_BITS = 256


@pytest.fixture(autouse=True)
def _short_keys(monkeypatch):
    """Keys that are quick and not secure: the arithmetic is the same."""
    monkeypatch.setattr(paillier, "LEAST_BITS", 64)


def _run(y, numbers, x, amounts, **options):
    options = {"bits": _BITS, "threads": 1, "batch": 16} | options
    return both(
        lambda channel: hold(channel, y, numbers, amounts, **options),
        lambda channel: match(channel, x, **options),
    )


def _wanted(x, y, table, amounts):
    rows = expected(y, x)
    columns = table[:, None] if table.ndim == 1 else table
    sums = (sum(int(columns[row, at]) for row in rows) for at in range(columns.shape[1]))
    return len(rows), tuple(Decimal(units).scaleb(-amounts.scale) for units in sums)


@settings(deadline=None, max_examples=60)
@given(
    left=st.integers(0, 60),
    right=st.integers(0, 60),
    share=st.floats(0, 1),
    columns=st.integers(1, 3),
    scale=st.integers(0, 4),
    threshold=st.sampled_from([0, 1, 5, 30]),
    to=st.sampled_from(["holder", "matcher"]),
    seed=st.integers(0, 2**32),
)
def test_size_and_sums_are_those_of_plain_python(left, right, share, columns, scale, threshold, to, seed):
    x, y = two_sets(left, right, int(share * min(left, right)), seed)
    amounts = Amounts(-(10**6), 10**9, scale)
    table = np.random.default_rng(seed).integers(-(10**6), 10**9, size=(right, columns))
    holder, matcher = _run(y, table, x, amounts, to=to, threshold=threshold)
    size, sums = _wanted(x, y, table, amounts)
    shown = sums if size >= threshold else None
    if to == "holder":
        assert holder == (Total(size, sums) if shown is not None else Total(None, None))
        assert matcher == Total(size, None)
    else:
        assert holder == Total(size, None)
        assert matcher == Total(size, shown)


@pytest.mark.parametrize("to", ["holder", "matcher"])
@pytest.mark.parametrize(("low", "high"), [(-(2**63), 2**63 - 1), (-(2**63), 0), (0, 2**63 - 1), (0, 0)])
def test_numbers_at_their_bounds_are_added_exactly(to, low, high):
    x, y = two_sets(9, 7, 7, 1)
    numbers = np.array([low, high, low, high, high, high, 0], dtype=np.int64)
    amounts = Amounts(low, high)
    found = _run(y, numbers, x, amounts, to=to)[0 if to == "holder" else 1]
    assert found.sums == (Decimal(sum(numbers.tolist())),)


def test_a_key_of_real_length_gives_the_same_sum():
    x, y = two_sets(3, 3, 2, 8)
    numbers = np.array([[1, -1], [2, -2], [4, -4]])
    for to, side in (("holder", 0), ("matcher", 1)):
        found = _run(y, numbers, x, Amounts(-9, 9, 1), to=to, bits=2048)[side]
        assert (found.cardinality, found.sums) == _wanted(x, y, numbers, Amounts(-9, 9, 1))


def test_a_ciphertext_of_the_owner_is_one_of_everyones():
    owner = paillier.new_owner(_BITS)
    n = owner.public.n
    for number in (0, 1, n - 1, 12345):
        mine, other = owner.encrypt(number), owner.public.encrypt(number)
        assert mine != owner.encrypt(number)
        assert owner.decrypt(mine) == owner.decrypt(other) == number
        # Noise of an encryption is an n-th power: its order divides that of the units modulo n.
        order = (owner.private.p - 1) * (owner.private.q - 1)
        for ciphertext in (mine, other):
            noise = ciphertext * pow(1 + number * n, -1, n * n) % (n * n)
            assert pow(noise, order, n * n) == 1
    assert owner.decrypt(owner.public.add(owner.encrypt(n - 3), owner.public.encrypt(5))) == 2
    assert str(owner.private.p) not in repr(owner)


def test_decimals_become_whole_numbers_exactly():
    amounts = Amounts(-1000, 10**12, 2)
    made = whole_numbers(["1.20", Decimal("-3.5"), 7, "12345678.91"], amounts)
    assert made.dtype == np.int64
    assert made.tolist() == [120, -350, 700, 1234567891]
    assert whole_numbers([], amounts).shape == (0,)


@pytest.mark.parametrize("value", ["0.001", "NaN", "Infinity", "-10.01", "1e11"])
def test_a_decimal_that_the_scale_or_the_bounds_do_not_allow_is_refused(value):
    with pytest.raises(ValueError):
        whole_numbers([value], Amounts(-1000, 10**12, 2))


@pytest.mark.parametrize(("low", "high", "scale"), [(1, 5, 0), (-5, -1, 0), (0, 2**63, 0), (0, 1, 19)])
def test_bounds_that_cannot_be_are_refused(low, high, scale):
    with pytest.raises(ValueError):
        Amounts(low, high, scale)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (np.array([1, 2]), "2 rows"),
        (np.array([1, 2, 10]), "not between"),
        (np.array([1.0, 2.0, 3.0]), "integers"),
        (np.zeros((3, 0), np.int64), "0 columns"),
        (np.zeros((3, 60), np.int64), "do not fit"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_before_anything_is_sent(numbers, said):
    _, right = ends()
    with pytest.raises(ValueError, match=said):
        hold(right, random_items(3), numbers, Amounts(-9, 9), bits=_BITS)
    assert not right.sent


@pytest.mark.parametrize("threshold", [-1, 2**32])
def test_a_threshold_that_cannot_be_is_refused_before_anything_is_sent(threshold):
    left, right = ends()
    with pytest.raises(ValueError, match="threshold"):
        match(left, random_items(1), threshold=threshold, bits=_BITS)
    with pytest.raises(ValueError, match="threshold"):
        hold(right, random_items(1), np.ones(1, np.int64), Amounts(0, 1), threshold=threshold, bits=_BITS)
    assert not left.sent
    assert not right.sent


def test_keys_that_are_too_short_are_refused(monkeypatch):
    monkeypatch.setattr(paillier, "LEAST_BITS", 2048)
    for bits in (1024, 2047, 2052):
        with pytest.raises(ValueError, match="at least 2048"):
            paillier.new_owner(bits)


def _spoilt(spoil, side, to="matcher", amounts=Amounts(-9, 9)):  # noqa: B008 - it is frozen
    x, y = two_sets(30, 30, 20, 5)
    left, right = ends()
    (left if side == "match" else right).spoil = spoil
    with pytest.raises(ProtocolError) as caught:
        run(
            lambda channel: match(channel, x, to=to, bits=_BITS, batch=16),
            left,
            lambda channel: hold(channel, y, np.full(30, 9), amounts, to=to, bits=_BITS, batch=16),
            right,
        )
    return caught.value


@pytest.mark.parametrize(
    ("step", "side"),
    [
        ("ecdh.points", "match"),
        ("ecdh.points", "hold"),
        ("ecdh.shuffled", "hold"),
        ("sum.key", "hold"),
        ("sum.rows", "hold"),
        ("sum.size", "match"),
        ("sum.total", "match"),
        ("sum.answer", "hold"),
    ],
)
def test_a_message_of_another_length_is_refused_with_its_step(step, side):
    for change in (lambda data: data[:-1], lambda data: data + b"\0"):
        error = _spoilt(lambda told, data, do=change: do(data) if told == step else data, side)
        assert error.step == step


@pytest.mark.parametrize(
    ("step", "side", "change"),
    [
        ("sum.rows", "hold", lambda data: bytes(len(data))),
        ("sum.rows", "hold", lambda data: b"\xff" * len(data)),
        ("sum.total", "match", lambda data: bytes(len(data))),
        ("sum.key", "hold", lambda data: data[:-1] + b"\0"),
        ("sum.key", "hold", lambda data: data[:28] + bytes([data[28] & 0xFE]) + data[29:]),
        ("sum.key", "hold", lambda data: b"\1" + data[1:]),
        ("sum.key", "hold", lambda data: data[:6] + b"\x63" + data[7:]),
        ("sum.size", "match", lambda data: (31).to_bytes(8, "little") + data[8:]),
        ("sum.answer", "hold", lambda data: b"\2" + data[1:]),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_step(step, side, change):
    error = _spoilt(lambda told, data: change(data) if told == step else data, side)
    assert error.step == step


def test_a_sum_beyond_its_bounds_is_refused():
    def spoil(step, data):
        return (1).to_bytes(8, "little") + data[8:] if step == "sum.size" else data

    assert _spoilt(spoil, "match", to="holder").step == "sum.total"


def test_two_sides_that_disagree_refuse_each_other():
    x, y = two_sets(3, 3, 1, 1)
    for own, other, said in (
        ({"to": "holder"}, {"to": "matcher"}, "sum:holder"),
        ({"threshold": 1}, {"threshold": 2}, "threshold"),
        ({"bits": 256}, {"bits": 512}, "bytes came"),
    ):
        with pytest.raises(ProtocolError, match=said):
            both(
                lambda channel, o=own: hold(
                    channel, y, np.ones(3, np.int64), Amounts(0, 1), **({"bits": 256} | o)
                ),
                lambda channel, o=other: match(channel, x, **({"bits": 256} | o)),
            )
    with pytest.raises(ValueError, match="to is"):
        match(ends()[0], x, to="nobody", bits=_BITS)


def test_the_holders_masked_answer_is_not_the_sum():
    x, y = two_sets(4, 4, 4, 1)
    answers = []
    for _ in range(2):
        left, right = ends()
        right.spoil = lambda step, data: (answers.append(data) if step == "sum.answer" else None, data)[1]
        run(
            lambda channel: match(channel, x, to="matcher", bits=_BITS),
            left,
            lambda channel: hold(channel, y, np.ones(4, np.int64), Amounts(0, 1), to="matcher", bits=_BITS),
            right,
        )
    assert answers[0] != answers[1]
    assert all(int.from_bytes(answer[1:], "little") > 2**64 for answer in answers)


def test_a_message_of_rows_stays_below_four_mebibytes():
    assert sum_of_intersection.BATCH * paillier.BITS // 4 <= 4 * 1024 * 1024
