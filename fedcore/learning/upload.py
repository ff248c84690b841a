"""Batches of rows that stay in the machine's memory: the next one is copied to the GPU while this one computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

S = TypeVar("S")
T = TypeVar("T")

RESIDENT_SHARE = 0.5
"""Of a GPU's free memory that rows may take for good; the rest is for the model and its activations."""


def fits(size: int, device: torch.device) -> bool:
    """Whether rows of this many bytes are to be kept on a device."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(
        device
    )  # by torch, for what comes next
    return size <= RESIDENT_SHARE * (free + kept)


def one_ahead(items: Iterable[S], begin: Callable[[S], T]) -> Iterator[T]:
    """What `begin` gives for each item, in order, each begun before the one in front of it is handed out.

    Example:
        >>> list(one_ahead("ab", str.upper))
        ['A', 'B']
    """
    coming: list[T] = []
    for item in items:
        coming.append(begin(item))
        if len(coming) == 2:
            yield coming.pop(0)
    yield from coming


def uploaded(
    pairs: Iterable[tuple[torch.Tensor, torch.Tensor]], device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs of tensors, on a device.

    Args:
        pairs: On the CPU.
        device: Of a GPU, on a stream of its own beside the one that computes; another is copied to as it comes.
    """
    if device.type != "cuda":
        yield from one_ahead(pairs, lambda pair: (pair[0].to(device), pair[1].to(device)))
        return
    beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def begin(pair: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.cuda.Event]:
        with torch.cuda.stream(beside):
            x, y = (each.pin_memory().to(device, non_blocking=True) for each in pair)
            return x, y, beside.record_event()

    for x, y, here in one_ahead(pairs, begin):
        computing = torch.cuda.current_stream(device)
        computing.wait_event(here)
        # Their memory belongs to the other stream, which may not use it again before this one is done with it.
        x.record_stream(computing)
        y.record_stream(computing)
        yield x, y
