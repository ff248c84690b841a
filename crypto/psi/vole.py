"""Vector oblivious linear evaluation: b + D a = c over a field, from a few public-key operations.

After the protocol the sender holds D and b, the receiver a and c, with c = b + D a for every place; a, b and D look
random, neither learns more. Both learn the length. a is in B, the others in an extension F of it (`vole_field`):
B = F = GF(2^128), or the half of it as a subfield.

    1. 128 base transfers; the sender's choices are the bits of D                              `base_ot`
    2. bit correlations M = K + r D by extension (IKNP), enough to start step 3                `_extend`
    3. many bit correlations by LPN over GF(2): set b10, then b11 until there are enough       `vole_rounds`
    4. as many of them as B has bits make one correlation over the field (a = sum x^i r_i), enough to start step 5
    5. many field correlations by LPN over B: set b10, then b12 where many are wanted          `vole_rounds`

Steps 3 and 5 send one block for each level of each noise tree (`ggm`): 1.9 MB to start, 0.3 MB for each 6 million
correlations. The messages of all rounds travel at the start, so that both sides may then take rows whenever they
like. A round starts from the first rows of the one before; they are expanded once for its messages and again when it
is its turn, so that whatever the length, two rounds' secrets at most are in memory (8 MB each), and 0.4 MB for each
round to come.

Semi-honest parties. D has its lowest bit set, which says which of K and M + D a bit is.

Source: Ishai, Kilian, Nissim, Petrank, CRYPTO 2003 (step 2); Boyle et al., CCS 2018 and 2019, and Yang et al.
("Ferret"), CCS 2020, for 3 and 5; Weng et al. ("Wolverine"), IEEE S&P 2021, figure 7, for the field and its
subfield; step 4 is linearity. Parameters and assumption: `parameters.LPN`.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from crypto.channel import Channel, recv_array
from crypto.kernels.aes import Generator
from crypto.kernels.blocks import random_blocks, u64
from crypto.kernels.compiled import kernel
from crypto.psi.base_ot import receive_keys, send_keys
from crypto.psi.parameters import KAPPA, LPN, Lpn
from crypto.psi.vole_field import GF128, Field, pack_choices
from crypto.psi.vole_rounds import ReceiverRound, SenderRound

Blocks = npt.NDArray[np.uint64]

# ---- step 2: extension ----------------------------------------------------------------------------------------


@kernel
def _transpose(columns: Any, out: Any) -> None:
    """Bits of 128 columns, (128, n / 64) uint64, as rows: `out` (n, 2)."""
    for block in range(out.shape[0] // 64):
        for row in range(64):
            out[64 * block + row, 0] = u64(0)
            out[64 * block + row, 1] = u64(0)
        for column in range(128):
            word = columns[column, block]
            half = column >> 6
            at = u64(column & 63)
            for row in range(64):
                out[64 * block + row, half] |= ((word >> u64(row)) & u64(1)) << at


def _extend_send(channel: Channel, delta: Blocks, keys: list[bytes], count: int) -> Blocks:
    """K of `count` bit correlations (rounded up to 64)."""
    words = -(-count // 64)
    step = "vole.extend"
    sent = recv_array(channel, step, np.uint64, KAPPA - 1, words)
    bits = _bits_of(delta)
    columns = np.zeros((KAPPA, words), dtype=np.uint64)
    for i in range(1, KAPPA):
        columns[i] = Generator(keys[i]).blocks(-(-words // 2)).reshape(-1)[:words]
        if bits[i]:
            columns[i] ^= sent[i - 1]
    out = np.empty((64 * words, 2), dtype=np.uint64)
    _transpose(columns, out)
    return out


def _extend_receive(channel: Channel, keys: list[tuple[bytes, bytes]], count: int) -> Blocks:
    """M of `count` bit correlations; its lowest bit is r."""
    words = -(-count // 64)
    choices = np.frombuffer(secrets.token_bytes(8 * words), dtype=np.uint64)
    columns = np.empty((KAPPA, words), dtype=np.uint64)
    # The lowest bit of D is set and that of K is zero: the first column is r itself, and need not travel.
    columns[0] = choices
    told = np.empty((KAPPA - 1, words), dtype=np.uint64)
    for i in range(1, KAPPA):
        zero, one = (Generator(key).blocks(-(-words // 2)).reshape(-1)[:words] for key in keys[i])
        columns[i] = zero
        told[i - 1] = zero ^ one ^ choices
    channel.send("vole.extend", told)
    out = np.empty((64 * words, 2), dtype=np.uint64)
    _transpose(columns, out)
    return out


def _bits_of(delta: Blocks) -> list[int]:
    number = int(delta[0, 0]) | int(delta[0, 1]) << 64
    return [number >> i & 1 for i in range(KAPPA)]


_TOGETHER = 512
"""Field correlations that are made of bits at a time: over GF(2^128) those of one piece of a round, without a copy."""

# ---- steps 3 and 5: rounds ------------------------------------------------------------------------------------


class _Stream:
    """Rows that are made a piece at a time and taken in any portions."""

    def __init__(self, pieces: Iterator[Blocks], columns: int) -> None:
        self._pieces = pieces
        self._left: Blocks = np.empty((0, columns), dtype=np.uint64)

    def take(self, count: int) -> Blocks:
        """The next `count` rows; the caller's own."""
        if count and not len(self._left):
            self._left = next(self._pieces)
        if count <= len(self._left):
            some, self._left = self._left[:count], self._left[count:]
            return some
        out = np.empty((count, self._left.shape[1]), dtype=np.uint64)
        done = 0
        while done < count:
            if not len(self._left):
                self._left = next(self._pieces)
            some = self._left[: count - done]
            out[done : done + len(some)] = some
            self._left = self._left[len(some) :]
            done += len(some)
        return out

    def rest(self) -> Iterator[Blocks]:
        """What was not taken."""
        if len(self._left):
            yield self._left
        yield from self._pieces


def _field_shapes(length: int) -> list[Lpn]:
    """The sets of the rounds over the field that make so many rows beside those that the next round starts from."""
    small, large = LPN["b10"], LPN["b12"]
    shapes = [small]
    while length > shapes[-1].rows:
        length -= shapes[-1].rows
        # What the next round starts from is taken from this one.
        following = small if length + small.base <= small.rows else large
        length += following.base
        shapes.append(following)
    shapes[-1] = shapes[-1].first(length)
    return shapes


def _bit_shapes(count: int) -> list[Lpn]:
    """The sets of the rounds over bits that make so many, behind the first one.

    The secret of `b11` fits into a second-level cache, which makes a row cost half of what it does with `b13`.
    """
    one = LPN["b11"]
    shapes = [one]
    while count > one.rows:
        count -= one.rows - one.bit_base
        shapes.append(one)
    shapes[-1] = one.first(count)
    return shapes


class _Round(Protocol):
    def pieces(self, base: Blocks) -> Iterator[Blocks]: ...


def _started(
    make: Callable[[Lpn, Blocks], _Round], base: Blocks, shapes: Sequence[Lpn], sizes: Sequence[int]
) -> deque[tuple[_Round, int]]:
    """Let the messages of these rounds travel.

    Args:
        make: Makes a round from its base.
        base: Of the first.
        shapes: Of the rounds.
        sizes: Of their bases.

    Returns:
        The rounds, which hold no secret, and of each how many rows the next one starts from.
    """
    rounds: deque[tuple[_Round, int]] = deque()
    for shape, following in zip(shapes, [*sizes[1:], 0], strict=True):
        made = make(shape, base)
        rounds.append((made, following))
        if following:
            base = _Stream(made.pieces(base), base.shape[1]).take(following)
    return rounds


def _rows(rounds: deque[tuple[_Round, int]], base: Blocks) -> Iterator[Blocks]:
    """The rows of rounds that were started, but for those that the next round starts from, from the first base on."""
    while rounds:
        made, following = rounds.popleft()
        stream = _Stream(made.pieces(base), base.shape[1])
        base = stream.take(following)
        yield from stream.rest()


class _Plan:
    """How many rounds there are, and from how many bits."""

    def __init__(self, length: int, field: Field) -> None:
        self.field = _field_shapes(length)
        self.field_sizes = [shape.base for shape in self.field]
        trees = sum(shape.trees * shape.depth for shape in self.field)
        self.bits = _bit_shapes(field.degree * self.field_sizes[0] + trees)
        self.bit_sizes = [shape.bit_base for shape in self.bits]
        self.few = LPN["b10"].first(self.bit_sizes[0])


# ---- the two roles --------------------------------------------------------------------------------------------


class Sender:
    """Holds D and makes b, piece by piece.

    Args:
        channel: To the receiver, who makes a `Receiver` of the same length and field at the same time.
        length: Correlations that will be taken in all.
        field: B and F.

    Attributes:
        delta: D, (1, 2) uint64. Secret.
    """

    def __init__(self, channel: Channel, length: int, field: Field = GF128) -> None:
        self._channel, self._field = channel, field
        self.delta = random_blocks(1)
        self.delta[0, 0] |= u64(1)
        self._rounds = 0
        keys = receive_keys(channel, "vole.base", _bits_of(self.delta))
        plan = _Plan(length, field)
        bits = _extend_send(channel, self.delta, keys, plan.few.bit_base)
        bits = _Stream(self._over_bits(plan.few, bits).pieces(bits), 2).take(plan.bit_sizes[0])
        many = _Stream(_rows(_started(self._over_bits, bits, plan.bits, plan.bit_sizes), bits), 2)
        base = np.empty((plan.field_sizes[0], 2), dtype=np.uint64)
        for at in range(0, len(base), _TOGETHER):
            some = base[at : at + _TOGETHER]
            field.pack(many.take(field.degree * len(some)), some)

        def over_field(shape: Lpn, base: Blocks) -> _Round:
            return self._round(shape, many.take(shape.trees * shape.depth), base)

        self._out = _Stream(_rows(_started(over_field, base, plan.field, plan.field_sizes), base), 2)

    def __repr__(self) -> str:
        return "Sender(delta=<hidden>)"

    def take(self, count: int) -> Blocks:
        """The next `count` entries of b, (count, 2) uint64."""
        return self._out.take(count)

    def _over_bits(self, shape: Lpn, bits: Blocks) -> _Round:
        return self._round(shape, bits, None)

    def _round(self, shape: Lpn, keys: Blocks, base: Blocks | None) -> _Round:
        self._rounds += 1
        return SenderRound(self._channel, shape, self.delta, keys, base, self._rounds, self._field)


class Receiver:
    """Makes a and c, piece by piece.

    Args:
        channel: To the sender.
        length: Correlations that will be taken in all.
        field: B and F.
    """

    def __init__(self, channel: Channel, length: int, field: Field = GF128) -> None:
        self._channel, self._field = channel, field
        self._rounds = 0
        keys = send_keys(channel, "vole.base", KAPPA)
        plan = _Plan(length, field)
        bits = _extend_receive(channel, keys, plan.few.bit_base)
        bits = _Stream(self._over_bits(plan.few, bits).pieces(bits), 2).take(plan.bit_sizes[0])
        many = _Stream(_rows(_started(self._over_bits, bits, plan.bits, plan.bit_sizes), bits), 2)
        base = np.empty((plan.field_sizes[0], 4), dtype=np.uint64)
        for at in range(0, len(base), _TOGETHER):
            some = many.take(field.degree * len(base[at : at + _TOGETHER]))
            pack_choices(some, field.degree, base[at : at + _TOGETHER, :2])
            field.pack(some, base[at : at + _TOGETHER, 2:])

        def over_field(shape: Lpn, base: Blocks) -> _Round:
            return self._round(shape, many.take(shape.trees * shape.depth), base)

        self._out = _Stream(_rows(_started(over_field, base, plan.field, plan.field_sizes), base), 4)

    def __repr__(self) -> str:
        return "Receiver(<hidden>)"

    def take(self, count: int) -> tuple[Blocks, Blocks]:
        """The next `count` entries of a and of c, (count, 2) uint64 each (views of one array).

        Over a subfield B of 64 bits an entry of a is its first word; the second is zero.
        """
        both = self._out.take(count)
        return both[:, :2], both[:, 2:]

    def _over_bits(self, shape: Lpn, bits: Blocks) -> _Round:
        return self._round(shape, bits, None)

    def _round(self, shape: Lpn, keys: Blocks, base: Blocks | None) -> _Round:
        self._rounds += 1
        return ReceiverRound(self._channel, shape, keys, base, self._rounds, self._field)
