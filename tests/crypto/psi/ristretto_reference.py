"""ristretto255 over Python's integers, straight from RFC 9496: what the compiled code is compared with."""

from __future__ import annotations

import hashlib

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)

Point = tuple[int, int, int, int]


def _negative(x: int) -> bool:
    return x % P % 2 == 1


def _abs(x: int) -> int:
    return -x % P if _negative(x) else x % P


def _sqrt_ratio(u: int, v: int) -> tuple[bool, int]:
    r = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    check = v * r * r % P
    correct, flipped, flipped_i = check == u % P, check == -u % P, check == -u * SQRT_M1 % P
    if flipped or flipped_i:
        r = r * SQRT_M1 % P
    return correct or flipped, _abs(r)


INVSQRT_A_MINUS_D = _sqrt_ratio(1, -1 - D)[1]
SQRT_AD_MINUS_ONE = 25063068953384623474111414158702152701244531502492656460079210482610430750235


def decode(data: bytes) -> Point | None:
    s = int.from_bytes(data, "little")
    if s >= P or _negative(s):
        return None
    u1, u2 = (1 - s * s) % P, (1 + s * s) % P
    v = (-D * u1 * u1 - u2 * u2) % P
    square, inverse = _sqrt_ratio(1, v * u2 * u2)
    x_den, y_den = inverse * u2 % P, inverse * inverse * u2 * v % P
    x, y = _abs(2 * s * x_den), u1 * y_den % P
    t = x * y % P
    return None if not square or _negative(t) or y == 0 else (x, y, 1, t)


def encode(point: Point) -> bytes:
    x0, y0, z0, t0 = point
    u1, u2 = (z0 + y0) * (z0 - y0) % P, x0 * y0 % P
    _, inverse = _sqrt_ratio(1, u1 * u2 * u2)
    den1, den2 = inverse * u1 % P, inverse * u2 % P
    z_inverse = den1 * den2 * t0 % P
    if _negative(t0 * z_inverse):
        x, y, den = y0 * SQRT_M1 % P, x0 * SQRT_M1 % P, den1 * INVSQRT_A_MINUS_D % P
    else:
        x, y, den = x0, y0, den2
    if _negative(x * z_inverse):
        y = -y % P
    return _abs(den * (z0 - y)).to_bytes(32, "little")


def add(a: Point, b: Point) -> Point:
    (x1, y1, z1, t1), (x2, y2, z2, t2) = a, b
    low, high = (y1 - x1) * (y2 - x2), (y1 + x1) * (y2 + x2)
    c, d = 2 * t1 * t2 * D, 2 * z1 * z2
    e, f, g, h = high - low, d - c, d + c, high + low
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(scalar: int, point: Point) -> Point:
    total: Point = (0, 1, 1, 0)
    for bit in bin(scalar % L)[2:]:
        total = add(total, total)
        if bit == "1":
            total = add(total, point)
    return total


def _map(data: bytes) -> Point:
    t = int.from_bytes(data, "little") % 2**255
    r = SQRT_M1 * t * t % P
    u = (r + 1) * (1 - D * D) % P
    v = (-1 - r * D) * (r + D) % P
    square, s = _sqrt_ratio(u, v)
    c = -1
    if not square:
        s, c = -_abs(s * t) % P, r
    n = (c * (r - 1) * (D - 1) * (D - 1) - v) % P
    w0, w1, w2, w3 = 2 * s * v, n * SQRT_AD_MINUS_ONE, 1 - s * s, 1 + s * s
    return w0 * w3 % P, w2 * w1 % P, w1 * w3 % P, w0 * w2 % P


def from_uniform(data: bytes) -> Point:
    return add(_map(data[:32]), _map(data[32:]))


def expand(message: bytes, dst: bytes, size: int) -> bytes:
    """RFC 9380 section 5.3.1, any number of blocks."""
    ending = dst + bytes([len(dst)])
    first = hashlib.sha512(bytes(128) + message + size.to_bytes(2, "big") + b"\0" + ending).digest()
    blocks = [hashlib.sha512(first + b"\1" + ending).digest()]
    while 64 * len(blocks) < size:
        mixed = bytes(a ^ b for a, b in zip(first, blocks[-1], strict=True))
        blocks.append(hashlib.sha512(mixed + bytes([len(blocks) + 1]) + ending).digest())
    return b"".join(blocks)[:size]


def masked(item: bytes, scalar: bytes, dst: bytes) -> bytes:
    """Scalar times the element of an item."""
    return encode(times(int.from_bytes(scalar, "little"), from_uniform(expand(item, dst, 64))))


def multiplied(point: bytes, scalar: bytes) -> bytes:
    """Scalar times an element."""
    decoded = decode(point)
    if decoded is None:
        raise ValueError("no element")
    return encode(times(int.from_bytes(scalar, "little"), decoded))
