"""Signatures of parties over what they send, by identities that were pinned before: how a protocol is given them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

MOST_SIGNATURE = 512
"""Bytes of a signature."""


@dataclass(frozen=True)
class Authenticator:
    """Signs as this party, and checks what others have signed, with identities that were pinned before.

    Args:
        sign: The signature of a message, at most 512 bytes.
        verify: (name, message, signature): whether the party of this name has signed the message.
    """

    sign: Callable[[bytes], bytes] = field(repr=False)
    verify: Callable[[str, bytes, bytes], bool] = field(repr=False)
