"""Answering for a published set: what `fedcore psi party --secret` does, without the command line library."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedcore.cli.psi_shown import party_shown, print_machine
from fedcore.errors import JobError

if TYPE_CHECKING:
    from fedcore.peer.channel import FramedChannel

_ANSWERING = (
    *("role", "protocol", "secret", "identity", "peer_key", "session", "out", "wait", "as_json"),
    *("listen", "connect", "relay", "relay_key"),
)
"""What a party that answers with its secret may say."""


def check_answering(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse options of `fedcore psi party` that do not go with `--secret`.

    Args:
        given: Options by the names of their arguments.
        defaults: What they are where nothing is said.

    Raises:
        JobError: One does not.
    """
    role, protocol = given["role"], given["protocol"]
    if role != "sender":
        raise JobError(f"--secret: who published the set is --role sender, not {role!r}; give --role sender")
    if protocol not in (None, "ecdh-cached"):
        raise JobError(
            f"--secret: it answers with protocol ecdh-cached, not {protocol}; leave --secret or --protocol out"
        )
    for name, value in given.items():
        if name not in _ANSWERING and value != defaults.get(name):
            raise JobError(
                "--secret: the published set has its data, key and rules already, and shows rows to the receiver; "
                f"leave --{name.replace('_', '-')} out"
            )


def answer_query(
    meet: Callable[[], FramedChannel], secret: Path, session: str, out: Path, peer_line: str, as_json: bool
) -> None:
    """Answer one query, and say what it was charged."""
    from fedcore.participant.intersection.answering import answer
    from fedcore.trust.identity import fingerprint

    with party_shown(as_json) as watch:
        told = answer(meet, secret, session, out, watch, by=fingerprint(peer_line))
    if as_json:
        print_machine(told)
        return
    asked, left = told["asked"], told["left"]
    sys.stdout.write(f"{asked:,} items were asked for, {left:,} are left of the set's lifetime\n")
    sys.stdout.write("the other party learns the result\n")
