"""libsodium's group ristretto255, from the shared library that the package `rbcl` brings.

`rbcl` holds the library as a text of five megabytes, and writes it to a new temporary file in every process, which
stays. Here it is taken out once and kept in the user's cache folder; a process then loads it in a millisecond and
leaves nothing behind. The file is loaded only where it and its folder belong to this user and nobody else may write
there; otherwise `rbcl` itself is imported and its temporary file removed.

Elements and scalars are 32 bytes. Functions take time that does not depend on secrets.

Source: RFC 9496; libsodium's documentation, "Ristretto".
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import os
import secrets
from pathlib import Path

from crypto.kernels import stored

POINT = 32
SCALAR = 32
HASH = 64
_NAMES = ("crypto_scalarmult_ristretto255", "crypto_core_ristretto255_from_hash", "crypto_hash_sha512")


@functools.cache
def library() -> ctypes.CDLL:
    """The library, ready to be called.

    Raises:
        ImportError: `rbcl` is not installed.
        OSError: The system does not load it.
    """
    found = importlib.util.find_spec("rbcl")
    if found is None or found.origin is None:
        raise ImportError("the package rbcl is needed for ristretto255: pip install rbcl")
    told = Path(found.origin).with_name("_sodium.py").stat()
    place = stored.cache("sodium")
    file = None if place is None else place / f"{told.st_size:x}-{told.st_mtime_ns:x}.so"
    loaded = _kept(file) if file is not None else None
    if loaded is None:
        loaded = _taken_out(file)
    if loaded.sodium_init() < 0:
        raise OSError("libsodium could not be initialised: the system gives no randomness")
    return loaded


def _kept(file: Path) -> ctypes.CDLL | None:
    try:
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with open(descriptor, "rb") as opened:
            if not stored.own(os.fstat(opened.fileno())):
                return None
        return ctypes.CDLL(str(file))
    except OSError:
        return None


def _taken_out(file: Path | None) -> ctypes.CDLL:
    """The library by `rbcl`'s own way, once; kept for the next process."""
    module = importlib.import_module("rbcl._sodium")
    if file is not None:
        stored.write(file, module.sodium_bs)
    if os.name == "posix":
        Path(module.lib_path).unlink(missing_ok=True)  # it is mapped; its name is of no use
    taken: ctypes.CDLL = module._sodium
    return taken


def addresses() -> list[int]:
    """Of scalar multiplication, the map from 64 bytes, and SHA-512: for compiled code that calls them."""
    return [ctypes.cast(getattr(library(), name), ctypes.c_void_p).value or 0 for name in _NAMES]


def _of(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes where {size} are needed")
    return data


def is_element(point: bytes) -> bool:
    """Whether 32 bytes are the canonical form of an element."""
    return bool(library().crypto_core_ristretto255_is_valid_point(_of(point, POINT)) == 1)


def random_element() -> bytes:
    """An element nobody knows the logarithm of."""
    return from_hash(secrets.token_bytes(HASH))


def random_scalar() -> bytes:
    """A secret scalar that is not zero."""
    while True:
        out = ctypes.create_string_buffer(SCALAR)
        library().crypto_core_ristretto255_scalar_reduce(out, secrets.token_bytes(64))
        if any(out.raw):
            return out.raw


def inverse(scalar: bytes) -> bytes:
    """The scalar that undoes multiplication.

    Raises:
        ValueError: Zero has none.
    """
    out = ctypes.create_string_buffer(SCALAR)
    if library().crypto_core_ristretto255_scalar_invert(out, _of(scalar, SCALAR)) != 0:
        raise ValueError("the scalar zero has no inverse")
    return out.raw


def from_hash(wide: bytes) -> bytes:
    """RFC 9496's map from 64 uniform bytes to an element."""
    out = ctypes.create_string_buffer(POINT)
    library().crypto_core_ristretto255_from_hash(out, _of(wide, HASH))
    return out.raw


def add(left: bytes, right: bytes) -> bytes:
    """The sum of two elements.

    Raises:
        ValueError: One is none.
    """
    return _combined("crypto_core_ristretto255_add", left, right)


def subtract(left: bytes, right: bytes) -> bytes:
    """The difference of two elements; errors as `add`."""
    return _combined("crypto_core_ristretto255_sub", left, right)


def _combined(name: str, left: bytes, right: bytes) -> bytes:
    out = ctypes.create_string_buffer(POINT)
    if getattr(library(), name)(out, _of(left, POINT), _of(right, POINT)) != 0:
        raise ValueError("bytes that are no element of ristretto255")
    return out.raw


def times_base(scalar: bytes) -> bytes:
    """A multiple of the generator.

    Raises:
        ValueError: The scalar is zero.
    """
    out = ctypes.create_string_buffer(POINT)
    if library().crypto_scalarmult_ristretto255_base(out, _of(scalar, SCALAR)) != 0:
        raise ValueError("the scalar is zero")
    return out.raw


def times(scalar: bytes, point: bytes) -> bytes:
    """A multiple of an element.

    Raises:
        ValueError: The bytes are no element, or the result is the neutral one.
    """
    out = ctypes.create_string_buffer(POINT)
    if library().crypto_scalarmult_ristretto255(out, _of(scalar, SCALAR), _of(point, POINT)) != 0:
        raise ValueError("bytes that are no element of ristretto255, or a multiple that is the neutral one")
    return out.raw
