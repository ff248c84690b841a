"""Several GPUs of one participant: each takes its share of every batch, the first one takes the step.

    copy      the weights, from the first GPU to the others
    share     the rows of the batch, in equal parts
    add       the gradients, weighted by rows, on the first GPU

Only the first GPU has an optimizer, a strategy's client half and a look at what is finite, so all of these do what they do
on one GPU, and the step is that of the whole batch up to the order of summation; dropout draws other numbers on each.
One process and a thread for each GPU: the code of a task and its rows need not travel. The price is that weights are
copied in each step, and that Python runs for one GPU at a time: it pays for models whose step takes many milliseconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import torch
from torch import nn

from fedcore.errors import JobError
from fedcore.learning.gradients import Gradients
from fedcore.learning.seeds import own_randomness, reseed, seeded_model
from fedcore.learning.task import Batch, Task

_of_thread = threading.local()


def devices_for(first: torch.device, count: int) -> tuple[torch.device, ...]:
    """The devices of one training, the one with the model first; the CPU is one.

    Args:
        first: Of the model.
        count: That the job asks for, `local.devices`.

    Raises:
        JobError: There are fewer.
    """
    if first.type != "cuda" or count == 1:
        return (first,)
    there = torch.cuda.device_count()
    if count > there:
        raise JobError(
            f"local.devices is {count} but the site has {there} CUDA devices; use devices: {there} or fewer"
        )
    begin = first.index if first.index is not None else torch.cuda.current_device()
    return (first, *(torch.device("cuda", (begin + k) % there) for k in range(1, count)))


def replicas(task: Task, devices: tuple[torch.device, ...]) -> list[nn.Module]:
    """This thread's models of a task on some devices, whose weights are whatever the last user left."""
    of, at = getattr(_of_thread, "of", (None, None))
    if of is not task or at != devices:
        _of_thread.models = [own_randomness(seeded_model(task.model, 0)).to(device) for device in devices]
        _of_thread.of = (task, devices)
    models: list[nn.Module] = _of_thread.models
    return models


def release_replicas() -> None:
    """Let go of this thread's."""
    _of_thread.__dict__.clear()


class SharedGradients:
    """Loss and gradients of batches for one model, worked out by it and by replicas on other devices.

    A context: the threads end with it.

    Args:
        first: Of the model that is trained.
        devices: Of the replicas; one may be there more than once.
        make: Makes the gradients of a replica on its device.
        seed: Parts of the seed of the replicas' dropout.

    Raises:
        JobError: The model has batch normalisation, whose statistics would be those of a share.
    """

    def __init__(
        self,
        first: Gradients,
        devices: tuple[torch.device, ...],
        make: Callable[[nn.Module, torch.device], Gradients],
        *seed: str | int,
    ) -> None:
        if first.normalised:
            raise JobError(
                f"local.devices is {1 + len(devices)} and the model has batch normalisation, whose statistics would differ "
                "from device to device; use devices: 1 or a model with group normalisation"
            )
        self.first, self.task, self.normalised = first, first.task, False
        self._others: list[Gradients] = []
        for number, (model, device) in enumerate(zip(replicas(first.task, devices), devices, strict=True)):
            model.train()
            for parameter, given in zip(model.parameters(), first.model.parameters(), strict=True):
                parameter.requires_grad_(given.requires_grad)
            reseed(model, device, *seed, "dropout", number + 1)
            self._others.append(make(model, device))
        self._devices = devices
        self._threads = ThreadPoolExecutor(len(devices), "device")

    def __enter__(self) -> SharedGradients:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)

    def __call__(self, batch: Batch) -> torch.Tensor:
        """As `Gradients`: sets the gradients of the model's parameters, and returns the detached mean loss."""
        own, *shares = _shares(batch, 1 + len(self._others))
        begun = [
            self._threads.submit(self._share, gradients, device, share)
            for gradients, device, share in zip(self._others, self._devices, shares, strict=False)
        ]
        try:
            loss = self.first(own)
        finally:
            # No other step may begin while one of them still reads the weights.
            errors = [each.exception() for each in begun]
        for error in errors:
            if error is not None:
                raise error
        if not begun:
            return loss
        return self._added(
            loss, [each.result() for each in begun], [len(each) / len(batch) for each in (own, *shares)]
        )

    def finite(self) -> bool:
        """Whether all gradients are numbers."""
        return self.first.finite()

    def _share(self, gradients: Gradients, device: torch.device, share: Batch) -> torch.Tensor:
        with torch.no_grad():
            torch._foreach_copy_(_weights(gradients.model), _weights(self.first.model))
        return gradients(Batch(share.x.to(device), share.y.to(device)))

    @torch.no_grad()
    def _added(self, loss: torch.Tensor, losses: list[torch.Tensor], weights: list[float]) -> torch.Tensor:
        total = loss * weights[0]
        for parameter in self.first.parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(weights[0])
        for gradients, other, weight in zip(self._others, losses, weights[1:], strict=False):
            total += other.to(total.device) * weight
            for parameter, theirs in zip(self.first.parameters, gradients.parameters, strict=True):
                if theirs.grad is None:
                    continue
                if (
                    parameter.grad is None
                ):  # of a part of the model that the first one's rows did not come through
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad.add_(theirs.grad.to(parameter.device), alpha=weight)
        return total


def _weights(model: nn.Module) -> list[torch.Tensor]:
    return [*(p.detach() for p in model.parameters()), *model.buffers()]


def _shares(batch: Batch, count: int) -> list[Batch]:
    """A batch in parts whose rows differ by one at most; fewer where there are fewer rows."""
    parts = min(count, len(batch))
    y = batch.y.tensor_split(parts) if len(batch.y) else (batch.y,) * parts
    return [Batch(x, each) for x, each in zip(batch.x.tensor_split(parts), y, strict=True)]
