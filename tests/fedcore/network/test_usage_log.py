"""The file of usage records: no replay, no change, and sums that tell what was not known."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.errors import DataError, IdentityError
from fedcore.network.usage import UsageRecord
from fedcore.network.usage_log import UsageLog, check_log, read_log, summary, totals
from fedcore.trust import evidence
from tests.fedcore.network.nodes import ANNA, BERT, PINS
from tests.fedcore.network.used import record


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "evidence" / "usage.jsonl"


def test_records_come_back_as_they_were_written_and_signed(file: Path) -> None:
    assert read_log(file) == []
    made = [record(), record(BERT), record()]
    log = UsageLog(file)
    log.add(made[0])
    log.add(*made[1:])
    assert read_log(file) == made
    check_log(read_log(file), PINS, signed=True)


def test_a_replayed_record_is_refused_now_later_and_within_one_call(file: Path) -> None:
    made = record()
    log = UsageLog(file)
    log.add(made)
    assert made.id in log
    for again in (log, UsageLog(file)):
        with pytest.raises(DataError, match="counts once"):
            again.add(made)
    other = record()
    with pytest.raises(DataError, match="counts once"):
        log.add(other, other)
    # None of the two was written.
    assert read_log(file) == [made]


def test_a_replay_behind_the_logs_back_is_found_when_it_is_read(file: Path) -> None:
    made = record()
    for _ in range(2):
        evidence.append(file, {"event": "usage", "record": made.to_json()})
    with pytest.raises(DataError, match="twice"):
        read_log(file)


def test_a_line_that_was_changed_or_removed_is_found(file: Path) -> None:
    UsageLog(file).add(record(), record(BERT), record())
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], lines[2]]))
    with pytest.raises(DataError, match="changed"):
        read_log(file)
    file.write_bytes(lines[0].replace(b'"round":3', b'"round":4') + lines[1] + lines[2])
    with pytest.raises(DataError, match="changed"):
        read_log(file)


def test_a_log_that_was_chained_anew_still_lacks_the_signatures(file: Path) -> None:
    told = record().to_json()
    told["said"]["price"] = "99.00"
    evidence.append(file, {"event": "usage", "record": told})
    with pytest.raises(IdentityError):
        check_log(read_log(file), PINS, signed=True)


def test_a_line_of_another_kind_is_no_record_and_one_that_is_none_is_refused(file: Path) -> None:
    evidence.append(file, {"event": "note"}, {"event": "usage", "record": {"said": {"seconds": 1}}})
    with pytest.raises(DataError, match="no usage record"):
        read_log(file)


def test_sums_are_per_owner_exact_in_money_and_name_the_gas() -> None:
    records = [
        record(price="0.1", sees={"other_up": 50}),
        record(price="0.2", gas_location="CO2e"),
        record(
            BERT, price=None, currency=None, kwh=None, gco2_location=None, gas_location=None, samples=None
        ),
    ]
    owners, everyone = totals(records)
    anna, bert = owners["anna"], owners["bert"]
    assert anna.prices == {"CNY": Decimal("0.3")}
    assert anna.gco2_location == {"CO2": 0.25, "CO2e": 0.25}
    assert anna.energy == pytest.approx(0.001) and anna.bytes_up == 6050 and anna.samples == 1000
    assert bert.energy is None and bert.samples is None and bert.prices == {}
    assert (everyone.records, everyone.signed, everyone.disputed) == (3, 3, 0)
    assert everyone.samples == 1000
    told = json.loads(json.dumps(summary(records)))
    assert told["anna"]["prices"] == {"CNY": "0.3"} and list(told) == ["anna", "bert"]


def test_bytes_that_only_an_aggregator_saw_are_the_owners_word() -> None:
    (anna,) = totals([record(sees={"bytes_up": None, "bytes_down": None})])[0].values()
    assert (anna.bytes_down, anna.bytes_up) == (4000, 3000)


@given(st.permutations([record(), record(BERT), record(ANNA, price="7"), record(sees={"bytes_up": 1})]))
def test_the_order_of_records_does_not_matter(records: list[UsageRecord]) -> None:
    owners, everyone = totals(records)
    assert everyone.disputed == 1 and everyone.prices == {"CNY": Decimal("10.15")}
    assert owners["anna"].records == 3
