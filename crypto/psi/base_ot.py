"""Base oblivious transfers: n pairs of random keys, of each of which the receiver gets the one it chose.

Who learns what: the sender gets both keys of each pair and nothing of the choices; the receiver gets one key of
each pair. Semi-honest parties.

    receiver   for its choice b: r[1-b] random in the group, r[b] = x G - H(r[1-b]); sends r[0], r[1]
    sender     k[j] = KDF(y (r[j] + H(r[1-j]))); sends Y = y G
    receiver   k[b] = KDF(x Y)

Assumption: computational Diffie-Hellman in ristretto255 with H and KDF random oracles. Cost: 64 bytes and three
scalar multiplications of the receiver, two of the sender for each transfer, 32 bytes once; one round trip.

Source: Masny and Rindal, "Endemic Oblivious Transfer", CCS 2019, eprint 2019/706, section 5 (Diffie-Hellman);
ristretto255 is RFC 9496, here of libsodium; H is its one-way map of 64 hashed bytes.
"""

from __future__ import annotations

import hashlib

from crypto import sodium
from crypto.channel import Channel
from crypto.errors import ProtocolError

POINT = 32
KEY = 16


def send_keys(channel: Channel, step: str, count: int) -> list[tuple[bytes, bytes]]:
    """Both keys of each of `count` pairs, 16 bytes each.

    Raises:
        ProtocolError: The receiver sent something that is no element of the group.
    """
    told = bytes(channel.recv(step, size=2 * POINT * count))
    y = _scalar()
    channel.send(step, _times_base(y))
    pairs = []
    for number in range(count):
        at = 2 * POINT * number
        points = told[at : at + POINT], told[at + POINT : at + 2 * POINT]
        for point in points:
            if not sodium.is_element(point):
                raise ProtocolError(
                    "a point that is not of the group came; the other side does not follow the protocol",
                    step=step,
                )
        keys = []
        for j in (0, 1):
            shared = sodium.add(points[j], _to_group(step, number, points[1 - j]))
            keys.append(_key(step, number, j, _times(y, shared, step)))
        pairs.append((keys[0], keys[1]))
    return pairs


def receive_keys(channel: Channel, step: str, choices: list[int]) -> list[bytes]:
    """The chosen key of each pair.

    Args:
        channel: To the sender.
        step: Of the protocol around.
        choices: 0 or 1 each. Secret.

    Raises:
        ProtocolError: The sender's answer is no element of the group.
    """
    scalars, told = [], []
    for number, choice in enumerate(choices):
        x = _scalar()
        other = sodium.random_element()
        own = sodium.subtract(_times_base(x), _to_group(step, number, other))
        told += [other, own] if choice else [own, other]
        scalars.append(x)
    channel.send(step, b"".join(told))
    answer = bytes(channel.recv(step, size=POINT))
    if not sodium.is_element(answer):
        raise ProtocolError(
            "a point that is not of the group came; the other side does not follow the protocol", step=step
        )
    return [
        _key(step, number, choice, _times(x, answer, step))
        for number, (x, choice) in enumerate(zip(scalars, choices, strict=True))
    ]


def _scalar() -> bytes:
    return sodium.random_scalar()


def _times_base(scalar: bytes) -> bytes:
    return sodium.times_base(scalar)


def _times(scalar: bytes, point: bytes, step: str) -> bytes:
    try:
        return sodium.times(scalar, point)
    except ValueError:
        raise ProtocolError(
            "the neutral element came; the other side does not follow the protocol", step=step
        ) from None


def _to_group(step: str, number: int, point: bytes) -> bytes:
    wide = hashlib.sha512(b"fedcore base ot point" + _bound(step, number) + point).digest()
    return sodium.from_hash(wide)


def _key(step: str, number: int, choice: int, shared: bytes) -> bytes:
    return hashlib.sha256(b"fedcore base ot key" + _bound(step, number) + bytes([choice]) + shared).digest()[
        :KEY
    ]


def _bound(step: str, number: int) -> bytes:
    name = step.encode()
    return len(name).to_bytes(4, "little") + name + number.to_bytes(4, "little")
