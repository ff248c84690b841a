"""Members of a session: only what the right member sealed or tagged, in the same session, is taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto import members
from crypto.errors import ProtocolError
from crypto.members import Member, Roster, new_member, read_roster, roster
from crypto.secagg.keys import Advert
from crypto.secagg.messages import pack_advert, unpack_advert
from tests.crypto.psi.test_zero_sharing import Signers

SESSION = bytes(range(32))
AGREED = b'{"protocol": "test"}'
VECTORS = json.loads((Path(__file__).parent / "vectors" / "members.json").read_text())


def three(agreed: bytes = AGREED) -> list[Member]:
    return [new_member(name, SESSION, agreed, None) for name in ("b", "a", "c")]


def met(them: list[Member]) -> list[Member]:
    raw = roster(SESSION, AGREED, [unpack_advert(each.advert()) for each in them]).encode()
    for each in them:
        each.meet(raw, None)
    return them


def test_what_one_seals_only_the_other_opens() -> None:
    b, a, c = met(three())
    sealed = b.seal("a", b"key", 1, b"text")
    assert a.unseal("b", b"key", 1, sealed) == b"text" and len(sealed) == 4 + 16
    for who, sender, label, number, given_ in (
        (c, "b", b"key", 1, sealed),
        (a, "c", b"key", 1, sealed),
        (a, "b", b"other", 1, sealed),
        (a, "b", b"key", 2, sealed),
        (b, "a", b"key", 1, sealed),
        (a, "b", b"key", 1, sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (a, "b", b"key", 1, b""),
    ):
        with pytest.raises(ProtocolError, match="not sealed"):
            who.unseal(sender, label, number, given_)


def test_a_tag_convinces_one_member_of_one_text() -> None:
    b, a, c = met(three())
    tag = b.tag("a", b"part", 3, b"text")
    a.check("b", b"part", 3, b"text", tag)
    for who, sender, label, number, text, told in (
        (c, "b", b"part", 3, b"text", tag),
        (a, "c", b"part", 3, b"text", tag),
        (a, "b", b"other", 3, b"text", tag),
        (a, "b", b"part", 4, b"text", tag),
        (a, "b", b"part", 3, b"texts", tag),
        (a, "b", b"part", 3, b"text", bytes(16)),
        (a, "b", b"part", 3, b"text", b""),
    ):
        with pytest.raises(ProtocolError, match="not tagged"):
            who.check(sender, label, number, text, told)


def test_members_that_were_shown_different_rosters_do_not_understand_each_other() -> None:
    b, a, c = three()
    adverts = [unpack_advert(each.advert()) for each in (b, a, c)]
    b.meet(roster(SESSION, AGREED, adverts).encode(), None)
    a.meet(roster(SESSION, AGREED, adverts[:2]).encode(), None)
    with pytest.raises(ProtocolError, match="different rosters"):
        a.unseal("b", b"key", 1, b.seal("a", b"key", 1, b"text"))


def test_members_that_agreed_on_something_else_do_not_understand_each_other() -> None:
    b, a, other = *three()[:2], three(b'{"protocol": "weaker"}')[2]
    adverts = [unpack_advert(each.advert()) for each in (b, a, other)]
    raw = roster(SESSION, AGREED, adverts).encode()
    for each in (b, other):
        each.meet(raw, None)
    with pytest.raises(ProtocolError, match="not tagged"):
        other.check("b", b"part", 1, b"text", b.tag("c", b"part", 1, b"text"))


def test_a_signed_roster_admits_only_keys_that_their_members_signed_for_this_session() -> None:
    signers = Signers("a", "b", "c")
    them = [new_member(name, SESSION, AGREED, signers.of(name)) for name in "abc"]
    adverts = [members.check_advert(each.name, each.advert(), SESSION, signers.of("a")) for each in them]
    for each in them:
        each.meet(roster(SESSION, AGREED, adverts).encode(), signers.of(each.name))
    put_between = unpack_advert(new_member("b", SESSION, AGREED, None).advert())
    replayed = unpack_advert(new_member("b", bytes(32), AGREED, signers.of("b")).advert())
    for false in (put_between, replayed, Advert("b", put_between.public, adverts[1].signature)):
        late = new_member("c", SESSION, AGREED, signers.of("c"))
        own = unpack_advert(late.advert())
        with pytest.raises(ProtocolError, match="was not signed for this run"):
            late.meet(roster(SESSION, AGREED, [adverts[0], false, own]).encode(), signers.of("c"))
        with pytest.raises(ProtocolError, match="was not signed for this run"):
            members.check_advert("b", pack_advert(false), SESSION, signers.of("a"))


def test_a_signature_where_nobody_checks_is_refused() -> None:
    signers = Signers("a", "b")
    signed = new_member("a", SESSION, AGREED, signers.of("a"))
    with pytest.raises(ProtocolError, match="checks no signatures"):
        members.check_advert("a", signed.advert(), SESSION, None)


def test_a_roster_that_lacks_oneself_or_has_another_key_for_one_is_refused() -> None:
    b, a, c = three()
    other = new_member("b", SESSION, AGREED, None)
    adverts = [unpack_advert(each.advert()) for each in (a, c)]
    with pytest.raises(ProtocolError, match="no member"):
        b.meet(roster(SESSION, AGREED, adverts).encode(), None)
    with pytest.raises(ProtocolError, match="another key for b"):
        b.meet(roster(SESSION, AGREED, [*adverts, unpack_advert(other.advert())]).encode(), None)


def test_a_session_has_one_roster_and_no_name_or_key_twice() -> None:
    b, a, c = met(three())
    with pytest.raises(ProtocolError, match="second roster"):
        b.meet(b.met.encode(), None)
    one = unpack_advert(a.advert())
    for twice in ([one, one], [one, Advert("d", one.public, b"")]):
        with pytest.raises(ProtocolError, match="twice"):
            roster(SESSION, AGREED, twice)
    with pytest.raises(ProtocolError, match="not met"):
        new_member("d", SESSION, AGREED, None).tag("a", b"part", 1, b"")
    with pytest.raises(ProtocolError, match="no member"):
        c.tag("nobody", b"part", 1, b"")


def test_one_that_sends_the_key_of_another_is_refused() -> None:
    b, *_ = three()
    with pytest.raises(ProtocolError, match="a sent the key of b"):
        members.check_advert("a", b.advert(), SESSION, None)


def test_a_saved_member_goes_on_where_it_was_and_shows_no_secret() -> None:
    b, a, _ = met(three())
    back = Member.restore(json.loads(json.dumps(b.save())))
    assert a.unseal("b", b"key", 1, back.seal("a", b"key", 1, b"text")) == b"text"
    assert back.advert() == b.advert() and back.met == b.met
    fresh = three()[0]
    assert Member.restore(fresh.save()).roster is None
    secret = b.key.private.private_bytes_raw().hex()
    assert secret not in repr(b) and secret in json.dumps(b.save())


# ---- the wire ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["good"], ids=lambda each: each["name"])
def test_a_good_vector_is_read_and_written_as_it_was(vector: dict[str, str]) -> None:
    raw = bytes.fromhex(vector["roster"])
    found = read_roster(raw, SESSION, AGREED)
    assert found.encode() == raw
    assert list(found.names) == vector["names"]
    assert found.binding.hex() == vector["binding"]


@pytest.mark.parametrize("vector", VECTORS["bad"], ids=lambda each: each["name"])
def test_a_bad_vector_is_refused(vector: dict[str, str]) -> None:
    with pytest.raises(ProtocolError, match=vector["why"]):
        read_roster(bytes.fromhex(vector["roster"]), SESSION, AGREED)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_roster_that_is_cut_or_changed_is_refused_or_another(data: st.DataObject) -> None:
    raw = bytes.fromhex(VECTORS["good"][-1]["roster"])
    at = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(ProtocolError):
        read_roster(raw[:at], SESSION, AGREED)
    changed = bytearray(raw)
    changed[at] ^= data.draw(st.integers(1, 255))
    try:
        found: Roster = read_roster(bytes(changed), SESSION, AGREED)
    except ProtocolError:
        return
    assert found.encode() == bytes(changed) != raw
