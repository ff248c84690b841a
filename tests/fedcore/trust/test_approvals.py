"""The site's desk: one exact request, what a person said to it, for how long and how often."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from fedcore.errors import DataError, JobError, PolicyRefused
from fedcore.trust import approvals
from fedcore.trust.approvals import Asked, deny, found_by, grant, listed, state_of, use

HASH, OTHER = "3f9a" + "0" * 60, "3f9b" + "0" * 60
ASKED = Asked(
    asker="anna",
    purpose="research",
    data="lung",
    text="lung: mean of age by sex",
    columns=("age", "sex"),
    statistics=("mean",),
    protection="secagg+",
    lacking="'anna' may not ask (askers: bert)",
    run="run-1",
    job="lung-survival",
)
NOW = datetime(2027, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    return tmp_path / "state" / "approvals.jsonl"


def came(desk: Path, run: str = "run-1", hash_: str = HASH, now: datetime = NOW) -> str:
    return use(desk, hash_, replace(ASKED, run=run), now=now).status


def test_a_desk_that_nobody_came_to_is_empty(desk: Path) -> None:
    assert listed(desk) == [] and state_of(desk, HASH) is None and not desk.exists()


def test_a_request_waits_once_with_all_that_a_person_needs(desk: Path) -> None:
    assert came(desk) == came(desk, "run-2") == "waiting"
    (one,) = listed(desk)
    assert one.hash == HASH and one.asked == ASKED and one.by is None
    assert len(desk.read_text().splitlines()) == 1


def test_a_grant_lets_that_request_pass_and_no_other(desk: Path) -> None:
    came(desk)
    assert grant(desk, HASH, "data-office", reason="seen", now=NOW).status == "granted"
    assert came(desk, "run-2") == "granted" and came(desk, hash_=OTHER) == "waiting"
    found = state_of(desk, HASH)
    assert found is not None and (found.by, found.reason, found.runs) == ("data-office", "seen", ("run-2",))


def test_what_was_denied_stays_denied_also_after_a_grant(desk: Path) -> None:
    came(desk)
    grant(desk, HASH, "data-office")
    assert came(desk) == "granted"
    assert deny(desk, HASH, "board", reason="no").status == "denied"
    assert came(desk) == came(desk, "run-9") == "denied"
    grant(desk, HASH, "board")
    assert came(desk) == "granted"


def test_uses_are_runs_and_another_grant_counts_anew(desk: Path) -> None:
    came(desk, "run-0")
    grant(desk, HASH, "data-office", uses=2)
    assert [came(desk, run) for run in ("a", "a", "b", "b", "a", "c", "a")] == [
        *["granted"] * 5,
        "used up",
        "granted",
    ]
    grant(desk, HASH, "data-office", uses=1)
    assert [came(desk, run) for run in ("c", "a")] == ["granted", "used up"]


def test_of_many_at_a_time_no_more_pass_than_there_are_uses(desk: Path) -> None:
    came(desk, "run-0")
    grant(desk, HASH, "data-office", uses=3)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda at: came(desk, f"run-{at}"), range(1, 17)))
    assert found.count("granted") == 3 and found.count("used up") == 13


def test_the_last_day_of_a_grant_is_a_whole_day(desk: Path) -> None:
    came(desk)
    grant(desk, HASH, "data-office", until=date(2027, 3, 1), now=NOW)
    assert came(desk, "a", now=datetime(2027, 3, 1, 23, 59, 59, tzinfo=UTC)) == "granted"
    assert came(desk, "b", now=datetime(2027, 3, 2, tzinfo=UTC)) == "ended"
    # Also for the run that began before.
    assert came(desk, "a", now=datetime(2027, 3, 2, tzinfo=UTC)) == "ended"


def test_a_moment_without_a_zone_is_of_utc(desk: Path) -> None:
    came(desk)
    found = grant(desk, HASH, "x", until=datetime(2027, 3, 2, 8), now=NOW)
    assert found.until == "2027-03-02T08:00:00+00:00"


@pytest.mark.parametrize("end", [NOW, NOW - timedelta(days=1), date(2027, 2, 28)])
def test_a_grant_that_is_over_before_it_begins_is_refused(desk: Path, end: date) -> None:
    came(desk)
    with pytest.raises(JobError, match="which is past"):
        grant(desk, HASH, "data-office", until=end, now=NOW)
    assert came(desk) == "waiting"


@pytest.mark.parametrize("uses", [0, -1])
def test_a_grant_for_no_use_is_refused(desk: Path, uses: int) -> None:
    came(desk)
    with pytest.raises(JobError, match="allowed: 1 or more"):
        grant(desk, HASH, "data-office", uses=uses)


def test_who_decides_is_named(desk: Path) -> None:
    came(desk)
    with pytest.raises(JobError, match="--by NAME"):
        deny(desk, HASH, " ")


def test_a_hash_is_named_by_its_first_digits(desk: Path) -> None:
    came(desk)
    came(desk, hash_=OTHER)
    assert found_by(desk, "3F9A").hash == HASH and found_by(desk, OTHER).hash == OTHER
    with pytest.raises(JobError, match='"3f9" begins 2 hashes: 3f9a000000000000, 3f9b000000000000'):
        grant(desk, "3f9", "data-office")
    with pytest.raises(JobError, match='no request with hash "3f9a000000000001"; did you mean "3f9a0'):
        grant(desk, "3f9a000000000001", "data-office")
    with pytest.raises(JobError, match="no request with hash"):
        grant(desk, "", "data-office")


def test_a_desk_that_was_changed_lets_nothing_pass(desk: Path) -> None:
    came(desk)
    deny(desk, HASH, "data-office")
    came(desk, hash_=OTHER)
    lines = desk.read_text().splitlines()
    changed = json.loads(lines[1]) | {"event": "granted"}
    desk.write_text("\n".join([lines[0], json.dumps(changed), *lines[2:]]) + "\n")
    with pytest.raises(DataError, match="was changed"):
        came(desk)


@pytest.mark.parametrize("line", ['{"event":"lost"}', '{"event":"used","request":"x","run":"a"}'])
def test_a_line_that_says_nothing_known_is_refused(desk: Path, line: str) -> None:
    from fedcore.trust import evidence

    came(desk)
    evidence.append(desk, json.loads(line))
    with pytest.raises(DataError, match="none of a desk"):
        listed(desk)


def test_nobody_can_bury_the_desk(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals, "MOST_WAITING", 2)
    came(desk)
    came(desk, hash_=OTHER)
    with pytest.raises(PolicyRefused, match="2 requests wait"):
        came(desk, hash_="ab" * 32)
    deny(desk, OTHER, "data-office")
    assert came(desk, hash_="ab" * 32) == "waiting"
