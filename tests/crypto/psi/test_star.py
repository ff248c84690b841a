"""Intersection of several parties: exact, nobody sees more than is said, nobody waits for who is gone."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import ProtocolError
from crypto.psi import star, star_messages
from crypto.psi.parameters import mask_bytes
from crypto.psi.star_messages import Greeting, decode, join_keys, split_keys
from crypto.psi.zero_sharing import Shares
from tests.crypto.psi.sets import random_items
from tests.crypto.psi.star_parties import FOLLOWERS, LEADER, Dealer, Gone, Meeting, byte_statistic, common
from tests.crypto.psi.test_zero_sharing import Signers

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "star.json").read_text())


@pytest.fixture
def dealer(monkeypatch: pytest.MonkeyPatch) -> Dealer:
    made = Dealer()
    made.put(monkeypatch)
    return made


def overlapping(sizes: list[int], shared: int) -> list[Any]:
    """Sets of these sizes, in random orders, with so many items in all of them."""
    made = np.random.default_rng(sum(sizes))
    same = random_items(shared)
    return [made.permutation(np.concatenate([same, random_items(size - shared)])) for size in sizes]


def check(meeting: Meeting, found: dict[str, Any]) -> None:
    """What all found is what Python finds."""
    sets, names = meeting.sets, meeting.names
    expected = common(list(sets.values()))
    mine = sets[LEADER][found[LEADER]]
    assert found[LEADER].dtype == np.int64
    assert {tuple(item) for item in mine.tolist()} == expected and len(mine) == len(expected)
    for name in names:
        if meeting.options[name].get("reveal") == "all":
            assert found[name].dtype == np.int64 and np.array_equal(sets[name][found[name]], mine)
        else:
            assert found[name] is None
            assert sorted(found[LEADER].tolist()) == found[LEADER].tolist()


# ---- exact ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reveal", ["leader", "all"])
def test_three_parties_over_vole_find_what_python_finds(reveal: str) -> None:
    meeting = Meeting(overlapping([500, 700, 600], 200), reveal=reveal)
    check(meeting, meeting.result())


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_any_sets_of_two_to_eight_parties_are_exact(data: st.DataObject) -> None:
    universe = np.random.default_rng(0).integers(0, 2**64, size=(30, 2), dtype=np.uint64)
    parties = data.draw(st.integers(2, 8))
    # Mostly full sets: the intersection of eight random ones would be empty nearly always.
    one = st.one_of(
        st.lists(st.integers(0, 29), unique=True), st.permutations(range(30)).map(lambda order: order[2:])
    )
    sets = [universe[np.array(data.draw(one), dtype=np.int64)] for _ in range(parties)]
    meeting = Meeting(sets, reveal=data.draw(st.sampled_from(["leader", "all"])), session=b"a session")
    with pytest.MonkeyPatch.context() as patch:
        Dealer().put(patch)
        check(meeting, meeting.result())


@pytest.mark.parametrize("reveal", ["leader", "all"])
@pytest.mark.parametrize(
    ("sizes", "shared"),
    [
        ([0, 0, 0], 0), ([0, 5, 7], 0), ([5, 0, 7], 0), ([5, 7, 0], 0), ([1, 1, 1], 1), ([1, 1, 1], 0),
        ([1, 3000, 128], 1), ([3000, 1, 1], 1), ([127, 128, 129], 127), ([64, 64], 64), ([64, 64], 0),
        ([200, 200, 200, 200, 200], 200), ([200, 200, 200, 200, 200], 0), ([10, 20, 30, 40, 50, 60, 70, 80], 5),
    ],
)  # fmt: skip
def test_sizes_and_overlaps_at_the_edges_are_exact(
    sizes: list[int], shared: int, reveal: str, dealer: Dealer
) -> None:
    meeting = Meeting(overlapping(sizes, shared), reveal=reveal)
    check(meeting, meeting.result())


@pytest.mark.parametrize("missing", range(5))
def test_an_item_that_one_party_alone_lacks_does_not_appear(missing: int, dealer: Dealer) -> None:
    items = random_items(50)
    sets = [np.delete(items, 7, axis=0) if number == missing else items for number in range(5)]
    meeting = Meeting(sets, reveal="all")
    found = meeting.result()
    check(meeting, found)
    assert len(found[LEADER]) == 49


@pytest.mark.slow
def test_five_parties_of_unequal_large_sets_are_exact() -> None:
    meeting = Meeting(overlapping([200_000, 150_000, 300_000, 100_000, 250_000], 60_000), reveal="all")
    check(meeting, meeting.result())


def test_the_leader_is_told_with_how_many_followers_a_phase_is_done(dealer: Dealer) -> None:
    meeting = Meeting(overlapping([5, 5, 5], 2), reveal="all")
    seen: list[tuple[str, int, int]] = []
    meeting.options[LEADER]["progress"] = lambda *what: seen.append(what)
    meeting.result()
    assert seen == [(phase, done, 2) for phase in ("keys", "exchange", "result") for done in (0, 1, 2)]


# ---- what is seen ---------------------------------------------------------------------------------------------------


class LeadersView:
    """What the leader decodes for each of its items, by follower, and the keys that each follower shares with others."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.values: dict[str, Any] = {}
        self.keys: dict[str, dict[str, bytes]] = {}
        real, lock = star._share, threading.Lock()

        def share(channel: Any, *given: Any) -> Any:
            found, value = real(channel, *given)
            with lock:
                self.values[threading.current_thread().name.removeprefix("star-")] = found.copy()
            return found, value

        def shares(keys: dict[str, bytes]) -> Shares:
            with lock:
                (who,) = {"ann", "bob", "cy"} - set(keys)
                self.keys[who] = dict(keys)
            return Shares(keys)

        patch.setattr(star, "_share", share)
        patch.setattr(star, "Shares", shares)


@pytest.fixture
def view(dealer: Dealer, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, LeadersView]:
    """A leader whose items are by thousands in each of the subsets of three followers' sets, and what it sees."""
    seen = LeadersView(monkeypatch)
    groups = [random_items(2000) for _ in range(8)]
    sets = [np.concatenate([group for bits, group in enumerate(groups) if bits >> n & 1]) for n in range(3)]
    meeting = Meeting([np.concatenate(groups), *sets])
    found = meeting.result()
    assert np.array_equal(found[LEADER], np.arange(7 * 2000, 8 * 2000))
    return groups, seen


def in_group(values: Any, bits: int) -> Any:
    return values[2000 * bits : 2000 * (bits + 1)]


def test_what_the_leader_decodes_tells_nothing_of_items_that_are_in_some_sets_only(
    view: tuple[Any, LeadersView],
) -> None:
    _, seen = view
    for bits in range(7):
        rows = {name: in_group(values, bits) for name, values in seen.values.items()}
        assert set(rows) == {"ann", "bob", "cy"}
        # Alone, and in every sum of two and of all three.
        for chosen in range(1, 8):
            some = [rows[name] for n, name in enumerate(("ann", "bob", "cy")) if chosen >> n & 1]
            total = np.bitwise_xor.reduce(some)
            assert 100 < byte_statistic(total) < 450, (bits, chosen)
            assert len(np.unique(total, axis=0)) == 2000
    # Of items in all sets, too, only the sum of all tells.
    rows = {name: in_group(values, 7) for name, values in seen.values.items()}
    assert not np.bitwise_xor.reduce(list(rows.values())).any()
    for one, other in (("ann", "bob"), ("ann", "cy"), ("bob", "cy")):
        assert 100 < byte_statistic(rows[one]) < 450 and 100 < byte_statistic(rows[one] ^ rows[other]) < 450


def test_the_leader_with_one_follower_sees_what_the_others_share_with_it_and_no_more(
    view: tuple[Any, LeadersView],
) -> None:
    # The price of unconditional shares, as the module says: cy's keys take cy out of the intersection.
    groups, seen = view
    cy = seen.keys["cy"]

    def without_cy(name: str, bits: int) -> Any:
        values = in_group(seen.values[name], bits).copy()
        Shares({"cy": cy[name]}).add(groups[bits], values)
        return values

    for bits in range(8):
        ann, bob = without_cy("ann", bits), without_cy("bob", bits)
        if bits & 3 == 3:
            assert not (ann ^ bob).any()
        else:
            assert 100 < byte_statistic(ann ^ bob) < 450
        # Which of ann and bob lacks an item stays hidden: neither value alone is anything but random.
        assert 100 < byte_statistic(ann) < 450 and 100 < byte_statistic(bob) < 450


def sent(meeting: Meeting) -> dict[str, list[tuple[str, int]]]:
    lines = {**{f"to {name}": line for name, line in meeting.leader.items()}, **meeting.others}
    return {name: line.sent for name, line in lines.items()}


def test_how_much_is_sent_depends_on_the_sizes_alone(dealer: Dealer) -> None:
    told = []
    for shared in (0, 10, 40):
        meeting = Meeting(overlapping([50, 60, 40], shared))
        meeting.result()
        told.append(sent(meeting))
    assert told[0] == told[1] == told[2]


def test_with_the_leader_alone_nothing_comes_back_to_a_follower(dealer: Dealer) -> None:
    meeting = Meeting(overlapping([50, 60, 40], 20))
    meeting.result()
    for line in meeting.leader.values():
        assert [step for step, _ in line.sent] == ["star.greeting", "star.keys", "oprf.items", "oprf.store"]


def test_tags_have_the_bytes_of_the_bound_and_as_many_as_there_are_matches(dealer: Dealer) -> None:
    meeting = Meeting(overlapping([50, 3000, 40], 20), reveal="all")
    meeting.result()
    for name in meeting.names:
        size = mask_bytes(len(meeting.sets[name]), 50)
        assert meeting.leader[name].sent[-1] == ("star.matches", 20 * size)


def test_the_order_of_the_result_for_all_is_another_in_every_run(dealer: Dealer) -> None:
    sets = overlapping([30, 30, 30], 30)
    orders = {tuple(Meeting(sets, reveal="all").result()[LEADER].tolist()) for _ in range(5)}
    assert len(orders) == 5


def test_the_stores_of_two_runs_over_the_same_sets_differ(dealer: Dealer) -> None:
    sets, stores = overlapping([30, 30, 30], 30), []
    for _ in range(2):
        meeting = Meeting(sets)
        for line in meeting.others.values():
            line.spoil = lambda step, data: stores.append(data) or data if step == "star.store" else data
        meeting.result()
    assert len(stores) == len(set(stores)) == 4


# ---- signed keys ----------------------------------------------------------------------------------------------------


def signed(meeting: Meeting, *names: str) -> None:
    signers = Signers(*meeting.names)
    for name in names:
        meeting.options[name]["authenticator"] = signers.of(name)


def test_parties_that_sign_their_keys_find_what_python_finds(dealer: Dealer) -> None:
    meeting = Meeting(overlapping([50, 60, 40, 70], 20), reveal="all", session=b"of today")
    signed(meeting, *meeting.names)
    check(meeting, meeting.result())


def test_a_leader_that_changes_a_key_is_noticed_where_keys_are_signed(dealer: Dealer) -> None:
    meeting = Meeting(overlapping([50, 60, 40], 20), reveal="all")
    signed(meeting, *meeting.names)
    meeting.leader["ann"].spoil = lambda step, data: (
        data[:10] + bytes([data[10] ^ 1]) + data[11:] if step == "star.keys" else data
    )
    who, error = meeting.refused()
    assert (
        who == "ann"
        and error.step == "star.keys"
        and "the key that came for bob was not signed" in str(error)
    )


def test_a_follower_that_does_not_sign_is_refused_by_those_that_do(dealer: Dealer) -> None:
    meeting = Meeting(overlapping([50, 60, 40], 20), reveal="all")
    signed(meeting, "ann")
    found = meeting.run()
    assert "the key that came for bob is not signed, and this side checks" in str(found["ann"])
    assert all(isinstance(each, Exception) for each in found.values())


# ---- parties that differ, or are gone -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "here", "there"),
    [
        ({"reveal": "all"}, "'leader'", "'all'"),
        ({"session": b"\xab"}, "''", "'ab'"),
        ({"leader": "leo"}, "'lea, ann, bob'", "'leo, ann, bob'"),
        ({"followers": ("ann", "bob", "cy")}, "'lea, ann, bob'", "'lea, ann, bob, cy'"),
        ({"followers": ("ann",)}, "'lea, ann, bob'", "'lea, ann'"),
    ],
)
def test_settings_that_differ_are_refused_with_both_values(
    option: dict[str, Any], here: str, there: str, dealer: Dealer
) -> None:
    meeting = Meeting(overlapping([5, 6, 7], 2))
    meeting.options["ann"].update(option)
    found = meeting.run()
    assert all(isinstance(each, Exception) for each in found.values())
    sides = {each for each in (LEADER, "ann") if isinstance(found[each], ProtocolError)}
    assert sides and found[sides.pop()].step == "star.greeting"
    texts = " / ".join(str(each) for each in found.values())
    assert here in texts and there in texts and "give all parties the same" in texts


@pytest.mark.parametrize(("at", "what"), [(8, "version 1, the other 9"), (10, "parameters 1, the other 9")])
def test_another_version_is_refused_with_both_and_the_follower_is_named(
    at: int, what: str, dealer: Dealer
) -> None:
    meeting = Meeting(overlapping([5, 6, 7], 2))
    meeting.others["bob"].spoil = lambda step, data: (
        data[:at] + b"\x09" + data[at + 1 :] if step == "star.greeting" else data
    )
    who, error = meeting.refused()
    assert who == LEADER and "star.greeting: with bob: " in str(error) and what in str(error)


@pytest.mark.parametrize("name", ["ann", "cy"])
@pytest.mark.parametrize("step", ["star.greeting", "star.key", "star.seed", "star.store"])
def test_a_follower_that_goes_away_ends_the_run_of_all(step: str, name: str, dealer: Dealer) -> None:
    class Killed(Exception):
        pass

    meeting = Meeting(overlapping([50, 60, 70, 80], 20), reveal="all")

    def spoil(at: str, data: bytes) -> bytes:
        if at == step:
            raise Killed
        return data

    meeting.others[name].spoil = spoil
    found = meeting.run()
    assert isinstance(found.pop(name), Killed)
    assert all(isinstance(each, Gone) for each in found.values()), found
    assert f"in the intersection's work with {name}" in found[LEADER].__notes__


@pytest.mark.parametrize("step", ["star.greeting", "star.keys", "oprf.store", "star.matches"])
def test_a_leader_that_goes_away_ends_the_run_of_all(step: str, dealer: Dealer) -> None:
    class Killed(Exception):
        pass

    meeting = Meeting(overlapping([50, 60, 70], 20), reveal="all")

    def spoil(at: str, data: bytes) -> bytes:
        if at == step:
            raise Killed
        return data

    meeting.leader["ann"].spoil = spoil
    found = meeting.run()
    assert isinstance(found.pop(LEADER), Killed)
    # At the last step the other follower may have its result already.
    assert isinstance(found.pop("ann"), Gone)
    assert isinstance(found["bob"], Gone) or step == "star.matches"


def test_a_leader_that_is_interrupted_stops_the_others(
    dealer: Dealer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[bool] = []

    class Interrupted(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            raise KeyboardInterrupt

    meeting = Meeting([random_items(2)] * 2)
    monkeypatch.setattr(star.threading, "Thread", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        star.lead(
            meeting.leader,
            meeting.sets[LEADER],
            name=LEADER,
            stop=lambda: (stopped.append(True), meeting.stop()),
        )
    assert stopped == [True] or stopped == [True, True]


# ---- messages that are not allowed ----------------------------------------------------------------------------------

Change = Callable[[bytes], bytes]
CUT: Change = lambda data: data[:-1]  # noqa: E731
LONGER: Change = lambda data: data + b"\0"  # noqa: E731


@pytest.mark.parametrize(
    ("step", "change"),
    [
        ("star.greeting", CUT), ("star.greeting", LONGER), ("star.greeting", lambda data: b""),
        ("star.greeting", lambda data: data + bytes(star_messages.LIMIT)),
        ("star.key", CUT), ("star.key", lambda data: b""), ("star.key", lambda data: data + bytes(513)),
        ("star.seed", CUT), ("star.seed", LONGER), ("star.store", CUT), ("star.store", LONGER),
        ("star.store", lambda data: b""), ("star.store", lambda data: data * 2),
    ],
)  # fmt: skip
def test_the_leader_refuses_a_message_with_its_step_and_the_followers_name(
    step: str, change: Change, dealer: Dealer
) -> None:
    # With "all" the followers wait for the leader, so that the end of its work reaches them.
    meeting = Meeting(overlapping([50, 60, 70], 20), reveal="all")
    meeting.others["bob"].spoil = lambda at, data: change(data) if at == step else data
    who, error = meeting.refused()
    assert who == LEADER and error.step == step and error.message.startswith("with bob: ")


@pytest.mark.parametrize(
    ("step", "change", "said"),
    [
        ("star.greeting", CUT, "no proper greeting"),
        ("star.greeting", lambda data: data + bytes(star_messages.LIMIT), "at most"),
        ("star.keys", CUT, "33 bytes came for the keys of 1 followers, which say that they are 34"),
        ("star.keys", LONGER, "35 bytes came"),
        ("star.keys", lambda data: b"", "0 bytes came"),
        ("star.keys", lambda data: data + bytes(600), "at most"),
        ("star.keys", lambda data: b"\x1f\0" + data[3:], "a key of 31 bytes came for ann"),
        ("star.keys", lambda data: b"\x20\0" + bytes(32), "no proper public key"),
        ("oprf.items", lambda data: b"\x31" + data[1:], "asks for 49 items, allowed are the 50 that"),
        ("oprf.items", lambda data: b"\x33" + data[1:], "asks for 51 items, allowed are the 50 that"),
        ("oprf.items", CUT, "23 bytes came"),
        ("oprf.store", CUT, "bytes came where"),
        ("star.matches", CUT, "no multiple of"),
        ("star.matches", lambda data: data + b"1234567", "21 matches are told, 20 of the own items"),
        ("star.matches", lambda data: data * 4, "at most"),
        ("star.matches", lambda data: data[:7] + data[:-7], "told twice"),
        ("star.matches", lambda data: bytes(7) + data[7:], "19 of the own items have their tags"),
    ],
)
def test_a_follower_refuses_a_message_with_its_step(
    step: str, change: Change, said: str, dealer: Dealer
) -> None:
    meeting = Meeting(overlapping([50, 60, 70], 20), reveal="all")
    assert mask_bytes(50, 70) == 7
    meeting.leader["bob"].spoil = lambda at, data: change(data) if at == step else data
    found = meeting.run()
    assert isinstance(found["bob"], ProtocolError) and found["bob"].step == step and said in str(found["bob"])
    assert step == "star.matches" or all(isinstance(each, Exception) for each in found.values())


@pytest.mark.parametrize("vector", VECTORS["greeting"])
def test_the_vectors_of_greetings_come_out_and_are_read(vector: dict[str, Any]) -> None:
    greeting = Greeting(
        vector["leader"],
        tuple(vector["followers"]),
        vector["reveal"],
        bytes.fromhex(vector["session"]),
        vector["items"],
    )
    assert greeting.encode().hex() == vector["message"] and greeting.digest().hex() == vector["digest"]
    assert decode(bytes.fromhex(vector["message"])) == greeting


@pytest.mark.parametrize("vector", VECTORS["bad_greeting"], ids=lambda vector: vector["why"])
def test_the_vectors_of_bad_greetings_are_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match=vector["said"]) as caught:
        decode(bytes.fromhex(vector["message"]))
    assert caught.value.step == "star.greeting"


def test_the_vectors_of_keys_come_out_and_the_bad_ones_are_refused() -> None:
    vectors = VECTORS["keys"]
    for vector in vectors["good"]:
        keys, message = [bytes.fromhex(key) for key in vector["keys"]], bytes.fromhex(vector["message"])
        assert join_keys(keys) == message
        assert split_keys(message, vectors["names"]) == dict(zip(vectors["names"], keys, strict=True))
    for vector in vectors["bad"]:
        with pytest.raises(ProtocolError, match=r"star\.keys"):
            split_keys(bytes.fromhex(vector["message"]), vectors["names"])


@settings(deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=80).map(lambda rest: b"fc-star\0\x01\0\x01\0" + rest))
def test_random_bytes_are_a_greeting_or_refused_and_nothing_else(raw: bytes) -> None:
    try:
        greeting = decode(raw)
    except ProtocolError:
        return
    assert greeting.encode() == raw


# ---- what an argument may be ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"followers": ()}, "0 followers; allowed are 1 to 63"),
        ({"followers": tuple(f"{n:02}" for n in range(64))}, "64 followers"),
        ({"followers": ("ann", "ann")}, "each named once"),
        ({"followers": ("bob", "ann")}, "in order"),
        ({"leader": "ann"}, "each named once"),
        ({"leader": ""}, "'' is no name of a party"),
        ({"leader": "a" * 65}, "is no name"),
        ({"leader": "a\nb"}, "is no name"),
        ({"reveal": "everyone"}, "reveal is 'everyone'; allowed: leader, all"),
        ({"session": bytes(256)}, "a session of 256 bytes; allowed are 255"),
        ({"items": 2**32}, "at most 4294967295"),
    ],
)
def test_what_no_greeting_can_say_is_refused_at_home(wrong: dict[str, Any], said: str) -> None:
    right = {"leader": "lea", "followers": ("ann", "bob"), "reveal": "leader", "session": b"", "items": 0}
    with pytest.raises(ValueError, match=said):
        Greeting(**{**right, **wrong})


def test_who_is_not_among_the_followers_is_refused() -> None:
    with pytest.raises(ValueError, match="'zoe' is not among the followers ann, bob"):
        star.follow(None, random_items(1), name="zoe", leader=LEADER, followers=["bob", "ann"])  # type: ignore[arg-type]


@pytest.mark.parametrize("role", ["lead", "follow"])
def test_an_item_that_stands_twice_is_refused_before_anything_is_sent(role: str) -> None:
    meeting = Meeting([random_items(3)] * 2)
    twice = np.concatenate([random_items(3)] * 2)
    twice[3:] = twice[:3]
    parts: dict[str, Callable[[], Any]] = {
        "lead": lambda: star.lead(meeting.leader, twice, name=LEADER),
        "follow": lambda: star.follow(
            meeting.others["ann"], twice, name="ann", leader=LEADER, followers=FOLLOWERS
        ),
    }
    with pytest.raises(ValueError, match="stands in the set before"):
        parts[role]()
    assert not meeting.leader["ann"].sent and not meeting.others["ann"].sent
