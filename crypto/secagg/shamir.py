"""Shamir's sharing of secrets of 32 bytes: any t of the shares give the secret, fewer give nothing.

A secret is two elements of GF(2^128), each the constant of a polynomial of degree t - 1 whose other
coefficients are random; the share at a point x is the two values there, 32 bytes. The holder with the index i
has the point i + 1. A share that was changed makes another secret and is not noticed here: who combines
shares checks the outcome.

Source: Shamir, "How to share a secret", CACM 22(11), 1979. Arithmetic as in `kernels.blocks`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from crypto.kernels.keystream import NONCE, Streams
from crypto.kernels.polynomials import at_zero, evaluate

SECRET = 32
MOST_HOLDERS = 2**31
RANDOMNESS = 16 + NONCE


def split(
    values: Sequence[bytes], holders: Sequence[int], threshold: int, randomness: bytes | None = None
) -> list[list[bytes]]:
    """Shares of some secrets for the same holders.

    Args:
        values: The secrets, 32 bytes each.
        holders: Their indices, distinct, 0 and up.
        threshold: t, 1 to the number of holders.
        randomness: 28 secret bytes that the polynomials are drawn from, used for nothing else; the same bytes
            give the same shares. From the operating system if not given.

    Returns:
        For each secret its shares in the order of the holders, 32 bytes each.

    Raises:
        ValueError: A value is not allowed.
    """
    points = _points(holders)
    if not 1 <= threshold <= len(holders):
        raise ValueError(
            f"a threshold of {threshold} with {len(holders)} holders; allowed are 1 to their number"
        )
    constants = _elements(values)
    coefficients = np.zeros((threshold - 1, len(constants), 2), dtype=np.uint64)
    # The words of a stream that is added to zeros are those of the stream.
    Streams([secrets.token_bytes(RANDOMNESS) if randomness is None else randomness]).add(
        coefficients.reshape(-1)
    )
    out = np.empty((len(points), len(constants), 2), dtype=np.uint64)
    evaluate(constants, coefficients, points, out)
    raw = np.ascontiguousarray(out.reshape(len(points), len(values), 4).transpose(1, 0, 2)).tobytes()
    shares = [raw[at : at + SECRET] for at in range(0, len(raw), SECRET)]
    return [shares[at : at + len(points)] for at in range(0, len(shares), len(points))]


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret that shares are of.

    Args:
        shares: By the index of their holder, at least `threshold`; the first ones are taken.
        threshold: That they were made with.

    Raises:
        ValueError: There are too few, or one has another length.
    """
    if len(shares) < threshold or threshold < 1:
        raise ValueError(f"{len(shares)} shares; {threshold} are needed")
    chosen = list(shares)[:threshold]
    out = np.empty((2, 2), dtype=np.uint64)
    room = np.empty((2, threshold + 1, 2), dtype=np.uint64)
    values = _elements([shares[holder] for holder in chosen]).reshape(-1, 2, 2)
    at_zero(_points(chosen), values, room, out)
    return out.tobytes()


def _points(holders: Sequence[int]) -> npt.NDArray[np.uint64]:
    if len(set(holders)) != len(holders) or any(not 0 <= holder < MOST_HOLDERS for holder in holders):
        raise ValueError(f"holders have distinct indices from 0 to {MOST_HOLDERS - 1}")
    return np.array(holders, dtype=np.uint64) + np.uint64(1)


def _elements(values: Sequence[bytes]) -> npt.NDArray[np.uint64]:
    for value in values:
        if len(value) != SECRET:
            raise ValueError(f"secrets and shares have {SECRET} bytes, this one {len(value)}")
    return np.frombuffer(b"".join(values), dtype="<u8").reshape(-1, 2)
