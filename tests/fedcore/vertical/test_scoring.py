"""A joint score is the sum of the parties' parts, whoever asks for whom; what does not belong together is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from crypto.errors import ProtocolError
from fedcore.errors import DataError, JobError, PeerLost
from fedcore.peer.memory import MemoryChannel
from fedcore.vertical.boosted_part import Boosted
from fedcore.vertical.boosting.ensemble import LEAF, OWN, Ensemble, PartnerSplit, PartnerSplits, Tree
from fedcore.vertical.keyed_rows import KeyedRows, keys_in_order
from fedcore.vertical.linear_part import LinearPart, Term
from fedcore.vertical.package import Package
from fedcore.vertical.scoring import MOST, Scorer, latency, serve
from tests.fedcore.vertical.scored import (
    BANK,
    COLUMNS,
    CUSTOMERS,
    NUMBERS,
    POINTS,
    ROWS,
    SHOP,
    TELECOM,
    about,
    bins_of,
    items_of,
    keyed,
    linear,
    package,
    table,
)


def met(ask: Any, bank: Package, *partners: tuple[Package, KeyedRows]) -> tuple[Any, list[Any]]:
    """What the bank's `ask(scorer)` gives, or its error, and what each partner says it served."""
    ends = {each.about.party: MemoryChannel.pair(names=(BANK, each.about.party)) for each, _ in partners}

    def holder() -> Any:
        try:
            scorer = Scorer(bank, {name: here for name, (here, _) in ends.items()})
            found = ask(scorer)
            scorer.close()
            return found
        except BaseException:
            for here, _ in ends.values():
                here.abort()
            raise

    def partner(own: Package, rows: KeyedRows) -> Any:
        channel = ends[own.about.party][1]
        try:
            return serve(channel, own, rows)
        except BaseException:
            channel.abort()
            raise

    with ThreadPoolExecutor(len(partners) + 1) as pool:
        asked = pool.submit(holder)
        served = [pool.submit(partner, *each) for each in partners]
        return asked.exception() or asked.result(), [each.exception() or each.result() for each in served]


def points(party: str, row: int, missing: bool = False) -> int:
    """In plain Python: the points of a row at a party."""
    total = 0
    for name, values in COLUMNS[party].items():
        value = None if missing else values[row]
        if name == "plan":
            place = {"a": 0, "b": 1}.get(value, 2)
        elif value is None or np.isnan(value):
            place = 3
        else:
            place = 0 if value < -0.5 else 1 if value < 0.5 else 2
        total += POINTS[name][place]
    return total


def test_a_joint_score_is_the_sum_of_the_points_of_bank_and_partner() -> None:
    found, served = met(
        lambda scorer: scorer.score(items_of(CUSTOMERS), table(BANK)),
        package(BANK),
        (package(TELECOM), keyed(TELECOM)),
    )
    wanted = [points(BANK, row) + points(TELECOM, row) for row in range(ROWS)]
    assert found.values["score"].tolist() == wanted
    # The scale of the card: base 600 at odds of 20 good to 1 bad, 20 points double them.
    odds = 20 * 2 ** ((np.array(wanted) - 600) / 20)
    assert found.values["expected"] == pytest.approx(1 / (1 + odds))
    assert found.unknown == {TELECOM: 0}
    assert (served[0].requests, served[0].rows, served[0].unknown) == (1, ROWS, 0)


def test_two_partners_add_theirs_and_batch_and_single_agree() -> None:
    both = (TELECOM, SHOP)

    def ask(scorer: Scorer) -> Any:
        whole = scorer.score(items_of(CUSTOMERS), table(BANK))
        single = [
            scorer.score(items_of([CUSTOMERS[row]]), table(BANK, slice(row, row + 1))).values["score"][0]
            for row in range(ROWS)
        ]
        return whole, single

    (whole, single), served = met(
        ask,
        package(BANK, both),
        (package(TELECOM, both), keyed(TELECOM)),
        (package(SHOP, both), keyed(SHOP)),
    )
    wanted = [sum(points(party, row) for party in (BANK, TELECOM, SHOP)) for row in range(ROWS)]
    assert whole.values["score"].tolist() == wanted == single
    assert [each.requests for each in served] == [ROWS + 1] * 2


def test_unknown_customers_get_the_points_of_missing_bins_and_are_counted() -> None:
    known = 50
    found, served = met(
        lambda scorer: scorer.score(items_of(CUSTOMERS), table(BANK)),
        package(BANK),
        (package(TELECOM), keyed(TELECOM, known)),
    )
    wanted = [points(BANK, row) + points(TELECOM, row, missing=row >= known) for row in range(ROWS)]
    assert found.values["score"].tolist() == wanted
    assert found.unknown == {TELECOM: ROWS - known}
    assert served[0].unknown == ROWS - known


def test_a_partner_without_any_row_scores_everybody_as_missing() -> None:
    none = KeyedRows(items_of(CUSTOMERS[:0]), np.arange(0), {n: v[:0] for n, v in COLUMNS[TELECOM].items()})
    found, _ = met(
        lambda scorer: scorer.score(items_of(CUSTOMERS), table(BANK)), package(BANK), (package(TELECOM), none)
    )
    assert found.values["score"].tolist() == [
        points(BANK, row) + points(TELECOM, row, missing=True) for row in range(ROWS)
    ]


def test_a_joint_linear_predictor_is_that_of_all_columns_together() -> None:
    found, _ = met(
        lambda scorer: scorer.score(items_of(CUSTOMERS), table(BANK)),
        package(BANK, kind="linear"),
        (package(TELECOM, kind="linear"), keyed(TELECOM)),
    )
    calls = np.nan_to_num((COLUMNS[TELECOM]["calls"] - 0.1) / 2 * 0.3)
    plan = [0.7 * {"a": 0.5, "b": -0.25, None: 1.0}[each] for each in COLUMNS[TELECOM]["plan"]]
    wanted = -1.25 + (COLUMNS[BANK]["income"] - 0.1) / 2 * 0.3 + calls + plan
    # Each of the two parts is rounded to 2^-8.
    assert found.values["predictor"] == pytest.approx(wanted, abs=2 * 2**-9)
    assert found.values["expected"] == pytest.approx(1 / (1 + np.exp(-wanted)), abs=2**-10)


@pytest.mark.parametrize(("link", "digits"), [("logistic", 8), ("poisson", 8), ("linear", 32)])
def test_a_part_of_log_odds_is_told_to_eight_digits_and_an_amount_exactly(link: Any, digits: int) -> None:
    exact = LinearPart(linear(TELECOM).terms, link=link).score(table(TELECOM))
    assert (exact % 2 ** (32 - digits) == 0).all()
    assert len(np.unique(exact)) > 1 and (digits == 8 or (exact % 2**24 != 0).any())


def test_a_joint_ensemble_walks_both_parties_splits() -> None:
    names = ("0" * 15 + "1",)
    tree = Tree(
        owner=(OWN, LEAF, 1, LEAF, LEAF),
        column=(0, -1, -1, -1, -1),
        code=(0, -1, -1, -1, -1),
        split=("", "", names[0], "", ""),
        left=(1, -1, 3, -1, -1),
        right=(2, -1, 4, -1, -1),
        value=(0.0, -1.0, 0.0, 0.5, 2.0),
        gain=(1.0, 0.0, 1.0, 0.0, 0.0),
        rows=(60, 20, 40, 20, 20),
    )
    halves = {
        BANK: Boosted(Ensemble("binary", (0.25,), 1, (NUMBERS.size,), ((tree,),)), ("income",), (NUMBERS,)),
        TELECOM: Boosted(
            PartnerSplits((NUMBERS.size,), (PartnerSplit(names[0], 0, 1, -1, False),)), ("calls",), (NUMBERS,)
        ),
    }
    packages = {
        party: Package(about(party, kind="boosting", columns=half.columns), half.as_dict())
        for party, half in halves.items()
    }
    found, _ = met(
        lambda scorer: scorer.score(items_of(CUSTOMERS), table(BANK)),
        packages[BANK],
        (packages[TELECOM], keyed(TELECOM)),
    )
    income, calls = COLUMNS[BANK]["income"], COLUMNS[TELECOM]["calls"]
    wanted = 0.25 + np.where(income < -0.5, -1.0, np.where(calls < 0.5, 0.5, 2.0))
    assert found.values["margin"] == pytest.approx(wanted)
    assert found.values["expected"] == pytest.approx(1 / (1 + np.exp(-wanted)))


def test_a_joint_network_gives_what_it_predicts_when_the_parties_meet() -> None:
    from fedcore.jobs.vertical import SplitNetwork
    from fedcore.vertical.network_part import Network
    from fedcore.vertical.split_network import predict_label_holder, predict_partner
    from tests.fedcore.vertical import splitting

    settings = SplitNetwork(use="split-network", epochs=2, batch=16)
    x = {
        BANK: COLUMNS[BANK]["income"][:, None],
        TELECOM: np.nan_to_num(COLUMNS[TELECOM]["calls"], nan=0.25)[:, None],
    }
    y = (x[BANK][:, 0] + x[TELECOM][:, 0] > 0).astype(np.float64)
    halves = splitting.together(
        lambda channels: splitting.fit_label_holder(channels, x[BANK], y, settings, 1),
        lambda channel: splitting.fit_partner(channel, x[TELECOM], settings, 2),
    )
    packages = {}
    for party, half, name in zip((BANK, TELECOM), halves, ("income", "calls"), strict=True):
        part = Network(half, (name,))
        told = about(party, kind="split-network", columns=part.columns)
        packages[party] = Package(told, part.as_dict(), half.arrays)
    found, served = met(
        lambda scorer: [scorer.score(items_of(CUSTOMERS), table(BANK)) for _ in range(2)][1],
        packages[BANK],
        (packages[TELECOM], keyed(TELECOM)),
    )
    # The customer whose calls are missing has the mean of the training.
    x[TELECOM][3] = halves[1].mean
    wanted = splitting.together(
        lambda channels: predict_label_holder(channels, halves[0], x[BANK]),
        lambda channel: predict_partner(channel, halves[1], x[TELECOM]),
    )[0]
    assert found.values["expected"] == pytest.approx(wanted, abs=1e-6)
    assert served[0].requests == 2


def test_more_customers_than_fit_one_request_are_asked_for_in_several() -> None:
    rows = np.arange(MOST + 10) % ROWS
    found, served = met(
        lambda scorer: scorer.score(items_of([CUSTOMERS[row] for row in rows]), table(BANK, rows)),
        package(BANK),
        (package(TELECOM), keyed(TELECOM)),
    )
    assert served[0].requests == 2
    of_row = np.array([points(BANK, row) + points(TELECOM, row) for row in range(ROWS)])
    assert np.array_equal(found.values["score"], of_row[rows])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"run": "run-2"}, "differ in option run"),
        ({"kind": "linear"}, "differ in option kind"),
        ({"items": {"trim": True}}, "option items"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(changed: Any, said: str) -> None:
    found, served = met(
        lambda scorer: scorer.score(items_of(CUSTOMERS), table(BANK)),
        package(BANK),
        (package(TELECOM, **changed), keyed(TELECOM)),
    )
    assert any(isinstance(each, ProtocolError) and said in str(each) for each in (found, *served))


def test_a_partner_killed_between_requests_is_a_lost_peer() -> None:
    here, there = MemoryChannel.pair()

    def dies() -> None:
        from fedcore.vertical import scoring

        scoring._agree(there, package(TELECOM), "partner", 0)
        there.recv("score.ask", limit=2000)
        there.abort()

    with ThreadPoolExecutor(1) as pool:
        gone = pool.submit(dies)
        scorer = Scorer(package(BANK), {TELECOM: here})
        with pytest.raises(PeerLost):
            scorer.score(items_of(CUSTOMERS), table(BANK))
        gone.result()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (np.zeros(ROWS, "<i8"), "bytes"),
        (np.full(ROWS + 1, -1, "<i8"), "are said to be unknown"),
        (np.array([0] + [2**60] * ROWS, "<i8"), "beyond what any model"),
    ],
)
def test_wrong_answers_of_a_partner_are_refused(answer: Any, said: str) -> None:
    here, there = MemoryChannel.pair()

    def lies() -> None:
        from fedcore.vertical import scoring

        scoring._agree(there, package(TELECOM), "partner", 0)
        there.recv("score.ask", limit=2000)
        there.send("score.told", answer)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(lies)
        scorer = Scorer(package(BANK), {TELECOM: here})
        with pytest.raises(ProtocolError, match=said):
            scorer.score(items_of(CUSTOMERS), table(BANK))
        done.result()


def test_keys_of_a_wrong_length_are_refused_by_the_partner() -> None:
    here, there = MemoryChannel.pair()
    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve, there, package(TELECOM), keyed(TELECOM))
        Scorer(package(BANK), {TELECOM: here})
        here.send("score.ask", b"x" * 17)
        with pytest.raises(ProtocolError, match="17 bytes of keys"):
            served.result()


def test_who_has_the_wrong_part_or_lacks_a_partner_is_told() -> None:
    here, there = MemoryChannel.pair()
    with pytest.raises(JobError, match="there are channels to none"):
        Scorer(package(BANK), {})
    with pytest.raises(JobError, match="a partner"):
        Scorer(package(TELECOM), {TELECOM: here})
    with pytest.raises(JobError, match="label holder's part"):
        serve(there, package(BANK), keyed(TELECOM))


def test_nobody_to_score_and_rows_without_keys_are_refused() -> None:
    found, _ = met(
        lambda scorer: scorer.score(items_of([]), table(BANK, slice(0, 0))),
        package(BANK),
        (package(TELECOM), keyed(TELECOM)),
    )
    assert isinstance(found, DataError)
    with pytest.raises(DataError, match="1 of 3 rows have no value in a key column"):
        keys_in_order(items_of(["a", "b"]), np.array([0, 2]), 3)


def test_of_rows_with_one_key_the_first_counts() -> None:
    rows = KeyedRows(items_of(["a", "b", "a"]), np.arange(3), {"calls": np.array([1.0, 2.0, 3.0])})
    found, unknown = rows.table(items_of(["a", "b", "c"]))
    assert found.columns["calls"][:2].tolist() == [1.0, 2.0]
    assert np.isnan(found.columns["calls"][2])
    assert (unknown, rows.duplicates, len(rows)) == (1, 1, 2)


def test_keys_that_agree_in_half_are_told_apart() -> None:
    items = np.array([[7, 1], [7, 3], [9, 1]], dtype=np.uint64)
    rows = KeyedRows(items, np.arange(3), {})
    asked = np.array([[7, 3], [7, 2], [7, 1], [9, 1], [9, 2], [8, 1], [2**63, 0]], dtype=np.uint64)
    assert rows.find(asked).tolist() == [1, -1, 0, 2, -1, -1, -1]


def test_linear_parts_refuse_what_cannot_be_scored() -> None:
    with pytest.raises(DataError, match="weights for its bins"):
        Term("calls", 1.0, NUMBERS, (0.0, 1.0))
    with pytest.raises(DataError, match="no column 'calls'"):
        linear(TELECOM).score(table(BANK))
    with pytest.raises(DataError, match="no linear part"):
        LinearPart.from_dict({"link": "probit", "terms": [], "intercept": 0})
    far = LinearPart((Term("income", 1e9),))
    with pytest.raises(DataError, match="far outside"):
        far.score(table(BANK))
    assert LinearPart.from_dict(linear(TELECOM).as_dict()) == linear(TELECOM)
    assert bins_of("plan").size == 3


def test_latency_is_measured_over_the_requests_that_are_made() -> None:
    made: list[int] = []
    found = latency(made.append, 20, warm=3)
    assert made == list(range(-3, 20))
    assert found.requests == 20
    assert 0 <= found.p50 <= found.p99
