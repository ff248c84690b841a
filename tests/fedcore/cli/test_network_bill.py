"""`fedcore network bill`: from a run to a table, JSON, CSV and a settlement."""

from __future__ import annotations

import csv
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fedcore.cli.main import run
from fedcore.network.descriptor import describe, write_descriptor
from fedcore.network.usage_log import FILE, UsageLog, read_log
from fedcore.participant.mods.metering import METERED
from tests.fedcore.network.nodes import ANNA, BERT, HUB, PINS, found, node_file
from tests.fedcore.network.used import record
from tests.sites import Study, blobs, write_job, write_site


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Three sites, of which two have a node that is described."""
    from datetime import UTC, datetime

    made = Study(tmp_path)
    write_job(tmp_path, rounds=2)
    for i, name in enumerate(made.names[:2]):
        node = node_file(owner=name, node=f"n{i}")
        write_descriptor(describe(node, found(), at=datetime.now(UTC)), tmp_path / f"n{i}.json")
        write_site(tmp_path, name, blobs(40 + 10 * i, i), extra=f"nodes: [n{i}.json]\n")
    return made


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    """The folder of a run of engine `deployment`, with records by hand."""
    folder = tmp_path / "signed"
    (folder / "evidence").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"run": "digits-1", "engine": "deployment", "job": {}}))
    (folder / "peers.json").write_text(json.dumps({"keys": PINS}))
    log = UsageLog(folder / "evidence" / FILE)
    log.add(record(price="1.004"), record(BERT, price="3.001"), record(price="50", sees={"bytes_up": 1}))
    return folder


def told(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert run(["network", "bill", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_on_one_machine_is_billed(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    made = study.run()
    records = read_log(made.folder / "evidence" / FILE)
    assert len(records) == 3 * 2 * len(METERED)
    assert not any(each.disputes for each in records)
    bill = told(capsys, str(made.folder))
    assert bill["owners"] == made.json["usage"] and list(bill["owners"]) == study.names
    first, _, third = bill["owners"].values()
    assert first["energy"] == pytest.approx(1.25 * first["kwh"]) and first["gco2_location"]["CO2"] > 0
    assert first["gco2_market"] == {} and Decimal(first["prices"]["CNY"]) > 0
    # By the run's own record: training and evaluation, in both rounds.
    rounds = made.json["rounds"]
    for way in ("down", "up"):
        sent = sum(each["sites"]["site-0"]["bytes"][way] for each in rounds)
        assert first[f"bytes_{way}"] == sent
    assert third["kwh"] is None and third["samples"] > 0
    assert any("site-2" in note and "descriptor" in note for note in bill["notes"])
    assert bill["signatures"] == {"checked": False, "both": 0}


def test_a_protected_run_tells_no_number_of_examples(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    study.job = write_job(
        study.folder, rounds=1, protection="{secure_aggregation: {protocol: secagg+, dropout: 0}}"
    )
    made = study.run()
    for each in read_log(made.folder / "evidence" / FILE):
        assert each.said.samples is None and each.said.cpu_seconds is None and each.disputes == ()
        assert each.seen.other_down > 0
    bill = told(capsys, str(made.folder), "--gain", "90")
    assert all(each["samples"] is None for each in bill["owners"].values())
    assert bill["contribution"]["how"] == "usage"
    assert any("secagg+" in note and "nobody can know" in note for note in bill["notes"])
    total = sum(Decimal(each["gain"]) for each in bill["settlement"]["shares"].values())
    assert total == Decimal(90)


def test_a_run_that_is_resumed_goes_on_with_its_records(study: Study) -> None:
    from fedcore.coordinator.runner import RESULT
    from fedcore.engines.run import resume

    made = study.run()
    before = read_log(made.folder / "evidence" / FILE)
    result = json.loads((made.folder / RESULT).read_text())
    (made.folder / RESULT).write_text(json.dumps({**result, "status": "interrupted"}))
    about = json.loads((made.folder / "run.json").read_text())
    about["job"]["rounds"] = result["job"]["rounds"] + 1
    (made.folder / "run.json").write_text(json.dumps(about))
    resume(made.folder)
    after = read_log(made.folder / "evidence" / FILE)
    assert after[: len(before)] == before and len(after) == len(before) + 3 * len(METERED)


def test_signed_records_are_checked_settled_and_a_dispute_is_held_back(
    signed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bill = told(capsys, str(signed))
    assert bill["signatures"] == {"checked": True, "both": 3}
    assert [each["owner"] for each in bill["disputes"]] == ["anna"]
    shares = bill["settlement"]["shares"]
    assert {name: each["total"] for name, each in shares.items()} == {"anna": "1.00", "bert": "3.00"}
    assert Decimal(bill["settlement"]["pot"]) == sum(Decimal(each["total"]) for each in shares.values())
    assert any("Held back of anna" in note and "50 CNY" in note for note in bill["notes"])


def test_contributions_of_a_file_split_the_gain_under_a_cap(
    signed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = signed / "values.json"
    values.write_text(json.dumps({"anna": 0.9, "bert": 0.1, "carl": -0.2}))
    bill = told(capsys, str(signed), "--gain", "100.00", "--cap", "0.6", "--contributions", str(values))
    gains = {name: each["gain"] for name, each in bill["settlement"]["shares"].items()}
    assert gains == {"anna": "60.00", "bert": "40.00", "carl": "0.00"}
    assert bill["settlement"]["clipped"] == {"carl": -0.2}


def test_every_record_is_a_row_of_the_csv(signed: Path, tmp_path: Path) -> None:
    out = tmp_path / "usage.csv"
    assert run(["network", "bill", str(signed), "--csv", str(out), "--owner", "anna"]) == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["owner"] for row in rows] == ["anna", "anna"] and rows[0]["price"] == "1.004"
    assert rows[1]["disputes"].startswith("bytes_up") and rows[0]["seen_bytes_up"] == "3000"


def test_the_table_shows_owners_totals_disputes_and_the_pot(
    signed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    assert run(["network", "bill", str(signed)]) == 0
    shown = capsys.readouterr().out
    for words in ("3 signed by both", "0.5 CO2", "anna", "bert", "pot 4.0", "In dispute, anna", "Held back"):
        assert words in shown


@pytest.mark.parametrize("cut", ["signature", "line"])
def test_a_bill_of_changed_records_is_refused(
    signed: Path, cut: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = signed / "evidence" / FILE
    lines = file.read_text().splitlines(keepends=True)
    if cut == "line":
        file.write_text("".join(lines[1:]))
        assert run(["network", "bill", str(signed)]) == 3
    else:
        (signed / "peers.json").write_text(json.dumps({"keys": {**PINS, "anna": HUB.public_line}}))
        assert run(["network", "bill", str(signed)]) == 8
    capsys.readouterr()


def test_a_roster_may_stand_for_the_runs_own_keys(
    signed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (signed / "peers.json").unlink()
    assert run(["network", "bill", str(signed)]) == 8
    members = "".join(f"  {each.name}: {{public_key: '{each.public_line}'}}\n" for each in (ANNA, BERT, HUB))
    (tmp_path / "roster.yaml").write_text("members:\n" + members)
    capsys.readouterr()
    bill = told(capsys, str(signed), "--roster", str(tmp_path / "roster.yaml"))
    assert bill["signatures"]["both"] == 3


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["--gain", "much"], 2, "decimal"),
        (["--gain", "0.001"], 3, "decimal places"),
        (["--gain", "1", "--cap", "7"], 3, "the cap is 7"),
        (["--owner", "nobody"], 2, "no usage records of nobody"),
        (["--contributions", "absent.json"], 2, "cannot be read"),
    ],
)
def test_what_cannot_be_billed_is_refused(
    signed: Path, words: list[str], code: int, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["network", "bill", str(signed), *words]) == code
    assert why in capsys.readouterr().err.replace("\n", " ")


def test_a_run_without_records_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["network", "bill", str(tmp_path)]) == 2
    assert "virtual participants have none" in capsys.readouterr().err
