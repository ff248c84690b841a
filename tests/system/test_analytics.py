"""The same questions on the three engines."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from fedcore.engines.federation import down, up
from fedcore.jobs.load import load_federation
from fedcore.trust.identity import new_identity
from tests.questions import Hospitals
from tests.sites import write_federation
from tests.system.commands import fedcore, result
from tests.system.test_engines import free_port

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

ASK = {
    "by_sex": "SELECT sex, count(*), avg(age), variance(age) FROM study GROUP BY sex",
    "visits": {"poisson": {"response": "visits", "columns": ["age", "sex"]}},
    "hazard": {"cox": {"time": "time", "event": "status", "covariates": ["sex"]}},
}


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Four sites, and their federation up: SuperLink and SuperNodes over TLS with node authentication."""
    made = Hospitals(tmp_path_factory.mktemp("questions"))
    (made.folder / "keys").mkdir()
    lines = {
        name: new_identity(made.folder / "keys" / f"{name}.key", name).public_line for name in made.names
    }
    for name in made.names:
        peers = {other: {"public_key": line} for other, line in lines.items() if other != name}
        made.write(name, extra=f"identity: keys/{name}.key\npeers: {json.dumps(peers)}\n")
    extra = f'coordinator: {{address: "localhost:{free_port()}"}}\n'
    write_federation(made.folder, made.names, extra=extra)
    loaded = load_federation(made.federation)
    up(loaded)
    yield made
    down(loaded)


def same(one: Any, other: Any) -> bool:
    """Equal, numbers to 1e-8 relative."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-8, abs_tol=1e-12)
    return bool(one == other)


@pytest.mark.parametrize("engine", ["deployment", pytest.param("simulation", marks=pytest.mark.slow)])
def test_an_engine_gives_the_answers_of_one_process(hospitals: Hospitals, engine: str) -> None:
    job = hospitals.job(ASK, deadline=120)
    told = {}
    for engine_ in ("embedded", engine):
        folder = hospitals.folder / f"{engine_} {engine}"
        code, out, err = fedcore(
            "run",
            job,
            "--federation",
            hospitals.federation,
            "--engine",
            engine_,
            "--folder",
            folder,
            "--json",
            timeout=500,
        )
        assert code == 0, out[-3000:] + err[-3000:]
        told[engine_] = result(folder)["answers"]
    for name, answer in told["embedded"].items():
        other = told[engine][name]
        assert answer["status"] == "answered" and answer["summed"] == other["protection"]["summed"] == 4
        assert same(answer["tables"], other["tables"])
