"""Power: counted where it is counted, and otherwise said to be an estimate."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.network.power import EnergyCounters, idle_samples, power, processor_name


def rapl(folder: Path, name: str, label: str, microjoules: int, most: int = 10**9) -> Path:
    here = folder / name
    here.mkdir(parents=True)
    (here / "name").write_text(f"{label}\n")
    (here / "energy_uj").write_text(f"{microjoules}\n")
    (here / "max_energy_range_uj").write_text(f"{most}\n")
    return here / "energy_uj"


def test_packages_and_memory_are_counted_and_parts_of_a_package_are_not(tmp_path: Path) -> None:
    one = rapl(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    two = rapl(tmp_path, "intel-rapl:0:1", "dram", 0)
    rapl(tmp_path, "intel-rapl:0:0", "core", 0)
    counters = EnergyCounters(tmp_path)
    assert sorted(name for name in counters.names if name.startswith("RAPL")) == [
        "RAPL 0 package-0",
        "RAPL 0:1 dram",
    ]
    before = counters.read()
    one.write_text("31000000\n")
    two.write_text("10000000\n")
    assert counters.watts(before, counters.read(), 2.0) == pytest.approx(20, abs=1e-9)


def test_a_counter_that_began_again_is_put_right(tmp_path: Path) -> None:
    one = rapl(tmp_path, "intel-rapl:0", "package-0", 999_000_000)
    counters = EnergyCounters(tmp_path)
    before = counters.read()
    one.write_text("4000000\n")
    assert counters.watts(before, counters.read(), 1.0) == pytest.approx(5)


def test_a_counter_that_may_not_be_read_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rapl(tmp_path, "intel-rapl:0", "package-0", 1)
    read = Path.read_text

    def refuse(self: Path, *told: object, **more: object) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(self)

    monkeypatch.setattr(Path, "read_text", refuse)
    assert not [name for name in EnergyCounters(tmp_path).names if name.startswith("RAPL")]


def test_without_counters_nothing_is_sampled(tmp_path: Path) -> None:
    counters = EnergyCounters(tmp_path)
    counters.names = ()
    assert idle_samples(counters) == []


def told(**changed):
    return power(
        **{"idle": [], "load": [], "model": "", "cores": 4, "names": (), "accelerators": 0} | changed
    )


def test_counted_power_is_measured() -> None:
    found = told(idle=[50.0, 51, 52], load=[150.0, 151, 152], names=["RAPL 0 package-0"])
    assert (found["power.idle"].value, found["power.load"].value) == (51, 151)
    assert found["power.load"].source == "measured" and found["power.load"].reliable
    alone = told(idle=[50.0, 51, 52], load=[150.0, 151, 152], names=["NVML 0"])
    assert "the processor is not in it" in alone["power.load"].doubt


def test_a_known_processor_has_its_design_power_declared() -> None:
    found = told(model="AMD EPYC 7763 64-Core Processor")
    assert (found["power.load"].value, found["power.load"].source) == (280.0, "declared")
    assert found["power.idle"].source == "derived" and found["power.idle"].value == pytest.approx(
        280 * 0.74 / 3.5
    )


def test_an_unknown_one_is_derived_from_its_cores_and_says_so() -> None:
    found = told(model="Some Processor")
    assert (found["power.idle"].value, found["power.load"].value) == (pytest.approx(2.96), pytest.approx(14))
    assert {each.source for each in found.values()} == {"derived"} and "4 cores" in found["power.load"].method
    assert "accelerators are not in it" in told(accelerators=2)["power.load"].doubt


def test_the_processors_name_is_the_systems(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor: 0\nmodel name\t: Some: Processor\nflags: x\n")
    assert processor_name(tmp_path / "cpuinfo") == "Some: Processor"
    assert isinstance(processor_name(tmp_path / "absent"), str)
