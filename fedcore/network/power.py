"""What a node draws, idle and at work: counted where the hardware counts, else from a table, else from a stated model.

Counters: RAPL for the packages of the processor (Linux, where the file may be read: most systems keep it for root),
NVML for NVIDIA accelerators. Both count the chip and not the machine around it, which the method says. Without them
the processor's thermal design power is taken for its load; for a processor that no table has, so many watts a core.

Source: watts a core, idle 0.74 and at work 3.5: Cloud Carbon Footprint, methodology, mean of the processors of AWS
(measured by SPECpower). Thermal design power: codecarbon's table.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedcore.network.carbon import thermal_design_power
from fedcore.network.quantity import Quantity, declared, derived, doubted, measured

IDLE_W_PER_CORE, LOAD_W_PER_CORE = 0.74, 3.5
_RAPL = Path("/sys/class/powercap")

Joules = Mapping[str, float]
"""Energy counted so far, by the chip that counted it."""


class EnergyCounters:
    """The counters of this machine; it may have none.

    Args:
        rapl: Folder of the power caps.

    Attributes:
        names: Of the chips that count.
    """

    def __init__(self, rapl: Path = _RAPL) -> None:
        self._read: dict[str, Callable[[], float]] = {}
        self._wraps: dict[str, float] = {}
        for folder in sorted(rapl.glob("intel-rapl:[0-9]*")):
            # Packages, and the memory beside them; cores and graphics are parts of a package.
            name = _text(folder / "name")
            if name is None or not (name.startswith("package") or name == "dram"):
                continue
            if _joules(folder / "energy_uj") is not None:
                label = f"RAPL {folder.name.removeprefix('intel-rapl:')} {name}"
                self._read[label] = lambda file=folder / "energy_uj": _joules(file) or 0.0  # type: ignore[misc]
                self._wraps[label] = (_joules(folder / "max_energy_range_uj")) or 0.0
        self._read |= _accelerators()
        self.names = tuple(self._read)

    def read(self) -> Joules:
        """Energy counted so far."""
        return {name: counter() for name, counter in self._read.items()}

    def watts(self, before: Joules, after: Joules, seconds: float) -> float:
        """Mean power between two readings; a counter that began again at zero meanwhile is put right."""
        total = 0.0
        for name, first in before.items():
            used = after[name] - first
            total += used if used >= 0 else used + self._wraps.get(name, 0.0)
        return total / seconds


def idle_samples(counters: EnergyCounters, windows: int = 3, seconds: float = 0.1) -> list[float]:
    """Power in W while nothing is done, over a few windows; none where nothing counts."""
    found = []
    for _ in range(windows if counters.names else 0):
        began, before = time.perf_counter(), counters.read()
        time.sleep(seconds)
        found.append(counters.watts(before, counters.read(), time.perf_counter() - began))
    return found


def power(
    idle: Sequence[float],
    load: Sequence[float],
    *,
    model: str,
    cores: float,
    names: Sequence[str],
    accelerators: int,
) -> dict[str, Quantity]:
    """`power.idle` and `power.load` of a node, in W.

    Args:
        idle, load: What counters saw, in W; empty where there are none.
        model: The processor's name, as the system gives it.
        cores: That may be used.
        names: Of the counters.
        accelerators: How many the node has; in doubt where none of the counters is one's.
    """
    if idle and load:
        how = f"counted by {', '.join(names)}: the chips, not the machine around them"
        found = {"power.idle": measured(idle, "W", how), "power.load": measured(load, "W", how)}
        without = not any(name.startswith("RAPL") for name in names)
        return (
            {name: doubted(each, "the processor is not in it") for name, each in found.items()}
            if without
            else found
        )
    tdp = thermal_design_power(model)
    if tdp is not None:
        full = declared(tdp[1], "W", f"thermal design power of {tdp[0]}, the whole chip (codecarbon's table)")
        share = IDLE_W_PER_CORE / LOAD_W_PER_CORE
        low = derived(tdp[1] * share, "W", f"{share:.2f} of the load, as cloud servers draw", full)
    else:
        full = derived(LOAD_W_PER_CORE * cores, "W", f"{LOAD_W_PER_CORE} W for each of {cores:g} cores")
        low = derived(IDLE_W_PER_CORE * cores, "W", f"{IDLE_W_PER_CORE} W for each of {cores:g} cores")
    found = {"power.idle": low, "power.load": full}
    if accelerators:
        found = {name: doubted(each, "the accelerators are not in it") for name, each in found.items()}
    return found


def processor_name(file: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, as the system gives it; empty where it does not."""
    with contextlib.suppress(OSError):
        for line in file.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    import platform

    return platform.processor()


def _text(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        return None


def _joules(file: Path) -> float | None:
    text = _text(file)
    return int(text) / 1e6 if text is not None and text.isdigit() else None


def _accelerators() -> dict[str, Callable[[], float]]:
    """Counters of NVIDIA accelerators, by NVML; none where it is not there or the chip does not count."""
    try:
        import pynvml
    except ImportError:
        return {}
    found: dict[str, Callable[[], float]] = {}
    try:
        pynvml.nvmlInit()
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle: Any = pynvml.nvmlDeviceGetHandleByIndex(index)
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)

            def joules(handle: Any = handle) -> float:
                return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3

            found[f"NVML {index}"] = joules
    except pynvml.NVMLError:
        return found
    return found
