"""The other protocols of secure aggregation over a real federation: signed keys, a process for every message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedcore.engines import installed
from fedcore.engines.federation import down, up
from fedcore.jobs.load import load_federation
from fedcore.trust.identity import new_identity
from tests.sites import Study, blobs, write_federation, write_job, write_site
from tests.system import stage_killer
from tests.system.commands import fedcore, result
from tests.system.test_engines import free_port

pytestmark = [pytest.mark.slow, pytest.mark.system, pytest.mark.timeout(600)]

SITES = 4
PROTOCOLS = {
    "threshold": "{protocol: threshold}",
    "ckks": "{protocol: ckks, adversary: curious}",
    "paillier": "{protocol: paillier, adversary: curious, key_bits: 2048}",
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """Four sites that pin each other's keys and trust the coordinator to follow the protocol."""
    folder = tmp_path_factory.mktemp("protocols")
    study = Study(folder, SITES)
    (folder / "keys").mkdir()
    lines = {name: new_identity(folder / "keys" / f"{name}.key", name).public_line for name in study.names}
    for i, name in enumerate(study.names):
        peers = {other: {"public_key": line} for other, line in lines.items() if other != name}
        extra = "  secure_aggregation: {adversary: curious}\n"
        extra += f"identity: keys/{name}.key\npeers: {json.dumps(peers)}\n"
        write_site(folder, name, blobs(40 + 10 * i, i), extra=extra)
    write_federation(folder, study.names, extra=f'coordinator: {{address: "localhost:{free_port()}"}}\n')
    loaded = load_federation(study.federation)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(installed.APP, "tests.system.stage_killer:app")
        patch.setenv(stage_killer.FOLDER, str(folder))
        patch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
        up(loaded)
        yield study
        down(loaded)


def run(
    study: Study, name: str, protocol: str, engine: str = "deployment", **settings: Any
) -> dict[str, Any]:
    """Run a job under a protocol; its result."""
    # In clear, so that the stages below are those of the training round.
    protection = f"{{secure_aggregation: {PROTOCOLS[protocol][:-1]}, examples: clear}}}}"
    job = write_job(
        study.folder,
        **{"protection": protection, "rounds": 1, "deadline": 60, "participants": "{min: 3}", **settings},
    )
    folder = study.folder / name
    words = ["run", job, "--federation", study.federation, "--engine", engine, "--folder", folder]
    code, out, err = fedcore(*words, "--json", timeout=300)
    assert code == 0, out[-2000:] + err[-3000:]
    return result(folder)


@pytest.mark.parametrize(
    "protocol",
    [pytest.param(each, marks=() if each == "threshold" else pytest.mark.slow) for each in PROTOCOLS],
)
def test_a_protected_job_gives_what_it_gives_in_one_process(study: Study, protocol: str) -> None:
    names = [f"{protocol}-{engine}" for engine in ("deployment", "embedded")]
    told = [
        run(study, name, protocol, engine, rounds=2)
        for name, engine in zip(names, ("deployment", "embedded"), strict=True)
    ]
    one, other = (load_file(study.folder / name / "model.safetensors") for name in names)
    for array in one:
        np.testing.assert_allclose(one[array], other[array], rtol=0, atol=1e-5)
    for result_ in told:
        account = result_["rounds"][1]["protection"]["train"]
        assert account["summed"] == SITES and list(account["stages"]) == ["masked", "open"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "stage", "summed"), [("ckks", "group", SITES - 1), ("threshold", "masked", SITES - 1)]
)
def test_a_site_killed_at_a_stage_is_dropped_and_the_sum_is_made(
    study: Study, protocol: str, stage: str, summed: int
) -> None:
    # The first site by name makes the shared key.
    victim = study.names[0]
    (study.folder / f"{victim}.dies").write_text(f"{stage} 0")
    told = run(study, f"killed-{protocol}", protocol)
    train = told["rounds"][0]["protection"]["train"]
    assert not (study.folder / f"{victim}.dies").exists(), "nobody was killed"
    assert train["failed"] == "" and train["summed"] == summed
    assert train["dropped"] == {victim: stage}
