"""Where sessions are opened, as the federation file says it, and what the ServerApp makes of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from fedcore.coordinator.watch import Silent
from fedcore.coordinator.workflows.settings import Settings
from fedcore.engines import server_app
from fedcore.engines.plan import work_folder
from fedcore.engines.remote import door_of
from fedcore.jobs.load import load_federation
from fedcore.trust.identity import new_identity
from tests.fedcore.peer.parties import BERT, CARL
from tests.sites import Study, write_federation


def door(study: Study, **coordinator: Any) -> dict[str, str] | None:
    write_federation(study.folder, study.names, extra=f"coordinator: {json.dumps(coordinator)}\n")
    return door_of(load_federation(study.federation))


def test_a_free_port_is_taken_where_only_this_machine_is_listened_at(study: Study) -> None:
    for listen in ("127.0.0.1", "localhost"):
        found = door(study, listen=listen)
        assert found is not None
        assert (found["bind"], found["address"]) == (f"{listen}:0", "localhost:0")


@pytest.mark.parametrize("listen", ["0.0.0.0", "10.0.0.7", "::"])
def test_no_port_is_opened_to_other_machines_unasked(study: Study, listen: str) -> None:
    assert door(study, listen=listen) is None


def test_a_port_that_is_named_is_opened_beside_the_superlinks(study: Study) -> None:
    found = door(study, address="centre.example:8443", listen="0.0.0.0", data_port=9444)
    assert found is not None
    assert (found["bind"], found["address"]) == ("0.0.0.0:9444", "centre.example:9444")


def test_an_address_of_version_six_is_written_as_one(study: Study) -> None:
    for listen in ("::", "[::]"):
        found = door(study, listen=listen, data_port=9444)
        assert found is not None and found["bind"] == "[::]:9444"
    found = door(study, listen="::1")
    assert found is not None and found["bind"] == "[::1]:0"


def test_off_is_no_door(study: Study) -> None:
    assert door(study, data_port="off") is None


def test_the_door_is_kept_with_the_coordinators_own_key(study: Study) -> None:
    found = door(study)
    assert found is not None
    assert found["identity"] == str(work_folder(load_federation(study.federation)).root / "coordinator.key")
    new_identity(study.folder / "centre.key", "centre")
    found = door(study, identity="centre.key")
    assert found is not None and Path(found["identity"]) == study.folder / "centre.key"


# ---- in the ServerApp --------------------------------------------------------------------------------------------


@pytest.fixture
def told(tmp_path: Path) -> dict[str, str]:
    new_identity(tmp_path / "coordinator.key", "coordinator")
    return {
        "bind": "127.0.0.1:0",
        "address": "localhost:0",
        "identity": str(tmp_path / "coordinator.key"),
    }


def settings(folder: Path, **changed: Any) -> Settings:
    known = {"bert": BERT.public_line, "carl": CARL.public_line}
    named: dict[str, Any] = {
        "run": "r",
        "folder": folder,
        "engine": "deployment",
        "expected": 2,
        "watcher": Silent(),
        "registered": {1: "bert", 2: "carl"},
        "keys": known,
        **changed,
    }
    return Settings(**named)


def test_registered_participants_are_expected_with_their_registered_keys(tmp_path: Path, told: Any) -> None:
    grid = server_app._sessions(None, settings(tmp_path), told)  # type: ignore[arg-type]
    assert grid is not None
    assert {node: (peer.name, peer.public_line) for node, peer in grid._peers.items()} == {
        1: ("bert", BERT.public_line),
        2: ("carl", CARL.public_line),
    }


def test_one_whose_key_is_not_known_is_asked_by_flower(tmp_path: Path, told: Any) -> None:
    found = settings(tmp_path, keys={"bert": BERT.public_line})
    grid = server_app._sessions(None, found, told)  # type: ignore[arg-type]
    assert grid is not None and list(grid._peers) == [1]


def test_without_a_door_or_registered_keys_flower_carries_everything(tmp_path: Path, told: Any) -> None:
    assert server_app._sessions(None, settings(tmp_path), None) is None  # type: ignore[arg-type]
    for lacking in ({"registered": None}, {"registered": {}}, {"keys": {}}):
        assert server_app._sessions(None, settings(tmp_path, **lacking), told) is None  # type: ignore[arg-type]


def test_a_key_that_cannot_be_read_is_logged_and_flower_carries_everything(
    tmp_path: Path, told: Any, caplog: pytest.LogCaptureFixture
) -> None:
    told["identity"] = str(tmp_path / "none.key")
    with caplog.at_level(logging.WARNING):
        assert server_app._sessions(None, settings(tmp_path), told) is None  # type: ignore[arg-type]
    assert "Flower carries every message" in caplog.text
