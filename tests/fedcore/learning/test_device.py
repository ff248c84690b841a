"""The device that is asked for, and the CPU once it is lost."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import nn

from fedcore.errors import DataError, JobError
from fedcore.learning import device as module
from fedcore.learning.device import choose_device, device_lost, on_device_or_cpu
from fedcore.learning.task import Batch
from fedcore.learning.training import load_arrays, take_arrays, train
from strategies.scaffold import ScaffoldClient
from tests.fedcore.learning.test_training import Classes, fresh, rows_of
from tests.messages import local

CPU, CUDA = torch.device("cpu"), torch.device("cuda")

ILLEGAL = torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCompile with ...")


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(module, "_lost", [])


def test_a_device_is_chosen_by_wish_by_what_is_there_and_by_what_the_site_gives(monkeypatch) -> None:
    assert choose_device("auto", True) == CUDA
    assert choose_device("auto", False) == CPU
    assert choose_device("cpu", True) == CPU
    assert choose_device("cuda:1", True) == torch.device("cuda:1")
    with pytest.raises(JobError, match=r"'cuda:2' but the site has 2 CUDA devices"):
        choose_device("cuda:2", True)
    with pytest.raises(JobError, match=r"'cuda' but the site gives none \(resources.gpus: none\)"):
        choose_device("cuda", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto", True) == CPU
    with pytest.raises(JobError, match=r"'cuda:0' but there is none here; use device: auto or cpu"):
        choose_device("cuda:0", True)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (ILLEGAL, True),
        (RuntimeError("CUDA error: unspecified launch failure"), True),
        (RuntimeError("CUDA driver error: device not ready"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (RuntimeError("No CUDA GPUs are available"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (torch.AcceleratorError("CUDA error: out of memory"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("CUDA error"), False),
    ],
)
def test_a_lost_device_is_told_from_a_full_one_and_from_a_mistake(error: Exception, lost: bool) -> None:
    assert device_lost(error) is lost


def lose(where: list[torch.device]):
    def work(device: torch.device) -> str:
        where.append(device)
        if device.type == "cuda":
            raise ILLEGAL
        return "done"

    return work


def test_work_on_a_lost_device_is_done_again_on_the_cpu_and_stays_there(caplog) -> None:
    where: list[torch.device] = []

    with caplog.at_level(logging.WARNING, "fedcore.learning"):
        assert on_device_or_cpu("auto", True, lose(where)) == "done"
        assert on_device_or_cpu("auto", True, lose(where)) == "done"

    assert where == [CUDA, CPU, CPU]
    (told,) = caplog.messages
    assert told == (
        "device cuda is lost (CUDA error: an illegal memory access was encountered); on the CPU until this process is "
        "started again"
    )


def test_a_lost_device_asked_for_by_name_is_refused_with_the_cure_and_nothing_goes_to_the_cpu() -> None:
    where: list[torch.device] = []
    for _ in range(2):
        with pytest.raises(DataError, match="'cuda:1' and that device failed; start the participant again"):
            on_device_or_cpu("cuda:1", True, lose(where))
    assert where == [torch.device("cuda:1")], "a device that is lost is not tried again"
    assert choose_device("cpu", True) == CPU


def test_two_threads_that_lose_a_device_at_once_say_so_once(caplog) -> None:
    import threading

    both = threading.Barrier(2, timeout=20)

    def work(device: torch.device) -> str:
        if device.type == "cuda":
            both.wait()
            raise ILLEGAL
        return "done"

    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(on_device_or_cpu("auto", True, work))) for _ in range(2)
    ]
    with caplog.at_level(logging.WARNING, "fedcore.learning"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == ["done", "done"] and len(caplog.messages) == 1


def test_a_round_whose_device_is_lost_in_its_third_step_ends_as_the_round_of_a_cpu() -> None:
    received = take_arrays(fresh())
    begun: list[torch.device] = []

    def a_round(device: torch.device, breaks: bool = True) -> dict[str, np.ndarray]:
        class Breaks(Classes):
            steps = 0

            def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
                self.steps += 1
                if breaks and device == CUDA and self.steps == 3:
                    raise ILLEGAL
                return super().loss(model, batch)

        begun.append(device)
        model = fresh(seed=2)
        load_arrays(model, received)
        half = ScaffoldClient({}, {"share": np.ones(1)}, {})
        train(model, Breaks(), rows_of(), local(momentum=0.9), seed=(7, "site-0"), half=half)
        return {**take_arrays(model), **half.finish(model)}

    found = on_device_or_cpu("auto", True, a_round)
    expected = a_round(CPU, breaks=False)

    assert begun == [CUDA, CPU, CPU] and list(found) == list(expected)
    assert all(np.array_equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes"), DataError("no rows"), torch.OutOfMemoryError("CUDA out of memory")]
)
def test_another_error_is_passed_on_and_loses_no_device(error: Exception) -> None:
    def work(device: torch.device) -> None:
        raise error

    with pytest.raises(type(error)):
        on_device_or_cpu("auto", True, work)
    assert choose_device("auto", True) == CUDA


def test_an_error_on_the_cpu_is_not_tried_again() -> None:
    calls: list[torch.device] = []

    def work(device: torch.device) -> None:
        calls.append(device)
        raise ILLEGAL

    with pytest.raises(torch.AcceleratorError):
        on_device_or_cpu("cpu", True, work)
    assert calls == [CPU]
