"""Ciphers of secure aggregation where a coordinator, a device or a length does the worst."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from crypto.quantisation import FixedPoint, quantise
from crypto.secagg.participant import Participant
from crypto.streams import CIPHERS, KEY_BYTES, StreamCipher
from fedcore.coordinator.grids.secure import unfit
from fedcore.errors import FedcoreError
from fedcore.jobs.participant import Aggregated
from fedcore.learning.kernels import dispatch, masking, normal, unmasking
from fedcore.participant import protected_device
from fedcore.participant.mods.protocols.base import Agreed
from fedcore.participant.mods.secure import Own, _unfit
from tests.crypto.secagg.cohorts import ANY

FORM = FixedPoint(1.0, 3)


@pytest.mark.parametrize(("cipher", "end"), [("aes", 2**34), ("chacha20", 2**36)])
def test_rounding_does_not_begin_its_stream_again(cipher: StreamCipher, end: int) -> None:
    seed, values = bytes(range(KEY_BYTES[cipher])), np.linspace(-0.9, 0.9, 64).astype(np.float32)
    with pytest.raises(ValueError, match="end of a stream"):
        quantise(values, FORM, seed=seed, cipher=cipher, first=end)


@pytest.mark.parametrize(("bits", "end"), [(32, 2**36), (64, 2**35)])
def test_masks_of_a_device_do_not_begin_their_streams_again(bits: int, end: int) -> None:
    with pytest.raises(FedcoreError):
        masking.masked(
            torch.ones(32),
            clip=1.0,
            scale=8.0,
            rounding_key=bytes(44),
            mask_keys=[bytes(44)],
            minus=[False],
            bits=bits,
            first=end,
        )


@pytest.mark.parametrize("which", ["masked", "unmasked", "normal"])
def test_kernels_of_chacha_are_launched_on_the_device_of_their_tensors(
    which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    def guarded(name: str, kernel: Any, plain: Callable[[], Any], *, on: Any = None) -> Any:
        told.append(on)
        return plain()

    monkeypatch.setattr(dispatch, "usable", lambda *_: True)
    monkeypatch.setattr(dispatch, "guarded", guarded)
    if which == "masked":
        masking.masked(
            torch.ones(5), clip=1.0, scale=1.0, rounding_key=bytes(44), mask_keys=[bytes(44)], minus=[False]
        )
    elif which == "unmasked":
        unmasking.unmasked(torch.ones(5, dtype=torch.int32), mask_keys=[bytes(44)], minus=[True])
    else:
        normal.standard_normal(5, "cpu")
    assert [isinstance(each, torch.Tensor) for each in told] == [True]


def test_a_device_that_cannot_be_opened_leaves_masks_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise torch.AcceleratorError("CUDA error: all CUDA-capable devices are busy or unavailable")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", full)
    assert protected_device.masking_device("auto") is None


def test_the_cpu_takes_masks_away_whatever_the_device_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", "/home/site/.triton")

    monkeypatch.setattr(protected_device, "LEAST", 1)
    monkeypatch.setattr(protected_device, "unmasked", fails)
    vector = np.arange(100, dtype=np.uint32)
    protected_device.DeviceMasks(torch.device("cpu"))([bytes(44)], np.array([False]), vector)
    assert vector[0] != 0


def test_a_site_can_insist_on_a_cipher() -> None:
    asked = Agreed()
    for policy, refused in ((["chacha20"], True), (["aes"], False), ("any", False)):
        own = Aggregated.model_validate({"ciphers": policy})
        ciphers = CIPHERS if own.ciphers == "any" else own.ciphers
        told = _unfit(asked, Own("a", ciphers=ciphers))
        assert (told is not None and "cipher is aes" in told) == refused


@pytest.mark.parametrize("agreed", [Agreed(cipher="des"), Agreed(protocol="threshold", cipher="chacha20")])  # type: ignore[arg-type]
def test_a_coordinator_refuses_a_cipher_that_its_protocol_does_not_have(agreed: Agreed) -> None:
    with pytest.raises(ValueError, match="cipher"):
        unfit(agreed)


def test_a_state_is_not_taken_up_with_another_cipher() -> None:
    run = bytes(32)
    me, *others = (Participant(f"p{i}", run, ANY, cipher="chacha20") for i in range(3))
    from crypto.secagg.coordinator import Coordinator

    them = Coordinator(run, ANY, cipher="chacha20")
    for each in (me, *others):
        them.take_advert(each.name, each.advert())
    me.meet(them.rosters()[me.name])
    with pytest.raises(ValueError, match="cipher"):
        Participant.restore(me.save(), ANY)
