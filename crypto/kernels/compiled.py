"""How kernels are compiled: numba, without the interpreter's lock, cached on disk.

Numba looks at the file of a function only when it decides whether its cached code is still good; our kernels
call one another across files. Their cache is therefore a folder named by a hash of all of their sources and by
the path taken (native or portable), so that neither an edit nor another processor meets yesterday's code.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])

PORTABLE = "FEDCORE_PORTABLE"
"""Environment variable: any value but `0` and nothing takes the portable path, whatever the processor has."""


@functools.cache
def native() -> bool:
    """Whether kernels use the processor's own AES and carry-less multiplication."""
    if os.environ.get(PORTABLE, "0") not in ("", "0"):
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    return all(features.get(name, False) for name in ("aes", "pclmul", "sse4.1"))


def kernel(function: F | None = None, **options: Any) -> Any:
    """Compile a function for machine code on first use; `@kernel` or `@kernel(inline="always")`.

    Args:
        function: With types that numba infers.
        options: Of `numba.njit`.
    """
    if function is None:
        return functools.partial(kernel, **options)
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(_cache())
    try:
        return numba.njit(cache=options.get("inline") is None, nogil=True, **options)(function)
    finally:
        numba.config.CACHE_DIR = before


@functools.cache
def _cache() -> Path:
    state = hashlib.sha256()
    root = Path(__file__).parents[1]
    for file in sorted(root.rglob("*.py")):
        state.update(file.read_bytes())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = "native" if native() else "portable"
    return home / "fedcore" / "kernels" / f"{state.hexdigest()[:16]}-{path}"
