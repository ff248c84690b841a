"""What both sides of an intersection over VOLE know of the sizes."""

from __future__ import annotations

from dataclasses import dataclass

from crypto.psi.okvs_shape import Shape


@dataclass(frozen=True)
class Sizes:
    """Sizes of a run.

    Args:
        receiver, sender: Items.
        shape: Of the receiver's store.
        room: Tags in a bin, padding included.
        bits: Of a tag.
        code: Bytes of the tags of a bin, as they are sent.
    """

    receiver: int
    sender: int
    shape: Shape
    room: int
    bits: int
    code: int
