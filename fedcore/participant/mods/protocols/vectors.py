"""A task's reply as one vector of integers, of whatever form the coordinator asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crypto.streams import AddStreams
from fedcore.jobs.secure import MaskCipher
from fedcore.participant.mods.protocols.base import AnyForm, Words
from fedcore.participant.protected import Form, Layout, Prepared, pack, prepared
from fedcore.participant.protected_steps import StepForm, StepLayout, pack_steps
from fedcore.participant.sums import SumForm, SumLayout, pack_sums


def form_of(about: str) -> AnyForm:
    """The form that a coordinator tells.

    Raises:
        JobError: It is none.
    """
    return SumForm.from_json(about) or StepForm.from_json(about) or Form.from_json(about)


def vector_of(
    arrays: Mapping[str, Words],
    before: Mapping[str, Words],
    metrics: Mapping[str, Any],
    form: AnyForm,
    cipher: MaskCipher,
    device: str,
) -> tuple[Words, Layout | SumLayout | StepLayout, AddStreams | None]:
    """The vector of a participant.

    Args:
        arrays: Of the task's reply.
        before: That came.
        metrics: Of the reply; none where the form has no place for them.
        form: Of the round.
        cipher: That rounding is drawn from.
        device: As in `Own`.

    Returns:
        The vector, what stands where in it, and what has to mask it, since it rounds it too; None where it is whole.

    Raises:
        DataError: A value cannot be summed.
        JobError: The reply is not of the form.
    """
    if isinstance(form, SumForm):
        return *pack_sums(arrays, form), None
    if isinstance(form, StepForm):
        return *pack_steps(arrays, form), None
    if cipher != "chacha20" or device == "cpu":
        return *pack(arrays, before, metrics, form, cipher), None
    made = prepared(arrays, before, metrics, form)
    add = _on_device(made, device)
    if add is None:
        made.round(cipher)
    return made.vector, made.layout, add


def _on_device(made: Prepared, wanted: str) -> AddStreams | None:
    """What rounds and masks a vector on the participant's GPU; None where the CPU does."""
    from fedcore.participant import protected_device

    device = protected_device.masking_device(wanted) if protected_device.fits(made) else None
    return protected_device.DeviceRounding(device, made) if device is not None else None
