"""Whether two parties mean the same intersection."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence

from crypto.psi import parameters
from crypto.psi.items import ItemRules
from fedcore.participant.intersection.side import Side
from fedcore.peer.channel import FramedChannel
from fedcore.peer.handshake import Hello, Option, shake_hands

VERSION = 3
"""Of what the parties say to each other."""
_TYPES = "types of the key"
CURES = {
    _TYPES: "keys match only where both sides name as many columns with the same types in the same order; numbers "
    "against text (a CSV file has only text) need --numbers-as-text at both, dates against text --dates-as-text",
    "reveal": "give --reveal the same value at both",
    "both": "give --both at both parties, or at neither",
    "min_matches": "give --min-matches the same value at both",
    "columns": "name the same columns in the same order at both, as in --reveal sum:income,tax",
    "holder": "one party has the columns and both must say which: correct the columns' names, or give --holder "
    "receiver or --holder sender at both",
    "published set": "the published set and the secret do not belong together: fetch the set that is in use",
    **{
        rule: f"give --{rule.replace('_', '-')} at both parties, or at neither"
        for rule in ("trim", "fold_case", "numbers_as_text", "dates_as_text")
    },
    "encoding": "install the same version of fedcore at both",
}


def agree(channel: FramedChannel, side: Side, kinds: Sequence[str], published: bytes | None = None) -> bytes:
    """Shake hands; the seed of the planted items, to which both contributed.

    Args:
        channel: Nothing was sent over it yet.
        side: What this party brings.
        kinds: What its key columns are encoded as.
        published: Name of the published set that the receiver asks about.

    Raises:
        ProtocolError: The parties differ; the setting, both values and the cure are named.
    """
    told = terms(side.rules, kinds, reveal=side.reveal, both=side.both, min_matches=side.min_matches)
    if side.sum_of is not None:
        told |= {"columns": ", ".join(side.sum_of.columns), "holder": side.sum_of.holder}
    if published is not None:
        told |= of_set(published)
    return shake(channel, side.protocol, side.role, side.session, told)


def terms(
    rules: ItemRules, kinds: Sequence[str], *, reveal: str = "rows", both: bool = False, min_matches: int = 0
) -> dict[str, Option]:
    """What both must have the same of, whatever the protocol."""
    return {
        "reveal": reveal,
        "both": both,
        "min_matches": min_matches,
        # One by one, so that an error names the rule in which the sides differ.
        **json.loads(rules.canonical()),
        _TYPES: ", ".join(kinds),
    }


def of_set(name: bytes) -> dict[str, Option]:
    """The further term where one party has published its set."""
    return {"published set": name.hex()}


def shake(
    channel: FramedChannel, protocol: str, role: str, session: str, options: dict[str, Option]
) -> bytes:
    """Compare what was agreed; 32 bytes to which both contributed."""
    hello = Hello(
        protocol=f"psi {protocol}",
        version=VERSION,
        table=str(parameters.VERSION),
        session=session,
        role=role,
        options=options,
    )
    peer_role = "sender" if role == "receiver" else "receiver"
    shake_hands(channel, hello, peer_role=peer_role, cures=CURES)
    own = secrets.token_bytes(16)
    channel.send("psi.nonce", own)
    other = bytes(channel.recv("psi.nonce", size=16))
    both = own + other if role == "receiver" else other + own
    return hashlib.sha256(session.encode() + both).digest()
