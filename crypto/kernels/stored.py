"""Machine code of kernels on disk: where it may be kept, whom it is trusted from, and how it is called.

A file holds the code of one kernel for one combination of argument types, as `crypto.kernels.flat` makes it. It is
read only where its folder and itself belong to this user and nobody else may write there, since what it holds is
run; where its name, types, size and SHA-256 are the expected ones; and in a folder that is named by everything the
code depends on: sources, Python, numpy, numba, llvmlite, their settings and the processor.

    "fedcore kernel 1\\n", a line of JSON, "\\n", the code

Linux on x86-64 only: elsewhere nothing is stored.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import json
import mmap
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = b"fedcore kernel 1\n"
KEPT = 2
"""Folders of other sources that stay; beyond them, those that a day has not seen used are removed."""
_DAY = 86400.0
_MOST = 2**24  # bytes of a file

_INTEGERS = {
    kind: np.dtype(kind)
    for kind in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
}
_SCALARS = {np.dtype(kind).type: np.dtype(kind).str for kind in (*_INTEGERS, "bool")}
_ELEMENTS = frozenset(_SCALARS.values())
_RETURNS: dict[str, Any] = {kind: getattr(ctypes, f"c_{kind}") for kind in _INTEGERS}
_RETURNS |= {"bool": ctypes.c_bool, "boolean": ctypes.c_bool, "none": ctypes.c_int64}
ROUTINES = {"memcpy": "memcpy", "memmove": "memmove", "memset": "memset", "NRT_MemInfo_call_dtor": "abort"}
"""What compiled code may call, and what of the C library does it. Arrays are given without an owner, so that nothing
is ever to be freed when the last use of one has ended."""


# ---- arguments ------------------------------------------------------------------------------------------------------


def laid_out(arguments: tuple[Any, ...]) -> tuple[tuple[Any, ...], list[int]] | None:
    """Arguments as compiled code takes them, and a key that differs where their types do; None where one is not plain.

    Plain are whole numbers, truth values and arrays of them. An array becomes its owner and its parent (none), how
    many elements, bytes of each, address, shape and strides.
    """
    key: list[Any] = []
    flat: list[int] = []
    for value in arguments:
        kind = type(value)
        if kind is np.ndarray:
            key += (value.dtype, value.ndim, value.flags.num)
            address = value.__array_interface__["data"][0]
            flat += (0, 0, value.size, value.itemsize, address, *value.shape, *value.strides)
        elif kind in _SCALARS or kind is bool or (kind is int and -(2**63) <= value < 2**63):
            key.append(kind)
            flat.append(int(value))
        else:
            return None
    return tuple(key), flat


def kinds_of(arguments: tuple[Any, ...]) -> tuple[str, ...] | None:
    """What numba compiles separately, in words; None where an argument is not plain."""
    told = []
    for value in arguments:
        kind = type(value)
        if kind is np.ndarray:
            element, flags = value.dtype.str, value.flags
            if element not in _ELEMENTS:
                return None
            layout = "C" if flags.c_contiguous else "F" if flags.f_contiguous else "A"
            told.append(f"{element} {value.ndim}{layout}{'w' * flags.writeable}{'a' * flags.aligned}")
        elif kind is int or kind is bool:
            told.append("<i8" if kind is int else "|b1")
        else:
            told.append(_SCALARS[kind])
    return tuple(told)


class Stored:
    """A kernel's code in memory, called without the interpreter's lock.

    Args:
        address: Of its first instruction.
        takes: Words behind the two for result and error.
        returns: A name of `_RETURNS`.
        memory: In which the code is.
    """

    def __init__(self, address: int, takes: int, returns: str, memory: Any) -> None:
        kinds = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * takes]
        self._call = ctypes.CFUNCTYPE(ctypes.c_int32, *kinds)(address)
        self._kind = None if returns == "none" else _RETURNS[returns]
        # Room for an error, which no stored kernel has, and for the result of one that has none.
        self._room = ctypes.create_string_buffer(16)
        self._unused = ctypes.addressof(self._room)
        self._memory = memory

    def __call__(self, flat: list[int]) -> Any:
        """Run it on what `laid_out` made of arguments that are still there."""
        if self._kind is None:
            self._call(self._unused, self._unused + 8, *flat)
            return None
        result = self._kind()
        self._call(ctypes.byref(result), self._unused + 8, *flat)
        return result.value


# ---- files ----------------------------------------------------------------------------------------------------------


def file_of(place: Path, name: str, kinds: tuple[str, ...]) -> Path:
    """Where the code of a kernel for these types is."""
    digest = hashlib.sha256(json.dumps([name, kinds]).encode()).hexdigest()
    return place / f"{name.rpartition('.')[2].strip('_')}-{digest[:16]}"


def load(place: Path, name: str, kinds: tuple[str, ...]) -> Stored | None:
    """The stored code of a kernel; None where it cannot stand alone, or the system does not let it run.

    Raises:
        LookupError: There is none, or none that may be run: it is to be made.
    """
    try:
        descriptor = os.open(file_of(place, name, kinds), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        raise LookupError(name) from None
    with open(descriptor, "rb") as opened:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or not own(found) or found.st_size > _MOST:
            raise LookupError(name)
        raw = opened.read(_MOST)
    try:
        head, code = _opened(raw, name, kinds)
        return None if head["unfit"] else _mapped(head, code)
    except OSError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise LookupError(name) from None


def _opened(raw: bytes, name: str, kinds: tuple[str, ...]) -> tuple[dict[str, Any], bytes]:
    if not raw.startswith(MAGIC):
        raise ValueError("no file of ours")
    end = raw.index(b"\n", len(MAGIC))
    head, code = json.loads(raw[len(MAGIC) : end]), raw[end + 1 :]
    if (head["name"], head["kinds"]) != (name, list(kinds)):
        raise ValueError("of another kernel")
    if hashlib.sha256(code).hexdigest() != head["sha256"]:
        raise ValueError("damaged")
    return head, code


def _mapped(head: dict[str, Any], code: bytes) -> Stored:
    """Put code where it can run."""
    if not 0 <= head["entry"] < len(code):
        raise ValueError("no entry")
    memory = mmap.mmap(
        -1, len(code), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ | mmap.PROT_WRITE
    )
    memory[:] = code
    library = ctypes.CDLL(None, use_errno=True)
    for routine, at in head["routines"].items():
        if routine not in ROUTINES or not 0 <= at <= len(code) - 8:
            raise ValueError("a routine that no kernel calls")
        address = ctypes.cast(getattr(library, ROUTINES[routine]), ctypes.c_void_p).value or 0
        memory[at : at + 8] = address.to_bytes(8, "little")
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    # Writable and executable never at one time.
    protect = library.mprotect
    protect.argtypes, protect.restype = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int], ctypes.c_int
    if protect(base, len(code), mmap.PROT_READ | mmap.PROT_EXEC) != 0:
        raise OSError(ctypes.get_errno(), "the system does not let it run")
    return Stored(base + head["entry"], int(head["takes"]), head["returns"], memory)


def save(place: Path, name: str, kinds: tuple[str, ...], compiled: Any) -> bool:
    """Store what numba compiled, or that it cannot stand alone; whether it can.

    Args:
        place: Folder; made when absent.
        name: Of the kernel, with its module.
        kinds: Of its arguments, from `kinds_of`.
        compiled: Numba's result, compiled in this process.
    """
    head: dict[str, Any] = {"name": name, "kinds": kinds, "unfit": ""}
    code = b""
    try:
        from crypto.kernels import flat

        made = flat.flat_code(compiled)
        if made.returns not in _RETURNS:
            raise flat.NotFlat(f"it returns {made.returns}")
        code = made.code
        head |= {"entry": made.entry, "takes": made.takes, "returns": made.returns, "routines": made.routines}
    except Exception as error:  # noqa: BLE001 - another version of the compiler may fail anywhere; numba's code is there
        head["unfit"] = f"{type(error).__name__}: {error}"
    head["sha256"] = hashlib.sha256(code).hexdigest()
    with contextlib.suppress(OSError):
        if not place.is_dir():
            place.mkdir(mode=0o700, exist_ok=True)
            _tidy(place.parent)
        write(file_of(place, name, kinds), MAGIC + json.dumps(head).encode() + b"\n" + code)
    return not head["unfit"]


def write(file: Path, content: bytes) -> None:
    """Whole or not at all, also where several processes write it."""
    import tempfile

    descriptor, partial = tempfile.mkstemp(prefix=".", dir=file.parent)
    try:
        with open(descriptor, "wb") as opened:
            opened.write(content)
        Path(partial).replace(file)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


# ---- folders --------------------------------------------------------------------------------------------------------


def folder(sources: Path, path: str) -> Path | None:
    """The folder for code compiled from these sources; None where nobody may trust one.

    Args:
        sources: Folder of the package whose files name it.
        path: `native` or `portable`.
    """
    state = hashlib.sha256()
    for file in sorted(sources.rglob("*.py")):
        state.update(file.read_bytes())
    place = cache("kernels", f"{state.hexdigest()[:16]}-{path}")
    if place is not None:
        with contextlib.suppress(OSError):
            os.utime(place)
    return place


def cache(*names: str) -> Path | None:
    """A folder in the user's cache whose content may be run; None where nobody may trust one.

    Args:
        names: Below `fedcore/`, one inside the other.
    """
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        home.mkdir(parents=True, exist_ok=True)
        if home.stat().st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
            return None  # whoever may rename our folder may put another in its place
        place = home
        for name in ("fedcore", *names):
            place /= name
            with contextlib.suppress(FileExistsError):
                place.mkdir(mode=0o700)
            if not _made_own(place, empty=name != names[-1]):
                return None
        return place
    except (OSError, RuntimeError):
        return None


def _made_own(place: Path, *, empty: bool) -> bool:
    """Whether a folder is this user's, and nobody else may write there.

    Args:
        place: The folder.
        empty: It holds folders only, each of which is looked at itself: others are kept from writing from now on.
    """
    found = place.stat()
    if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "geteuid") and found.st_uid != os.geteuid()):
        return False
    if os.name == "posix" and found.st_mode & 0o022:
        if not empty:
            return False
        place.chmod(stat.S_IMODE(found.st_mode) & ~0o022)
    return os.access(place, os.W_OK | os.X_OK)


def own(found: os.stat_result) -> bool:
    """Whether a file was written by this user, and nobody else may write to it."""
    return not hasattr(os, "geteuid") or (found.st_uid == os.geteuid() and not found.st_mode & 0o022)


def _tidy(current: Path) -> None:
    """Remove the folders of sources that are gone."""
    import shutil
    import time

    used = []
    for each in current.parent.iterdir():
        if each != current:
            with contextlib.suppress(OSError):
                used.append((each.stat().st_mtime, each))
    for when, each in sorted(used, reverse=True)[KEPT:]:
        if time.time() - when > _DAY:
            shutil.rmtree(each, ignore_errors=True)


# ---- what code depends on -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Processor:
    """What Linux tells of the processor.

    Args:
        model: Lines that name it.
        flags: Its features.
    """

    model: tuple[str, ...]
    flags: frozenset[str]

    def has(self, *names: str) -> bool:
        """Whether it has all these features."""
        return self.flags.issuperset(names)


@functools.cache
def processor() -> Processor | None:
    """This machine's processor; None where it is not x86-64 under Linux."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return None
    model: list[str] = []
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as opened:
            for line in opened:
                name, _, value = line.partition(":")
                if name.strip() == "flags":
                    return Processor(tuple(model), frozenset(value.split()))
                if name.strip() in ("vendor_id", "cpu family", "model", "stepping"):
                    model.append(line.strip())
    except OSError:
        pass
    return None


@functools.cache
def environment() -> str | None:
    """A name for all that compiled code depends on beside its source; None where nothing is stored.

    Neither numba nor llvmlite is imported: their versions are read from their files.
    """
    told = processor()
    if told is None or ctypes.sizeof(ctypes.c_void_p) != 8 or sys.byteorder != "little":
        return None
    settings = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_"))
    if "NUMBA_DISABLE_JIT" in dict(settings) or Path(".numba_config.yaml").exists():
        return None
    state = hashlib.sha256(MAGIC)
    try:
        for package in ("numba", "llvmlite"):
            found = importlib.util.find_spec(package)
            if found is None or found.origin is None:
                return None
            state.update(Path(found.origin).with_name("_version.py").read_bytes())
    except (OSError, ValueError, ImportError):
        return None
    state.update(
        json.dumps(
            [sys.version, np.__version__, told.model, sorted(told.flags), settings], sort_keys=True
        ).encode()
    )
    return state.hexdigest()[:16]
