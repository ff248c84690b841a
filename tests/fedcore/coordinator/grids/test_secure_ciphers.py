"""Masks of ChaCha20 through the grid: the plain mean, on CPUs and where participants and coordinator have a device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict

from fedcore.coordinator.grids.secure import SecureAggregationGrid
from fedcore.engines.embedded import FIRST_NODE
from fedcore.flower import array_record, ndarrays
from fedcore.participant import protected_device
from fedcore.participant.mods.secure import Own, secure_aggregation
from tests.fedcore.coordinator.grids.secure_apps import Seen, engine, messages, one, plain_mean, trained

gpu_mod = secure_aggregation(lambda message, context: Own(str(context.node_id), device="auto"))
"""Of participants whose job is worked on a GPU, if there is one."""


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The CPU stands for a device at all sides; what was done there."""
    done: list[str] = []
    for name in ("masked", "unmasked"):
        works = getattr(protected_device, name)

        def noted(*arguments: Any, name: str = name, works: Any = works, **options: Any) -> Any:
            done.append(name)
            return works(*arguments, **options)

        monkeypatch.setattr(protected_device, name, noted)
    monkeypatch.setattr(protected_device, "LEAST", 1)
    monkeypatch.setattr(protected_device, "masking_device", lambda *_: torch.device("cpu"))
    return done


def holds(reply: Message | None, indices: range | list[int], grid: SecureAggregationGrid) -> None:
    assert reply is not None, grid.account
    arrays, loss = plain_mean(indices)
    found = ndarrays(reply.content["arrays"])  # type: ignore[arg-type]
    for name, value in arrays.items():
        slack = grid.account.error_bound + 1e-6 * np.abs(value).max()
        np.testing.assert_allclose(found[name], value, rtol=0, atol=slack)
    assert reply.content["metrics"]["loss"] == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("serialize", [False, True])
def test_the_reply_is_the_weighted_mean(bits: int, serialize: bool) -> None:
    grid = SecureAggregationGrid(engine(5, serialize=serialize), bits=bits, cipher="chacha20")
    for number in range(2):
        holds(one(grid, messages(number=number + 1)), range(5), grid)
    assert grid.account.dropped == {} and grid.account.clipped == 0


@pytest.mark.parametrize("bits", [32, 64])
def test_with_devices_the_reply_is_the_same_and_all_masks_are_made_there(
    devices: list[str], bits: int
) -> None:
    below = Seen(engine(5, mods=[gpu_mod]), [("masked", 1, FIRST_NODE + 2)])
    grid = SecureAggregationGrid(below, bits=bits, cipher="chacha20")
    reply = one(grid, messages())
    there = [i for i in range(5) if i != 2]
    holds(reply, there, grid)
    assert devices == ["masked"] * 4 + ["unmasked"]


def test_aes_stays_on_the_cpu(devices: list[str]) -> None:
    grid = SecureAggregationGrid(engine(5, mods=[gpu_mod]))
    holds(one(grid, messages()), range(5), grid)
    assert devices == []


def test_a_participant_without_a_device_and_one_with_it_are_summed(devices: list[str]) -> None:
    mixed = secure_aggregation(
        lambda message, context: Own(str(context.node_id), device="auto" if context.node_id % 2 else "cpu")
    )
    grid = SecureAggregationGrid(engine(5, mods=[mixed]), cipher="chacha20")
    holds(one(grid, messages()), range(5), grid)
    assert 0 < devices.count("masked") < 5


def test_a_diverged_update_is_found_on_the_device_and_the_round_goes_on(devices: list[str]) -> None:
    def diverged(message: Message, context: Context) -> RecordDict:
        content = trained(message, context)
        if context.node_config["partition-id"] == 1:
            arrays = {name: each.numpy().copy() for name, each in content["arrays"].items()}  # type: ignore[union-attr]
            arrays["w"].flat[0] = math.nan
            content["arrays"] = array_record(arrays)
        return content

    grid = SecureAggregationGrid(engine(5, diverged, mods=[gpu_mod]), cipher="chacha20")
    holds(one(grid, messages()), [0, 2, 3, 4], grid)
    assert devices.count("masked") == 5
    holds(one(grid, messages(number=2)), [0, 2, 3, 4], grid)


def test_a_grid_with_a_cipher_that_is_none_or_that_its_protocol_has_not_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"'rc4' under secagg\+; allowed: aes, chacha20"):
        SecureAggregationGrid(engine(3), cipher="rc4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'chacha20' under threshold.*others than aes under secagg\+ only"):
        SecureAggregationGrid(engine(3), protocol="threshold", cipher="chacha20")
