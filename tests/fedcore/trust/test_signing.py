"""Signatures by enrolled identities: who is not pinned has signed nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from crypto.errors import ProtocolError
from crypto.secagg.coordinator import Coordinator
from crypto.secagg.graph import Assumptions
from crypto.secagg.participant import Participant
from fedcore.errors import IdentityError
from fedcore.trust.identity import new_identity
from fedcore.trust.signing import authenticator


def test_a_cohort_meets_with_signed_keys_and_a_forged_one_is_refused(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d"]
    own = {name: new_identity(tmp_path / f"{name}.key", name) for name in names}
    pins = {name: identity.public_line for name, identity in own.items()}
    run, assumptions = bytes(32), Assumptions()
    them = {
        name: Participant(
            name, run, assumptions, authenticator(identity, {k: v for k, v in pins.items() if k != name})
        )
        for name, identity in own.items()
    }
    coordinator = Coordinator(run, assumptions, authenticator(None, pins))
    forged = Participant("a", run, assumptions, authenticator(own["b"], pins))
    with pytest.raises(ProtocolError, match="not signed"):
        coordinator.take_advert("a", forged.advert())
    for name, each in them.items():
        coordinator.take_advert(name, each.advert())
    for name, roster in coordinator.rosters().items():
        assert them[name].meet(roster).size == 4


def test_who_is_not_pinned_has_signed_nothing(tmp_path: Path) -> None:
    one, other = (new_identity(tmp_path / f"{name}.key", name) for name in "ab")
    signed = authenticator(other, {}).sign(b"text")
    assert authenticator(one, {"b": other.public_line}).verify("b", b"text", signed)
    assert not authenticator(one, {"b": other.public_line}).verify("b", b"texT", signed)
    assert not authenticator(one, {}).verify("b", b"text", signed)
    assert not authenticator(one, {"b": other.public_line}).verify("b", b"text", b"")
    with pytest.raises(IdentityError, match="no key to sign"):
        authenticator(None, {}).sign(b"text")
