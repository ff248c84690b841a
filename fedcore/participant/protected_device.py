"""Masks on a GPU: vectors leave it masked, and the sum of a cohort gets rid of them there.

    DeviceMasks     in `crypto.secagg` in place of its own: adds or takes away streams of ChaCha20, on words
    DeviceRounding  the same, and rounds what is masked in the same pass (`fedcore.learning.kernels.masking`)

The words are those of the CPU, bit for bit: should a device fail or have no memory left, the CPU makes them again from the same
keys, and nothing but time is lost. AES has no such way, since GPUs have no instruction for it.

An update comes to this layer in the memory of the participant's machine, as Flower carries it, and goes to the device and back
in pieces. Torch is imported when this module is, so it is imported where such a device may be.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from crypto.kernels.chacha import BYTES, Streams
from fedcore.learning.device import choose_device
from fedcore.learning.kernels import dispatch
from fedcore.learning.kernels.masking import masked
from fedcore.learning.kernels.unmasking import unmasked
from fedcore.participant.protected import Prepared

log = logging.getLogger(__name__)

Words = npt.NDArray[Any]

LEAST = 2**16
"""Words of a vector that is worth the way to a device."""
PIECE = 2**24
"""Words that are on it at a time."""
_FAULTS = (RuntimeError, OSError, AssertionError, ImportError, MemoryError)
"""Of a device, its driver and what compiles for it; the last three where Triton or its launcher is not whole."""


def masking_device(wanted: str, allowed: bool = True) -> torch.device | None:
    """The device to mask on; None where the CPU does it.

    Args:
        wanted: `auto`, `cpu`, `cuda` or `cuda:N`.
        allowed: Whether GPUs are given to jobs here.

    Raises:
        JobError: A device was asked for by name and is not there.
        DataError: A device was asked for by name and was lost.
    """
    device = choose_device(wanted, True) if allowed else torch.device("cpu")
    try:
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        return device if dispatch.usable(torch.empty(0, device=device)) else None
    except RuntimeError as error:
        # It is busy, full or broken.
        _failed(device, error)
        return None


@dataclass(frozen=True)
class DeviceMasks:
    """Adds streams to vectors on a device.

    Args:
        device: That the kernels serve.
    """

    device: torch.device

    def __call__(self, keys: Sequence[bytes], minus: npt.NDArray[np.bool_], vector: Words) -> None:
        """Add them; see `crypto.streams.AddStreams`."""
        if len(vector) < LEAST:
            Streams(list(keys)).add(vector, minus)
            return
        try:
            made = _signed(vector).to(self.device)
            made = unmasked(made, mask_keys=keys, minus=minus.tolist()).cpu()
        except _FAULTS as error:
            _failed(self.device, error)
            Streams(list(keys)).add(vector, minus)
            return
        _signed(vector).copy_(made)


@dataclass(frozen=True)
class DeviceRounding:
    """Rounds the narrow values of one vector on a device and masks them at once; the CPU masks the rest.

    Args:
        device: That the kernels serve.
        made: The vector, without narrow values; of float32.
        seed: That rounding is drawn from, 44 bytes, never used before.
    """

    device: torch.device
    made: Prepared = field(repr=False)
    seed: bytes = field(default_factory=lambda: secrets.token_bytes(BYTES), repr=False)

    def __call__(self, keys: Sequence[bytes], minus: npt.NDArray[np.bool_], vector: Words) -> None:
        """Round and mask; see `crypto.streams.AddStreams`.

        Args:
            keys: Of the masks.
            minus: Which to take away.
            vector: That of `made`.

        Raises:
            DataError: A value is NaN or infinite; what stands in the vector must not leave.
        """
        made = self.made
        try:
            found = self._on_device(keys, minus.tolist(), vector)
        except _FAULTS as error:
            _failed(self.device, error)
            made.round("chacha20", self.seed)
            Streams(list(keys)).add(vector, minus)
            return
        made.told(*found)
        # The rest, from the block on in which the narrow values end.
        per_block = 64 // vector.itemsize
        begin = made.count // per_block * per_block
        rest = np.zeros(len(vector) - begin, vector.dtype)
        rest[made.count - begin :] = vector[made.count :]
        Streams(list(keys)).add(rest, minus, first=begin)
        vector[made.count :] = rest[made.count - begin :]

    def _on_device(self, keys: Sequence[bytes], minus: Sequence[bool], vector: Words) -> tuple[int, int]:
        """Put masked narrow values into the vector; how many were clipped and how many are not finite."""
        made, clipped, strange = self.made, 0, 0
        form = made.form.narrow
        for at, piece in made.pieces(PIECE):
            found = masked(
                torch.from_numpy(piece).to(self.device),
                clip=form.clip,
                scale=made.weight * form.scale,
                rounding_key=self.seed,
                mask_keys=keys,
                minus=minus,
                bits=form.bits,
                first=at,
            )
            _signed(vector[at : at + len(piece)]).copy_(found.words)
            clipped, strange = clipped + found.clipped, strange + found.strange
        return clipped, strange


def fits(made: Prepared) -> bool:
    """Whether a vector's narrow values can be rounded on a device and are worth the way."""
    return made.layout.dtype == np.float32 and made.count >= LEAST


def _signed(words: Words) -> torch.Tensor:
    """Words as torch has them, in the same memory."""
    return torch.from_numpy(words.view(f"int{8 * words.itemsize}"))


def _failed(device: torch.device, error: Exception) -> None:
    told = str(error).strip().partition("\n")[0]
    log.warning("masks are made on the CPU, for %s failed: %s: %s", device, type(error).__name__, told)
