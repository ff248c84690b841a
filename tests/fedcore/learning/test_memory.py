"""Rows at once: fewer after each time that memory ran out, and none lost or taken twice."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedcore.errors import DataError
from fedcore.learning.memory import fitting, in_pieces, out_of_memory

CPU_ALLOCATOR = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes. Error code 12"


def holds(room: int, error: Exception, taken: list[torch.Tensor]):
    def work(piece: torch.Tensor) -> None:
        if len(piece) > room:
            raise error
        taken.append(piece)

    return work


@given(rows=st.integers(0, 60), most=st.integers(1, 70), room=st.integers(1, 70))
def test_each_row_is_taken_once_in_order_in_pieces_that_fit(rows: int, most: int, room: int) -> None:
    taken: list[torch.Tensor] = []

    found = in_pieces(
        torch.arange(rows), most, holds(room, torch.OutOfMemoryError("CUDA out of memory"), taken)
    )

    assert torch.cat([torch.arange(0), *taken]).tolist() == list(range(rows))
    assert all(0 < len(piece) <= min(most, room) for piece in taken)
    assert found <= most and (found == most if min(most, rows) <= room else found <= room)


def test_the_size_that_fits_is_found_once_and_kept_for_the_next_call() -> None:
    tried: list[int] = []

    def work(piece: torch.Tensor) -> None:
        tried.append(len(piece))
        if len(piece) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert in_pieces(torch.arange(16), 16, work) == 2
    assert tried == [16, 8, 4, *[2] * 8]
    tried.clear()
    assert in_pieces(torch.arange(5), 2, work) == 2
    assert tried == [2, 2, 1]


def test_a_short_last_piece_does_not_make_the_next_call_smaller() -> None:
    taken: list[torch.Tensor] = []
    assert in_pieces(torch.arange(5), 4, holds(9, MemoryError(), taken)) == 4
    assert [len(piece) for piece in taken] == [4, 1]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError(CPU_ALLOCATOR),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_each_way_in_which_torch_says_it_is_understood(error: Exception) -> None:
    taken: list[torch.Tensor] = []
    assert out_of_memory(error)
    assert in_pieces(torch.arange(4), 4, holds(2, error, taken)) == 2


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), KeyError("memory"), ValueError("mine")]
)
def test_another_error_is_passed_on_and_nothing_is_tried_again(error: Exception) -> None:
    calls: list[int] = []

    def work(piece: torch.Tensor) -> None:
        calls.append(len(piece))
        raise error

    with pytest.raises(type(error)):
        in_pieces(torch.arange(4), 4, work)
    assert calls == [4]


def test_one_row_that_does_not_fit_is_refused_with_the_cure() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(
        DataError, match=r"one row does not fit.*smaller model or smaller images.*device: cpu"
    ):
        in_pieces(torch.arange(3), 2, holds(0, error, []))


def test_work_that_needs_two_rows_is_refused_at_two() -> None:
    def attempt(size: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(DataError, match="2 rows, the fewest that can be worked on, do not fit"):
        fitting(8, attempt, least=2)


def test_the_cache_of_the_gpu_is_emptied_once_what_failed_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    import weakref

    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(held[-1]() is not None))

    def attempt(size: int) -> int:
        activations = torch.zeros(size)
        held.append(weakref.ref(activations))
        if size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return size

    assert fitting(8, attempt) == (2, 2)
    assert alive == [False, False]


def test_an_allocation_that_the_machine_cannot_make_is_one_of_these() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.float64)
    assert out_of_memory(caught.value)
