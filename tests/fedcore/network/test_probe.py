"""The probe: within its budget, complete, marked where it is in doubt; and the rate of a run that was done."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from fedcore.errors import JobError
from fedcore.network import probe as module
from fedcore.network import rates
from fedcore.network.power import EnergyCounters
from fedcore.network.probe import names, newer, probe, work_rate
from fedcore.network.quantity import Quantity, contradictions, counted, measured
from fedcore.network.work import predict
from tests.fedcore.network.nodes import described, found, request

ALL = {*module._CPU_SHARES, "cores", "memory.cpu", "power.idle", "power.load"}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Instead of measuring: the names and the seconds that they were given."""
    asked: list[tuple[str, float]] = []

    def fake(name: str, seconds: float) -> Quantity | None:
        asked.append((name, seconds))
        unit = {"ecc": "op/s", "gemm": "GFLOP/s"}.get(name.split(".")[0], "GB/s")
        return None if name == "gemm.cpu.fp16" else measured([10.0, 10.1, 10.2], unit, "fake")

    monkeypatch.setattr(module, "_measured", fake)
    monkeypatch.setattr(module, "_warm", lambda: None)
    monkeypatch.setattr(module.psutil, "cpu_percent", lambda interval: 10.0)
    return asked


def test_a_short_probe_measures_this_machine_and_says_nothing_impossible() -> None:
    found = probe(0.3, devices="cpu")
    assert set(found.quantities) == {"cores", "memory.cpu", *module._LATER, "power.idle", "power.load"} - {
        "gemm.cuda.fp32"
    }
    assert contradictions(found.quantities) == []
    assert found.quantities["gemm.cpu.fp32"].source == "measured"
    assert 0 <= found.busy <= 1


def test_a_probe_at_join_gives_each_measurement_a_share_of_the_budget(quick) -> None:
    found = probe(10.0, devices="cpu")
    assert set(found.quantities) == ALL - {"gemm.cpu.fp16"}
    assert found.skipped == {"gemm.cpu.fp16": "this device cannot multiply in this precision"}
    assert 7 < sum(seconds for _, seconds in quick) <= 10 and min(seconds for _, seconds in quick) > 0.1


def test_what_does_not_fit_into_the_budget_is_left_out_and_told(quick, monkeypatch) -> None:
    fake = module._measured

    def slow(name: str, seconds: float) -> Quantity | None:
        time.sleep(0.3)
        return fake(name, seconds)

    monkeypatch.setattr(module, "_measured", slow)
    monkeypatch.setattr(module, "_IN_USE", 0.1)
    found = probe(2.5, devices="cpu")
    assert "the time was over" in found.skipped.values() and found.skipped.keys().isdisjoint(found.quantities)


def test_a_later_probe_looks_at_what_changes_only(quick) -> None:
    probe(1.0, devices="cpu")
    assert {name for name, _ in quick} == set(module._LATER) - {"gemm.cuda.fp32"}
    assert sum(seconds for _, seconds in quick) <= 1.0


def test_on_a_busy_machine_what_was_timed_is_in_doubt_and_what_was_counted_is_not(quick, monkeypatch) -> None:
    monkeypatch.setattr(module.psutil, "cpu_percent", lambda interval: 80.0)
    found = probe(1.0, devices="cpu").quantities
    assert found["ecc.ristretto"].doubt == "others used 80% of the processors"
    assert found["cores"].reliable and found["memory.cpu"].reliable


def test_power_is_counted_over_idleness_and_over_products(quick, tmp_path: Path) -> None:
    counters = EnergyCounters(tmp_path)
    joules = iter(range(0, 10_000, 5))
    counters.names = ("RAPL 0 package-0",)
    counters._read = {"RAPL 0 package-0": lambda: float(next(joules))}
    found = probe(10.0, devices="cpu", counters=counters).quantities
    assert found["power.idle"].source == found["power.load"].source == "measured"
    assert found["power.idle"].samples == 3 and found["power.load"].samples == 3


@pytest.mark.parametrize("seconds", [0.0, -1.0, 0.1, 61.0])
def test_a_budget_that_hinders_work_is_refused(seconds: float) -> None:
    with pytest.raises(JobError, match=r"allowed: 0.2 to 60 s"):
        probe(seconds)


def test_devices_that_are_not_there_are_refused(monkeypatch) -> None:
    with pytest.raises(JobError, match="allowed: auto, cpu, cuda"):
        probe(1, devices="tpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(JobError, match="no CUDA device"):
        probe(1, devices="cuda")


def test_a_newer_value_replaces_an_older_one_and_is_not_mixed_with_it() -> None:
    old = {"ecc.x25519": measured([10.0] * 3, "op/s", "x"), "cores": counted(2, "cores", "x")}
    new = {"ecc.x25519": measured([5.0, 10.0, 15.0], "op/s", "x")}
    merged = newer(old, new)
    assert merged["ecc.x25519"] is new["ecc.x25519"] and not merged["ecc.x25519"].reliable
    assert merged["cores"] is old["cores"]


def test_a_container_that_is_given_part_of_a_core_has_part_of_a_core(monkeypatch, tmp_path: Path) -> None:
    real = open

    def fake(file: Any, *told: Any, **more: Any) -> Any:
        return real(tmp_path / "cpu.max" if str(file).endswith("cpu.max") else file, *told, **more)

    monkeypatch.setattr("builtins.open", fake)
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert module.usable_cores() == 0.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert module.usable_cores() >= 1


def test_names_stand_in_the_order_in_which_a_person_reads() -> None:
    assert names(["pue", "price.compute", "gemm.cpu.fp32", "memory.cpu.bandwidth", "memory.cpu", "cores"]) == [
        "cores", "memory.cpu", "memory.cpu.bandwidth", "gemm.cpu.fp32", "pue", "price.compute",
    ]  # fmt: skip


# ---- rates -------------------------------------------------------------------------------------------------------


def test_what_is_sampled_is_repeated_after_one_that_does_not_count() -> None:
    seen: list[float] = []
    assert rates.sampled(lambda: float(seen.append(1.0) or len(seen)), 60.0, most=5) == [2, 3, 4, 5, 6]
    assert rates.sampled(lambda: 7.0, 0.0) == [7.0]


def test_a_product_that_the_device_cannot_do_is_none(monkeypatch) -> None:
    def cannot(*told: object, **more: object) -> None:
        raise RuntimeError('"addmm_impl_cpu_" not implemented for this type')

    monkeypatch.setattr("torch.mm", cannot)
    assert rates.matrix_product("cpu", "fp16", 0.1) is None


def test_small_products_are_in_doubt() -> None:
    assert "say little" in rates.matrix_product("cpu", "fp32", 0.0).doubt


def test_arrays_that_fit_into_the_cache_are_in_doubt(monkeypatch) -> None:
    monkeypatch.setattr(rates, "last_cache", lambda: 2**30)
    assert "less than four times the cache" in rates.memory_bandwidth("cpu", 0.0, free=2**27).doubt
    monkeypatch.setattr(rates, "last_cache", lambda: 2**20)
    found = rates.memory_bandwidth("cpu", 0.05, free=2**30)
    assert "cache" not in found.doubt and "4 MiB" in found.method


def test_the_last_cache_is_read_from_the_system(monkeypatch, tmp_path: Path) -> None:
    for index, size in enumerate(("48K", "2048K", "36M")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    monkeypatch.setattr(rates, "_CACHES", tmp_path)
    assert rates.last_cache() == 36 * 2**20
    monkeypatch.setattr(rates, "_CACHES", tmp_path / "absent")
    assert rates.last_cache() == 32 * 2**20


# ---- the real job --------------------------------------------------------------------------------------------------


def result(
    *seconds: float | None, lost: tuple[int, ...] = (), epochs: int = 2, kind: str = "train"
) -> dict[str, Any]:
    rounds = [
        {
            "round": i,
            "sites": {"anna": {"seconds": {"train": taken}, "examples": 100}} if taken else {},
            "lost": [{"party": "anna", "step": "train"}] if i in lost else [],
        }
        for i, taken in enumerate(seconds, 1)
    ]
    job = {"name": "digits", "local": {"epochs": epochs}}
    return {"kind": kind, "run": "r", "started": "2026-03-01T12:00:00+00:00", "job": job, "rounds": rounds}


def test_the_rate_of_a_run_is_rows_and_epochs_over_seconds_without_the_first_round() -> None:
    name, found = work_rate(result(9.0, 1.0, 1.1, 0.9), "anna")
    assert name == "work.digits" and found.value == pytest.approx(200) and found.samples == 3
    assert found.at == "2026-03-01T12:00:00+00:00" and found.unit == "samples/s"


def test_the_rate_is_in_rows_of_an_average_participant_so_that_a_request_for_them_gives_its_own_time() -> (
    None
):
    data = result(9.0, 2.0, 2.0, 2.0)
    data["participants"] = [{"name": "anna", "train_rows": 100}, {"name": "bert", "train_rows": 300}]
    rate = work_rate(data, "anna")[1].value
    assert rate == pytest.approx(200 * 2 / 2.0)
    asked = request(samples=200, epochs=2, protocol="none", neighbours=0)
    node = described(quantities=found(**{"work.digits": work_rate(data, "anna")[1]}))
    assert asked.samples * asked.epochs / predict(asked, node, "cpu")[0].value == pytest.approx(2.0)


def test_under_a_protected_sum_the_rows_of_all_give_the_rate() -> None:
    data = result(9.0, 2.0, 2.0, 2.0)
    for each in data["rounds"]:
        del each["sites"]["anna"]["examples"]
    data |= {
        "participants": [{"name": "anna", "train_rows": None}] * 4,
        "prepare": {"totals": {"train_rows": 400}},
    }
    assert work_rate(data, "anna")[1].value == pytest.approx(100.0)


def test_one_round_is_a_rate_that_is_in_doubt() -> None:
    assert not work_rate(result(2.0), "anna")[1].reliable


def test_rounds_that_were_lost_or_not_taken_part_in_do_not_count() -> None:
    assert work_rate(result(1.0, 1.0, 50.0, None, 1.0, 1.0, lost=(3,)), "anna")[1].samples == 3


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (result(1.0, kind="psi"), "comes from a run of training"),
        ({}, "comes from a run of training"),
        (result(), "trained in no round"),
        (result(None, None), "trained in no round"),
    ],
)
def test_a_run_without_the_participants_training_is_refused(data: dict[str, Any], said: str) -> None:
    with pytest.raises(JobError, match=said):
        work_rate(data, "anna")
    with pytest.raises(JobError):
        work_rate(result(1.0, 1.0), "carl")


def test_a_run_that_cannot_say_when_it_began_has_a_rate_of_no_known_age() -> None:
    data = json.loads(json.dumps(result(1.0, 1.0, 1.0, 1.0)))
    data["started"] = "some day"
    assert work_rate(data, "anna")[1].age() is None
