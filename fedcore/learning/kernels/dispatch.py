"""Whether a kernel serves some tensors, or plain torch does.

    usable(x, y)                         CUDA of compute capability 8.0 or higher, Triton 3 or higher, one device
    guarded("norms", kernel, plain)      plain from now on, once a kernel cannot be compiled or asks for too much

`FEDCORE_KERNELS` says what is wanted:

    (nothing), auto    kernels where they can run; also where it is set and empty
    torch              never
    interpret          Triton's interpreter, on tensors of the CPU; for tests, with TRITON_INTERPRET=1

Why a kernel does not serve is logged once per reason. A device that is lost, or has no memory left, is no reason to go on in
another way: such errors pass.
"""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import TypeVar

import torch

from fedcore.errors import JobError
from fedcore.learning.kernels import interpreter

T = TypeVar("T")

CHOICES = ("auto", "torch", "interpret")
LEAST_CAPABILITY = (8, 0)
"""What the kernels are compiled for in tests: below it there are neither bfloat16 nor tf32 in the matrix units."""

_log = logging.getLogger(__name__)
_told: set[str] = set()
_ruled_out: set[str] = set()

# What Triton raises as a plain RuntimeError when there is no compiler, no place to keep what it compiles, or one of its stages
# gives up. Launches that fail begin with "Triton Error [CUDA]".
_COMPILING = (
    "Failed to find C compiler",
    "Failed to load newly compiled",
    "Cannot find ptxas",
    "PassManager::run failed",
    "Could not create or locate cache dir",
)
# And as an AssertionError when it links its launcher.
_LINKING = "libcuda.so cannot found"


def usable(*tensors: torch.Tensor) -> bool:
    """Whether Triton kernels serve these tensors.

    Args:
        tensors: One or more, of any shape and dtype.

    Raises:
        JobError: `FEDCORE_KERNELS` is none of the allowed values.
    """
    # Asked for each layer of each step, also where there is no GPU: `in` takes a third of the time of `get`.
    wanted = os.environ["FEDCORE_KERNELS"] if "FEDCORE_KERNELS" in os.environ else "auto"  # noqa: SIM401
    if wanted in ("auto", ""):
        if not tensors[0].is_cuda:
            return _no("the tensors are on the CPU")
        reason = _why_not(tensors)
    elif wanted == "torch":
        return False
    elif wanted == "interpret":
        reason = _why_not_interpreted(tensors)
    else:
        raise JobError(f"FEDCORE_KERNELS is {wanted!r}; allowed: {', '.join(CHOICES)}")
    return True if reason is None else _no(reason)


def guarded(
    name: str, kernel: Callable[[], T], plain: Callable[[], T], *, on: torch.Tensor | None = None
) -> T:
    """What a kernel finds, or plain torch, if the kernel cannot be compiled here or asks for more than the device has.

    Args:
        name: Of the kernel, and of what it was compiled for where that differs; it is not tried again after a failure.
        kernel: Launches it; changes nothing before the launch.
        plain: The same in torch.
        on: A tensor of the device that the kernel is launched on, where that may not be the current one.

    Returns:
        Of the one that ran.

    Raises:
        Exception: Anything else that the kernel raises, such as the loss of the device.
    """
    if name in _ruled_out:
        return plain()
    try:
        with torch.cuda.device(on.device) if on is not None and on.is_cuda else nullcontext():
            return kernel()
    except Exception as error:
        if not _is_no_kernel(error):
            raise
        _ruled_out.add(name)
        told = str(error).strip().partition("\n")[0]
        _log.warning(
            "kernel %s does not run here, plain torch does: %s: %s", name, type(error).__name__, told
        )
        return plain()


def forget() -> None:
    """Reasons told, kernels ruled out and devices asked are as at the start."""
    _told.clear()
    _ruled_out.clear()
    _capability.cache_clear()
    _triton.cache_clear()


def _no(reason: str) -> bool:
    if reason not in _told:
        _told.add(reason)
        _log.info("no GPU kernels: %s", reason)
    return False


def _why_not(tensors: tuple[torch.Tensor, ...]) -> str | None:
    device = tensors[0].device
    if any(each.device != device for each in tensors):
        return "the tensors are on several devices"
    if torch.version.hip is not None:
        return "this torch is for ROCm, where they were not tested"
    found = _capability(device.index)
    if found < LEAST_CAPABILITY:
        return "compute capability {}.{}; at least {}.{}".format(*found, *LEAST_CAPABILITY)
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "TRITON_INTERPRET is 1"
    return _triton()


def _why_not_interpreted(tensors: tuple[torch.Tensor, ...]) -> str | None:
    if os.environ.get("TRITON_INTERPRET") != "1":
        return "FEDCORE_KERNELS=interpret needs TRITON_INTERPRET=1 before Triton is imported"
    if any(each.device.type != "cpu" for each in tensors):
        return "FEDCORE_KERNELS=interpret is for tensors of the CPU"
    reason = _triton()
    if reason is None:
        interpreter.prepare()
    return reason


@cache
def _capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


@cache
def _triton() -> str | None:
    """Why Triton is not there, or None."""
    try:
        version = str(importlib.import_module("triton").__version__)
    except ImportError as missing:
        return f"Triton cannot be imported ({missing}); `pip install fedcore[gpu]`"
    if int(version.partition(".")[0]) < 3:
        return f"Triton is {version}; at least 3"
    return None


def _is_no_kernel(error: Exception) -> bool:
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import OutOfResources, PTXASError

    if isinstance(error, CompilationError | OutOfResources | PTXASError):
        return True
    if isinstance(error, subprocess.CalledProcessError | OSError):
        # The C compiler of the launcher; files that cannot be kept or loaded. A launch touches no file.
        return True
    if isinstance(error, AssertionError):
        return _LINKING in str(error)
    return isinstance(error, RuntimeError) and any(part in str(error) for part in _COMPILING)
