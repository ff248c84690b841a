"""Grouped sums: of encrypted values, over the rows of a group whose codes fall in a cell.

What WOE tables and histograms of boosted trees need. The label holder has k integers for each row, its partner has
codes of features for the same rows in the same order, sorted by group; both know the groups' sizes.

    label holder   rows in blocks of R: V_b(x) = sum_r v_(bR + r) x^r, encrypted        ->
    partner        for each group, N / R cells at a time:
                   P_b(x) = sum_i sum_r [row bR + r is in cell i] x^(iR + R - 1 - r)
                   sum_b P_b V_b: coefficient iR + R - 1 is the sum of cell i
               <-  a fresh zero with smudging added, of c0 only these coefficients
    label holder   opens

The matrix of which row is in which cell is made block by block from the codes, transformed and forgotten. Columns of
values stand side by side in one plaintext as far as smudging leaves room. R is chosen from numbers that both know so
that bytes up, n / R polynomials of 54 kB, and down, groups ceil(cells R / N) answers of half of that or less, are least
together (`layout`).

Who learns what: the label holder the sums, and nothing of which rows made them (`noise`); the partner nothing of the
values. Both know sizes of groups, the number of cells, k and the limit. What the sums themselves tell (a cell of
one row) is for the callers to prevent: they choose smallest groups and cells.

Assumption: RLWE, statistical 2^-40 for the answers of a group, parties that follow the protocol.

Noise: a coefficient of an answer takes at most max(sizes) (N / R) ones, so it adds as many errors (`noise`); the sums
are integers that do not wrap, so there is no rounding. Plaintexts have up to 42 bits: `packed_limit`.

Cost: (n / R + groups) ceil(cells R / N) transforms of 4096 for each prime, 4 products of elements each and piece. For
30,000 rows, 14 features of 32 codes and 16 groups, two columns in one plaintext: 0.65 s of CPU of both sides together,
9.2 MB up and 8.7 MB down; in two plaintexts 1.1 s, 14.4 MB and 17.7 MB. On the same machine Okamoto-Uchiyama at 3072
bits, both columns in a ciphertext, took 8.1 s and 11.7 MB, Paillier with short exponents 81 s and 23 MB.

Source: Huang, Lu, Hong and Ding, "Cheetah", USENIX Security 2022, section 3.1 (products in coefficients).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from crypto.bfv.encryption import (
    answer_bytes,
    encrypt,
    open_answers,
    read_vector,
    vector_bytes,
    write_answers,
    zeros,
)
from crypto.bfv.keys import PublicKey, SecretKey
from crypto.bfv.layout import Plan, packed_limit, plan
from crypto.bfv.noise import check
from crypto.bfv.ring import SMALL, Element, Entropy, system
from crypto.channel import Channel
from crypto.kernels import bfv_kernels

__all__ = ["Plan", "packed_limit", "plan", "sums_receive", "sums_send"]

STEP = "sums"
THREADS = min(4, os.cpu_count() or 1)
Numbers = npt.NDArray[np.int64]
Places = npt.NDArray[np.int32]
Codes = npt.NDArray[np.uint16]
_SIZE = SMALL.size


def sums_receive(
    channel: Channel,
    secret: SecretKey,
    values: Numbers,
    sizes: Sequence[int],
    cells: int,
    limit: int,
    step: str = STEP,
    *,
    entropy: Entropy = system,
) -> Numbers:
    """The label holder's side.

    Args:
        channel: To the partner.
        secret: A key of `ring.SMALL`, whose public half the partner has.
        values: Integers of each row, int64 (n, k), rows sorted by group.
        sizes: Rows of each group, n together.
        cells: Of each group.
        limit: Known to both; the sizes of a group's values of one column are together no more.
        step: Name in the channel, short ASCII.
        entropy: Secret randomness.

    Returns:
        Sums, int64 (groups, cells, k); zero for empty places and groups.

    Raises:
        ValueError: The values do not fit the sizes or the limit, or the limit is too large.
        ProtocolError: The partner's answers are none.
    """
    if values.ndim != 2 or values.dtype != np.int64 or len(values) != sum(sizes):
        raise ValueError(
            f"values of shape {values.shape} and type {values.dtype} for {sum(sizes)} rows; int64 (rows, k) is needed"
        )
    if secret.ring != SMALL:
        raise ValueError("grouped sums take a key of the small ring")
    made = plan(sizes, cells, values.shape[1], limit)
    _within(values, made, limit)
    for start, count in made.messages:
        vector = encrypt(
            secret, made.t, _polynomials(values, made, start, count), wraps=False, entropy=entropy
        )
        channel.send(f"{step}.values", vector.to_bytes())
    out = np.zeros((len(made.sizes), cells, made.columns), dtype=np.int64)
    count = made.chunks * made.pieces
    size = answer_bytes(SMALL, made.t, count, made.across)
    for number, _, _ in made.groups:
        data = channel.recv(f"{step}.answers", size=size)
        opened = open_answers(secret, made.t, data, count, made.positions)
        out[number] = _columns(opened, made)
    return out


def sums_send(
    channel: Channel,
    public: PublicKey,
    codes: Sequence[Codes],
    sizes: Sequence[int],
    places: Places,
    k: int,
    limit: int,
    step: str = STEP,
    *,
    cumulative: bool = False,
    entropy: Entropy = system,
) -> None:
    """The partner's side.

    Args:
        channel: To the label holder.
        public: The label holder's key, of `ring.SMALL`.
        codes: Of each feature, uint16 (n,), rows sorted by group.
        sizes: Rows of each group, n together.
        places: (feature, code) of each cell of each group, int32 (groups, cells, 2); (-1, -1) is an empty cell.
        k: Columns of values.
        limit: As the label holder's.
        step: As the label holder's.
        cumulative: Whether a row of a lower code is in the cell as well.
        entropy: Secret randomness.

    Raises:
        ValueError: Codes and places do not fit the sizes, or the limit is too large.
        ProtocolError: The label holder's message is none, or under another key.
    """
    table = _table(codes, sizes, places)
    if public.ring != SMALL:
        raise ValueError("grouped sums take a key of the small ring")
    made = plan(sizes, places.shape[1], k, limit)
    if made.rows:
        check(SMALL, made.t, made.spread, made.sent)
    messages: list[bytes] = []
    groups, at = made.groups, 0
    sums: Element | None = None
    with ThreadPoolExecutor(THREADS) as pool:
        for start, count in made.messages:
            data = channel.recv(f"{step}.values", size=vector_bytes(SMALL, count * made.pieces))
            pairs = read_vector(data, public, made.t, count * made.pieces).pairs
            pairs = pairs.reshape(count, made.pieces, *pairs.shape[1:])
            begin, end = start * made.block, (start + count) * made.block
            while at < len(groups) and groups[at][1] < end:
                number, first, last = groups[at]
                if sums is None:
                    sums = np.zeros(
                        (made.chunks, made.pieces, 2, len(SMALL.primes), 2, _SIZE), dtype=np.uint64
                    )
                rows = max(first, begin), min(last, end), begin
                _add(pool, table, rows, made, places[number], cumulative, pairs, sums)
                if last > end:
                    break
                messages.append(_answers(public, made, sums, entropy))
                sums, at = None, at + 1
    # Not before all values are here: the label holder reads answers only then.
    for message in messages:
        channel.send(f"{step}.answers", message)


def _add(
    pool: ThreadPoolExecutor,
    table: Codes,
    rows: tuple[int, int, int],
    made: Plan,
    places: Places,
    cumulative: bool,
    pairs: Element,
    sums: Element,
) -> None:
    """Add rows of one group, all its cells; `rows` are the first, the end, and the first of these blocks."""
    tables, (first, last, start) = SMALL.tables, rows

    def add(chunk: int) -> None:
        bfv_kernels.add_rows(
            table,
            first,
            last,
            start,
            made.block,
            np.ascontiguousarray(places[chunk * made.across : (chunk + 1) * made.across]),
            cumulative,
            pairs,
            tables.moduli,
            tables.roots,
            tables.shoup,
            SMALL.empty(),
            sums[chunk],
        )

    for _ in pool.map(add, range(made.chunks)):
        pass


def _answers(public: PublicKey, made: Plan, sums: Element, entropy: Entropy) -> bytes:
    """The message for one group."""
    answers = zeros(public, made.chunks * made.pieces, entropy)
    flat = answers.reshape(-1, *answers.shape[2:])
    bfv_kernels.add_reduced(flat, sums.reshape(len(flat), *sums.shape[3:]), SMALL.moduli)
    return write_answers(public, made.t, answers, made.positions, entropy)


def _within(values: Numbers, made: Plan, limit: int) -> None:
    """Refuse values whose sums could pass the limit."""
    for number, first, last in made.groups:
        part = values[first:last]
        largest = max(int(part.max()), -int(part.min()))
        told = f"a value of {largest}" if largest > limit else ""
        if (
            not told
            and largest * len(part) > limit
            and (total := int(np.abs(part).sum(axis=0).max())) > limit
        ):
            told = f"values that add up to {total} in size"
        if told:
            raise ValueError(
                f"group {number} has {told}, beyond the limit of {limit}; take fewer fractional bits"
            )


def _polynomials(values: Numbers, made: Plan, start: int, count: int) -> Numbers:
    """Blocks as polynomials, (count pieces, N) int64."""
    rows = np.zeros((count * made.block, made.pieces * made.fields), dtype=np.int64)
    part = values[start * made.block : (start + count) * made.block]
    rows[: len(part), : made.columns] = part
    weights = np.int64(1) << (made.width * np.arange(made.fields, dtype=np.int64))
    words = (rows.reshape(count, made.block, made.pieces, made.fields) * weights).sum(axis=3)
    out = np.zeros((count, made.pieces, _SIZE), dtype=np.int64)
    out[:, :, : made.block] = words.transpose(0, 2, 1)
    return out.reshape(-1, _SIZE)


def _columns(opened: npt.NDArray[np.uint64], made: Plan) -> Numbers:
    """Sums of one group from its opened answers, (cells, columns)."""
    bits = made.width * made.fields
    words = (opened << np.uint64(64 - bits)).view(np.int64) >> np.int64(64 - bits)
    out = np.empty((made.chunks, made.across, made.pieces, made.fields), dtype=np.int64)
    words = words.reshape(made.chunks, made.pieces, made.across).transpose(0, 2, 1)
    shift = np.int64(64 - made.width)
    for field in range(made.fields):
        out[..., field] = (words << shift) >> shift
        words = (words - out[..., field]) >> np.int64(made.width)
    return out.reshape(made.chunks * made.across, -1)[: made.cells, : made.columns]


def _table(codes: Sequence[Codes], sizes: Sequence[int], places: Places) -> Codes:
    """Codes of all features, (features, n)."""
    rows = sum(sizes)
    if any(each.dtype != np.uint16 or each.shape != (rows,) for each in codes):
        raise ValueError(f"codes of a feature are uint16 of shape ({rows},), one for each row of the groups")
    if places.dtype != np.int32 or places.ndim != 3 or places.shape[0] != len(sizes) or places.shape[2] != 2:
        raise ValueError(
            f"places of shape {places.shape} and type {places.dtype}; int32 ({len(sizes)}, cells, 2) is needed"
        )
    if places.size and (places[..., 0].max() >= len(codes) or places.min() < -1):
        raise ValueError(
            f"a place names a feature that is not among the {len(codes)}, which are counted from 0"
        )
    return np.stack(codes) if codes else np.empty((0, rows), dtype=np.uint16)
