"""Work in as many rows at once as fit into memory: fewer after each time that they did not.

A batch is a decision of the job, what a device holds is not known before. So a step is tried whole; where memory runs
out it is done in smaller pieces, and whoever calls again starts with the size that worked.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from fedcore.errors import DataError

T = TypeVar("T")

log = logging.getLogger("fedcore.learning")

_SAYS_SO = (
    "DefaultCPUAllocator",
    "not enough memory",
    "CUDA error: out of memory",
    "Triton Error [CUDA]: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory left, of a GPU or of the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAYS_SO)


def fitting(most: int, attempt: Callable[[int], T], least: int = 1) -> tuple[T, int]:
    """Try with fewer rows at once until memory is enough.

    Args:
        most: Rows at once to begin with, at least 1.
        attempt: Does the work with this many rows at once. Is called again with half of them where memory runs out, so
            it must leave nothing of its own behind when it raises.
        least: Rows at once that the work cannot go below.

    Returns:
        What `attempt` gave, and the rows at once with which it did.

    Raises:
        DataError: `least` rows do not fit.
    """
    while True:
        try:
            return attempt(most), most
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            why = str(error).partition("\n")[0]
        # Only here, when the error and the frames it held are gone, is what they held free.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if most <= least:
            rows = "one row does" if most == 1 else f"{most} rows, the fewest that can be worked on, do"
            raise DataError(
                f"{rows} not fit into the memory of the device; take a smaller model or smaller images, or, where a "
                "GPU is too small, local.device: cpu",
                detail=why,
            )
        fewer = max(least, (most + 1) // 2)
        log.warning("memory ran out with %d rows at once; going on with %d", most, fewer)
        most = fewer


def in_pieces(indices: torch.Tensor, most: int, work: Callable[[torch.Tensor], None]) -> int:
    """Work on consecutive pieces of some rows, in smaller ones where memory runs out.

    Args:
        indices: Row numbers `[n]`; without any, nothing is worked on.
        most: Rows of a piece at most, at least 1.
        work: Takes a piece, in whole or, where it raises, not at all.

    Returns:
        Rows of a piece that fit, at most `most`: what to begin with the next time.

    Raises:
        DataError: One row does not fit.
    """
    start, rows = 0, len(indices)
    while start < rows:
        first, asked = start, min(most, rows - start)
        _, size = fitting(asked, lambda size: work(indices[first : first + size]))  # noqa: B023 - called at once
        most = most if size == asked else size
        start += size
    return most


@contextlib.contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Says that memory ran out in work that cannot be done in smaller pieces.

    Args:
        what: Memory has to hold, for the message.

    Raises:
        DataError: It ran out.
    """
    try:
        yield
        return
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        why = str(error).partition("\n")[0]
    raise DataError(
        f"the memory of the device does not hold {what}; take a smaller model or a smaller local.batch_size, or, where a "
        "GPU is too small, local.device: cpu",
        detail=why,
    )
