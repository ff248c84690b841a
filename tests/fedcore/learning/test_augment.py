"""Augmentation: what comes out against shifts, mirrors and turns done by hand, and that rows do not touch each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedcore.jobs.imaging import Augment
from fedcore.learning.augment import _looked_up, _maps, augmented
from fedcore.learning.task import Batch

ALL = Augment(flip=True, rotate=20, shift=0.1, scale=0.2, brightness=0.1, noise=0.05)


def images(n: int, height: int, width: int, channels: int = 1) -> torch.Tensor:
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(1))


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved(x: torch.Tensor, how: Augment, drawn: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
    """The change of place that given numbers make."""
    maps = _maps(drawn, how, *x.shape[-2:])
    grid = torch.nn.functional.affine_grid(maps, list(x.shape), align_corners=False)
    return _looked_up(x, grid, mode)


def test_the_same_seed_changes_images_the_same_and_another_seed_otherwise() -> None:
    batch = Batch(images(4, 9, 12), torch.arange(4))
    first, again, other = (augmented(batch, ALL, source(seed)).x for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_nothing_asked_is_nothing_changed() -> None:
    batch = Batch(images(3, 7, 5), torch.arange(3))
    assert torch.equal(augmented(batch, Augment(), source()).x, batch.x)


@given(st.integers(1, 5), st.integers(1, 11), st.integers(1, 9), st.sampled_from([1, 3]))
def test_shapes_types_and_the_range_of_pixels_are_kept(
    n: int, height: int, width: int, channels: int
) -> None:
    mask = torch.randint(0, 3, (n, height, width), dtype=torch.uint8, generator=source(5))
    made = augmented(Batch(images(n, height, width, channels), mask), ALL, source(), mask=True)
    assert made.x.shape == (n, channels, height, width) and made.x.dtype == torch.float32
    assert made.y.shape == mask.shape and made.y.dtype == torch.uint8
    assert float(made.x.min()) >= 0 and float(made.x.max()) <= 1
    assert set(made.y.unique().tolist()) <= set(mask.unique().tolist())


def test_a_class_target_stays_as_it_is() -> None:
    batch = Batch(images(4, 8, 8), torch.tensor([0, 1, 1, 0]))
    assert torch.equal(augmented(batch, ALL, source()).y, batch.y)


def test_a_flip_mirrors_left_to_right_and_some_images_only() -> None:
    batch = Batch(images(40, 6, 8), torch.arange(40))
    made = augmented(batch, Augment(flip=True), source()).x
    same = [torch.allclose(a, b, atol=1e-6) for a, b in zip(made, batch.x, strict=True)]
    mirrored = [torch.allclose(a, b.flip(-1), atol=1e-6) for a, b in zip(made, batch.x, strict=True)]
    assert [a != b for a, b in zip(same, mirrored, strict=True)] == [True] * 40
    assert 5 < sum(mirrored) < 35


def test_a_whole_shift_moves_pixels_and_repeats_the_edge() -> None:
    x = images(1, 4, 10)
    drawn = torch.zeros(1, 7)
    drawn[0, 3] = 1.0
    made = moved(x, Augment(shift=0.2), drawn)
    expected = torch.cat([x[..., 2:], x[..., -1:], x[..., -1:]], dim=-1)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", [6, 7])
def test_a_quarter_turn_is_one_of_pixels(side: int) -> None:
    x = images(1, side, side)
    drawn = torch.zeros(1, 7)
    drawn[0, 0] = 1.0
    made = moved(x, Augment(rotate=90), drawn)
    expected = np.rot90(x[0, 0].numpy())
    assert any(
        np.allclose(made[0, 0].numpy(), turned, atol=1e-5) for turned in (expected, expected[::-1, ::-1])
    )


def test_a_turn_keeps_distances_in_images_that_are_not_square() -> None:
    x = torch.zeros(1, 1, 21, 41)
    x[0, 0, 10, 26] = 1.0  # six pixels right of the centre
    drawn = torch.zeros(1, 7)
    drawn[0, 0] = 1.0
    made = moved(x, Augment(rotate=90), drawn)[0, 0]
    row, column = divmod(int(made.argmax()), 41)
    assert column == 20 and abs(row - 10) == 6


def test_a_mask_moves_with_its_image() -> None:
    square = torch.zeros(8, 32, 32, dtype=torch.uint8)
    square[:, 8:20, 5:17] = 1
    how = Augment(flip=True, rotate=25, shift=0.1, scale=0.2)
    made = augmented(Batch(square[:, None].float(), square), how, source(), mask=True)
    agree = ((made.x[:, 0] > 0.5) == (made.y == 1)).float().mean(dim=(1, 2))
    assert float(agree.min()) > 0.97 and not torch.equal(made.y, square)


def test_a_row_is_changed_by_its_own_numbers_alone() -> None:
    first = images(3, 8, 8)
    second = first.clone()
    second[1] = 0.5
    one, other = (augmented(Batch(x, torch.arange(3)), ALL, source()).x for x in (first, second))
    assert torch.equal(one[0], other[0]) and torch.equal(one[2], other[2])
    assert not torch.equal(one[1], other[1])


def test_an_empty_batch_stays_empty() -> None:
    made = augmented(
        Batch(torch.zeros(0, 1, 8, 8), torch.zeros(0, 8, 8, dtype=torch.uint8)), ALL, source(), mask=True
    )
    assert made.x.shape == (0, 1, 8, 8) and made.y.shape == (0, 8, 8)


@pytest.mark.parametrize(
    "wrong",
    [{"rotate": -1}, {"rotate": 200}, {"shift": 1.0}, {"scale": 1.0}, {"noise": -0.1}, {"mirror": True}],
)
def test_changes_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Augment(**wrong)  # type: ignore[arg-type]
