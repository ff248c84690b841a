"""Clipped sums against those made row by row by autograd: layers, whole models, odd sizes, layers used twice."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from fedcore.errors import DataError, JobError
from fedcore.learning.models import SmallCNN, mlp, resnet18
from fedcore.learning.private import parts
from fedcore.learning.private.clipping import ClippedSums
from fedcore.learning.private.validation import fixed
from fedcore.learning.seeds import own_randomness
from fedcore.learning.training import placed

CLASSES = 3
LOSS = partial(cross_entropy, reduction="none")


class Squares(nn.Module):
    """A loss that sees every output, of any shape."""

    def forward(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        flat = outputs.reshape(len(outputs), -1)
        wave = torch.sin(torch.arange(flat.shape[1], dtype=flat.dtype))
        return (flat * wave).sum(1) * (1 + y) + flat.square().sum(1)


SQUARES = Squares()


def row_by_row(
    model: nn.Module, loss: Any, x: torch.Tensor, y: torch.Tensor, clip: float
) -> list[torch.Tensor]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = [torch.zeros_like(p) for p in parameters]
    for i in range(len(x)):
        value = loss(model(x[i : i + 1]), y[i : i + 1]).sum()
        made = torch.autograd.grad(value, parameters, allow_unused=True)
        each = [torch.zeros_like(p) if g is None else g for g, p in zip(made, parameters, strict=True)]
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in each))
        for own, g in zip(total, each, strict=True):
            own += g * min(1.0, clip / norm if norm else 1.0)
    return total


def assert_same(
    model: nn.Module, x: torch.Tensor, loss: Any = SQUARES, *, route: str = "parts", within: float = 1e-9
) -> None:
    """With a clip that binds for some rows and for all, and one that never does."""
    y = torch.arange(len(x)) % CLASSES
    for clip in (1e-3, 3.0, 1e9):
        sums = ClippedSums(model, loss, clip)
        found, wanted = sums(x, y), row_by_row(model, loss, x, y, clip)

        assert sums.route == route
        size = max(float(each.norm()) for each in wanted)
        for one, other in zip(found, wanted, strict=True):
            assert one.shape == other.shape
            assert float((one - other).norm()) <= within * max(size, 1e-30)


def numbers(*shape: int, seed: int = 5) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def double(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    model = make().double()
    for parameter in model.parameters():  # scales of one and shifts of zero hide faults
        nn.init.normal_(parameter, 0.1, 0.5)
    return model


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 3), (4,)),
    "linear without bias": (lambda: nn.Linear(4, 3, bias=False), (4,)),
    "linear over a sequence": (lambda: nn.Linear(4, 3), (5, 4)),
    "linear over a long sequence": (lambda: nn.Linear(2, 2), (17, 2)),
    "linear over two axes": (lambda: nn.Linear(40, 30), (2, 3, 40)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, stride=2, padding=1), (3, 9)),
    "conv1d causal groups": (lambda: nn.Conv1d(4, 6, 2, dilation=3, groups=2, bias=False), (4, 11)),
    "conv2d": (lambda: nn.Conv2d(2, 3, 3), (2, 6, 5)),
    "conv2d of few positions": (lambda: nn.Conv2d(9, 8, 3), (9, 4, 4)),
    "conv2d of many options": (
        lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
        (4, 7, 8),
    ),
    "conv2d depthwise": (lambda: nn.Conv2d(3, 6, 3, groups=3, padding="same"), (3, 5, 5)),
    "conv2d reflecting": (
        lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
        (2, 5, 5),
    ),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, padding=1), (2, 3, 4, 3)),
    "layer norm": (lambda: nn.Sequential(nn.LayerNorm(6), nn.Tanh()), (4, 6)),
    "layer norm over two axes": (lambda: nn.Sequential(nn.LayerNorm((4, 6)), nn.Tanh()), (4, 6)),
    "rms norm": (lambda: nn.Sequential(nn.RMSNorm(6), nn.Tanh()), (4, 6)),
    "group norm": (lambda: nn.Sequential(nn.GroupNorm(2, 6), nn.Tanh()), (6, 3, 2)),
    "instance norm": (lambda: nn.Sequential(nn.InstanceNorm2d(3, affine=True), nn.Tanh()), (3, 4, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layers_clipped_sum_is_that_of_autograd_row_by_row(name: str) -> None:
    make, shape = LAYERS[name]

    assert_same(double(make), numbers(6, *shape))


@pytest.mark.parametrize("padding", [None, 2])
def test_an_embedding_with_repeated_ids(padding: int | None) -> None:
    model = double(lambda: nn.Embedding(7, 4, padding_idx=padding))
    ids = torch.randint(0, 7, (6, 9), generator=torch.Generator().manual_seed(2))

    assert_same(model, ids)
    assert_same(model, ids[:, 0])


class Attending(nn.Module):
    def __init__(self, batch_first: bool, cross: bool, need_weights: bool, bias: bool = True) -> None:
        super().__init__()
        self.first, self.cross, self.need = batch_first, cross, need_weights
        self.inside = nn.MultiheadAttention(8, 2, batch_first=batch_first, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x if self.first else x.transpose(0, 1)
        other = torch.sin(x) if self.cross else x
        padded = torch.zeros(x.shape[:2] if self.first else x.shape[1::-1], dtype=torch.bool)
        padded = padded.view(-1, 5).index_fill(1, torch.tensor([4]), True)
        mask = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
        out, _ = self.inside(x, other, other, attn_mask=mask, key_padding_mask=padded, need_weights=self.need)
        return out if self.first else out.transpose(0, 1)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_is_torchs_and_is_watched(batch_first: bool, cross: bool, need_weights: bool) -> None:
    model = double(lambda: Attending(batch_first, cross, need_weights, bias=not cross))

    # The expected sums are of torch's own forward.
    assert_same(model, numbers(4, 5, 8))
    assert "forward" not in vars(model.inside)


def test_a_transformer_in_training() -> None:
    model = double(
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
            2,
            enable_nested_tensor=False,
        )
    ).train()

    assert_same(model, numbers(4, 5, 8))


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: mlp(64, CLASSES, (32, 16)), (64,)),
        (lambda: SmallCNN((1, 8, 8), CLASSES, (0.0, 0.0)), (1, 8, 8)),
    ],
)
def test_models_of_the_product_within_float32(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = placed(make(), torch.device("cpu"))

    assert_same(model, torch.rand(12, *shape), LOSS, within=1e-5)


def test_a_resnet_whose_batch_norms_are_replaced() -> None:
    torch.manual_seed(0)
    model = fixed(resnet18((1, 8, 8), CLASSES))

    assert_same(model, torch.rand(3, 1, 8, 8), LOSS, within=1e-5)


class Twice(nn.Module):
    """The same linear layer twice, over sequences of other lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inside(torch.tanh(self.inside(x))[:, :2])


class Again(nn.Module):
    """The same linear layer twice, over rows without positions, and once over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = torch.tanh(self.inside(x).mean(1)) if x.dim() == 3 else self.inside(x)
        return self.inside(torch.tanh(first))


class Tied(nn.Module):
    """An embedding whose weight is that of the last layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.names = nn.Embedding(6, 4)
        self.last = nn.Linear(4, 6, bias=False)
        self.last.weight = self.names.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.names(x)))


class Hidden(nn.Module):
    """A weight that a function takes, besides its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.inside(x)) @ self.inside.weight


class Own(nn.Module):
    """A parameter of its own and positions without rows."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Embedding(5, 4)
        self.last = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(x + self.places(torch.arange(5))))


def test_a_layer_used_twice_and_tied_weights_count_once() -> None:
    assert_same(double(Twice), numbers(5, 3, 4))
    assert_same(double(Again), numbers(5, 4))
    assert_same(double(Again), numbers(5, 3, 4))
    assert_same(double(Tied), torch.randint(0, 6, (5, 4)))


@pytest.mark.parametrize(
    ("make", "x", "reason"),
    [
        (Hidden, numbers(5, 4), "outside of their layers"),
        (Own, numbers(5, 5, 4), "not that of the rows"),
        (Own, numbers(7, 5, 4), "not that of the rows"),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.PReLU()), numbers(5, 4), "no rule for PReLU"),
        (lambda: nn.Bilinear(4, 4, 2), None, "no rule for Bilinear"),
    ],
)
def test_what_cannot_be_watched_goes_the_general_way_and_says_why(
    make: Any, x: torch.Tensor | None, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = double(make)
    with caplog.at_level(logging.WARNING):
        if x is None:
            assert ClippedSums(model, SQUARES, 1.0).route == "general"
        else:
            sums = ClippedSums(model, SQUARES, 1.0)
            sums(x, torch.zeros(len(x), dtype=torch.int64))
            sums(x, torch.zeros(len(x), dtype=torch.int64))

            assert sums.route == "general"
            assert len(caplog.records) == 1
            assert_same(model, x, route="general")
    assert reason in caplog.text


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.GRU(4, 3, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.inside(x)[0]
        return found


def test_what_vmap_cannot_do_goes_row_by_row() -> None:
    assert_same(double(Recurrent), numbers(4, 5, 4), route="general")


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 5),
    channels=st.integers(1, 3),
    out=st.integers(1, 3),
    groups=st.integers(1, 2),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    size=st.tuples(st.integers(5, 8), st.integers(5, 8)),
    last=st.booleans(),
)
def test_convolutions_of_any_size(
    rows: int,
    channels: int,
    out: int,
    groups: int,
    kernel: tuple[int, int],
    stride: int,
    padding: int,
    dilation: int,
    size: tuple[int, int],
    last: bool,
) -> None:
    def make() -> nn.Module:
        return nn.Conv2d(channels * groups, out * groups, kernel, stride, padding, dilation, groups)

    x = numbers(rows, channels * groups, *size)
    assert_same(double(make), x.contiguous(memory_format=torch.channels_last) if last else x)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 7),
    positions=st.integers(1, 9),
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 9),
    at_a_time=st.sampled_from([1, 50, 2**24]),
)
def test_linear_layers_of_any_size_whole_and_in_pieces(
    rows: int, positions: int, inputs: int, outputs: int, at_a_time: int
) -> None:
    before = parts.AT_A_TIME
    parts.AT_A_TIME = at_a_time
    try:
        # Every second position: inputs that are not contiguous.
        assert_same(double(lambda: nn.Linear(inputs, outputs)), numbers(rows, 2 * positions, inputs)[:, ::2])
    finally:
        parts.AT_A_TIME = before


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 20), clip=st.floats(1e-6, 1e3), scale=st.floats(1e-3, 1e4))
def test_no_row_moves_the_sum_by_more_than_the_clip(rows: int, clip: float, scale: float) -> None:
    torch.manual_seed(rows)
    model = nn.Sequential(nn.Conv1d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(10, CLASSES))
    x, y = scale * torch.randn(rows, 1, 6), torch.arange(rows) % CLASSES
    sums = ClippedSums(model, LOSS, clip)

    with_it, without = sums(x, y), sums(x[1:], y[1:])

    moved = math.sqrt(
        sum(float((a - b).double().square().sum()) for a, b in zip(with_it, without, strict=True))
    )
    assert moved <= clip * (1 + 1e-5 * (1 + rows))


def test_a_ghost_norm_that_cancels_is_not_too_small() -> None:
    # a and -a, with the same gradient: the sum is almost nothing, the terms are not.
    a = 1e3 * torch.randn(50, 1, 30, generator=torch.Generator().manual_seed(1))
    near = torch.cat([a, -a * (1 + 1e-7)], dim=1).view(50, 1, 2, 30)
    d = torch.ones(50, 1, 2, 30)
    exact = (d.double().mT @ near.double()).square().sum(dim=(1, 2, 3))

    found = parts.Outer(near, d, (30, 30)).squared_norms().double()

    assert bool((found >= exact).all())


def test_frozen_parameters_count_for_nothing() -> None:
    model = double(lambda: mlp(4, CLASSES, (5, 6)))
    model[0].weight.requires_grad_(False)
    model[2].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)

    assert_same(model, numbers(5, 4), LOSS)


def test_rows_with_gradients_that_are_not_finite_count_as_nothing() -> None:
    for make in (lambda: mlp(4, CLASSES, (5,)), lambda: nn.Sequential(nn.Linear(4, CLASSES), nn.PReLU())):
        model = double(make)
        x, y = numbers(6, 4), torch.arange(6) % CLASSES
        broken = x.clone()
        broken[2, 1], broken[4, 0] = float("nan"), float("inf")
        sums = ClippedSums(model, LOSS, 0.5)
        kept = torch.tensor([0, 1, 3, 5])

        for one, other in zip(sums(broken, y), sums(x[kept], y[kept]), strict=True):
            torch.testing.assert_close(one, other)
        for each in sums(broken[[2, 4]], y[[2, 4]]):
            assert not each.any()


@pytest.mark.parametrize(
    "make", [lambda: mlp(4, CLASSES, (5,)), lambda: nn.Sequential(nn.Linear(4, 4), nn.PReLU())]
)
@pytest.mark.parametrize("rows", [0, 1, 6])
def test_sums_are_written_where_they_are_asked_for(make: Callable[[], nn.Module], rows: int) -> None:
    model = double(make)
    x, y = numbers(rows, 4), torch.arange(rows) % CLASSES
    sums = ClippedSums(model, LOSS, 0.5)
    for dtype in (torch.float64, torch.float32):
        # Transposed: places that are not contiguous.
        places = [
            torch.full(p.shape[::-1], math.nan, dtype=dtype).permute(*reversed(range(p.dim())))
            for p in model.parameters()
        ]
        found = sums(x, y, places)

        assert all(one is other for one, other in zip(found, places, strict=True))
        for one, other in zip(found, sums(x, y), strict=True):
            torch.testing.assert_close(one, other.to(dtype))


def test_a_parameter_that_no_row_reaches_has_a_sum_of_zero() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, CLASSES), nn.Linear(4, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.used(x)
            return found

    model = double(Half)
    places = [torch.full_like(p, math.nan) for p in model.parameters()]
    found = ClippedSums(model, LOSS, 0.5)(numbers(3, 4), torch.arange(3), places)

    assert [bool(each.any()) for each in found] == [True, True, False, False]
    assert_same(model, numbers(3, 4), LOSS)


def test_an_empty_batch_and_a_batch_of_one() -> None:
    model = double(lambda: mlp(4, CLASSES, (5,)))
    sums = ClippedSums(model, LOSS, 0.5)

    assert all(not each.any() for each in sums(numbers(0, 4), torch.zeros(0, dtype=torch.int64)))
    assert_same(model, numbers(1, 4), LOSS)


def test_mixed_precision_stays_near_and_sums_in_float32() -> None:
    torch.manual_seed(0)
    model = mlp(16, CLASSES, (32,))
    x, y = torch.randn(8, 16), torch.arange(8) % CLASSES
    with torch.autocast("cpu", torch.bfloat16):
        sums = ClippedSums(model, LOSS, 1.0)
        found = sums(x, y)

    assert sums.route == "parts"
    for one, other in zip(found, row_by_row(model, LOSS, x, y, 1.0), strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).norm() / other.norm()) < 0.05


def test_a_use_that_autocast_casts_once_is_seen_too() -> None:
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        sums = ClippedSums(Hidden(), LOSS, 1.0)
        sums(torch.randn(4, 4), torch.zeros(4, dtype=torch.int64))

    assert sums.route == "general"


def test_inputs_that_change_in_place_are_noticed() -> None:
    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = nn.LayerNorm(4, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            out = self.inside(x.clone() if self.careful else x)
            x.mul_(2)
            return out

        careful = False

    model = double(Changing)
    model.careful = True

    assert_same(model, numbers(4, 4))

    model.careful = False
    sums = ClippedSums(model, SQUARES, 1.0)
    with pytest.raises(RuntimeError, match="inplace"):  # torch's own words
        sums(numbers(4, 4), torch.zeros(4))


def test_activations_in_place_after_a_layer_are_no_trouble() -> None:
    assert_same(
        double(lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3))), numbers(5, 4)
    )


class Before(nn.Module):
    """An output over positions that is used before it is changed in place, too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.a(x)
        early = found + 0
        return self.b(early + torch.relu_(found))


def test_an_output_that_is_used_before_and_after_a_change_in_place_counts_whole() -> None:
    assert_same(double(Before), numbers(4, 5, 4), route="general")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_weight_that_is_made_of_other_parameters_goes_the_general_way() -> None:
    assert_same(double(lambda: nn.utils.weight_norm(nn.Linear(4, 3))), numbers(4, 4), route="general")


def test_hooks_of_ones_own_may_change_an_output() -> None:
    model = double(lambda: nn.Sequential(nn.Linear(4, 3)))
    model[0].register_forward_hook(lambda module, args, output: 2 * output)

    assert_same(model, numbers(4, 4))


@settings(max_examples=20, deadline=None)
@given(size=st.integers(-40, 30), clip=st.integers(-35, 3), route=st.sampled_from(["parts", "general"]))
def test_no_size_of_numbers_makes_a_clip_weak(size: int, clip: int, route: str) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    sums = ClippedSums(model, lambda made, y: (made * y).sum((1, 2)), 10.0**clip)
    if route == "general":
        sums._go_general("asked for")
    found = sums(torch.randn(1, 3, 4), 10.0**size * torch.randn(1, 3, 3))
    length = math.sqrt(sum(float(each.double().square().sum()) for each in found))
    # The smallest float32 is 1e-45.
    assert length <= 10.0**clip * (1 + 1e-5) + 1e-43


def test_a_large_weight_whose_rows_are_summed_in_pieces_is_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    source = torch.Generator().manual_seed(1)
    a, d = torch.randn(5, 1, 64, 6, generator=source), torch.randn(5, 1, 64, 4, generator=source)
    whole, pieces = parts.Outer(a, d, (4, 6)), parts.Outer(a, d, (4, 6))
    found = whole.squared_norms(), whole.weighted_sum(torch.arange(5.0))
    monkeypatch.setattr(parts, "AT_A_TIME", 48)

    torch.testing.assert_close(pieces.squared_norms(), found[0])
    torch.testing.assert_close(pieces.weighted_sum(torch.arange(5.0)), found[1])
    assert pieces._made is None


def test_hooks_are_gone_after_an_error_and_gradients_are_left_alone() -> None:
    model = mlp(4, CLASSES)
    sums = ClippedSums(model, LOSS, 1.0)
    with pytest.raises(RuntimeError):
        sums(torch.ones(3, 7), torch.zeros(3, dtype=torch.int64))
    sums(torch.ones(3, 4), torch.zeros(3, dtype=torch.int64))

    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_dropout_of_ones_own_generator_is_kept() -> None:
    model = own_randomness(nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5), nn.Linear(50, CLASSES)))

    found = ClippedSums(model, LOSS, 1e9)(torch.ones(1, 4), torch.zeros(1, dtype=torch.int64))

    dropped = (found[2] == 0).all(dim=0)
    assert 5 < int(dropped.sum()) < 45


def test_rows_that_depend_on_each_other_are_refused() -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = nn.Linear(4, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.inside(x - x.mean(0))
            return found

    sums = ClippedSums(Centred().double(), LOSS, 1.0)

    with pytest.raises(JobError, match="depends on the other rows"):
        sums(numbers(5, 4), torch.zeros(5, dtype=torch.int64))


def test_a_look_at_rows_draws_nothing_and_leaves_buffers_alone() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = nn.Linear(4, CLASSES)
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen += 1
            found: torch.Tensor = self.inside(x)
            return found

    model = own_randomness(nn.Sequential(nn.Dropout(0.5), Counting()))
    source = torch.Generator().manual_seed(4)
    model[0].source = source
    sums, before = ClippedSums(model, LOSS, 1.0), source.get_state()
    sums._look(torch.ones(3, 4), torch.zeros(3, dtype=torch.int64))

    assert torch.equal(source.get_state(), before)
    assert not model[1].seen.any()


class Shared(nn.Module):
    """Takes from each row what all have, and hides it from the gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.names, self.out = nn.Embedding(5, 4), nn.Linear(4, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.names(x)
        return self.out(found - found.mean(0).detach() if self.training else found)


def test_rows_of_ids_that_depend_on_each_other_in_training_are_refused() -> None:
    with pytest.raises(JobError, match="depends on the other rows"):
        ClippedSums(Shared(), LOSS, 1.0)(torch.arange(4), torch.zeros(4, dtype=torch.int64))


def test_bad_input_is_told() -> None:
    model = mlp(4, CLASSES)
    y = torch.zeros(3, dtype=torch.int64)
    for clip in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(JobError, match="clip"):
            ClippedSums(model, LOSS, clip)
    with pytest.raises(DataError, match="3 rows and 2 targets"):
        ClippedSums(model, LOSS, 1.0)(torch.ones(3, 4), y[:2])
    with pytest.raises(DataError, match="reduction='none'"):
        ClippedSums(model, cross_entropy, 1.0)(torch.ones(3, 4), y)
    sums = ClippedSums(model, LOSS, 1.0)
    model[0].bias.requires_grad_(False)
    with pytest.raises(JobError, match="other parameters"):
        sums(torch.ones(3, 4), y)
