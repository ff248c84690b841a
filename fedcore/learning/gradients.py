"""The gradient of one batch: in one go or, where memory does not hold it, added up over pieces of it.

A task's loss is a mean over rows, so the mean over the pieces' losses, weighted by their rows, is the same up to the order
of summation; with dropout it is one with other random numbers. Batch normalisation takes its statistics from the rows it
sees at once, in pieces it would be another model: such a batch is refused instead.
"""

from __future__ import annotations

import contextlib
import math
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from fedcore.errors import DataError
from fedcore.learning.compiled import compiled, give_up, may_be_the_compilers, words_of
from fedcore.learning.memory import fitting, out_of_memory
from fedcore.learning.seeds import SeededDropout
from fedcore.learning.task import Batch, Task

_fits: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
"""Rows at once that fit for a model for which memory once ran out."""


class Gradients:
    """Loss and gradients of batches for one model.

    Args:
        model: In training mode.
        task: Gives the loss.
        parameters: Of the model, whose gradients are set.
        device: Of the model.
        autocast: Makes the context of a forward pass.
        scaler: Of the loss, for float16.
        compile_at: Rows, above 1, of a batch whose forward pass is compiled; none when absent.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        parameters: list[nn.Parameter],
        device: torch.device,
        *,
        autocast: Callable[[], Any] = contextlib.nullcontext,
        scaler: torch.amp.GradScaler | None = None,
        compile_at: int | None = None,
    ) -> None:
        self.model, self.task, self.parameters = model, task, parameters
        self.normalised = normalises_batches(model)
        self._autocast, self._scaler = autocast, scaler
        self._compile_at = compile_at
        self._compiled = compiled(model, device) if compile_at is not None and compile_at > 1 else None
        self._before = _Before(model) if self._compiled is not None else None
        self._most = _fits.get(model, sys.maxsize)

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Set the gradients of the mean loss over a batch, replacing those before.

        Returns:
            The loss, a detached scalar.

        Raises:
            DataError: The batch does not fit into memory and cannot be taken in pieces, or not even one row fits.
        """
        if self._compiled is None or len(batch) != self._compile_at or len(batch) > self._most:
            return self._plain(batch)
        if self._before is not None:
            self._before.keep()
        failed = None
        try:
            return self._in_pieces(batch, len(batch), self._compiled)
        except Exception as error:
            if may_be_the_compilers(error):
                failed = words_of(error)
            elif not out_of_memory(error):
                raise
        if self._before is not None:
            self._before.put_back()
        loss = self._plain(batch)
        # Only now is it known that neither the task nor the rows are to blame.
        self._compiled = None
        if failed is not None:
            give_up(failed)
        return loss

    def _plain(self, batch: Batch) -> torch.Tensor:
        rows = min(len(batch), self._most)
        if self.normalised:
            return self._whole(batch)
        loss, found = fitting(rows, lambda most: self._in_pieces(batch, most, self.model))
        if found < rows:
            self._most = _fits[self.model] = found
        return loss

    def finite(self) -> bool:
        """Whether all gradients are numbers."""
        return all_finite([p.grad for p in self.parameters if p.grad is not None])

    def _whole(self, batch: Batch) -> torch.Tensor:
        try:
            with _two_rows(len(batch) == 1):
                return self._in_pieces(batch, len(batch), self.model)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            why = str(error).partition("\n")[0]
        raise DataError(
            f"a batch of {len(batch)} rows does not fit into the memory of the device, and the model's batch "
            "normalisation needs it whole; lower local.batch_size or take a model with group normalisation",
            detail=why,
        )

    def _in_pieces(self, batch: Batch, most: int, forward: nn.Module) -> torch.Tensor:
        # Before the forward pass: the memory of the gradients is free in it, and a CUDA graph may write to it anew.
        for parameter in self.parameters:
            parameter.grad = None
        rows = len(batch)
        if most >= rows:
            return self._backward(batch, forward)
        total = torch.zeros((), device=batch.x.device)
        for start in range(0, rows, most):
            y = batch.y[start : start + most] if len(batch.y) else batch.y
            piece = Batch(batch.x[start : start + most], y)
            total += self._backward(piece, forward, len(piece) / rows)
        return total

    def _backward(self, batch: Batch, forward: nn.Module, share: float = 1.0) -> torch.Tensor:
        with self._autocast():
            loss = self.task.loss(forward, batch)
        if share != 1.0:
            loss = loss * share
        scaled = loss if self._scaler is None else self._scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]
        return loss.detach()


class _Before:
    """What a forward pass changes besides gradients: buffers, and the generators of dropout.

    Args:
        model: Whose dropout layers have their generators already.
    """

    def __init__(self, model: nn.Module) -> None:
        self._buffers: dict[torch.dtype, list[torch.Tensor]] = {}
        for buffer in model.buffers():
            self._buffers.setdefault(buffer.dtype, []).append(buffer)
        self._values = {dtype: [torch.empty_like(b) for b in held] for dtype, held in self._buffers.items()}
        layers = (module for module in model.modules() if isinstance(module, SeededDropout))
        self._sources = list({id(each.source): each.source for each in layers if each.source}.values())
        self._states: list[torch.Tensor] = []

    @torch.no_grad()
    def keep(self) -> None:
        """In memory that is there already, by few launches: this is done in each step."""
        for dtype, held in self._buffers.items():
            torch._foreach_copy_(self._values[dtype], held)
        self._states = [source.get_state() for source in self._sources]

    @torch.no_grad()
    def put_back(self) -> None:
        for dtype, held in self._buffers.items():
            torch._foreach_copy_(held, self._values[dtype])
        for source, state in zip(self._sources, self._states, strict=True):
            source.set_state(state)


def normalises_batches(model: nn.Module) -> bool:
    """Whether the model has batch normalisation: its rows depend on each other."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


@torch.no_grad()
def all_finite(tensors: Sequence[torch.Tensor], order: float = math.inf) -> bool:
    """Whether no value is NaN or infinite; waits for a GPU once.

    Args:
        tensors: Floating point, on one device.
        order: Of the norm that is looked at. That of 2 is faster, and overflows where values are below the largest.
    """
    filled = [each for each in tensors if each.numel()]
    norms = torch._foreach_norm(filled, order) if filled else ()
    if norms and norms[0].device.type != "cpu":
        return bool(torch.stack([each.float() for each in norms]).isfinite().all())
    return all(math.isfinite(float(each)) for each in norms)


@contextlib.contextmanager
def _two_rows(alone: bool) -> Iterator[None]:
    """Says what torch means when a batch norm layer sees one value per channel."""
    try:
        yield
    except ValueError as error:
        if not alone:
            raise
        raise DataError(
            "the model's batch normalisation needs two rows in a batch, this one has one; raise "
            "local.batch_size, give the site more rows or take a model without it"
        ) from error
