"""Private gradients whose norms and sums are made by kernels, against those of plain torch and of autograd."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fedcore.learning.kernels import accumulate, norms
from fedcore.learning.private import parts
from fedcore.learning.private.clipping import ClippedSums
from fedcore.learning.private.layers import convolution
from fedcore.learning.private.parts import Outer

LOSS = partial(cross_entropy, reduction="none")


class Sequences(nn.Module):
    """Linear layers over positions, of a few and of many outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.out = nn.Linear(6, 40), nn.Linear(40, 3), nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.narrow(torch.tanh(self.wide(x)))).mean(1))


class Images(nn.Module):
    """Convolutions, one of them in groups, one with a stride."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 8, 3, stride=2, groups=2), nn.Tanh(),
            nn.Flatten(), nn.Linear(32, 4),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


MODELS = {"sequences": (Sequences, (9, 6)), "images": (Images, (2, 6, 6))}


@pytest.mark.parametrize("kept", [0, parts.KEPT])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_clipped_gradients_are_those_of_plain_torch(
    name: str, rows: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    make, shape = MODELS[name]
    model = make()
    x, y = torch.randn(rows, *shape), torch.arange(rows) % 4
    monkeypatch.setattr(parts, "KEPT", kept)
    called = []
    for module, function in (
        (norms, "squared_norms"),
        (norms, "norms_and_gradients"),
        (accumulate, "weighted_sum"),
    ):
        own = getattr(module, function)
        monkeypatch.setattr(
            module, function, lambda *a, own=own, of=function: (called.append(of), own(*a))[1]
        )
    by_kernel = ClippedSums(model, LOSS, 0.3)(x, y)
    assert {"squared_norms", "norms_and_gradients" if kept else "weighted_sum"} <= set(called)

    monkeypatch.setenv("FEDCORE_KERNELS", "torch")
    plain = ClippedSums(model.double(), LOSS, 0.3)(x.double(), y)
    for one, other in zip(by_kernel, plain, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=3e-5, atol=3e-6)


def test_a_row_that_is_no_number_is_left_out() -> None:
    torch.manual_seed(3)
    model, x, y = Images(), torch.randn(4, 2, 6, 6), torch.arange(4)
    whole = ClippedSums(model, LOSS, 0.3)(x[[0, 1, 3]], y[[0, 1, 3]])
    x[2, 0, 0, 0] = float("nan")

    for one, other in zip(ClippedSums(model, LOSS, 0.3)(x, y), whole, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("way", ["interpret", "torch"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("t", [1, 4, 40])
def test_parts_of_half_precision_are_summed_in_float32(
    t: int, dtype: torch.dtype, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDCORE_KERNELS", way)
    source = torch.Generator().manual_seed(4)
    a = (100 * torch.randn(3, 1, t, 12, generator=source)).to(dtype)
    d = (100 * torch.randn(3, 1, t, 8, generator=source)).to(dtype)
    part, wide = Outer(a, d, (8, 12)), Outer(a.double(), d.double(), (8, 12))
    weights = torch.tensor([0.25, 0.001, 1.0])

    torch.testing.assert_close(part.squared_norms().double(), wide.squared_norms(), rtol=1e-4, atol=0)
    torch.testing.assert_close(
        part.weighted_sum(weights).double(), wide.weighted_sum(weights.double()), rtol=1e-4, atol=0.1
    )
    assert torch.isfinite(part.each()).all()


def test_an_unfolded_convolution_is_a_linear_layer_over_positions() -> None:
    torch.manual_seed(3)
    layer = nn.Conv2d(4, 6, 3, padding=1, groups=2)
    x, d = torch.randn(3, 4, 5, 7), torch.randn(3, 6, 5, 7)
    part = convolution(layer, x, d)["weight"]
    each = [
        torch.autograd.grad((layer(x[i : i + 1]) * d[i : i + 1]).sum(), layer.weight)[0].square().sum()
        for i in range(3)
    ]

    torch.testing.assert_close(part.squared_norms(), torch.stack(each).double(), rtol=2e-5, atol=0)
