"""ristretto255 beside the published vectors and `rbcl`'s own functions; what stays on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import rbcl

from crypto import sodium

BASE = bytes.fromhex("e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76")
"""RFC 9496, appendix A.1: the generator; then its double."""
DOUBLE = bytes.fromhex("6a493210f7499cd17fecb510ae0cea23a110e8d5b901f8acadd3095c73a3b919")
NEUTRAL, ONE, TWO = bytes(32), bytes([1]) + bytes(31), bytes([2]) + bytes(31)


def test_multiples_of_the_generator_are_those_of_the_rfc() -> None:
    assert sodium.times_base(ONE) == BASE and sodium.times_base(TWO) == DOUBLE == sodium.add(BASE, BASE)
    assert sodium.subtract(DOUBLE, BASE) == BASE and sodium.subtract(BASE, BASE) == NEUTRAL


def test_results_are_those_of_rbcl() -> None:
    scalar, wide = sodium.random_scalar(), os.urandom(64)
    point = sodium.from_hash(wide)
    assert point == rbcl.crypto_core_ristretto255_from_hash(wide)
    assert sodium.times(scalar, point) == rbcl.crypto_scalarmult_ristretto255(scalar, point)
    assert sodium.inverse(scalar) == rbcl.crypto_core_ristretto255_scalar_invert(scalar)
    assert sodium.times(sodium.inverse(scalar), sodium.times(scalar, point)) == point
    assert sodium.is_element(point) and sodium.is_element(sodium.random_element())


@pytest.mark.parametrize("wrong", [b"\xff" * 32, ONE])
def test_bytes_that_are_no_element_are_refused(wrong: bytes) -> None:
    assert not sodium.is_element(wrong)
    for call in (
        lambda: sodium.add(wrong, BASE),
        lambda: sodium.subtract(BASE, wrong),
        lambda: sodium.times(ONE, wrong),
    ):
        with pytest.raises(ValueError, match="no element"):
            call()


def test_zero_and_the_neutral_element_are_refused() -> None:
    for call in (
        lambda: sodium.times_base(NEUTRAL),
        lambda: sodium.inverse(NEUTRAL),
        lambda: sodium.times(NEUTRAL, BASE),
        lambda: sodium.times(ONE, NEUTRAL),
    ):
        with pytest.raises(ValueError, match=r"zero|neutral"):
            call()


@pytest.mark.parametrize("size", [0, 31, 33])
def test_other_lengths_are_refused_before_the_library_sees_them(size: int) -> None:
    short = bytes(size)
    for call in (
        lambda: sodium.is_element(short),
        lambda: sodium.times_base(short),
        lambda: sodium.times(ONE, short),
        lambda: sodium.add(BASE, short),
        lambda: sodium.from_hash(short),
    ):
        with pytest.raises(ValueError, match="bytes where"):
            call()


def loaded(home: Path, temporary: Path) -> str:
    """The generator as another process computes it, and whether that imported rbcl."""
    code = (
        "import sys; from crypto import sodium; "
        "print(sodium.times_base(bytes([1]) + bytes(31)).hex(), 'rbcl._sodium' in sys.modules)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "XDG_CACHE_HOME": str(home), "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        check=True,
    )
    return told.stdout.strip()


@pytest.mark.skipif(os.name != "posix", reason="files that are mapped can be removed on POSIX systems only")
def test_the_library_is_taken_out_once_and_leaves_nothing_in_the_temporary_folder(tmp_path: Path) -> None:
    home, temporary = tmp_path / "cache", tmp_path / "tmp"
    temporary.mkdir()
    assert loaded(home, temporary) == f"{BASE.hex()} True"
    assert loaded(home, temporary) == f"{BASE.hex()} False"
    assert list(temporary.iterdir()) == []
    (kept,) = (home / "fedcore" / "sodium").iterdir()
    kept.chmod(0o666)  # anybody may have written to it
    assert loaded(home, temporary) == f"{BASE.hex()} True"
    kept.write_bytes(b"no library")
    kept.chmod(0o600)
    assert loaded(home, temporary) == f"{BASE.hex()} True"
    assert list(temporary.iterdir()) == []
