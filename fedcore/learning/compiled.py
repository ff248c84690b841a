"""A model whose forward pass is compiled, and the plain one where no compiler is there.

The compiled model is a second face of the same parameters: names, arrays and evaluation stay those of the plain one.
"""

from __future__ import annotations

import logging
import threading
from typing import cast

import torch
from torch import nn

from fedcore.errors import FedcoreError
from fedcore.learning.device import device_lost
from fedcore.learning.memory import out_of_memory

log = logging.getLogger("fedcore.learning")

SMALL = 4_000_000
"""Parameters up to which a step on a GPU is mostly its launches, which a CUDA graph makes at once."""

_of_thread = threading.local()
_failed: list[str] = []
_first = threading.Lock()


def compiled(model: nn.Module, device: torch.device) -> nn.Module | None:
    """The model with its forward pass compiled on the first call, one for each model of a thread.

    Args:
        model: On `device`; keeps its parameters, which both share.
        device: On a GPU, small models are replayed as CUDA graphs.

    Returns:
        For batches of one size, that of the first call; None once a compiler failed in this process.
    """
    if _failed:
        return None
    if getattr(_of_thread, "model", None) is not model:
        small = sum(p.numel() for p in model.parameters()) <= SMALL
        mode = "reduce-overhead" if device.type == "cuda" and small else "default"
        _of_thread.compiled = torch.compile(model, dynamic=False, mode=mode)
        _of_thread.model = model
    return cast(nn.Module, _of_thread.compiled)


def release_compiled() -> None:
    """Let go of this thread's."""
    _of_thread.__dict__.clear()


def may_be_the_compilers(error: Exception) -> bool:
    """Whether an error of the compiled model may be one of the compiler; the plain model tells, on the same batch.

    A mistake of the task or its rows comes again from the plain model, with its own words. Full memory and a lost device
    have cures of their own.
    """
    return not (isinstance(error, FedcoreError) or out_of_memory(error) or device_lost(error))


def words_of(error: Exception) -> str:
    """What the log may say of an error: its type, and the text only where the compiler wrote it.

    Any other text may quote the rows.
    """
    cause = getattr(error, "inner_exception", error)  # what a part of the compiler says itself
    kind = type(cause)
    own = kind.__module__.startswith("torch._inductor.")
    return f"{kind.__name__}: {str(cause).partition(chr(10))[0]}" if own else kind.__name__


def give_up(why: str) -> None:
    """Compile nothing any more in this process, and say so once.

    Args:
        why: As from `words_of`.
    """
    with _first:
        if not _failed:
            _failed.append(why)
            log.warning("local.compile has no effect here: %s", why)
