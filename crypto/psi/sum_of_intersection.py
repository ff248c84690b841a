"""The sum of one side's numbers over the intersection, and its size; with a threshold, the sum only where it is large.

    holder     has an item and numbers in each row, and a fresh Paillier key
    matcher    has items

    both       a secret scalar each, used once; the own rows go in a secret random order
    M -> H     a H(x) for each x            H -> M   b H(y) for each y, the key, the threshold
    H -> M     tags of b a H(x), shuffled   M finds which of H's rows, in H's secret order, are in the intersection
    H -> M     Enc(numbers) of each row     M adds those that are, and a fresh encryption
    to="holder"    M -> H  the size, and the sum's ciphertext if the size is at least the threshold
    to="matcher"   M -> H  the size, the ciphertext of the sum plus a random mask
                   H -> M  the masked sum decrypted, if the size is at least the threshold

Who learns what. M learns the size of the intersection. With `to="holder"` M decides: below the threshold H learns
only that; else the size and the sum. With `to="matcher"` H learns the size, decides, and learns nothing of the sum;
M learns the sum, or that it was refused. Nobody learns which rows match. Both learn both sizes, the threshold, the
number of columns, and the bounds and scale of the numbers.

Differencing: two runs over sets that differ in one row show that row's number. A threshold does not prevent it where
both sizes are above; runs must be counted, and noise added where the answers are many.

Semi-honest parties: with `to="matcher"` H believes the size it is told. Assumption: decisional Diffie-Hellman in
ristretto255, H and the hash of tags random oracles, decisional composite residuosity at the key's length.

Cost: 32 bytes for each item of either side, a tag for each of M's, a ciphertext (768 bytes at 3072 bits) for each row
of H however many columns fit into it; two scalar multiplications on each side for each pair of items, an encryption
for each row of H. The encryption is by far the dearest. Rounds: 4 and the number of batches of the longer set.

Source: Ion, Kreuter, Nergiz, Patel, Saxena, Seth, Raykova, Shanahan, Yung, "On Deploying Secure Computation: Private
Intersection-Sum-with-Cardinality", EuroS&P 2020, eprint 2019/723, the protocol from DDH (`to="holder"`), with several numbers in
a ciphertext as there.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import numpy as np
import numpy.typing as npt

from crypto.channel import Channel
from crypto.errors import ProtocolError
from crypto.paillier.keys import BITS, PublicKey, ciphertext_from, new_owner, public_from
from crypto.psi.ecdh_rounds import MOST, Meeting, exchange, greet, recv_tags, send_tags
from crypto.psi.matching import Blocks, check_items, members
from crypto.psi.shuffle import new_seed, permutation

Numbers = npt.NDArray[np.int64]
To = Literal["holder", "matcher"]

BATCH = 1 << 12
"""Rows in a message; 3 MiB of ciphertexts at 3072 bits."""
_HEAD = struct.Struct("<IHHqqI")
_COUNT = struct.Struct("<Q?")


@dataclass(frozen=True)
class Amounts:
    """What numbers a column may hold: whole multiples of 10^-scale, given as those whole numbers.

    Args:
        low, high: Bounds of the whole numbers, both of them allowed; 0 is between them.
        scale: Digits after the point; 0 for integers.
    """

    low: int
    high: int
    scale: int = 0

    def __post_init__(self) -> None:
        if not -(2**63) <= self.low <= 0 <= self.high < 2**63:
            raise ValueError(f"bounds enclose 0 and fit 64 bits, not {self.low} to {self.high}")
        if not 0 <= self.scale <= 18:
            raise ValueError(f"a scale is between 0 and 18 digits, not {self.scale}")

    def slot(self, rows: int) -> int:
        """Bits that the sum of `rows` numbers, counted from `low`, needs."""
        return max(1, (rows * (self.high - self.low)).bit_length())


@dataclass(frozen=True)
class Total:
    """What a run shows to a side that may see it.

    Args:
        cardinality: Items in the intersection; None where this side is told only that they are too few.
        sums: Of each column, in the column's own numbers; None where this side learns no sum.
    """

    cardinality: int | None
    sums: tuple[Decimal, ...] | None


def whole_numbers(values: Sequence[int | str | Decimal], amounts: Amounts) -> Numbers:
    """Decimal numbers as the whole numbers that `hold` takes, exactly.

    Args:
        values: Finite decimals. A binary float is not taken: its digits are not what was written.
        amounts: Their scale and bounds.

    Raises:
        ValueError: One has more digits after the point than the scale, or is out of bounds.
    """
    out = []
    for place, value in enumerate(values):
        number = Decimal(value)
        if not number.is_finite():
            raise ValueError(f"value {place} is not finite")
        units = number.scaleb(amounts.scale)
        if units != units.to_integral_value():
            raise ValueError(f"value {place} has more than {amounts.scale} digits after the point")
        out.append(int(units))
    return _within(np.array(out, dtype=object).reshape(-1), amounts)


def hold(
    channel: Channel,
    items: Blocks,
    numbers: Numbers,
    amounts: Amounts,
    *,
    to: To = "holder",
    threshold: int = 0,
    bits: int = BITS,
    threads: int | None = None,
    batch: int = BATCH,
) -> Total:
    """The side that has the numbers.

    Args:
        channel: To `match`.
        items: (n, 2) uint64, distinct, any n.
        numbers: (n,) or (n, columns) int64, within the bounds of `amounts`, for each item.
        amounts: Bounds and scale, of all columns.
        to: Who learns the sum, the same on both sides.
        threshold: Below this size of the intersection nobody learns the sum; the same on both sides.
        bits: Of the Paillier key.
        threads: Of the group's operations; all processors where None.
        batch: Rows in a message; the same on both sides.

    Returns:
        With `to="holder"` size and sums, or neither; with `to="matcher"` the size.

    Raises:
        ValueError: An item stands in the set twice, a number is out of bounds, or the columns do not fit.
        ProtocolError: The other side sent what the protocol does not allow.
    """
    whole = check_items(items)
    table = _within(np.asarray(numbers), amounts)
    table = table if table.ndim == 2 else table[:, None]
    rows, columns = table.shape
    if rows != whole.shape[0] or not 1 <= columns < 2**16:
        raise ValueError(f"{rows} rows and {columns} columns of numbers for {whole.shape[0]} items")
    slot = amounts.slot(rows)
    if slot * columns >= bits:
        raise ValueError(
            f"{columns} columns of {slot} bits do not fit a ciphertext of {bits} bits: run in parts"
        )
    meeting = greet(channel, _mode(to), rows, first=False, batch=batch, threshold=threshold)
    owner = new_owner(bits)
    head = _HEAD.pack(bits, columns, amounts.scale, amounts.low, amounts.high, threshold)
    channel.send("sum.key", head + owner.public.to_bytes())
    order = permutation(rows, new_seed())
    exchanged = exchange(channel, meeting, whole[order], first=False, give=False, get=False, threads=threads)
    send_tags(channel, exchanged.theirs[permutation(meeting.theirs, new_seed())], meeting)
    for low in range(0, rows, batch):
        sent = bytearray()
        for row in table[order[low : low + batch]].tolist():
            packed = sum((value - amounts.low) << (slot * at) for at, value in enumerate(row))
            sent += owner.encrypt(packed).to_bytes(owner.public.size, "little")
        channel.send("sum.rows", sent)
    cardinality, present = _COUNT.unpack(channel.recv("sum.size", size=_COUNT.size))
    if to == "holder":
        if not present:
            return Total(None, None)
        _plausible(cardinality, meeting, threshold)
        total = owner.decrypt(_one(channel, "sum.total", owner.public))
        return Total(cardinality, _unpack(total, cardinality, slot, columns, amounts))
    _plausible(cardinality, meeting, 0)
    masked = _one(channel, "sum.total", owner.public)
    allowed = cardinality >= threshold
    answer = owner.decrypt(masked) if allowed else 0
    channel.send("sum.answer", bytes([allowed]) + answer.to_bytes(bits // 8, "little"))
    return Total(cardinality, None)


def match(
    channel: Channel,
    items: Blocks,
    *,
    to: To = "holder",
    threshold: int = 0,
    bits: int = BITS,
    threads: int | None = None,
    batch: int = BATCH,
) -> Total:
    """The side that has no numbers.

    Args:
        channel: To `hold`.
        items: (n, 2) uint64, distinct, any n.
        to, threshold, threads, batch: As in `hold`.
        bits: Of the other side's key; the same on both sides.

    Returns:
        The size; with `to="matcher"` the sums too, unless the size is below the threshold.

    Raises:
        ValueError: An item stands in the set twice.
        ProtocolError: The other side sent what the protocol does not allow.
    """
    whole = check_items(items)
    meeting = greet(channel, _mode(to), whole.shape[0], first=True, batch=batch, threshold=threshold)
    public, columns, amounts = _recv_key(channel, bits, threshold)
    slot = amounts.slot(meeting.theirs)
    if columns < 1 or slot * columns >= bits:
        raise ProtocolError(f"{columns} columns of {slot} bits do not fit {bits} bits", step="sum.key")
    shuffled = whole[permutation(whole.shape[0], new_seed())]
    exchanged = exchange(channel, meeting, shuffled, first=True, give=False, get=False, threads=threads)
    mine = recv_tags(channel, meeting.mine, meeting)
    common = members(exchanged.theirs, mine)
    chosen = np.zeros(meeting.theirs, dtype=np.bool_)
    chosen[common] = True
    mask = secrets.randbelow(public.n) if to == "matcher" else 0
    # A fresh encryption, so that the holder cannot tell which of its ciphertexts the sum was made from.
    total = public.encrypt(mask)
    for low in range(0, meeting.theirs, batch):
        some = min(batch, meeting.theirs - low)
        came = channel.recv("sum.rows", size=some * public.size)
        for at in np.flatnonzero(chosen[low : low + some]).tolist():
            row = came[at * public.size : (at + 1) * public.size]
            total = public.add(total, ciphertext_from(row, public, "sum.rows"))
    cardinality = int(common.size)
    sent = total.to_bytes(public.size, "little")
    if to == "holder":
        allowed = cardinality >= threshold
        channel.send("sum.size", _COUNT.pack(cardinality if allowed else 0, allowed))
        if allowed:
            channel.send("sum.total", sent)
        return Total(cardinality, None)
    channel.send("sum.size", _COUNT.pack(cardinality, True))
    channel.send("sum.total", sent)
    answer = channel.recv("sum.answer", size=1 + bits // 8)
    if answer[0] not in (0, 1):
        raise ProtocolError("the answer is neither a sum nor a refusal", step="sum.answer")
    if not answer[0]:
        return Total(cardinality, None)
    opened = (int.from_bytes(answer[1:], "little") - mask) % public.n
    return Total(cardinality, _unpack(opened, cardinality, slot, columns, amounts))


def _mode(to: str) -> str:
    if to not in ("holder", "matcher"):
        raise ValueError(f'to is "holder" or "matcher", not {to!r}')
    return f"sum:{to}"


def _within(numbers: npt.NDArray[np.generic], amounts: Amounts) -> Numbers:
    if numbers.dtype.kind not in "iuO" or numbers.ndim not in (1, 2):
        raise ValueError(
            f"numbers are (n,) or (n, columns) integers, these are {numbers.shape} {numbers.dtype}"
        )
    if numbers.size and (int(numbers.min()) < amounts.low or int(numbers.max()) > amounts.high):
        raise ValueError(
            f"a number is not between {amounts.low} and {amounts.high}, in units of 10^-{amounts.scale}"
        )
    return numbers.astype(np.int64)


def _recv_key(channel: Channel, bits: int, threshold: int) -> tuple[PublicKey, int, Amounts]:
    step = "sum.key"
    data = channel.recv(step, size=_HEAD.size + bits // 8)
    told_bits, columns, scale, low, high, told_threshold = _HEAD.unpack(data[: _HEAD.size])
    if (told_bits, told_threshold) != (bits, threshold):
        raise ProtocolError(
            f"the other side has a key of {told_bits} bits and threshold {told_threshold}, this side {bits} and "
            f"{threshold}; both must have the same",
            step=step,
        )
    try:
        amounts = Amounts(low, high, scale)
    except ValueError as error:
        raise ProtocolError(f"the other side's numbers: {error}", step=step) from None
    return public_from(data[_HEAD.size :], bits, step), columns, amounts


def _one(channel: Channel, step: str, public: PublicKey) -> int:
    return ciphertext_from(channel.recv(step, size=public.size), public, step)


def _plausible(cardinality: int, meeting: Meeting, threshold: int) -> None:
    most = min(meeting.mine, meeting.theirs, MOST)
    if not threshold <= cardinality <= most:
        raise ProtocolError(
            f"the other side counted {cardinality}, between {threshold} and {most} can be", step="sum.size"
        )


def _unpack(total: int, cardinality: int, slot: int, columns: int, amounts: Amounts) -> tuple[Decimal, ...]:
    """Sums of the columns from their slots; refused where they are more than that many numbers can give."""
    most = cardinality * (amounts.high - amounts.low)
    sums = []
    for at in range(columns):
        counted = total >> (slot * at)
        if at < columns - 1:
            counted &= (1 << slot) - 1
        if counted > most:
            raise ProtocolError("the sum is more than the bounds of its numbers allow", step="sum.total")
        # Exact, whatever the precision of the decimal context of the thread.
        units = counted + cardinality * amounts.low
        digits = tuple(int(digit) for digit in str(abs(units)))
        sums.append(Decimal((int(units < 0), digits, -amounts.scale)))
    return tuple(sums)
