"""Bad data, settings that do not fit, damaged messages and lost parties end a fit with an error that says why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crypto.errors import ProtocolError
from fedcore.errors import DataError, JobError, PeerLost, ProtocolFailed
from fedcore.vertical import glm_pass, glm_setup
from fedcore.vertical.glm_curvature import failure
from fedcore.vertical.glm_looks import weights_of
from fedcore.vertical.glm_orders import CHANGE, INFORMATION, LOSS, PASS, SIGNS, Order, Orders, give
from fedcore.vertical.sharing import residues
from tests.crypto.memory_channel import ends
from tests.fedcore.vertical.glm_parties import LABEL, ROWS, X, job, ok, star, two


def refused(found: list[Any], kind: type[Exception], match: str) -> None:
    """One party at least says so, and no party gets a result."""
    assert all(isinstance(each, Exception) for each in found)
    errors = [each for each in found if isinstance(each, kind)]
    with pytest.raises(kind, match=match):
        raise (errors or found)[0]


def changed(at: tuple[int, int], value: float) -> Any:
    x = X.copy()
    x[at] = value
    return x


# ---- data -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 4])
def test_missing_and_infinite_values_are_refused_at_either_party(value: float, column: int) -> None:
    refused(two(job(), changed((3, column), value)), DataError, "missing or infinite")


def test_columns_that_are_not_standardised_are_refused() -> None:
    refused(two(job(), changed((3, 4), 50_000)), DataError, "standardise")


@pytest.mark.parametrize(
    ("link", "y", "match"),
    [
        ("logistic", np.zeros(ROWS), "both occur"),
        ("logistic", LABEL + 1, "both occur"),
        ("logistic", LABEL[:-1], "599"),
        ("linear", np.ones(ROWS), "one value"),
        ("linear", np.full(ROWS, np.nan), "missing"),
        ("poisson", LABEL - 1, "count"),
        ("poisson", np.zeros(ROWS), "count"),
    ],
)
def test_a_label_that_cannot_be_fitted_is_refused(link: str, y: Any, match: str) -> None:
    refused(two(job(link=link), y=y), DataError, match)


@pytest.mark.parametrize("weights", [np.zeros(ROWS), np.ones(3), np.full(ROWS, np.nan)])
def test_row_weights_that_are_none_are_refused(weights: Any) -> None:
    refused(two(job(), weights=weights), DataError, "row weights")


def test_dependent_columns_without_a_penalty_are_refused() -> None:
    x = X.copy()
    x[:, 5] = x[:, 0]
    refused(two(job(l2=0.0), x), DataError, "linearly dependent")


def test_a_constant_column_gets_no_weight_with_a_penalty() -> None:
    x = X.copy()
    x[:, 5] = 0.0
    assert ok(two(job(), x))[1].coefficients[-1] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("column", [0, 4])
@pytest.mark.parametrize("fits", [False, True])
def test_a_column_that_sets_few_rows_apart_is_refused_at_either_party(column: int, fits: bool) -> None:
    x = X.copy()
    x[:, column] = -0.1
    x[: 5 if fits else 4, column] = 10.0
    found = two(job(iterations=1), x)
    if fits:
        ok(found)
    else:
        refused(found, DataError, "fewer than 5 rows")


def test_fewer_rows_than_columns_are_refused_with_the_reason() -> None:
    refused(two(job(), X[:16], LABEL[:16]), DataError, "could be solved")


def test_a_batch_with_fewer_rows_than_columns_is_refused_with_the_reason() -> None:
    refused(two(job(batch=7)), JobError, "solve the change of its weights")


def test_rows_of_which_columns_of_two_values_could_be_solved_are_refused() -> None:
    # Seven columns with the intercept.
    refused(two(job(), X[:139], LABEL[:139]), DataError, r"139 rows for 7 columns.* at least 140")
    ok(two(job(iterations=1), X[:140], LABEL[:140]))


def test_an_information_matrix_that_could_be_solved_for_each_row_is_refused() -> None:
    x = np.random.default_rng(4).normal(size=(300, 13))
    y = LABEL[:300]
    found = two(job(p_values=True), x, y, cut=12)
    refused(found, DataError, r"300 rows for 91 pairs .* at least 364")
    ok(two(job(iterations=1), x, y, cut=12))


def test_a_loss_over_few_test_rows_is_not_opened() -> None:
    found = two(job(early_stop=True), held_out=(X[:19], LABEL[:19]))
    refused(found, DataError, "19 test rows")


def test_second_moments_are_opened_over_all_blocks_together() -> None:
    seen: list[str] = []

    def watched(channel: Any) -> Any:
        real = channel.recv

        def recv(step: str, **more: Any) -> Any:
            seen.append(step)
            return real(step, **more)

        channel.recv = recv
        return channel

    ok(two(job(batch=200, iterations=1), wrap=watched))
    assert seen.count("glm.crossed-share") == 1
    # Products are protected block by block: three blocks, three columns of the label holder.
    assert seen.count("glm.crossed") == 9


@pytest.mark.parametrize("told", [b'{"columns": Infinity}', b"[" * 4000, b'{"columns": 0}', b"[1]"])
def test_settings_that_are_none_are_refused(told: bytes) -> None:
    here, there = ends()
    there.send(glm_setup.STEP, told)
    with pytest.raises(ProtocolFailed, match=r"settings|tells 0 columns"):
        glm_setup.compare(here, {})


# ---- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"sign": True}, "on: woe"),
        ({"link": "linear", "p_values": True}, "variance"),
        ({"link": "poisson", "class_weight": "balanced"}, "logistic link only"),
        ({"early_stop": True}, "test rows"),
        ({"batch": 100, "p_values": True}, "batch"),
    ],
)
def test_what_the_protocol_has_no_answer_for_is_refused(settings: dict[str, Any], match: str) -> None:
    refused(two(job(**settings)), JobError, match)


def test_p_values_with_two_partners_are_refused() -> None:
    refused(star(job(p_values=True), np.split(X, (2, 4), axis=1), LABEL), JobError, "one partner only")


@pytest.mark.parametrize("theirs", [{"l2": 2.0}, {"iterations": 99}, {"p_values": True}])
def test_parties_with_other_settings_refuse_each_other(theirs: dict[str, Any]) -> None:
    refused(two(job(), theirs=job(**theirs)), ProtocolFailed, next(iter(theirs)))


def test_parties_with_other_numbers_of_rows_refuse_each_other() -> None:
    refused(two(job(), partner_rows=slice(1, None)), ProtocolFailed, "rows: (600|599) here")


def test_another_fixed_point_scale_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = glm_setup.agreed
    seen: list[int] = []

    def once(*given: Any) -> dict[str, Any]:
        told = real(*given)
        seen.append(1)
        return {**told, "fixed point": [glm_pass.COLUMN_BITS + 1, 24, 11, 11]} if len(seen) == 1 else told

    for module in ("glm_holder", "glm_partner"):
        monkeypatch.setattr(f"fedcore.vertical.{module}.agreed", once)
    refused(two(job()), ProtocolFailed, "fixed point")


# ---- messages -------------------------------------------------------------------------------------------------------


class Spoiling:
    """A channel whose messages for one step are changed, from the second on."""

    def __init__(self, channel: Any, step: str, change: Any) -> None:
        self.channel, self.step, self.change, self.seen = channel, step, change, 0

    def send(self, step: str, data: Any) -> None:
        raw = memoryview(data).cast("B").tobytes()
        self.seen += step == self.step
        self.channel.send(step, self.change(bytearray(raw)) if step == self.step and self.seen == 2 else raw)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.channel, name)


def flipped(data: bytearray) -> bytes:
    data[200] ^= 4
    return bytes(data)


def beyond(data: bytearray) -> bytes:
    data[-64:] = b"\xff" * 64
    return bytes(data)


def another_key(data: bytearray) -> bytes:
    data[8:24] = bytes(16)
    return bytes(data)


@pytest.mark.parametrize(
    ("step", "change", "match"),
    [
        ("glm.waves", flipped, "does not open"),
        ("glm.weights", beyond, "zeros where it is filled|not below its prime"),
        ("glm.residual", another_key, "another key"),
        ("glm.weights", lambda data: bytes(data[:-8]), "bytes"),
        ("glm.order", lambda data: b"\x09" + bytes(data[1:]), "does not ask for"),
    ],
)
def test_a_damaged_message_ends_the_fit(step: str, change: Any, match: str) -> None:
    found = two(job(), wrap=lambda channel: Spoiling(channel, step, change))
    refused(found, ProtocolFailed if step == "glm.order" else ProtocolError, match)


def test_a_party_that_stops_in_the_middle_of_a_pass_is_noticed_by_the_other() -> None:
    class Stopped(Exception):
        pass

    def watch(phase: str, done: int, of: int) -> None:
        if phase == "pass" and done == 2:
            raise Stopped

    found = two(job(), watch=watch)
    assert isinstance(found[0], Stopped)
    assert isinstance(found[1], PeerLost)


@pytest.mark.parametrize("kind", [CHANGE, LOSS, SIGNS, INFORMATION])
def test_a_partner_does_not_open_what_the_job_does_not_ask_for(kind: int) -> None:
    one, other = ends()
    give([one], Order(kind))
    with pytest.raises(ProtocolFailed, match="does not ask for"):
        Orders(other, job(), 1).take()


def test_a_partner_does_no_more_passes_than_the_job_allows() -> None:
    one, other = ends()
    orders = Orders(other, job(iterations=2), 1)
    for _ in range(3):
        give([one], Order(PASS))
    orders.take(), orders.take()
    with pytest.raises(ProtocolFailed, match="2 passes"):
        orders.take()


@pytest.mark.parametrize(
    "order",
    [
        Order(PASS, block=1),
        Order(PASS, period=25.0),
        Order(PASS, period=float("nan")),
        Order(PASS, period=1e9),
        Order(PASS, momentum=-1.0),
        Order(PASS, gain=float("inf")),
    ],
)
def test_an_order_out_of_range_is_refused(order: Order) -> None:
    one, other = ends()
    give([one], order)
    with pytest.raises(ProtocolFailed, match="out of range"):
        Orders(other, job(), 1).take()


def test_weights_that_truncation_spoilt_are_noticed() -> None:
    with pytest.raises(ProtocolFailed, match="run the job again"):
        weights_of(residues(np.array([1 << 50])))


def test_truncation_fails_seldom_enough_in_a_large_fit() -> None:
    assert failure(3000, 24, 24_000, 30) < 1e-5
