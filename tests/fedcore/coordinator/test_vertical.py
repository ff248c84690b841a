"""Vertical jobs from their file to the run folder and the parties' folders, on the embedded engine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from flwr.app import Message

from fedcore.coordinator.watch import Silent
from fedcore.engines.embedded import EmbeddedGrid
from fedcore.errors import DataError, JobError, PolicyRefused
from fedcore.participant import vertical_align
from fedcore.trust import evidence
from fedcore.vertical.table import OUT_OF_TIME, TEST, TRAIN
from tests.banks import BANK, NUMBERS, SHOP, TELECOM, Banks, shared_people

STEPS = ["align", "bin", "select", "model:net", "score", "report"]


class Watching(Silent):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def phase_started(self, number: int, phase: str, cohort: int) -> None:
        self.told.append(("phase", phase, cohort))

    def progress(self, party: str, phase: str, done: int, of: int) -> None:
        self.told.append((party, phase))


class Done:
    """A run that finished, what went over the grid, and what a watcher was told."""

    def __init__(self, folder: Path) -> None:
        self.banks, self.seen, self.watching = Banks(folder), [], Watching()
        answer = EmbeddedGrid.answer
        seen: list[Message] = self.seen

        def recorded(grid: EmbeddedGrid, work: Any) -> Message:
            reply = answer(grid, work)
            seen.extend((work.asked, reply))
            return reply

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(EmbeddedGrid, "answer", recorded)
            self.run = self.banks.run(watcher=self.watching)

    def people(self, name: str) -> list[str]:
        """Keys in the agreed order."""
        keys = pq.read_table(self.banks.folder / f"{name}.parquet").column("person").to_pylist()
        return [keys[row] for row in np.load(self.banks.kept(name) / "align" / "rows.npy")]

    def parts(self, name: str) -> Any:
        return np.load(self.banks.kept(name) / "align" / "parts.npy")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return Done(tmp_path_factory.mktemp("done"))


@pytest.fixture
def banks(tmp_path: Path) -> Banks:
    return Banks(tmp_path)


def leaves(found: Any) -> Iterator[Any]:
    """Every value in JSON values."""
    if isinstance(found, Mapping):
        for each in found.values():
            yield from leaves(each)
    elif isinstance(found, list):
        for each in found:
            yield from leaves(each)
    else:
        yield found


# ---- what a run gives -----------------------------------------------------------------------------------------------


def test_both_have_the_shared_rows_in_one_order_and_the_same_parts(done: Done) -> None:
    assert done.people(BANK) == done.people(TELECOM)
    assert sorted(done.people(BANK)) == shared_people(BANK, TELECOM)
    assert (done.parts(BANK) == done.parts(TELECOM)).all()


def test_late_rows_are_out_of_time_and_a_quarter_of_the_others_tests(done: Done) -> None:
    rows = done.banks.rows[BANK]
    month = dict(zip(rows["person"], rows["month"], strict=True))
    late = np.array([month[key] >= "2026-08" for key in done.people(BANK)])
    part = done.parts(BANK)
    assert ((part == OUT_OF_TIME) == late).all() and late.any()
    assert 0.1 < (part[~late] == TEST).mean() < 0.4 and (part == TRAIN).any()


def test_each_party_keeps_every_step_and_a_report_and_the_label_holder_alone_scores(done: Done) -> None:
    for name in (BANK, TELECOM):
        kept = done.banks.kept(name)
        for step in STEPS:
            assert (kept / step.replace(":", "-") / "step.json").exists(), step
        assert (kept / "report" / "report.html").stat().st_size > 10_000
        result = json.loads((kept / "report" / "result.json").read_text())
        assert result["party"] == name and result["match"]["matched"] == len(shared_people(BANK, TELECOM))
    scores = np.load(done.banks.kept(BANK) / "score" / "scores.npz")["net"]
    assert (
        scores.shape == (len(shared_people(BANK, TELECOM)),) and (scores >= 0).all() and (scores <= 1).all()
    )
    assert not np.load(done.banks.kept(TELECOM) / "score" / "scores.npz").files
    told = json.loads((done.banks.kept(TELECOM) / "report" / "result.json").read_text())
    assert told["labels"] is None and told["models"][0]["scores"] is None


def test_the_match_report_counts_by_month_at_the_party_that_has_the_month(done: Done) -> None:
    match = json.loads((done.banks.kept(BANK) / "report" / "result.json").read_text())["match"]
    rows, shared = done.banks.rows[BANK], set(shared_people(BANK, TELECOM))
    expected = {}
    for key, month in zip(rows["person"], rows["month"], strict=True):
        all_, in_ = expected.get(month[:7], (0, 0))
        expected[month[:7]] = all_ + 1, in_ + (key in shared)
    assert {each["name"]: (each["rows"], each["matched"]) for each in match["groups"]} == expected
    assert (
        json.loads((done.banks.kept(TELECOM) / "report" / "result.json").read_text())["match"]["groups"] == []
    )


def test_result_report_and_summary_tell_parties_steps_and_costs(
    done: Done, capsys: pytest.CaptureFixture[str]
) -> None:
    from fedcore.coordinator.terminal import print_summary

    told = done.run.json
    assert told["status"] == "finished" and [each["step"] for each in told["steps"]] == STEPS
    for each in told["steps"]:
        bank, telecom = each["receipts"][BANK], each["receipts"][TELECOM]
        assert bank["bytes"]["sent"] == telecom["bytes"]["received"] > 0
        assert bank["role"] == "label holder" and telecom["role"] == "partner"
        assert bank["rows"] == 500 and telecom["rows"] == 550
    page = (done.run.folder / "report.html").read_text()
    assert "report of a vertical run" in page and "What the coordinator learned" in page
    assert "How many rows match: it was not told." in page
    assert (
        told["steps"][0]["receipts"][BANK]["commitment"] in page and "secure aggregation" not in page.lower()
    )
    print_summary(told)
    shown = capsys.readouterr().out
    assert "bank-a and telecom-b built one joint model of “bad” (net)" in shown and "model:net" in shown


def test_the_coordinator_sees_no_key_no_row_no_label_and_not_how_many_match(done: Done) -> None:
    matched = len(shared_people(BANK, TELECOM))
    assert len(done.seen) == 2 * 2 * (1 + len(STEPS))
    for one in done.seen:
        text = "\n".join(str(value) for record in one.content.values() for value in record.values())
        assert "person-" not in text
    receipts = [one for one in done.seen if "party" in one.content]
    assert len(receipts) == 2 * (1 + len(STEPS))
    for one in receipts:
        told = json.loads(str(one.content["party"]["about"]))  # type: ignore[call-overload, index]
        assert matched not in list(leaves(told)) and "matched" not in told
    for file in done.run.folder.rglob("*"):
        assert not file.is_file() or b"person-" not in file.read_bytes(), file


def test_each_site_writes_down_each_step_with_whom_and_what_is_revealed(done: Done) -> None:
    entries = list(evidence.read(done.banks.folder / ".fedcore" / TELECOM / "evidence.jsonl"))
    asked = [entry for entry in entries if entry["event"] == "request"]
    assert [entry["job_step"] for entry in asked] == [None, *STEPS]
    assert asked[1]["peers"] == [BANK] and asked[1]["key"] == ["person"]
    assert f"totals to {BANK}" in asked[1]["reveal"] and f"rows to {BANK}" in asked[1]["reveal"]
    released = [entry for entry in entries if entry["event"] == "release"]
    last = done.run.json["steps"][-1]["receipts"][TELECOM]
    assert released[-1]["commitment"] == last["commitment"] and released[-1]["peer_bytes"] == last["bytes"]


def test_progress_names_party_and_step(done: Done) -> None:
    phases = [one[1] for one in done.watching.told if one[0] == "phase"]
    assert phases == ["prepare", *(f"step {step}" for step in STEPS)]
    for name in (BANK, TELECOM):
        assert (name, "align: read") in done.watching.told and (name, "report: done") in done.watching.told


def test_a_finished_run_cannot_be_resumed(done: Done) -> None:
    from fedcore.engines.run import resume

    with pytest.raises(JobError, match="has finished"):
        resume(done.run.folder)


def test_with_two_partners_all_three_have_the_rows_that_all_have(tmp_path: Path) -> None:
    banks = Banks(tmp_path, (BANK, TELECOM, SHOP))
    banks.write(BANK, reveal=f"{{rows: any, woe: any, activations: any, cardinality: [{BANK}, coordinator]}}")
    told = banks.run().json
    assert told["status"] == "finished" and set(told["meetings"]) == {
        f"{BANK} and {TELECOM}",
        f"{BANK} and {SHOP}",
        f"{TELECOM} and {SHOP}",
    }
    people = []
    for name in banks.names:
        rows = np.load(banks.kept(name) / "align" / "rows.npy")
        people.append([str(banks.rows[name]["person"][row]) for row in rows])
    assert people[0] == people[1] == people[2]
    assert sorted(people[0]) == shared_people(BANK, TELECOM, SHOP)
    # The label holder's policy lets the coordinator know.
    matched = [each["receipts"][BANK]["matched"] for each in told["steps"]]
    assert set(matched) == {len(people[0])}
    assert all("matched" not in each["receipts"][SHOP] for each in told["steps"])
    assert "Shared rows" in (banks.folder / "run" / "report.html").read_text()


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["rows", "totals", "correlation", "activations"])
def test_what_a_partner_does_not_allow_to_be_revealed_is_refused_before_anything_is_read(
    banks: Banks, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vertical_align, "intersect", lambda *words: pytest.fail("something was read"))
    words = {"rows", "totals", "correlation", "activations"} - {word}
    banks.write(TELECOM, reveal="{" + ", ".join(f"{each}: [{BANK}]" for each in sorted(words)) + "}")
    error, told = banks.failing(PolicyRefused)
    assert (error.party, error.step) == (TELECOM, "prepare") and told["status"] == "refused"
    assert f"'bank-a' may not learn the {word} (reveal.{word}: none)" in error.message
    assert not list(banks.folder.glob(".fedcore/*/results/*")), "nothing was begun"


def test_the_label_holder_must_allow_weights_of_evidence_to_leave(banks: Banks) -> None:
    banks.write(BANK, reveal=f"{{rows: [{TELECOM}], activations: [{TELECOM}]}}")
    error, _ = banks.failing(PolicyRefused)
    assert error.party == BANK and "'telecom-b' may not learn the woe" in error.message


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"jobs": "[psi]"}, "jobs allowed are psi"),
        ({"purpose": "marketing"}, "the purpose must be 'marketing'"),
        ({"peers": ""}, "peer 'bank-a' is not allowed (peers: none)"),
        ({"columns": "[person, calls]"}, "columns noise may not be read (allowed: person, calls)"),
        ({"min_cohort": "3"}, "at least 3 are required"),
    ],
)
def test_a_rule_that_does_not_cover_the_job_refuses_it(banks: Banks, rule: dict[str, str], why: str) -> None:
    banks.write(TELECOM, **rule)
    error, _ = banks.failing(PolicyRefused)
    assert error.party == TELECOM and why in error.message


def test_all_columns_are_asked_for_by_name_where_a_rule_lists_some(banks: Banks) -> None:
    banks.write(TELECOM, columns="[person, calls]")
    banks.write_job(parties=banks.parties(telecom_b=None))
    error, _ = banks.failing(PolicyRefused)
    assert "name the party's columns" in error.message


def test_a_column_that_names_people_is_no_feature(banks: Banks) -> None:
    file = banks.write(TELECOM)
    file.write_text(file.read_text().replace("telecom-b.parquet}", "telecom-b.parquet, row_id: noise}"))
    error, _ = banks.failing(PolicyRefused)
    assert error.party == TELECOM and "'noise' says whom a row is about" in error.message


def test_models_for_different_kinds_of_label_are_refused_before_anything_starts(banks: Banks) -> None:
    banks.write_job(models={"a": {"use": "logistic"}, "b": {"use": "boosting", "loss": "regression"}})
    with pytest.raises(JobError, match=r"same kind of label \(a 0 or 1, b a number\)"):
        banks.run()
    banks.write_job(models={"a": {"use": "logistic", "link": "linear"}})
    with pytest.raises(JobError, match="set on: values for link linear"):
        banks.run(folder=banks.folder / "other")


def test_nobody_of_that_name_is_told_before_anything_starts(banks: Banks) -> None:
    parties = banks.parties()
    parties["telecom-x"] = parties.pop(TELECOM)
    banks.write_job(parties=parties)
    with pytest.raises(JobError, match="parties: nobody is called 'telecom-x'"):
        banks.run()


# ---- data that cannot serve -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("party", "change", "why"),
    [
        (BANK, {"bad": np.zeros(500, dtype=int)}, "one value only in all training rows"),
        (BANK, {"bad": np.arange(500) % 3}, "other values than 0 and 1"),
        (BANK, {"bad": np.where(np.arange(500) % 9, 1.0, np.nan)}, "has rows without a value"),
        (TELECOM, {"person": np.array([f"other-{n}" for n in range(550)])}, "no rows in common"),
        (TELECOM, {"person": np.array([f"person-{n % 400:04}" for n in range(550)])}, "stands in more than one row"),
        (TELECOM, {"calls": np.full(550, np.inf)}, "'calls' has infinite values"),
    ],
    ids=["one class", "three values", "missing", "no match", "twice", "infinite"],
)  # fmt: skip
def test_data_that_cannot_serve_is_told_by_the_party_that_has_it(
    banks: Banks, party: str, change: dict[str, Any], why: str
) -> None:
    banks.change(party, **change)
    error, told = banks.failing(DataError)
    assert why in error.message and (error.party == party or "no rows" in why)
    assert told["status"] == "failed" and told["error"]["exit_code"] == DataError.exit_code
    for name in banks.names:
        assert sorted(each.name for each in banks.kept(name).iterdir()) == ["state.json"], "nothing is kept"


def test_fewer_rows_in_common_than_needed_is_told_without_their_number(banks: Banks) -> None:
    few = np.array([f"person-{n:04}" for n in range(492, 1042)])
    banks.change(TELECOM, person=few)
    error, _ = banks.failing(DataError)
    assert "fewer rows in common than the 20 that two bins take (bin.min_rows in the job)" in error.message
    banks.write(BANK, min_rows="9")
    (banks.folder / "run").rename(banks.folder / "before")
    error, _ = banks.failing(PolicyRefused)
    assert error.party == BANK and "fewer rows in common than the 9" in error.message


def test_a_site_with_fewer_rows_than_its_policy_asks_for_sends_nothing_of_them(banks: Banks) -> None:
    banks.write(TELECOM, min_rows="551")
    error, _ = banks.failing(PolicyRefused)
    assert error.party == TELECOM and "has fewer rows than the 551" in error.message


@pytest.mark.parametrize(
    ("settings", "party", "why"),
    [
        ({"label": {"party": BANK, "column": "bat"}}, BANK, "no column 'bat' for the label"),
        ({"split": {"out_of_time": {"column": "mont", "from": "2026-08"}}}, BANK, "no column 'mont'"),
        ({"split": {"out_of_time": {"column": "month", "from": 8}}}, BANK, "a number is compared with a number"),
    ],
)  # fmt: skip
def test_a_column_that_is_not_there_is_told(
    banks: Banks, settings: dict[str, Any], party: str, why: str
) -> None:
    banks.write_job(**settings)
    error, _ = banks.failing(DataError)
    assert error.party == party and why in error.message


def test_a_key_column_that_is_not_there_and_a_label_among_the_features_are_told(banks: Banks) -> None:
    parties = banks.parties()
    parties[TELECOM]["key"] = "persn"
    banks.write_job(parties=parties)
    error, _ = banks.failing(DataError)
    assert error.party == TELECOM and "no column 'persn'" in error.message and '"person"' in error.message
    banks.write_job(parties=banks.parties(bank_a=(*NUMBERS[BANK], "bad")))
    (banks.folder / "run").rename(banks.folder / "before")
    error, _ = banks.failing(DataError)
    assert error.party == BANK and "the label 'bad' stands among them" in error.message
