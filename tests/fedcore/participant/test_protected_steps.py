"""Sums of whole numbers: each is one word, and what comes out is their sum to the last digit."""

from __future__ import annotations

import numpy as np
import pytest

from fedcore.errors import JobError
from fedcore.participant.protected_form import Form
from fedcore.participant.protected_steps import StepForm, StepLayout, pack_steps, unpack_steps
from fedcore.participant.sums import SumForm


@pytest.mark.parametrize("bits", [32, 64])
def test_the_sum_of_words_is_the_sum_of_the_numbers(bits: int) -> None:
    rng = np.random.default_rng(1)
    form = StepForm(7, bits)
    room = 2 ** (bits - 1) // 8
    each = [
        {"w": rng.integers(-room, room, (3, 5)), "b": rng.integers(-room, room, 4), "s": np.array(-k)}
        for k in range(7)
    ]
    packed = [pack_steps(arrays, form) for arrays in each]
    total = np.zeros(packed[0][1].words(form), form.dtype)
    for vector, layout in packed:
        assert vector.dtype == form.dtype and layout.fits(packed[0][1], form)
        total += vector
    layout = StepLayout.from_json(packed[0][1].to_json())
    sums, count = unpack_steps(total, layout, form)
    assert count == 7
    for name in each[0]:
        np.testing.assert_array_equal(sums[name], np.sum([arrays[name] for arrays in each], axis=0))


def test_forms_are_told_apart_and_bad_ones_refused() -> None:
    form = StepForm(5, 64)
    assert StepForm.from_json(form.to_json()) == form
    assert SumForm.from_json(form.to_json()) is None
    assert StepForm.from_json(SumForm(5).to_json()) is None
    assert StepForm.from_json(Form(1.0, 5, 10).to_json()) is None
    for bad in ('{"steps": {"cohort": 5, "bits": 16}}', '{"steps": {"cohort": 0}}', '{"steps": 3}', "{"):
        with pytest.raises(JobError, match="cannot be used"):
            StepForm.from_json(bad)


def test_what_is_no_whole_number_or_no_sum_is_refused() -> None:
    form = StepForm(3)
    with pytest.raises(JobError, match="'w' has no whole numbers"):
        pack_steps({"w": np.zeros(3)}, form)
    vector, layout = pack_steps({"w": np.array([1, -2, 3])}, form)
    for bad in (vector[:-1], vector * np.uint32(4), vector * np.uint32(0)):
        with pytest.raises(ValueError, match="no sum"):
            unpack_steps(bad, layout, form)
