"""The built-in models against published sizes and plain formulas."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedcore.learning.models import SmallCNN, mlp, resnet18


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("shape", "classes", "published"),
    [
        ((3, 32, 32), 10, 11_173_962),  # the CIFAR stem
        ((3, 224, 224), 1000, 11_689_512),  # torchvision's resnet18
    ],
)
def test_resnet18_has_the_published_number_of_parameters(shape, classes, published) -> None:
    with torch.device("meta"):
        model = resnet18(shape, classes)
        assert size(model) == published
        assert model.eval()(torch.zeros(2, *shape)).shape == (2, classes)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (1, 63, 200), (3, 64, 64)])
def test_resnet18_takes_grey_and_colour_of_any_size(shape) -> None:
    with torch.device("meta"):
        assert resnet18(shape, 5).eval()(torch.zeros(2, *shape)).shape == (2, 5)


def test_a_residual_block_is_the_paper_s_formula() -> None:
    block = resnet18((3, 32, 32), 10)[5].eval()  # the first that halves the image
    x = torch.rand(2, 64, 8, 8)
    first, norm1, _, second, norm2 = block.body
    short, norm3 = block.shortcut

    def norm(y: torch.Tensor, n: nn.BatchNorm2d) -> torch.Tensor:
        return functional.batch_norm(y, n.running_mean, n.running_var, n.weight, n.bias, eps=n.eps)

    body = torch.relu(norm(functional.conv2d(x, first.weight, stride=2, padding=1), norm1))
    body = norm(functional.conv2d(body, second.weight, padding=1), norm2)
    around = norm(functional.conv2d(x, short.weight, stride=2), norm3)
    with torch.no_grad():
        torch.testing.assert_close(block(x), torch.relu(body + around))


def test_the_small_cnn_is_the_one_of_pfl_s_cifar_benchmark() -> None:
    by_hand = (3 * 9 * 32 + 32) + (32 * 9 * 64 + 64) + (64 * 14 * 14 * 128 + 128) + (128 * 10 + 10)
    model = SmallCNN((3, 32, 32), 10)
    assert size(model) == by_hand == 1_626_442
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.25, 0.5]


@pytest.mark.parametrize("shape", [(1, 6, 6), (1, 8, 8), (3, 7, 9), (1, 28, 28)])
def test_the_small_cnn_takes_any_image_from_six_pixels_on(shape) -> None:
    assert SmallCNN(shape, 4)(torch.zeros(2, *shape)).shape == (2, 4)


def test_an_mlp_is_matrix_products_with_relu_between() -> None:
    model = mlp(4, 3, (8, 5))
    w1, b1, w2, b2, w3, b3 = model.parameters()
    x = torch.rand(6, 4)
    expected = torch.relu(torch.relu(x @ w1.T + b1) @ w2.T + b2) @ w3.T + b3
    torch.testing.assert_close(model(x), expected)


def test_an_mlp_without_hidden_layers_is_logistic_regression() -> None:
    model = mlp(4, 3)
    assert [type(m) for m in model] == [nn.Linear] and size(model) == 4 * 3 + 3
