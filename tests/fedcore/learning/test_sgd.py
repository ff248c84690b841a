"""Our gradient descent against torch's."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from fedcore.learning.sgd import Sgd


def trained(make: type, steps: int, **settings: float) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    unused = nn.Parameter(torch.ones(2))
    optimizer = make([*model.parameters(), unused], **settings)
    x, y = torch.randn(11, 5), torch.randint(0, 3, (11,))
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return [*model.parameters(), unused]


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 0.3},
        {"lr": 0.3, "momentum": 0.9},
        {"lr": 0.3, "weight_decay": 0.1},
        {"lr": 0.3, "momentum": 0.5, "weight_decay": 0.1},
    ],
)
def test_every_step_is_that_of_torch_bit_for_bit(settings: dict[str, float]) -> None:
    ours, theirs = trained(Sgd, 5, **settings), trained(torch.optim.SGD, 5, **settings)

    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_gradients_are_left_as_the_backward_pass_made_them() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = Sgd([weight], lr=0.1, momentum=0.9, weight_decay=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        (weight * 2).sum().backward()
        optimizer.step()

        assert torch.equal(weight.grad, torch.full((3,), 2.0))


def test_a_step_without_any_gradient_changes_nothing() -> None:
    weight = nn.Parameter(torch.ones(3))

    Sgd([weight], lr=0.1, weight_decay=0.5).step()

    assert torch.equal(weight, torch.ones(3))


def test_training_does_not_import_the_compiler_of_torch() -> None:
    code = (
        "import sys, torch\n"
        "from torch import nn\n"
        "from fedcore.learning.sgd import Sgd\n"
        "model = nn.Linear(2, 2)\n"
        "optimizer = Sgd(model.parameters(), lr=0.1, momentum=0.9)\n"
        "model(torch.ones(1, 2)).sum().backward()\n"
        "optimizer.step()\n"
        "sys.exit('torch._dynamo' in sys.modules)\n"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
