"""Vertical jobs that stop in a step and go on: what is kept, what is done again, and what does not fit together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import fedcore
from fedcore.errors import DataError, FedcoreError, JobError, PeerLost
from fedcore.participant import vertical, vertical_align
from fedcore.vertical import pipeline
from tests.banks import BANK, TELECOM, Banks

STEPS = ["align", "bin", "select", "model:net", "score", "report"]


@pytest.fixture
def banks(tmp_path: Path) -> Banks:
    return Banks(tmp_path)


def stopping(patch: pytest.MonkeyPatch, at: str, party: str, error: FedcoreError) -> None:
    """One party fails in one step, once."""
    begun: list[tuple[str, str]] = []
    do = pipeline.do

    def sometimes(step: str, who: pipeline.Party) -> None:
        first = (step, who.name) not in begun
        begun.append((step, who.name))
        if first and (step, who.name) == (at, party):
            raise error
        do(step, who)

    patch.setattr(pipeline, "do", sometimes)


def test_a_party_that_stops_in_a_step_is_named_and_the_run_goes_on_there(
    banks: Banks, monkeypatch: pytest.MonkeyPatch
) -> None:
    aligned = []
    align_rows = vertical_align.align_rows
    monkeypatch.setattr(
        vertical_align, "align_rows", lambda *words: aligned.append(words[0].name) or align_rows(*words)
    )
    stopping(monkeypatch, "model:net", TELECOM, DataError("the disk is full; make room", step="fit"))
    error, told = banks.failing(DataError)
    assert (error.party, error.step) == (TELECOM, "fit") and "fedcore resume" in error.message
    assert told["status"] == "interrupted" and [each["step"] for each in told["steps"]] == STEPS[:3]
    before = {name: (banks.kept(name) / "align" / "step.json").read_bytes() for name in banks.names}
    run = fedcore.engines.run.resume(banks.folder / "run")
    assert run.json["status"] == "finished" and [each["step"] for each in run.json["steps"]] == STEPS
    assert sorted(aligned) == sorted(banks.names), "rows were agreed once"
    assert before == {name: (banks.kept(name) / "align" / "step.json").read_bytes() for name in banks.names}


def test_a_party_that_vanishes_leaves_a_run_that_can_go_on(
    banks: Banks, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping(monkeypatch, "bin", TELECOM, PeerLost("vanished", party=BANK, step="woe.sums"))
    error, told = banks.failing(PeerLost)
    assert told["status"] == "interrupted" and "Go on with `fedcore resume" in error.message
    assert fedcore.engines.run.resume(banks.folder / "run").json["status"] == "finished"


def test_a_step_that_was_finished_at_one_party_alone_is_repeated_at_all(
    banks: Banks, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipt = vertical._receipt
    left = ["telecom-b"]

    def vanished(told: Any, participant: Any, request: Any, rule: Any) -> Any:
        # It has kept the step; the coordinator does not hear of it.
        if request.step == "select" and left and participant.name == left[0]:
            left.clear()
            raise PeerLost("vanished", party=BANK)
        return receipt(told, participant, request, rule)

    monkeypatch.setattr(vertical, "_receipt", vanished)
    banks.failing(PeerLost)
    kept = {name: banks.kept(name) / "select" / "step.json" for name in banks.names}
    before = {name: file.read_bytes() for name, file in kept.items()}
    assert fedcore.engines.run.resume(banks.folder / "run").json["status"] == "finished"
    assert all(before[name] != file.read_bytes() for name, file in kept.items())


def stopped_before_the_model(banks: Banks, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stopping(patch, "model:net", TELECOM, PeerLost("vanished", party=BANK))
        banks.failing(PeerLost)


def resumed(banks: Banks, kind: type[FedcoreError]) -> FedcoreError:
    with pytest.raises(kind) as error:
        fedcore.engines.run.resume(banks.folder / "run")
    return error.value


def test_rows_in_another_order_than_agreed_are_refused_and_named(
    banks: Banks, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_before_the_model(banks, monkeypatch)
    banks.change(TELECOM, **{name: values[::-1] for name, values in banks.rows[TELECOM].items()})
    error = resumed(banks, DataError)
    assert error.party == TELECOM and "their order or their keys changed since step align" in error.message


def test_values_that_changed_since_they_were_agreed_are_refused_and_named(
    banks: Banks, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_before_the_model(banks, monkeypatch)
    banks.change(TELECOM, calls=banks.rows[TELECOM]["calls"] + 1)
    error = resumed(banks, DataError)
    assert error.party == TELECOM and "values of data set 'usage' changed since step align" in error.message


def test_a_party_that_lost_its_folder_begins_again_with_the_others(
    banks: Banks, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_before_the_model(banks, monkeypatch)
    first = (banks.kept(BANK) / "align" / "align.json").read_text()
    shutil.rmtree(banks.kept(TELECOM))
    assert fedcore.engines.run.resume(banks.folder / "run").json["status"] == "finished"
    assert (banks.kept(BANK) / "align" / "align.json").read_text() != first


def test_folders_of_different_attempts_are_noticed_when_the_parties_meet(
    banks: Banks, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_before_the_model(banks, monkeypatch)
    file = banks.kept(TELECOM) / "bin" / "step.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "token": "00" * 16}))
    error = resumed(banks, FedcoreError)
    assert "steps before" in error.message and "different attempts" in error.message


def test_what_was_kept_of_another_job_is_refused_and_named(
    banks: Banks, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_before_the_model(banks, monkeypatch)
    about = banks.folder / "run" / "run.json"
    told = json.loads(about.read_text())
    told["job"]["seed"] = 9
    about.write_text(json.dumps(told))
    error = resumed(banks, JobError)
    assert "is of another job" in error.message and "begin a new run" in error.message
