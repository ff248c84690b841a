"""The way to Microsoft SEAL, which TenSEAL brings: contexts, encoding, and SEAL's streams as plain arrays.

TenSEAL's own vectors take one number for each slot, always send both halves of a ciphertext, and want a ring
with room for key switching. Its module `sealapi` is SEAL itself: complex slots, rings of one prime, and
symmetric ciphertexts whose random half is a seed of 64 bytes.

SEAL writes and reads files only. A `Scratch` is such a file in anonymous memory where the system has that
(Linux), so that nothing of it reaches a disk there. What SEAL writes is a head, the coefficients, and in a
seeded ciphertext a tail and the seed, compressed together. Only coefficients and seeds travel: a reader puts
its own head and tail around them, checks each coefficient against its prime, and never decompresses what came
from outside. Heads and tails are learned from what the installed SEAL writes.

Source: Microsoft SEAL 4, `seal/ciphertext.cpp` (`save_members`, `load_members`) and `seal/serialization.h`.
"""

from __future__ import annotations

import functools
import importlib
import os
import struct
import tempfile
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from crypto.ckks.parameters import Ring
from crypto.errors import ProtocolError

Words = npt.NDArray[np.uint64]

SEED = 64
_OUTER = struct.Struct("<HBBBBHQ")
_PLAIN, _ZSTD = 0, 2


@functools.cache
def library() -> ModuleType:
    """TenSEAL's module of SEAL.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    try:
        return importlib.import_module("tenseal.sealapi")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "CKKS needs the package tenseal, which is not installed; pip install 'fedcore[ckks]'",
            name="tenseal",
        ) from None


class Scratch:
    """A file for SEAL to write to and read from, of one thread; a context manager."""

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self._file, self._made = os.memfd_create("fedcore-ckks"), ""
            self._path = f"/proc/self/fd/{self._file}"
        else:
            self._file, self._made = tempfile.mkstemp(prefix="fedcore-ckks-")
            self._path = self._made

    def __enter__(self) -> Scratch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        os.close(self._file)
        if self._made:
            os.unlink(self._made)

    def save(self, thing: Any) -> bytes:
        """The stream that SEAL saves of one of its objects."""
        thing.save(self._path)
        return os.pread(self._file, os.fstat(self._file).st_size, 0)

    def load(self, thing: Any, context: Any, stream: bytes) -> None:
        """Let SEAL load an object, and check it."""
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, stream, 0)
        thing.load(context, self._path)


@dataclass(frozen=True)
class Form:
    """What stands around the coefficients in one kind of stream of one ring.

    Args:
        head: Uncompressed, with the outer head.
        words: Coefficients, 8 bytes each.
        tail: Between coefficients and seed; empty without one.
        seeded: Whether a seed ends it.
    """

    head: bytes
    words: int
    tail: bytes
    seeded: bool

    @property
    def _inner(self) -> int:
        return len(self.head) - _OUTER.size + 8 * self.words + len(self.tail) + SEED * self.seeded

    def take(self, stream: bytes) -> tuple[bytes, bytes]:
        """Coefficients and seed out of what this side's SEAL has saved."""
        if stream[5] == _ZSTD:
            inner = pa.Codec("zstd").decompress(stream[_OUTER.size :], self._inner, asbytes=True)
        else:
            inner = stream[_OUTER.size :]
        start = len(self.head) - _OUTER.size
        stop = start + 8 * self.words
        if inner[:start] != self.head[_OUTER.size :] or inner[stop : stop + len(self.tail)] != self.tail:
            raise RuntimeError("SEAL has saved another kind of object than before")
        return inner[start:stop], inner[stop + len(self.tail) :]

    def stream(self, words: bytes, seed: bytes) -> bytes:
        """What SEAL loads."""
        return b"".join((self.head, words, self.tail, seed))


def _learn(stream: bytes, words: int, *, seeded: bool) -> Form:
    """The form of a stream that has so many coefficients."""
    magic, size, major, minor, how, _, _ = _OUTER.unpack(stream[: _OUTER.size])
    if how not in (_PLAIN, _ZSTD):
        raise RuntimeError(f"this SEAL compresses in way {how}; TenSEAL as published uses zstd")
    inner = stream[_OUTER.size :]
    if how == _ZSTD:
        inner = pa.input_stream(pa.BufferReader(inner), compression="zstd").read()
    # The last number of the head counts the coefficients that follow it.
    start = inner.find(struct.pack("<Q", words), 64) + 8
    stop = start + 8 * words
    tail = inner[stop : len(inner) - SEED] if seeded else inner[stop:]
    if start < 8 or len(inner) < stop + SEED * seeded or (tail and not seeded):
        raise RuntimeError(f"SEAL {major}.{minor} saves in a form that is not known here")
    outer = _OUTER.pack(magic, size, major, minor, _PLAIN, 0, _OUTER.size + len(inner))
    return Form(outer + inner[:start], words, tail, seeded)


class Engine:
    """One ring and one scale, with what SEAL needs for them; holds no key.

    Args:
        ring: The ring.
        scale: Of numbers in it.
    """

    def __init__(self, ring: Ring, scale: int) -> None:
        seal = library()
        self.ring, self.scale = ring, float(scale)
        given = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
        given.set_poly_modulus_degree(ring.degree)
        primes = seal.CoeffModulus.Create(ring.degree, list(ring.chain))
        given.set_coeff_modulus(primes)
        self.context = seal.SEALContext(given, True, seal.SEC_LEVEL_TYPE.TC128)
        if not self.context.parameters_set():
            raise RuntimeError(f"SEAL refuses {ring}: {self.context.parameters_error_message()}")
        self.all_primes = np.array([prime.value() for prime in primes], dtype=np.uint64)
        self.primes = self.all_primes[: len(ring.primes)]
        self.encoder, self.evaluator = seal.CKKSEncoder(self.context), seal.Evaluator(self.context)
        # With a key that is thrown away.
        generator = seal.KeyGenerator(self.context)
        secret = generator.secret_key()
        encryptor = seal.Encryptor(self.context, secret)
        zero, both = self.encode([0j]), seal.Ciphertext()
        encryptor.encrypt_symmetric(zero, both)
        half = ring.degree * len(ring.primes)
        with Scratch() as scratch:
            self.fresh = _learn(scratch.save(encryptor.encrypt_symmetric(zero)), half, seeded=True)
            self.total = _learn(scratch.save(both), 2 * half, seeded=False)
            self.key = _learn(scratch.save(secret), ring.degree * len(ring.chain), seeded=False)

    def encode(self, slots: list[complex], scale: float | None = None) -> Any:
        """SEAL's plaintext of up to N / 2 complex numbers."""
        plain = library().Plaintext()
        self.encoder.encode(slots, self.scale if scale is None else scale, plain)
        return plain

    def checked(self, words: Words, step: str) -> Words:
        """Coefficients that came, (..., primes, N), if each is below its prime.

        Raises:
            ProtocolError: One is not.
        """
        if (words >= self.primes[:, None]).any():
            raise ProtocolError("a coefficient that came is not below its prime", step=step)
        return words


@functools.lru_cache(maxsize=16)
def engine(ring: Ring, scale: int) -> Engine:
    """The engine of a ring and scale; it holds nothing secret and is shared."""
    return Engine(ring, scale)


def narrow(words: Words, width: int) -> bytes:
    """The low `width` bytes of each number, little end first."""
    return np.ascontiguousarray(words, dtype="<u8").view(np.uint8).reshape(-1, 8)[:, :width].tobytes()


def widen(data: bytes | memoryview, width: int) -> Words:
    """Numbers of `width` bytes each, (n,) uint64."""
    narrowed = np.frombuffer(data, dtype=np.uint8).reshape(-1, width)
    wide = np.zeros((len(narrowed), 8), dtype=np.uint8)
    wide[:, :width] = narrowed
    return wide.view("<u8").reshape(-1).astype(np.uint64, copy=False)
