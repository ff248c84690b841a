"""Where a participant computes: the device that a job asks for, and the CPU once that device is lost.

A CUDA context that met an error answers nothing any more for as long as the process lives. What was on the device is gone
with it, the rows and the model of the round are not: the round is done again from what was received.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from typing import TypeVar

import torch

from fedcore.errors import DataError, JobError
from fedcore.learning.memory import out_of_memory

T = TypeVar("T")

log = logging.getLogger("fedcore.learning")

_OF_A_DEVICE = re.compile(
    r"CUDA (driver |unknown )?error|cuDNN error|CUBLAS_STATUS_|No CUDA GPUs are available|Triton Error \[CUDA\]"
)

_lost: list[str] = []
"""The first error of a device in this process; without one, none is lost."""
_first = threading.Lock()


def choose_device(wanted: str, allow_gpu: bool) -> torch.device:
    """The device to train on.

    Args:
        wanted: `auto`, `cpu`, `cuda` or `cuda:N`.
        allow_gpu: Whether the site gives its GPUs to jobs.

    Raises:
        JobError: CUDA was asked for by name and is not there or not given.
        DataError: CUDA was asked for by name and was lost in this process.
    """
    if wanted == "auto":
        usable = allow_gpu and not _lost and torch.cuda.is_available()
        return torch.device("cuda" if usable else "cpu")
    if wanted.startswith("cuda") and not (allow_gpu and torch.cuda.is_available()):
        why = "the site gives none (resources.gpus: none)" if not allow_gpu else "there is none here"
        raise JobError(f"local.device is {wanted!r} but {why}; use device: auto or cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise JobError(
            f"local.device is {wanted!r} but the site has {torch.cuda.device_count()} CUDA devices, counted "
            "from cuda:0; use device: auto"
        )
    if device.type == "cuda" and _lost:
        raise _gone(wanted, _lost[0])
    return device


def device_lost(error: BaseException) -> bool:
    """Whether an error says that the device itself failed, not that it lacked memory."""
    if out_of_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and bool(_OF_A_DEVICE.search(str(error)))
    )


def on_device_or_cpu(wanted: str, allow_gpu: bool, work: Callable[[torch.device], T]) -> T:
    """Work on the device, and where that is lost on the way, once more from the beginning on the CPU.

    From then on `auto` is the CPU, until the process is started again.

    Args:
        wanted: As `choose_device`.
        allow_gpu: As `choose_device`.
        work: All that is done with the device, from what was received to arrays on the CPU. May be called twice, so it
            must change nothing that outlives it before its end.

    Returns:
        What `work` gave.

    Raises:
        DataError: The device was asked for by name and is lost.
        JobError: As `choose_device`.
    """
    device = choose_device(wanted, allow_gpu)
    try:
        return work(device)
    except RuntimeError as error:
        if device.type == "cpu" or not device_lost(error):
            raise
        why = str(error).partition("\n")[0]
    _remember(device, why)
    if wanted != "auto":
        raise _gone(wanted, why)
    return work(torch.device("cpu"))


def _remember(device: torch.device, why: str) -> None:
    with _first:
        if not _lost:
            _lost.append(why)
            log.warning("device %s is lost (%s); on the CPU until this process is started again", device, why)


def _gone(wanted: str, why: str) -> DataError:
    return DataError(
        f"local.device is {wanted!r} and that device failed; start the participant again, or use device: auto, which goes "
        "on with the CPU",
        detail=why,
    )
