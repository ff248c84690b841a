"""Intersections over a real SuperLink and real SuperNodes, and over Ray: who meets how, and what a killed party does.

One federation serves all tests but the last: the shop can be called, the bank and the telecom cannot, and there is a
relay.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from fedcore.engines.federation import down, up
from fedcore.engines.installed import APP
from fedcore.engines.plan import work_folder
from fedcore.engines.processes import free_port
from fedcore.errors import PeerLost
from fedcore.jobs.load import LoadedFederation, load_federation
from fedcore.trust.identity import new_identity
from tests.pairs import BANK, KEYS, SHARED, TELECOM, Pair, write_party, write_psi_job
from tests.system.commands import fedcore, result
from tests.system.dying_app import FOLDER

pytestmark = [pytest.mark.system, pytest.mark.timeout(280)]

SHOP = "shop-c"
SHOPPERS = [f"person-{i}" for i in range(10, 200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("psi")


@pytest.fixture(scope="module")
def federation(folder: Path) -> Iterator[LoadedFederation]:
    """Three parties that pin each other's keys, up."""
    keys = {
        name: new_identity(folder / "keys" / f"{name}.key", name) for name in (BANK, TELECOM, SHOP, "centre")
    }
    data = {**KEYS, SHOP: SHOPPERS}
    for name, rows in data.items():
        others = "".join(
            f'  {other}: {{public_key: "{keys[other].public_line}"}}\n' for other in data if other != name
        )
        inbound = f'inbound: {{address: "localhost:{free_port()}"}}\n' if name == SHOP else ""
        rule = "{jobs: [psi], data: any, peers: any, reveal: {rows: any}}"
        extra = f"identity: keys/{name}.key\npeers:\n{others}{inbound}"
        write_party(folder, name, rows, rule=rule, extra=extra)
    roster = "".join(
        f'  {name}: {{public_key: "{key.public_line}", role: {"coordinator" if name == "centre" else "participant"}}}\n'
        for name, key in keys.items()
    )
    (folder / "roster.yaml").write_text(f"members:\n{roster}")
    file = folder / "federation.yaml"
    file.write_text(
        "name: psi\nengine: deployment\nroster: roster.yaml\n"
        f'coordinator: {{address: "localhost:{free_port()}", identity: keys/centre.key}}\n'
        f'relay: {{address: "localhost:{free_port()}"}}\n'
        f"participants: [{', '.join(f'{name}.yaml' for name in data)}]\n"
    )
    loaded = load_federation(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(APP, "tests.system.dying_app:app")
        patch.setenv(FOLDER, str(folder))
        try:
            up(loaded)
            yield loaded
        finally:
            down(loaded)


def with_the_shop(folder: Path, **settings: Any) -> Path:
    """A job of the bank and the shop."""
    parties = f"{{{BANK}: {{data: customers, key: person}}, {SHOP}: {{data: customers, key: person}}}}"
    return write_psi_job(folder, parties=parties, **settings)


def matched(folder: Path, name: str, run: dict[str, Any]) -> list[str]:
    """Keys of a party's matched rows, by match."""
    home = folder / ".fedcore" / name / "results" / run["receipts"][name]["folder"]
    rows = pq.read_table(home / "rows.parquet").sort_by("match").column("row").to_pylist()
    keys = pq.read_table(folder / f"{name}.parquet").column("person").to_pylist()
    return [keys[row] for row in rows]


def run_psi(federation: LoadedFederation, job: Path, home: Path) -> dict[str, Any]:
    code, out, err = fedcore("run", job, "--federation", federation.file, "--folder", home, "--json")
    assert code == 0, out[-3000:] + err[-3000:]
    told: dict[str, Any] = json.loads(out)
    return told


def test_parties_meet_directly_and_learn_the_same_rows(federation: LoadedFederation, folder: Path) -> None:
    job = with_the_shop(folder, reveal=f"{{what: rows, to: [{BANK}, {SHOP}]}}", deadline=200)
    told = run_psi(federation, job, folder / "direct")
    assert told["meeting"]["how"] == "direct" and told["engine"] == "deployment"
    assert matched(folder, BANK, told) == matched(folder, SHOP, told)
    assert sorted(matched(folder, BANK, told)) == sorted(set(KEYS[BANK]) & set(SHOPPERS))
    for file in (folder / "direct").rglob("*"):
        assert not file.is_file() or b"person-" not in file.read_bytes(), file


@pytest.mark.slow
def test_parties_that_cannot_be_called_meet_through_the_relay(
    federation: LoadedFederation, folder: Path
) -> None:
    told = run_psi(federation, write_psi_job(folder, protocol="ecdh", deadline=200), folder / "relayed")
    assert told["meeting"]["how"] == "relay"
    assert sorted(matched(folder, BANK, told)) == SHARED
    assert "relay at" in work_folder(federation).log("relay").read_text()


@pytest.mark.slow
def test_a_party_killed_in_the_middle_stops_the_other_and_is_named(
    federation: LoadedFederation, folder: Path
) -> None:
    (folder / f"{SHOP}.dies").write_text("ecdh")
    job = with_the_shop(folder, protocol="ecdh", reveal=f"{{what: rows, to: [{BANK}]}}", deadline=3600)
    home = folder / "killed"
    code, out, err = fedcore("run", job, "--federation", federation.file, "--folder", home, "--json")
    assert code == PeerLost.exit_code, out[-2000:] + err[-2000:]
    assert not (folder / f"{SHOP}.dies").exists(), "it did not die"
    told = result(home)
    assert told["status"] == "failed" and told["error"]["party"] == SHOP
    assert told["error"]["step"].startswith("ecdh") and "bank-a noticed" in told["error"]["message"]
    assert not (folder / ".fedcore" / BANK / "results" / told["run"]).exists()


@pytest.mark.slow
def test_parties_in_two_processes_of_a_simulation_meet_over_loopback(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.job = write_psi_job(tmp_path, protocol="ecdh", deadline=200)
    home = tmp_path / "run"
    words = ["run", pair.job, "--federation", pair.federation, "--engine", "simulation", "--folder", home]
    code, out, err = fedcore(*words)
    assert code == 0, out[-3000:] + err[-3000:]
    told = result(home)
    assert told["engine"] == "simulation" and told["meeting"]["how"] == "direct"
    assert sorted(pair.matched(BANK)) == SHARED
    # Progress comes from the parties' own processes.
    assert f"{BANK}  reading the keys" in out and f"{TELECOM}  done  65 rows" in out
