"""How fast this machine does the few things that fedcore's work is made of, each in a fixed share of a second or so.

Products of large matrices stand for training, a triad over long arrays for memory, multiplications on the curves for
set intersection and key agreement, and AES in counter mode for the masks of secure aggregation. One number of
floating-point operations cannot stand for the others: cryptography hardly uses that unit.

Each measurement warms up, repeats until its time is over and keeps every sample, so that the spread can be seen.

Source: McCalpin, "STREAM: Sustainable Memory Bandwidth in High Performance Computers", for the triad and for how
long its arrays must be.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crypto import sodium
from crypto.kernels.keystream import NONCE, Streams
from fedcore.network.quantity import Quantity, measured

if TYPE_CHECKING:
    import torch

MOST_SAMPLES = 15
_PRODUCTS_IN_SHARE = 8
"""A product is made so large that this many fit into the time that there is."""
_LARGEST, _SMALLEST = 16384, 256
_TELLING = 1024
"""Products of smaller matrices are over before the machine runs at speed."""
_ARRAY_MOST = 256 * 2**20
"""Bytes of one array of the triad at most, so that touching it first does not take seconds."""
_BATCH = 100
"""Multiplications on a curve in one sample: some milliseconds."""
_STREAM = 16 * 2**20
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")

PRECISIONS = ("fp32", "fp64", "bf16", "fp16")
_TYPES = {"fp32": "float32", "fp64": "float64", "bf16": "bfloat16", "fp16": "float16"}


def sampled(once: Callable[[], float], seconds: float, *, most: int = MOST_SAMPLES) -> list[float]:
    """Repeat a measurement, after one repetition that does not count.

    Args:
        once: Does the work once and returns what was seen.
        seconds: After which no new repetition begins; at least one is made.
        most: Repetitions at most.
    """
    until = time.perf_counter() + seconds
    once()
    found = [once()]
    while len(found) < most and time.perf_counter() < until:
        found.append(once())
    return found


def matrix_product(device: str, precision: str, seconds: float) -> Quantity | None:
    """Rate of a dense matrix product through torch.

    Args:
        device: `cpu`, or a CUDA device as torch names it.
        precision: One of `PRECISIONS`.
        seconds: That it may take.

    Returns:
        In GFLOP/s (10^9 operations a second, a product of two n x n matrices being 2n^3); None where the device
        cannot multiply in this precision.
    """
    import torch

    began = time.perf_counter()
    kind: torch.dtype = getattr(torch, _TYPES[precision])
    n = _SMALLEST
    try:
        once = _product(torch.device(device), kind, n)
        once()
        # Small products say little: they double in size until the time there is holds only a few.
        while n < _LARGEST and 8 * _shortest(once) * _PRODUCTS_IN_SHARE < seconds - (
            time.perf_counter() - began
        ):
            n *= 2
            once = _product(torch.device(device), kind, n)
            once()
    except RuntimeError:
        # Torch's way to say that it has no kernel, or not enough memory, for this.
        if n == _SMALLEST:
            return None
        n //= 2
        once = _product(torch.device(device), kind, n)
    taken = sampled(lambda: _taken(once), seconds - (time.perf_counter() - began))
    where = f"{torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name(device)
    tensor32 = precision == "fp32" and device != "cpu" and torch.backends.cuda.matmul.allow_tf32
    return measured(
        [2 * n**3 / each / 1e9 for each in taken],
        "GFLOP/s",
        f"product of {n} x {n} matrices by torch, {where}{', TF32' if tensor32 else ''}",
        doubt=f"there was time for matrices of {n} only, which say little" if n < _TELLING else "",
    )


def memory_bandwidth(device: str, seconds: float, *, free: int) -> Quantity:
    """Rate at which long arrays stream through memory: a = b + 3c, counting three arrays of 8-byte numbers.

    Args:
        device: As of `matrix_product`.
        seconds: That it may take.
        free: Bytes of memory that may be used.

    Returns:
        In GB/s (10^9 bytes). In doubt where the arrays cannot be four times as long as the last cache.
    """
    import torch

    cache = last_cache() if device == "cpu" else 0
    size = min(_ARRAY_MOST, 4 * cache or _ARRAY_MOST, free // 8)
    where = torch.device(device)
    b, c = (torch.full((size // 8,), value, dtype=torch.float64, device=where) for value in (1.0, 2.0))
    a = torch.empty_like(b)

    def once() -> float:
        began = time.perf_counter()
        torch.add(b, c, alpha=3.0, out=a)
        _wait(where)
        return 3 * size / (time.perf_counter() - began) / 1e9

    doubt = ""
    if size < 4 * cache:
        doubt = f"arrays of {size >> 20} MiB are less than four times the cache of {cache >> 20} MiB"
    return measured(
        sampled(once, seconds), "GB/s", f"triad over three arrays of {size >> 20} MiB", doubt=doubt
    )


def ristretto(seconds: float) -> Quantity:
    """Multiplications of an element of ristretto255, as in set intersection, on one core; op/s."""
    scalar, point = sodium.random_scalar(), sodium.random_element()

    def once() -> float:
        began = time.perf_counter()
        for _ in range(_BATCH):
            sodium.times(scalar, point)
        return _BATCH / (time.perf_counter() - began)

    return measured(sampled(once, seconds), "op/s", "multiplication in ristretto255 by libsodium, one core")


def x25519(seconds: float) -> Quantity:
    """Key agreements over X25519, as in secure aggregation, on one core; op/s."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    own, other = X25519PrivateKey.generate(), X25519PrivateKey.generate().public_key()

    def once() -> float:
        began = time.perf_counter()
        for _ in range(_BATCH):
            own.exchange(other)
        return _BATCH / (time.perf_counter() - began)

    return measured(sampled(once, seconds), "op/s", "X25519 by OpenSSL, one core")


def keystream(seconds: float) -> Quantity:
    """Rate of the masks of secure aggregation: AES-128 in counter mode added to a vector, on one core; GB/s."""
    streams, vector = Streams([secrets.token_bytes(16 + NONCE)]), np.zeros(_STREAM // 8, dtype=np.uint64)

    def once() -> float:
        began = time.perf_counter()
        streams.add(vector)
        return _STREAM / (time.perf_counter() - began) / 1e9

    return measured(sampled(once, seconds), "GB/s", "AES-128-CTR added to a vector of 16 MiB, one core")


def last_cache() -> int:
    """Bytes of the last-level cache as the system tells it; 32 MiB where it does not."""
    sizes = []
    for file in _CACHES.glob("index*/size"):
        found = re.fullmatch(r"(\d+)([KM])\s*", file.read_text())
        if found:
            sizes.append(int(found[1]) << (10 if found[2] == "K" else 20))
    return max(sizes, default=32 * 2**20)


def _product(device: torch.device, kind: torch.dtype, n: int) -> Callable[[], None]:
    import torch

    left, right = (torch.full((n, n), value, dtype=kind, device=device) for value in (0.5, 0.25))
    out = torch.empty_like(left)

    def once() -> None:
        torch.mm(left, right, out=out)
        _wait(device)

    return once


def _taken(once: Callable[[], None]) -> float:
    began = time.perf_counter()
    once()
    return time.perf_counter() - began


def _shortest(once: Callable[[], None]) -> float:
    """Of three, so that one pause does not decide."""
    return min(_taken(once) for _ in range(3))


def _wait(device: torch.device) -> None:
    """A GPU is told what to do and goes on by itself; its time is over when it has done it."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
