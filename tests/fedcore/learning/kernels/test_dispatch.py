"""Kernels are chosen where they can run; why not is told once, and no device's failure is hidden."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fedcore.errors import JobError
from fedcore.learning.kernels import accumulate, dispatch, histograms, norms, server


def on_gpu(index: int = 0) -> Any:
    return SimpleNamespace(is_cuda=True, device=torch.device("cuda", index))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[int, int]], None]:
    """A device that is not there, asked only for its capability."""
    monkeypatch.delenv("FEDCORE_KERNELS")
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr(torch.version, "hip", None)

    def capable(of: tuple[int, int]) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: of)
        dispatch.forget()

    capable((9, 0))
    return capable


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == dispatch.__name__]


@pytest.fixture(autouse=True)
def _listening(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=dispatch.__name__)


def test_kernels_serve_tensors_of_one_capable_device(gpu: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert dispatch.usable(on_gpu(), on_gpu())
    gpu((8, 0))
    assert dispatch.usable(on_gpu())
    assert not told(caplog)


def test_without_cuda_plain_torch_serves_and_it_is_told_once(
    gpu: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        assert not dispatch.usable(torch.ones(2))

    assert told(caplog) == ["no GPU kernels: the tensors are on the CPU"]


def test_an_old_device_is_told_with_what_it_has_and_what_is_asked(
    gpu: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gpu((7, 5))
    for _ in range(3):
        assert not dispatch.usable(on_gpu())

    assert told(caplog) == ["no GPU kernels: compute capability 7.5; at least 8.0"]


def test_without_triton_the_cure_is_told_once(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    for _ in range(3):
        assert not dispatch.usable(on_gpu())

    (line,) = told(caplog)
    assert "Triton cannot be imported" in line and "fedcore[gpu]" in line


def test_an_old_triton_does_not_serve(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__version__="2.3.1"))

    assert not dispatch.usable(on_gpu())
    assert told(caplog) == ["no GPU kernels: Triton is 2.3.1; at least 3"]


def test_tensors_of_two_devices_are_not_served(gpu: Any) -> None:
    assert not dispatch.usable(on_gpu(0), on_gpu(1))


def test_a_torch_for_rocm_is_not_served(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert not dispatch.usable(on_gpu())


def test_the_interpreter_never_serves_tensors_of_a_gpu(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert not dispatch.usable(on_gpu())
    monkeypatch.setenv("FEDCORE_KERNELS", "interpret")
    assert not dispatch.usable(on_gpu())


def test_the_interpreter_is_asked_for_before_triton_is_imported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")

    assert not dispatch.usable(torch.ones(2))
    assert "needs TRITON_INTERPRET=1" in told(caplog)[0]


def test_kernels_can_be_turned_off(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDCORE_KERNELS", "torch")
    assert not dispatch.usable(on_gpu())


def test_a_choice_that_is_none_names_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDCORE_KERNELS", "cuda")
    with pytest.raises(JobError, match="'cuda'; allowed: auto, torch, interpret"):
        dispatch.usable(torch.ones(2))


def failures() -> list[Exception]:
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import OutOfResources, PTXASError

    return [
        OutOfResources(300000, 232448, "shared memory"),
        CompilationError(None, None, "no such thing"),  # type: ignore[arg-type]
        PTXASError("`ptxas` failed with error code 1"),
        subprocess.CalledProcessError(1, ["gcc"]),
        RuntimeError("Failed to find C compiler. Please specify via CC environment variable."),
        RuntimeError("PassManager::run failed"),
    ]


@pytest.mark.parametrize("place", range(6))
def test_a_kernel_that_cannot_be_made_is_not_tried_again(
    place: int, caplog: pytest.LogCaptureFixture
) -> None:
    tried = []

    def kernel() -> str:
        tried.append(1)
        raise failures()[place]

    for _ in range(3):
        assert dispatch.guarded("some", kernel, lambda: "plain") == "plain"
    assert dispatch.guarded("another", lambda: "kernel", lambda: "plain") == "kernel"

    assert len(tried) == 1
    (line,) = told(caplog)
    assert line.startswith("kernel some does not run here, plain torch does")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        RuntimeError("CUDA error: the launch timed out and was terminated"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        ValueError("a fault of ours"),
    ],
)
def test_the_loss_of_a_device_passes(error: Exception) -> None:
    def kernel() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        dispatch.guarded("some", kernel, lambda: pytest.fail("plain torch was taken"))
    assert caught.value is error


def test_kernels_are_launched_on_the_device_of_their_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[torch.device] = []

    class Current:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def __enter__(self) -> None:
            entered.append(self.device)

        def __exit__(self, *_: object) -> None:
            entered.pop()

    monkeypatch.setattr(torch.cuda, "device", Current)

    assert dispatch.guarded("some", lambda: list(entered), list, on=on_gpu(1)) == [torch.device("cuda", 1)]
    assert dispatch.guarded("some", lambda: list(entered), list, on=torch.ones(1)) == []


def test_a_ruled_out_kernel_gives_the_numbers_of_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedcore.learning.kernels import triton_accumulate, triton_histograms, triton_norms, triton_server

    def fails(*_: object, **__: object) -> None:
        raise failures()[0]

    for module, name in (
        (triton_norms, "ghost"),
        (triton_norms, "made"),
        (triton_norms, "kept"),
        (triton_accumulate, "weighted_sum"),
        (triton_server, "mean"),
        (triton_server, "step"),
        (triton_histograms, "histograms"),
    ):
        monkeypatch.setattr(module, name, fails)
    a, d, w = torch.randn(3, 5, 4), torch.randn(3, 5, 2), torch.rand(3)
    each = d.mT @ a

    torch.testing.assert_close(
        norms.squared_norms(a, d), each.double().square().sum((1, 2)), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(norms.norms_and_gradients(a, d)[1], each)
    torch.testing.assert_close(accumulate.weighted_sum(a, d, w), torch.einsum("n,nok->ok", w, each))
    torch.testing.assert_close(accumulate.clipped_sum(a, d, torch.full((3,), 4.0), 1.0), each.sum(0) / 2)
    torch.testing.assert_close(server.fedavg(d[:, 0], w), w @ d[:, 0] / w.sum())
    model, first, second = torch.zeros(2), torch.zeros(2), torch.zeros(2)
    server.fedadam(d[:, 0], w, model, first, second, server_round=1)
    torch.testing.assert_close(first, 0.1 * (w @ d[:, 0] / w.sum()))
    bins = torch.zeros(3, 1, dtype=torch.uint8)
    found = histograms.histograms(bins, w[:, None], torch.zeros(3, dtype=torch.int32), 1, 1)
    torch.testing.assert_close(found.flatten(), w.sum()[None])
