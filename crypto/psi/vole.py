"""Vector oblivious linear evaluation over GF(2^128): b + D a = c, from a few public-key operations.

After the protocol the sender holds D and b, the receiver a and c, with c = b + D a for every place; a, b and D look
random, neither learns more. Both learn the length.

    1. 128 base transfers; the sender's choices are the bits of D                              `base_ot`
    2. bit correlations M = K + r D by extension (IKNP), enough to start step 3                `_extend`
    3. many bit correlations by LPN over GF(2): sets b10, then b13                             `vole_rounds`
    4. 128 of them make one correlation over the field (a = sum x^i r_i), enough to start step 5
    5. many field correlations by LPN over GF(2^128): set b10, then b12 where many are wanted  `vole_rounds`

Steps 3 and 5 send one block for each level of each noise tree (`ggm`): 1.9 MB to start, 0.3 MB for each 6 million
correlations. Semi-honest parties. D has its lowest bit set, which says which of K and M + D a bit is.

Source: Ishai, Kilian, Nissim, Petrank, CRYPTO 2003 (step 2); Boyle et al., CCS 2018 and 2019, and Yang et al.
("Ferret"), CCS 2020, for 3 and 5; Weng et al. ("Wolverine"), IEEE S&P 2021, figure 7, for the field; step 4 is
linearity. Parameters and assumption: `parameters.LPN`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.channel import Channel, recv_array
from crypto.kernels.aes import Generator
from crypto.kernels.blocks import gf_double, random_blocks, u64
from crypto.kernels.compiled import kernel
from crypto.psi.base_ot import receive_keys, send_keys
from crypto.psi.parameters import KAPPA, LPN, Lpn
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


# ---- step 4: bits to the field --------------------------------------------------------------------------------


@kernel
def _pack(bits: Any, out: Any) -> None:
    """`out[i] = sum_j x^j bits[128 i + j]`: (128 n, 2) to (n, 2)."""
    for i in range(out.shape[0]):
        a = bits[128 * i + 127, 0]
        b = bits[128 * i + 127, 1]
        for j in range(126, -1, -1):
            a, b = gf_double(a, b)
            a ^= bits[128 * i + j, 0]
            b ^= bits[128 * i + j, 1]
        out[i, 0] = a
        out[i, 1] = b


@kernel
def _pack_choices(bits: Any, out: Any) -> None:
    """`out[i] = sum_j x^j r_j`, r the lowest bits: (128 n, 2) to (n, 2)."""
    for i in range(out.shape[0]):
        for half in range(2):
            word = u64(0)
            for j in range(64):
                word |= (bits[128 * i + 64 * half + j, 0] & u64(1)) << u64(j)
            out[i, half] = word


class _Stream:
    """Rows that are made a piece at a time and taken in any portions."""

    def __init__(self, pieces: Iterator[Blocks], columns: int) -> None:
        self._pieces = pieces
        self._left: Blocks = np.empty((0, columns), dtype=np.uint64)

    def take(self, count: int) -> Blocks:
        """The next `count` rows."""
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


def _next_shape(left: int, here: int) -> Lpn | None:
    """The set for the round after one of `here` rows that has to serve `left`; None when it serves them all."""
    if left <= here:
        return None
    small = LPN["b10"]
    return small if left - (here - small.base) <= small.rows else LPN["b12"]


def _all_rounds(
    make: Callable[[Lpn, Blocks], Iterator[Blocks]], base: Blocks, length: int
) -> Iterator[Blocks]:
    """Rows of as many rounds over the field as `length` needs.

    The messages of all rounds travel now, so that both sides may then take rows whenever they like: each round
    starts from the first rows of the one before.
    """
    streams: list[_Stream] = []
    shape: Lpn | None = LPN["b10"]
    while shape is not None:
        stream, here = _Stream(make(shape, base), base.shape[1]), shape.rows
        shape = _next_shape(length, here)
        if shape is not None:
            base = stream.take(shape.base)
            here -= shape.base
        length -= here
        streams.append(stream)
    return chain.from_iterable(stream.rest() for stream in streams)


# ---- the two roles --------------------------------------------------------------------------------------------


class Sender:
    """Holds D and makes b, piece by piece.

    Args:
        channel: To the receiver, who makes a `Receiver` of the same length at the same time.
        length: Correlations that will be taken in all.

    Attributes:
        delta: D, (1, 2) uint64. Secret.
    """

    def __init__(self, channel: Channel, length: int) -> None:
        self._channel = channel
        self.delta = random_blocks(1)
        self.delta[0, 0] |= u64(1)
        self._rounds = 0
        keys = receive_keys(channel, "vole.base", _bits_of(self.delta))
        few = LPN["b10"]
        bits = _extend_send(channel, self.delta, keys, few.bit_base)
        bits = _Stream(self._round(few, bits, None).pieces(), 2).take(LPN["b13"].bit_base)
        self._bits = _Stream(self._round(LPN["b13"], bits, None).pieces(), 2)
        base = np.empty((few.base, 2), dtype=np.uint64)
        for at in range(0, few.base, 4096):
            some = base[at : at + 4096]
            _pack(self._bits.take(KAPPA * len(some)), some)
        self._out = _Stream(self._field(base, length), 2)

    def __repr__(self) -> str:
        return "Sender(delta=<hidden>)"

    def take(self, count: int) -> Blocks:
        """The next `count` entries of b, (count, 2) uint64."""
        return self._out.take(count)

    def _round(self, shape: Lpn, keys: Blocks, base: Blocks | None) -> SenderRound:
        self._rounds += 1
        return SenderRound(self._channel, shape, self.delta, keys, base, self._rounds)

    def _field(self, base: Blocks, length: int) -> Iterator[Blocks]:
        return _all_rounds(
            lambda shape, base: self._round(shape, self._bits.take(shape.trees * shape.depth), base).pieces(),
            base,
            length,
        )


class Receiver:
    """Makes a and c, piece by piece.

    Args:
        channel: To the sender.
        length: Correlations that will be taken in all.
    """

    def __init__(self, channel: Channel, length: int) -> None:
        self._channel = channel
        self._rounds = 0
        keys = send_keys(channel, "vole.base", KAPPA)
        few = LPN["b10"]
        bits = _extend_receive(channel, keys, few.bit_base)
        bits = _Stream(self._round(few, bits, None).pieces(), 2).take(LPN["b13"].bit_base)
        self._bits = _Stream(self._round(LPN["b13"], bits, None).pieces(), 2)
        base = np.empty((few.base, 4), dtype=np.uint64)
        for at in range(0, few.base, 4096):
            some = self._bits.take(KAPPA * len(base[at : at + 4096]))
            _pack_choices(some, base[at : at + 4096, :2])
            _pack(some, base[at : at + 4096, 2:])
        self._out = _Stream(self._field(base, length), 4)

    def __repr__(self) -> str:
        return "Receiver(<hidden>)"

    def take(self, count: int) -> tuple[Blocks, Blocks]:
        """The next `count` entries of a and of c, (count, 2) uint64 each (views of one array)."""
        both = self._out.take(count)
        return both[:, :2], both[:, 2:]

    def _round(self, shape: Lpn, keys: Blocks, base: Blocks | None) -> ReceiverRound:
        self._rounds += 1
        return ReceiverRound(self._channel, shape, keys, base, self._rounds)

    def _field(self, base: Blocks, length: int) -> Iterator[Blocks]:
        return _all_rounds(
            lambda shape, base: self._round(shape, self._bits.take(shape.trees * shape.depth), base).pieces(),
            base,
            length,
        )
