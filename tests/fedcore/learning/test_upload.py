"""Rows that do not stay on the device: each batch once, in order, the next begun before this one is used."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedcore.learning import examples
from fedcore.learning.examples import Examples
from fedcore.learning.upload import fits, one_ahead

CPU = torch.device("cpu")


@given(st.lists(st.integers(), max_size=8))
def test_each_item_is_begun_once_and_comes_in_order(items: list[int]) -> None:
    begun: list[int] = []

    def begin(item: int) -> int:
        begun.append(item)
        return 2 * item

    assert list(one_ahead(items, begin)) == [2 * item for item in items]
    assert begun == items


def test_the_next_is_begun_before_one_is_handed_out_and_not_the_one_after_it() -> None:
    told: list[str] = []
    for item in one_ahead("abcd", lambda item: told.append(f"begin {item}") or item):
        told.append(f"use {item}")
    assert told == ["begin a", "begin b", "use a", "begin c", "use b", "begin d", "use c", "use d"]


@pytest.mark.parametrize("at_once", [10**9, 0])
@pytest.mark.parametrize("target", [True, False])
def test_batches_of_rows_kept_elsewhere_are_those_of_resident_rows(monkeypatch, at_once, target) -> None:
    monkeypatch.setattr(examples, "GATHER_AT_ONCE", at_once)
    x = torch.arange(22, dtype=torch.uint8).view(11, 1, 1, 2)
    y = torch.arange(11) if target else torch.empty(0)
    here, away = Examples(x, y), Examples(x, y, elsewhere=CPU)
    order = torch.randperm(11)

    pairs = zip(here.batches(4, order), away.batches(4, order), strict=True)

    assert all(
        torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and a.x.dtype == torch.float32 for a, b in pairs
    )
    some = torch.tensor([3, 3, 0])
    assert torch.equal(here.batch(some).x, away.batch(some).x)
    assert torch.equal(here.batch(some).y, y[some] if target else y)


def test_rows_that_would_fill_the_gpu_stay_in_the_machines_memory(monkeypatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 300)
    rows = Examples(torch.zeros(100, 2), torch.zeros(100))

    assert fits(500, cuda) and not fits(501, cuda) and fits(10**12, CPU)
    away = rows.to(cuda)
    assert away.device == cuda and away.x is rows.x and away.to(cuda) is away and len(away) == 100
    assert rows.device == CPU and rows.to(CPU) is rows
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    assert fits(600, cuda), "what torch holds in reserve is free too"
