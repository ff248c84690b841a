"""Layers that rows share: all named at once, and replaced."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedcore.errors import JobError
from fedcore.learning.models import mlp, resnet18
from fedcore.learning.private.validation import check, fixed, problems


def bad() -> nn.Module:
    return nn.ModuleDict(
        {
            "norm": nn.BatchNorm2d(48),
            "fine": nn.InstanceNorm1d(4, affine=True),
            "running": nn.InstanceNorm1d(4, affine=True, track_running_stats=True),
            "names": nn.Embedding(5, 2, scale_grad_by_freq=True),
            "short": nn.Embedding(5, 2, max_norm=1.0),
            "deep": nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6)),
        }
    )


def test_all_problems_are_told_at_once_with_the_cure() -> None:
    with pytest.raises(JobError) as told:
        check(bad())

    for part in (
        "5 layers",
        "norm (BatchNorm2d)",
        "running (InstanceNorm1d)",
        "names (Embedding)",
        "deep.1",
        "fixed(model)",
    ):
        assert part in str(told.value)
    assert "fine" not in str(told.value)


def test_fixed_models_have_none_and_keep_scales() -> None:
    model = bad()
    scale = model["norm"].weight
    scale.requires_grad_(False)
    model.eval()

    made = fixed(model)

    assert problems(made) == []
    check(made)
    assert isinstance(made["norm"], nn.GroupNorm)
    assert made["norm"].weight is scale
    assert not made["norm"].training
    assert made["norm"].num_groups == 12
    made["norm"](torch.rand(2, 48, 3, 3))
    assert made["running"](torch.rand(2, 4, 3)).shape == (2, 4, 3)


def test_a_resnet_is_fixed_and_works_on_one_row() -> None:
    model = resnet18((1, 8, 8), 3)
    assert len(problems(model)) == 20

    made = fixed(model).train()

    assert problems(made) == []
    assert made(torch.rand(1, 1, 8, 8)).shape == (1, 3)


def test_a_model_that_is_such_a_layer_and_one_layer_at_two_places() -> None:
    assert isinstance(fixed(nn.BatchNorm1d(8)), nn.GroupNorm)
    norm = nn.BatchNorm1d(8)
    made = fixed(nn.Sequential(norm, nn.ReLU(), norm))
    assert isinstance(made, nn.Sequential)
    assert made[0] is made[2]


def test_nothing_to_train_is_told() -> None:
    with pytest.raises(JobError, match="frozen"):
        check(mlp(3, 2).requires_grad_(False))
