"""Randomness that can be repeated, whatever else the process does."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedcore.errors import JobError
from fedcore.learning.seeds import SeededDropout, derive_seed, generator, own_randomness, reseed, seeded_model

CPU = torch.device("cpu")
PART = st.integers() | st.text(
    st.characters(exclude_characters="\x1f", exclude_categories=["Cs"]), max_size=8
)


def test_a_seed_is_the_same_on_every_machine_and_version() -> None:
    # Pinned: a change of this number changes every published run.
    assert derive_seed(7, "hospital-1", "train", 3) == 1263673397070795786


@given(st.lists(PART, max_size=4), st.lists(PART, max_size=4))
def test_other_parts_give_another_seed_and_all_fit_63_bits(a: list[str | int], b: list[str | int]) -> None:
    same = [(type(part), part) for part in a] == [(type(part), part) for part in b]
    assert (derive_seed(*a) == derive_seed(*b)) == same
    assert 0 <= derive_seed(*a) < 2**63


def test_text_and_number_and_the_borders_between_parts_count() -> None:
    assert len({derive_seed("1"), derive_seed(1), derive_seed("a", "bc"), derive_seed("ab", "c")}) == 4


def test_a_generator_repeats_and_is_not_the_global_one() -> None:
    before = torch.random.get_rng_state()
    first = torch.randperm(50, generator=generator(1, "order"))
    assert torch.equal(first, torch.randperm(50, generator=generator(1, "order")))
    assert not torch.equal(first, torch.randperm(50, generator=generator(2, "order")))
    assert torch.equal(before, torch.random.get_rng_state())


def test_initial_weights_follow_the_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(11)
    expected_after = torch.rand(1)
    torch.manual_seed(11)
    model = seeded_model(lambda: nn.Linear(5, 3), 42)
    assert torch.equal(torch.rand(1), expected_after)
    torch.manual_seed(42)
    assert torch.equal(model.weight, nn.Linear(5, 3).weight)


def test_a_model_method_without_return_is_told_what_it_must_return() -> None:
    with pytest.raises(JobError, match=r"model\(\) returned a NoneType; it must return a torch.nn.Module"):
        seeded_model(lambda: None, 1)


def test_threads_that_make_models_at_once_get_the_weights_they_get_alone() -> None:
    here, other, done = threading.Event(), threading.Event(), threading.Event()

    def slow() -> nn.Module:
        first = nn.Linear(4, 4)
        here.set()
        other.wait(0.2)  # the other thread would draw from the same generator now, were it let
        second = nn.Linear(4, 4)
        done.set()
        return nn.Sequential(first, second)

    def quick() -> nn.Module:
        other.set()
        done.wait(0.2)
        return nn.Linear(4, 4)

    alone = seeded_model(slow, 1)
    for event in (here, other, done):
        event.clear()
    found: list[nn.Module] = []
    thread = threading.Thread(target=lambda: found.append(seeded_model(slow, 1)))
    thread.start()
    here.wait(5)
    seeded_model(quick, 2)
    thread.join()
    assert torch.equal(found[0][1].weight, alone[1].weight)


def seeded(layer: SeededDropout, *parts: str | int) -> SeededDropout:
    reseed(nn.Sequential(layer), CPU, *parts)
    return layer


def test_dropout_keeps_the_share_and_the_expectation() -> None:
    out = seeded(SeededDropout(0.25), 1)(torch.ones(400, 500))
    kept = out != 0
    # 200,000 draws: five standard deviations of the share are 0.005.
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.005)
    assert torch.allclose(out[kept], torch.tensor(1 / 0.75))


def test_dropout_of_channels_drops_whole_ones() -> None:
    out = seeded(SeededDropout(0.5, per_channel=True), 1)(torch.ones(30, 20, 4, 4))
    per_channel = out.flatten(2)
    assert torch.equal(per_channel.amin(2), per_channel.amax(2))
    assert {0.0, 2.0} == set(per_channel.unique().tolist())


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(5, 3, 4, 7), (1, 1, 1, 1), (0, 3, 2, 2)])
def test_the_gradient_of_dropout_is_its_mask_in_any_layout(per_channel, layout, shape) -> None:
    x = torch.ones(shape).contiguous(memory_format=layout).requires_grad_()
    out = seeded(SeededDropout(0.4, per_channel), 1)(x)
    (out * 3).sum().backward()
    torch.testing.assert_close(x.grad, 3 * out.detach())
    plain = seeded(SeededDropout(0.4, per_channel), 1)(torch.ones(shape))
    assert torch.equal(plain, out), "the mask does not depend on the layout"


def test_dropout_passes_through_in_evaluation_and_at_zero() -> None:
    x = torch.randn(4, 4)
    assert torch.equal(SeededDropout(0.5).eval()(x), x)
    assert torch.equal(SeededDropout(0.0)(x), x)


def test_the_same_seed_gives_the_same_masks_and_another_another() -> None:
    x = torch.ones(10, 10)
    layer = SeededDropout(0.5)
    first = [seeded(layer, 3, "a")(x), layer(x)]
    again = [seeded(layer, 3, "a")(x), layer(x)]
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], seeded(layer, 3, "b")(x))


class Branches(nn.Module):
    """One dropout layer at two places, another in a block, a third of channels."""

    def __init__(self) -> None:
        super().__init__()
        drop = nn.Dropout(0.3)
        self.first, self.second = drop, drop
        self.block = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Dropout(0.4)))
        self.channels = nn.Dropout2d(0.6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.block(self.first(x)))


def test_every_dropout_layer_is_replaced_also_one_that_stands_at_two_places() -> None:
    model = own_randomness(Branches())
    kinds = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
    left = [name for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, kinds)]
    assert left == []
    assert [model.first.p, model.second.p, model.block[1][0].p, model.channels.p] == [0.3, 0.3, 0.4, 0.6]
    assert model.channels.per_channel and not model.first.per_channel


def test_a_model_with_its_own_randomness_does_not_touch_the_global_generator() -> None:
    model = own_randomness(Branches()).train()
    reseed(model, CPU, 1)
    before = torch.random.get_rng_state()
    model(torch.ones(8, 4))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_of_dropout_is_its_mask_whatever_the_layout(layout: torch.memory_format) -> None:
    x = torch.randn(3, 5, 4, 7).contiguous(memory_format=layout).requires_grad_()
    out = seeded(SeededDropout(0.3), 1)(x)
    out.sum().backward()

    assert torch.allclose(out, x.grad * x)
    assert x.grad.is_contiguous(memory_format=layout)


def test_dropout_of_everything_leaves_zeros() -> None:
    assert torch.equal(seeded(SeededDropout(1.0), 1)(torch.ones(3, 3)), torch.zeros(3, 3))


@pytest.mark.parametrize("values", [0, 1, 2, 3, 5])
def test_dropout_of_a_few_values_has_their_shape(values: int) -> None:
    assert seeded(SeededDropout(0.5), 1)(torch.ones(values)).shape == (values,)
