"""A train job under each protocol of secure aggregation beside secagg+: the same result, and what is refused before it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedcore.coordinator.workflows import protection
from fedcore.errors import JobError, PolicyRefused
from fedcore.network.usage_log import FILE, read_log
from tests.sites import Study, blobs, write_federation, write_job, write_site

OPTIONS = {
    "threshold": "{protocol: threshold}",
    "ckks": "{protocol: ckks, adversary: curious}",
    "paillier": "{protocol: paillier, adversary: curious, key_bits: 2048}",
}
CURIOUS = "  secure_aggregation: {adversary: curious}\n"


def sites(study: Study, extra: str) -> Study:
    for i, name in enumerate(study.names):
        write_site(study.folder, name, blobs(40 + 10 * i, i), extra=extra)
    return study


@pytest.fixture
def five(tmp_path: Path) -> Study:
    """Five sites that trust the coordinator to follow the protocol."""
    return sites(Study(tmp_path, sites=5), CURIOUS)


def on(protocol: str) -> str:
    return f"{{secure_aggregation: {OPTIONS[protocol]}}}"


@pytest.mark.parametrize("protocol", OPTIONS)
@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "scaffold"])
def test_a_protected_run_gives_the_result_of_the_same_run_without(
    five: Study, protocol: str, strategy: str
) -> None:
    five.job = write_job(five.folder, strategy=f"{{use: {strategy}}}", rounds=2)
    plain = five.run(folder=five.folder / "plain")
    five.job = write_job(five.folder, strategy=f"{{use: {strategy}}}", rounds=2, protection=on(protocol))
    hidden = five.run(folder=five.folder / "hidden")
    one, other = load_file(plain.model), load_file(hidden.model)
    slack = 2e-3 if strategy == "fedadam" else 2e-5
    for name in one:
        np.testing.assert_allclose(other[name], one[name], rtol=0, atol=slack)
    for before, after in zip(plain.json["rounds"], hidden.json["rounds"], strict=True):
        for phase in ("train", "evaluate"):
            for metric, value in before[phase].items():
                assert after[phase][metric] == pytest.approx(value, abs=2e-3), (phase, metric)


@pytest.mark.parametrize("protocol", OPTIONS)
def test_the_record_says_what_was_protected_how_exactly_and_who_opened_it(five: Study, protocol: str) -> None:
    five.job = write_job(five.folder, protection=on(protocol), rounds=2)
    run = five.run()
    first, second = run.json["rounds"]
    account = first["protection"]["train"]
    assert account["protocol"] == protocol and account["summed"] == 5 and account["failed"] == ""
    assert list(second["protection"]["train"]["stages"]) == ["masked", "open"]
    assert 0 < account["error"] <= account["error_bound"] < 1e-4 * 8
    assert set(account["opened_by"]) <= set(five.names)
    assert len(account["opened_by"]) == (account["threshold"] or 1)
    told = sum(
        int(stage["up"]) for phase in first["protection"].values() for stage in phase["stages"].values()
    )
    records = [each for each in read_log(run.folder / "evidence" / FILE) if each.said.round == 1]
    # Beside the protocol's messages each reply brings its half of a usage record.
    halves = sum(len(each.said.model_dump_json(exclude_none=True)) for each in records)
    assert first["bytes"]["up"] == told + halves + len(records) * len("saidsignature")
    receipt = json.loads((run.folder / "evidence" / "receipt.json").read_text())
    assert {layers["protection"] for layers in receipt["layers"].values()} == {protocol}


def test_the_joint_key_takes_the_defaults_that_sites_require(tmp_path: Path) -> None:
    study = Study(tmp_path, sites=3)
    study.job = write_job(study.folder, protection="{secure_aggregation: threshold}", rounds=1)
    told = study.run().json
    account = told["rounds"][0]["protection"]["train"]
    assert (account["threshold"], account["holders"]) == (3, 3)
    assert told["job"]["protection"] == {"secure_aggregation": "threshold"}


# ---- refused before round 1 ----------------------------------------------------------------------------------


def refused(study: Study, kind: type[Exception], *words: str) -> None:
    with pytest.raises(kind) as caught:
        study.run()
    for word in words:
        assert word in str(caught.value)
    assert not (study.folder / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("protocol", ["ckks", "paillier"])
def test_a_shared_key_against_an_active_coordinator_is_refused_and_alternatives_are_named(
    five: Study, protocol: str
) -> None:
    five.job = write_job(five.folder, protection=f"{{secure_aggregation: {protocol}}}")
    refused(five, JobError, "adversary: curious", "secagg+ or threshold")


def test_ckks_has_values_of_32_bits_only_and_keys_under_2048_bits_are_refused(five: Study) -> None:
    for written, word in (
        ("{protocol: ckks, adversary: curious, bits: 64}", "32 bits"),
        ("{protocol: paillier, adversary: curious, key_bits: 1024}", "key_bits"),
        ("{protocol: paillier, adversary: curious, key_bits: 2050}", "key_bits"),
    ):
        five.job = write_job(five.folder, protection=f"{{secure_aggregation: {written}}}")
        refused(five, JobError, word)


def test_a_site_that_trusts_no_coordinator_refuses_a_shared_key(tmp_path: Path) -> None:
    study = Study(tmp_path, sites=3)
    study.job = write_job(study.folder, protection=on("ckks"))
    refused(study, PolicyRefused, "adversary is curious, active is required")


def test_a_site_names_the_protocols_that_it_takes_part_in(tmp_path: Path) -> None:
    study = sites(Study(tmp_path, sites=3), "  secure_aggregation: {protocols: [secagg+]}\n")
    study.job = write_job(study.folder, protection=on("threshold"))
    refused(study, PolicyRefused, "protocol is threshold", "secagg+", "policy.secure_aggregation")
    study.job = write_job(study.folder, protection="{secure_aggregation: secagg+}", rounds=1)
    assert study.run(folder=tmp_path / "allowed").json["status"] == "finished"


@pytest.mark.parametrize(
    ("protocol", "module", "function", "extra"),
    [
        ("ckks", "crypto.ckks.seal", "library", "ckks"),
        ("paillier", "crypto.paillier.keys", "integers", "paillier"),
    ],
)
@pytest.mark.parametrize("where", ["coordinator", "participant"])
def test_a_missing_package_is_told_before_round_1_with_how_to_get_it(
    five: Study,
    protocol: str,
    module: str,
    function: str,
    extra: str,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lacking() -> Any:
        raise ModuleNotFoundError(f"it needs a package; pip install 'fedcore[{extra}]'")

    monkeypatch.setattr(f"{module}.{function}", lacking)
    if where == "participant":
        # The coordinator has it.
        monkeypatch.setattr(protection, "needs", lambda protocol: None)
    five.job = write_job(five.folder, protection=on(protocol))
    refused(five, JobError, f"pip install 'fedcore[{extra}]'")


def test_a_cohort_too_small_for_a_committee_is_refused_with_the_numbers(tmp_path: Path) -> None:
    study = Study(tmp_path, sites=3)
    study.job = write_job(
        study.folder, protection="{secure_aggregation: {protocol: threshold, dropout: 0.5, corrupt: 0.3}}"
    )
    refused(study, JobError, "of 3 holders of the key", "Nothing was trained")


def test_a_model_that_is_too_large_for_paillier_is_refused_with_the_numbers(
    five: Study, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(protection, "MANY_PAILLIER", 2)
    five.job = write_job(five.folder, protection=on("paillier"), rounds=1)
    with caplog.at_level(logging.WARNING, "fedcore.coordinator"):
        assert five.run(folder=five.folder / "warned").json["status"] == "finished"
    assert any("values sends" in record.message for record in caplog.records)
    monkeypatch.setattr(protection, "MOST_PAILLIER", 3)
    refused(five, JobError, "values", "MB from each site", "secagg+, threshold or ckks")


def test_the_estimate_for_paillier_is_what_it_costs() -> None:
    from fedcore.jobs.job import Protection, SecureAggregation, TrainJob

    asked = SecureAggregation(protocol="paillier", adversary="curious")
    job = TrainJob.model_construct(protection=Protection(secure_aggregation=asked))
    with pytest.raises(
        JobError, match=r"10,000,000 values sends 81 MB .* 400 s to encrypt .* 3400 s to open"
    ):
        protection.check_size(job, {"w": np.broadcast_to(np.float32(0), (10_000_000,))})
    protection.check_size(job, {"w": np.zeros(50_000, np.float32)})


@pytest.mark.slow
@pytest.mark.parametrize("protocol", OPTIONS)
def test_the_simulation_engine_gives_the_same_model(five: Study, protocol: str) -> None:
    five.job = write_job(five.folder, protection=on(protocol), rounds=2)
    one = load_file(five.run(folder=five.folder / "embedded").model)
    five.federation = write_federation(five.folder, five.names)
    run = five.run(folder=five.folder / "simulated", engine="simulation")
    other = load_file(run.model)
    for name in one:
        np.testing.assert_allclose(other[name], one[name], rtol=0, atol=2e-5)
    assert "keys" not in run.json["rounds"][1]["protection"]["train"]["stages"]
