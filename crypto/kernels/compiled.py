"""How kernels are compiled: numba, without the interpreter's lock, kept on disk.

Numba is imported when something has to be compiled, not before: the machine code of a kernel that this machine has
compiled once is read from `crypto.kernels.stored` and called as it is, and a program that starts every day spends
no time on a compiler. Whatever is not as expected there (another processor or version, no file, arguments of other
types) is numba's, which gives the same results.

Both caches are in a folder named by a hash of all sources and by the path taken (native or portable): kernels call
one another across files, so an edit of any file concerns them all.
"""

from __future__ import annotations

import functools
import importlib
import os
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import CellType, CodeType, FunctionType
from typing import Any, TypeVar

from crypto.kernels import stored

F = TypeVar("F", bound=Callable[..., Any])

PORTABLE = "FEDCORE_PORTABLE"
"""Environment variable: any value but `0` and nothing takes the portable path, whatever the processor has."""

_lock = threading.RLock()
_compiling = 0.0


@functools.cache
def native() -> bool:
    """Whether kernels use the processor's own AES and carry-less multiplication."""
    if os.environ.get(PORTABLE, "0") not in ("", "0"):
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    told = stored.processor()
    if told is not None:
        return told.has("aes", "pclmulqdq", "sse4_1")
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    return all(features.get(name, False) for name in ("aes", "pclmul", "sse4.1"))


def compile_seconds() -> float:
    """Seconds this process spent compiling kernels, which a first run on a machine pays and later ones do not."""
    return _compiling


class Intrinsic:
    """A function that writes LLVM code into the kernels that call it; `numba.extending.intrinsic` once needed."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__doc__ = function.__doc__
        self._function = function

    @functools.cached_property
    def real(self) -> Any:
        """What numba knows it as."""
        return importlib.import_module("numba.extending").intrinsic(self._function)


class Kernel:
    """A function compiled to machine code on first use, for each combination of argument types.

    Args:
        function: With types that numba infers.
        options: Of `numba.njit`.
    """

    def __init__(self, function: FunctionType, options: dict[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._options = options
        # A kernel that is inlined has machine code of its own only where somebody calls it from Python.
        self._kept = options.get("inline") is None
        # What a function closes over is in no name that a file could have.
        self._stored = self._kept and function.__closure__ is None
        self._known: dict[Any, stored.Stored | None] = {}
        self._loaded: dict[Any, stored.Stored | None] = {}

    def __call__(self, *arguments: Any) -> Any:
        plain = stored.laid_out(arguments) if self._stored and _place() is not None else None
        if plain is None:
            return self.real(*arguments)
        key, flat = plain
        if key not in self._known:
            self._known[key] = self._first(arguments)
        ready = self._known[key]
        return self.real(*arguments) if ready is None else ready(flat)

    @functools.cached_property
    def real(self) -> Any:
        """What numba knows it as."""
        with _lock:
            numba, folder = _numba(), _folder() if self._kept else None
            before = numba.config.CACHE_DIR
            try:
                numba.config.CACHE_DIR = str(folder or before)
                return self._compiler(cache=folder is not None)
            finally:
                numba.config.CACHE_DIR = before

    def _compiler(self, *, cache: bool) -> Any:
        return _numba().njit(cache=cache, nogil=True, **self._options)(_resolved(self._function))

    def _first(self, arguments: tuple[Any, ...]) -> stored.Stored | None:
        """The code that was stored for arguments of these types; None where numba runs them."""
        kinds, place = stored.kinds_of(arguments), _place()
        if kinds is None or place is None:
            return None
        line = self._function.__code__.co_firstlineno
        name = f"{self._function.__module__}:{line}.{self._function.__qualname__}"
        with _lock:
            if kinds not in self._loaded:
                try:
                    found = stored.load(place, name, kinds)
                except LookupError:
                    found = None
                    stored.save(place, name, kinds, self._compiled(arguments))
                self._loaded[kinds] = found
            return self._loaded[kinds]

    def _compiled(self, arguments: tuple[Any, ...]) -> Any:
        """What numba compiled for these types in this process: its cache keeps machine code only."""
        kinds = tuple(map(_numba().typeof, arguments))
        compiler = self.real
        compiler.compile(kinds)
        if compiler.stats.cache_hits.get(kinds):
            compiler = self._compiler(cache=False)
            compiler.compile(kinds)
        return compiler.overloads[kinds]


@functools.cache
def _numba() -> Any:
    """The compiler, with a clock for what it compiles; what it reads from its cache does not count."""
    event = importlib.import_module("numba.core.event")

    class Clock(event.Listener):  # type: ignore[name-defined, misc]
        depth = 0
        began = 0.0

        def on_start(self, event: Any) -> None:
            if self.depth == 0:
                self.began = time.monotonic()
            self.depth += 1

        def on_end(self, event: Any) -> None:
            global _compiling
            self.depth -= 1
            if self.depth == 0:
                _compiling += time.monotonic() - self.began

    event.register("numba:compile", Clock())
    return importlib.import_module("numba")


class _Types:
    """`numba.types`, imported when a name of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("numba.types"), name)


types: Any = _Types()
"""`numba.types`, for what an intrinsic does when it is compiled."""


def intrinsic(function: Callable[..., Any]) -> Any:
    """`numba.extending.intrinsic` that does not import numba before a kernel is compiled.

    Args:
        function: From typing context and argument types to a signature and a function that writes the code.
    """
    return Intrinsic(function)


def kernel(function: F | None = None, **options: Any) -> Any:
    """Compile a function for machine code on first use; `@kernel` or `@kernel(inline="always")`.

    Args:
        function: With types that numba infers.
        options: Of `numba.njit`.
    """
    if function is None:
        return functools.partial(kernel, **options)
    if not isinstance(function, FunctionType):
        raise TypeError(f"a kernel is a function, not {function!r}")
    return Kernel(function, options)


def _resolved(function: FunctionType) -> FunctionType:
    """The function with what numba knows in place of kernels and intrinsics."""

    def real(value: Any) -> Any:
        return value.real if isinstance(value, Kernel | Intrinsic) else value

    space = dict(function.__globals__)
    for name in _names(function.__code__):
        if name in space:
            space[name] = real(space[name])
    closure = tuple(CellType(real(cell.cell_contents)) for cell in function.__closure__ or ())
    copy = FunctionType(function.__code__, space, function.__name__, function.__defaults__, closure)
    copy.__kwdefaults__, copy.__qualname__ = function.__kwdefaults__, function.__qualname__
    copy.__module__, copy.__doc__ = function.__module__, function.__doc__
    return copy


def _names(code: CodeType) -> set[str]:
    inner = [_names(each) for each in code.co_consts if isinstance(each, CodeType)]
    return set(code.co_names).union(*inner)


@functools.cache
def _folder() -> Path | None:
    """Where what is compiled is kept; None where no place is safe."""
    return stored.folder(Path(__file__).parents[1], "native" if native() else "portable")


@functools.cache
def _place() -> Path | None:
    """Where machine code is stored that this process could run; None where none can be."""
    known = stored.environment()
    folder = _folder()
    return folder / known if known and folder else None
