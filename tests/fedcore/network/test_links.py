"""Links: timed over the real channel, then from the transfers that the work makes."""

from __future__ import annotations

import statistics
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import ProtocolError
from fedcore.errors import PeerLost
from fedcore.network import links
from fedcore.network.links import LEAST_ECHOES, Passive, measure_link, percentile, serve_link, trips_of
from fedcore.network.quantity import contradictions
from fedcore.peer.link import Settings
from fedcore.peer.memory import MemoryChannel
from tests.fedcore.peer.parties import both, direct


def test_a_link_is_measured_over_tls_between_pinned_keys() -> None:
    anna, bert = direct(Settings(silence=60))

    def measure():
        with anna:
            return measure_link(anna, echoes=20, seconds=0.5)

    def serve() -> None:
        with bert:
            serve_link(bert)

    found, _ = both(measure, serve)
    told = found.quantities()
    assert contradictions(told) == []
    assert 0 < told["rtt.min"].value <= told["rtt.p50"].value <= told["rtt.p95"].value
    assert told["rtt.p50"].samples == 20 and told["link.up"].samples >= 3 and told["link.down"].samples >= 3
    assert found.one_way.value == told["rtt.min"].value / 2 and found.one_way.source == "derived"
    assert {each.source for each in told.values()} == {"measured"}


def test_an_echo_that_is_not_what_was_sent_is_refused() -> None:
    one, other = MemoryChannel.pair()

    def liar() -> None:
        command = bytearray(other.recv(links.STEP, size=25))
        command[-1] ^= 1
        other.send(links.STEP, command)

    threading.Thread(target=liar, daemon=True).start()
    with pytest.raises(ProtocolError, match="not what was sent"):
        measure_link(one)


@pytest.mark.parametrize(
    ("what", "size", "said"),
    [(2, 2**40, "at most 67108864"), (9, 0, "command 9 is none"), (3, 2**27, "at most")],
)
def test_the_serving_side_sends_no_more_than_it_must(what: int, size: int, said: str) -> None:
    one, other = MemoryChannel.pair()
    one.send(links.STEP, links._COMMAND.pack(what, size, bytes(16)))
    with pytest.raises(ProtocolError, match=said):
        serve_link(other)


def test_the_serving_side_does_not_serve_for_ever() -> None:
    one, other = MemoryChannel.pair(settings=Settings(window=16))
    for _ in range(3):
        one.send(links.STEP, links._COMMAND.pack(1, 0, bytes(16)))
    with pytest.raises(ProtocolError, match="more than 3 commands"):
        serve_link(other, most=3)


def test_a_party_that_vanishes_in_the_middle_is_lost() -> None:
    one, other = MemoryChannel.pair()

    def vanish() -> None:
        other.recv(links.STEP, size=25)
        other.abort()

    threading.Thread(target=vanish, daemon=True).start()
    with pytest.raises(PeerLost):
        measure_link(one)


def test_fewer_than_twenty_echoes_have_no_95th_percentile() -> None:
    one, _ = MemoryChannel.pair()
    with pytest.raises(ValueError, match="at least 20"):
        measure_link(one, echoes=19)
    with pytest.raises(ValueError, match="at least 20"):
        trips_of([1.0] * 19)


@given(st.lists(st.floats(0.01, 1e4), min_size=LEAST_ECHOES, max_size=60))
def test_round_trips_are_told_by_samples_that_were_seen(samples: list[float]) -> None:
    told = trips_of(samples)
    assert told["rtt.min"].value == min(samples) and told["rtt.p50"].value == statistics.median(samples)
    assert told["rtt.p95"].value == np.percentile(samples, 95, method="inverted_cdf")
    assert percentile(sorted(samples), 1.0) == max(samples)


# ---- without sending anything --------------------------------------------------------------------------------------


def test_a_steady_line_is_reliable_and_an_unsteady_one_is_not() -> None:
    steady = unsteady = Passive()
    for i in range(10):
        steady = steady.seen("up", 10**6, 0.08)
        unsteady = unsteady.seen("up", 10**6, 0.08 if i % 2 else 0.8)
    assert steady.quantity("up").value == pytest.approx(100) and steady.quantity("up").reliable
    assert not unsteady.quantity("up").reliable
    assert steady.quantity("down") is None


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=30))
def test_each_direction_follows_its_own_transfers_by_the_weighted_mean(times: list[float]) -> None:
    passive = Passive()
    mean, variance = 0.0, 0.0
    for i, seconds in enumerate(times):
        passive = passive.seen("down", 10**6, seconds)
        rate = 8 / seconds
        # The definition: weights 0.7^k * 0.3, the first transfer takes what is left over.
        weights = np.array([0.7**i] + [0.3 * 0.7 ** (i - k) for k in range(1, i + 1)])
        rates = np.array([8 / each for each in times[: i + 1]])
        mean = float(weights @ rates)
        variance = float(weights @ (rates - mean) ** 2)
        assert passive.down[2] == i + 1 and rate > 0
    assert passive.down[0] == pytest.approx(mean) and passive.down[1] == pytest.approx(
        variance, abs=1e-6 * mean**2
    )
    assert passive.up == (0.0, 0.0, 0)


def test_small_messages_say_nothing_about_a_rate_and_one_or_two_transfers_little() -> None:
    assert Passive().seen("up", 1000, 5.0) == Passive()
    assert "fewer than 3" in Passive().seen("up", 10**6, 1.0).quantity("up").doubt


def test_a_transfer_takes_time() -> None:
    with pytest.raises(ValueError, match="in 0 s"):
        Passive().seen("up", 10**6, 0)
