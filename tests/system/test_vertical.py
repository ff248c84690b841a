"""Vertical jobs over a real SuperLink and real SuperNodes, and over Ray: who meets how, and what a killed party does.

One federation of three serves the tests but the last: the bank can be called, the telecom and the shop cannot and meet
each other at a relay. So the bank waits for two callers at one address, in each step anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore.engines.federation import down, up
from fedcore.engines.installed import APP
from fedcore.engines.processes import free_port
from fedcore.errors import PeerLost
from fedcore.jobs.load import LoadedFederation, load_federation
from fedcore.trust.identity import new_identity
from tests.banks import BANK, SHOP, TELECOM, Banks, shared_people
from tests.system.commands import fedcore, result
from tests.system.dying_app import FOLDER

pytestmark = [pytest.mark.system, pytest.mark.timeout(280)]

NAMES = (BANK, TELECOM, SHOP)
STEPS = ["align", "bin", "select", "model:net", "score", "report"]


class Site:
    """Three parties that pin each other's keys, and their federation, up."""

    def __init__(self, folder: Path) -> None:
        self.banks = Banks(folder, NAMES)
        keys = {
            name: new_identity(folder / "keys" / f"{name}.key", name).public_line
            for name in (*NAMES, "centre")
        }
        for name in NAMES:
            others = "".join(
                f'  {other}: {{public_key: "{keys[other]}"}}\n' for other in NAMES if other != name
            )
            inbound = f'inbound: {{address: "localhost:{free_port()}"}}\n' if name == BANK else ""
            self.banks.write(name, extra=f"identity: keys/{name}.key\npeers:\n{others}{inbound}")
        roles = dict.fromkeys(NAMES, "participant") | {"centre": "coordinator"}
        roster = "".join(
            f'  {name}: {{public_key: "{key}", role: {roles[name]}}}\n' for name, key in keys.items()
        )
        (folder / "roster.yaml").write_text(f"members:\n{roster}")
        file = folder / "federation.yaml"
        file.write_text(
            "name: banks\nengine: deployment\nroster: roster.yaml\n"
            f'coordinator: {{address: "localhost:{free_port()}", identity: keys/centre.key}}\n'
            f'relay: {{address: "localhost:{free_port()}"}}\n'
            f"participants: [{', '.join(f'{name}.yaml' for name in NAMES)}]\n"
        )
        self.loaded: LoadedFederation = load_federation(file)

    def run(self, home: str, **settings: Any) -> tuple[int, str]:
        """Run the job; exit code and what was printed."""
        job = self.banks.write_job(**{"deadline": 200, **settings})
        folder = self.banks.folder / home
        words = ["run", job, "--federation", self.banks.federation, "--folder", folder, "--json"]
        code, out, err = fedcore(*words)
        return code, out + err

    def people(self, name: str, run: dict[str, Any]) -> list[str]:
        """Keys of a party in the agreed order of a run."""
        kept = self.banks.folder / ".fedcore" / name / "results" / run["run"]
        rows = np.load(kept / "align" / "rows.npy")
        return [str(self.banks.rows[name]["person"][row]) for row in rows]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("banks")
    made = Site(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(APP, "tests.system.dying_app:app")
        patch.setenv(FOLDER, str(folder))
        try:
            up(made.loaded)
            yield made
        finally:
            down(made.loaded)


def test_three_parties_meet_directly_and_through_the_relay_and_each_has_its_report(site: Site) -> None:
    code, printed = site.run("done")
    assert code == 0, printed[-3000:]
    told = result(site.banks.folder / "done")
    assert told["meetings"] == {
        f"{BANK} and {TELECOM}": "direct",
        f"{BANK} and {SHOP}": "direct",
        f"{TELECOM} and {SHOP}": "relay",
    }
    assert [each["step"] for each in told["steps"]] == STEPS and told["engine"] == "deployment"
    people = {name: site.people(name, told) for name in NAMES}
    assert people[BANK] == people[TELECOM] == people[SHOP]
    assert sorted(people[BANK]) == shared_people(*NAMES)
    for name in NAMES:
        kept = site.banks.folder / ".fedcore" / name / "results" / told["run"] / "report"
        assert (kept / "report.html").exists()
    for file in (site.banks.folder / "done").rglob("*"):
        assert not file.is_file() or b"person-" not in file.read_bytes(), file


@pytest.mark.slow
def test_a_party_killed_inside_a_step_is_named_and_the_run_goes_on_with_that_step(site: Site) -> None:
    folder = site.banks.folder
    (folder / f"{TELECOM}.dies").write_text("model:net: split network")
    code, printed = site.run("killed")
    assert code == PeerLost.exit_code, printed[-3000:]
    assert not (folder / f"{TELECOM}.dies").exists(), "it did not die"
    told = result(folder / "killed")
    assert told["status"] == "interrupted" and told["error"]["party"] == TELECOM
    assert [each["step"] for each in told["steps"]] == STEPS[:3]
    first = (folder / ".fedcore" / SHOP / "results" / told["run"] / "align" / "step.json").read_bytes()
    code, out, err = fedcore("resume", folder / "killed", "--json")
    assert code == 0, out[-2000:] + err[-2000:]
    again = json.loads(out)
    assert again["status"] == "finished" and [each["step"] for each in again["steps"]] == STEPS
    assert again["steps"][:3] == told["steps"], "what was finished is not done again"
    kept = folder / ".fedcore" / SHOP / "results" / told["run"] / "align" / "step.json"
    assert kept.read_bytes() == first


@pytest.mark.slow
def test_parties_in_processes_of_a_simulation_meet_over_loopback(tmp_path: Path) -> None:
    banks = Banks(tmp_path)
    words = ["run", banks.job, "--federation", banks.federation, "--engine", "simulation"]
    code, out, err = fedcore(*words, "--folder", tmp_path / "run")
    assert code == 0, out[-3000:] + err[-3000:]
    told = result(tmp_path / "run")
    assert told["engine"] == "simulation" and told["meetings"] == {f"{BANK} and {TELECOM}": "direct"}
    assert [each["step"] for each in told["steps"]] == STEPS
    # Progress comes from the parties' own processes.
    assert f"{BANK}  align: reading the keys" in out and f"{TELECOM}  report: done" in out
