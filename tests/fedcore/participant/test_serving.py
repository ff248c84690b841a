"""A partner serves its label holder over gRPC, and nobody and nothing that its policy and its pins do not name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crypto.errors import ProtocolError
from fedcore.errors import DataError, IdentityError, JobError, PeerLost, PolicyRefused
from fedcore.participant.asking import Asking, read_new
from fedcore.participant.serving import Service, check_serving
from fedcore.trust.identity import new_identity
from tests.fedcore.participant.serving_sites import KNOWN, Sites
from tests.fedcore.vertical.scored import BANK, CUSTOMERS, ROWS, TELECOM, about, package
from tests.fedcore.vertical.test_scoring import points

LOCAL = "127.0.0.1:0"
WANTED = [points(BANK, row) + points(TELECOM, row, missing=row >= KNOWN) for row in range(ROWS)]


def test_batch_and_single_customers_are_scored_over_grpc_one_connection_after_another(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    items, table, keys = read_new(sites.new, package(BANK).about)
    assert keys == {"person": CUSTOMERS}
    with Service(**sites.own(TELECOM), listen=LOCAL) as service:
        for _ in range(2):
            with Asking(**sites.own(BANK), at={TELECOM: service.address}) as asking:
                found = asking.scorer.score(items, table)
                assert found.values["score"].tolist() == WANTED
                assert found.unknown == {TELECOM: ROWS - KNOWN}
                assert asking.scorer.score(items[:1], _first(table)).values["score"].tolist() == WANTED[:1]
        assert service.served.requests == 4
        assert service.served.unknown == 2 * (ROWS - KNOWN)


def test_a_partner_is_found_at_the_address_that_the_banks_file_pins(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    items, table, _ = read_new(sites.new, package(BANK).about)
    with Service(**sites.own(TELECOM), listen=LOCAL) as service:
        sites.write(BANK, TELECOM, "rules: []", at=service.address)
        with Asking(**sites.own(BANK)) as asking:
            assert asking.scorer.score(items, table).values["score"].tolist() == WANTED


def _first(table: Any) -> Any:
    from fedcore.vertical.scoring import rows_of

    return rows_of(table, slice(0, 1))


def test_each_request_is_in_the_sites_evidence_without_a_key(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    items, table, _ = read_new(sites.new, package(BANK).about)
    with (
        Service(**sites.own(TELECOM), listen=LOCAL) as service,
        Asking(**sites.own(BANK), at={TELECOM: service.address}) as asking,
    ):
        asking.scorer.score(items, table)
    text = (tmp_path / f"state-{TELECOM}" / "evidence.jsonl").read_text()
    told = [json.loads(line) for line in text.splitlines()]
    assert [each["what"] for each in told] == ["open", "answered", "closed"]
    assert (told[1]["peer"], told[1]["rows"], told[1]["unknown"]) == (BANK, ROWS, ROWS - KNOWN)
    assert "person-" not in text


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"jobs": "[psi]"}, "jobs allowed are psi"),
        ({"columns": "[person, calls]"}, "columns plan may not be read"),
        ({"purpose": "fraud"}, "purpose must be 'fraud'"),
        ({"min_cohort": "3"}, "at least 3 are required"),
        ({"peers": "[shop-c]"}, "peer 'bank-a' is not allowed"),
        ({"peers": ""}, "peer 'bank-a' is not allowed"),
        ({"reveal": ""}, "may not learn the scores"),
        ({"reveal": "{scores: [shop-c], splits: any}"}, "may not learn the scores"),
    ],
)
def test_a_policy_that_lacks_something_serves_nobody(tmp_path: Path, rule: Any, said: str) -> None:
    sites = Sites(tmp_path, **rule)
    with pytest.raises(PolicyRefused, match=said):
        Service(**sites.own(TELECOM), listen=LOCAL)


def test_boosted_trees_need_splits_to_be_revealed(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    with pytest.raises(PolicyRefused, match="may not learn the splits"):
        check_serving(sites.participant(TELECOM), about(TELECOM, kind="boosting"))
    sites.write(TELECOM, BANK, f"rules: [{sites.rule.replace('scores', 'splits')}]")
    assert check_serving(sites.participant(TELECOM), about(TELECOM, kind="boosting"))


def test_too_few_rows_for_the_rule_are_not_served(tmp_path: Path) -> None:
    sites = Sites(tmp_path, min_rows=str(KNOWN + 1))
    with pytest.raises(PolicyRefused, match="fewer rows than the 51"):
        Service(**sites.own(TELECOM), listen=LOCAL)


def test_without_a_policy_nobody_is_served(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    sites.write(TELECOM, BANK, "rules: []")
    with pytest.raises(PolicyRefused, match="the policy has no rules"):
        Service(**sites.own(TELECOM), listen=LOCAL)


def test_a_caller_with_another_key_than_the_pinned_one_gets_no_score(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    stranger = new_identity(tmp_path / "stranger.key", BANK)
    with (
        Service(**sites.own(TELECOM), listen=LOCAL) as service,
        pytest.raises((PeerLost, IdentityError)),
    ):
        Asking(**{**sites.own(BANK), "identity": stranger}, at={TELECOM: service.address}, deadline=3.0)
    assert service.served.requests == 0


def test_a_partner_with_another_key_than_the_pinned_one_is_not_asked(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    other = new_identity(tmp_path / "other.key", TELECOM)
    sites.write(BANK, TELECOM, "rules: []", pinned=other.public_line)
    with (
        Service(**sites.own(TELECOM), listen=LOCAL) as service,
        pytest.raises((PeerLost, IdentityError)),
    ):
        Asking(**sites.own(BANK), at={TELECOM: service.address}, deadline=3.0)


def test_a_model_of_another_run_finds_no_session(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    with (
        Service(**sites.own(TELECOM), listen=LOCAL) as service,
        pytest.raises((PeerLost, ProtocolError)),
    ):
        Asking(
            **{**sites.own(BANK), "package": package(BANK, run="run-2")},
            at={TELECOM: service.address},
            deadline=3.0,
        )


def test_a_partner_that_ends_its_service_is_a_lost_peer(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    items, table, _ = read_new(sites.new, package(BANK).about)
    service = Service(**sites.own(TELECOM), listen=LOCAL)
    asking = Asking(**sites.own(BANK), at={TELECOM: service.address})
    service.close()
    with pytest.raises(PeerLost):
        asking.scorer.score(items, table)


def test_parties_mistaken_for_each_other_are_told(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    with pytest.raises(JobError, match="serves its own part"):
        Service(**{**sites.own(TELECOM), "package": package(BANK)}, listen=LOCAL)
    with pytest.raises(JobError, match="scores with its own"):
        Asking(**{**sites.own(BANK), "package": package(TELECOM)})
    with pytest.raises(JobError, match="no address to listen at"):
        Service(**sites.own(TELECOM))
    with pytest.raises(JobError, match="nobody says where telecom-b serves"):
        Asking(**sites.own(BANK))
    with pytest.raises(JobError, match="no partner of the model"):
        Asking(**sites.own(BANK), at={"telecom-c": LOCAL})


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("person,age\na,1\n", DataError, "income"),
        ("person,income\na,1\n,2\n", DataError, "1 of 2 rows have no value in a key column"),
        ("person,income\na,high\n", DataError, None),
    ],
)
def test_new_customers_that_cannot_be_scored_are_refused(
    tmp_path: Path, text: str, error: type[Exception], said: str | None
) -> None:
    file = tmp_path / "new.csv"
    file.write_text(text)
    from tests.fedcore.vertical.scored import card

    with pytest.raises(error, match=said):
        card(BANK).score(read_new(file, package(BANK).about)[1])
