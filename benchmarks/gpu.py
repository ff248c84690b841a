"""Every kernel beside its reference, its floor and its peer, and private training beside plain training, on one GPU.

    python benchmarks/gpu.py --json                                   # ends within eight minutes, with what it has by then
    python benchmarks/gpu.py --opacus .fedcore/opacus --json          # with Opacus beside, where it is installed
    python benchmarks/gpu.py --quick --parts norms masking            # smaller sizes, two parts

Needs torch 2.8 or newer and Triton 3 or newer, and nothing of fedcore's other requirements. Each part runs in a process of its
own, so that a kernel that breaks the device leaves the others to be measured; its traceback stands in `absent`, and the command
ends with 1. It ends with 1 also where something is computed wrong, and with 0 where a target of speed is missed.

A kernel is compared with a reference at odd sizes: of the same bits where it says so, and in float64 on the CPU otherwise. The
value of such a target is the worst difference over what is allowed. Its time is a median by CUDA events, with the second cache
flushed before each repetition; its floor is the longest of the times that its bytes, products and whole-number operations take
at the rates measured in the same run; its peer is the same in plain torch.

Without a GPU the comparisons run through Triton's interpreter at small sizes, or on the ways in plain torch where there is no
Triton; no times are taken, and their targets stand in `absent`. Opacus: see `benchmarks/private_step.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    # Where fedcore is not installed its folder is not on the path.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import ROOT, Report, Target, parser, progress
from benchmarks.gpu_targets import ON_A_CPU, PARTS, Part, right

LIMIT = 465.0
"""Seconds for all parts together; below the eight minutes of the command by what starting and printing take."""
_GRACE = 15.0


def main(arguments: list[str] | None = None) -> Report:
    """Measure and tell."""
    given = _options(arguments)
    if given.write is not None:
        _here(given.parts[0], given, given.ceilings, given.seconds)
        return Report("gpu", {})
    report = Report("gpu", {"size": given.size, "parts": given.parts, "seconds": {}, "failed": [], "log": []})
    began, ceilings = time.monotonic(), None
    values: dict[str, float] = {}
    for name in given.parts:
        progress(name, given.json)
        left = LIMIT - (time.monotonic() - began)
        started = time.monotonic()
        found = (_here if given.together else _apart)(name, given, ceilings, left)
        report.settings["seconds"][name] = round(time.monotonic() - started, 1)
        ceilings = found.get("ceilings") or ceilings
        values |= found.get("values", {})
        report.figures += found.get("figures", [])
        report.absent |= found.get("absent", {})
        report.settings["failed"] += found.get("failed", [])
        report.settings["log"] += [
            each for each in found.get("log", []) if each not in report.settings["log"]
        ]
        report.settings["size"] = found.get("size", report.settings["size"])
        report.settings.setdefault("machine", found.get("machine", {}))
        timing = found.get("timing", False)
        _targets(report, name, PARTS[name], values, timing)
    report.settings["wall seconds"] = round(time.monotonic() - began, 1)
    report.tell(given.json)
    return report


def _options(arguments: list[str] | None) -> Any:
    import argparse

    options = parser(__doc__)
    options.add_argument("--opacus", type=Path, help="folder that Opacus is installed in, if it is in one")
    options.add_argument(
        "--quick", action="store_const", dest="size", const="quick", default="full", help="smaller sizes"
    )
    options.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    hidden = argparse.SUPPRESS
    # For tests: sizes of a toy; the lines that take times, on a CPU; all parts in this process.
    options.add_argument("--tiny", action="store_const", dest="size", const="tiny", help=hidden)
    options.add_argument("--pretend", action="store_true", help=hidden)
    options.add_argument("--together", action="store_true", help=hidden)
    # One part in this process: where to write, what is known, how long there is.
    options.add_argument("--write", type=Path, help=hidden)
    options.add_argument("--ceilings", type=json.loads, help=hidden)
    options.add_argument("--seconds", type=float, default=LIMIT, help=hidden)
    return options.parse_args(arguments)


def _targets(report: Report, name: str, part: Part, values: dict[str, float], timing: bool) -> None:
    """Those of a part; what is absent says why."""
    bounds = [(right(kernel), "at_most", 1.0) for kernel in part.kernels] + list(part.bounds)
    broken = report.absent.get(f"part {name}")
    for target, kind, bound in bounds:
        value = values.get(target)
        report.targets.append(Target(target, value, **{kind: bound}))
        if value is None:
            timed = target in [each for each, _, _ in part.bounds]
            reason = ON_A_CPU if timed and not timing else "see what else of this part is absent"
            report.absent[target] = broken.splitlines()[-1] if broken else reason


def _apart(name: str, given: Any, ceilings: Any, left: float) -> dict[str, Any]:
    """What a process of its own found."""
    if left < _GRACE:
        return _broken(name, "no time was left for it")
    seconds = min(PARTS[name].seconds, left - _GRACE / 2)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "found.json"
        words = [
            "--parts",
            name,
            "--write",
            str(place),
            "--seconds",
            str(seconds),
            "--cores",
            str(given.cores),
        ]
        words += {"full": [], "quick": ["--quick"], "tiny": ["--tiny"]}[given.size]
        words += ["--pretend"] if given.pretend else []
        words += ["--ceilings", json.dumps(ceilings)] if ceilings else []
        words += ["--opacus", str(given.opacus.resolve())] if given.opacus else []
        try:
            ended = subprocess.run(
                [sys.executable, "-m", "benchmarks.gpu", *words],
                cwd=ROOT,
                env=_environment(given),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                timeout=min(seconds + _GRACE, left),
            )
        except subprocess.TimeoutExpired:
            return _broken(name, f"it did not end within {seconds:.0f} seconds and was stopped", place)
        if ended.returncode != 0:
            return _broken(name, f"it ended with {ended.returncode}: {ended.stderr[-2000:]}", place)
        return _read(place)


def _broken(name: str, why: str, place: Path | None = None) -> dict[str, Any]:
    """What was found until then, and what went wrong."""
    found = _read(place) if place is not None and place.exists() else {}
    found["absent"] = found.get("absent", {}) | {f"part {name}": why}
    found["failed"] = [*found.get("failed", []), f"part {name}"]
    return found


def _read(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(place.read_text())
    return found


def _write(place: Path, found: dict[str, Any]) -> None:
    """Whole or not at all: the process may be stopped in the middle."""
    beside = place.with_suffix(".new")
    beside.write_text(json.dumps(found, allow_nan=False))
    beside.replace(place)


def _environment(given: Any) -> dict[str, str]:
    """Triton reads at its import whether it interprets."""
    found = dict(os.environ)
    if given.pretend:
        return found | {"FEDCORE_KERNELS": "torch", "CUDA_VISIBLE_DEVICES": ""}
    return found


# ---- one part, in this process -----------------------------------------------------------------------------------


def _here(name: str, given: Any, ceilings: Any, seconds: float) -> dict[str, Any]:
    """What a part finds."""
    import importlib
    import traceback

    import torch

    from benchmarks.gpu_bench import Bench, Ceilings, Log, facts, has_triton

    part = PARTS[name]
    cuda = torch.cuda.is_available() and not given.pretend
    if not cuda:
        torch.set_num_threads(given.cores)
        if not given.pretend and has_triton() and part.interpreted:
            os.environ |= {"TRITON_INTERPRET": "1", "FEDCORE_KERNELS": "interpret"}
    bench = Bench(
        torch.device("cuda:0" if cuda else "cpu"),
        given.size if cuda or given.size == "tiny" else "quick",
        cuda or given.pretend,
        time.monotonic() + seconds,
        Ceilings(**ceilings) if ceilings else None,
    )
    machine = facts(bench.device)
    with Log.listening() as messages:

        def told(bench: Bench) -> dict[str, Any]:
            return bench.told() | {"log": messages, "machine": machine}

        if given.write is not None:
            bench.keep = lambda bench: _write(given.write, told(bench))
        try:
            module = importlib.import_module(f"benchmarks.{part.module}")
            if given.opacus is not None and str(given.opacus) not in sys.path:
                # Last, and after our own: its wheel brings a package named `benchmarks`.
                sys.path.append(str(given.opacus))
            getattr(module, part.function)(bench, *part.arguments)
        except Exception:
            bench.absent[f"part {name}"] = traceback.format_exc(limit=-6)
            bench.failed.append(f"part {name}")
        if cuda and any("does not run here" in each for each in messages):
            bench.failed.append(f"part {name}: a kernel does not run here; the log says why")
        bench.done()
        return told(bench)


if __name__ == "__main__":
    made = main()
    wrong = [each.name for each in made.targets if each.name.endswith("of what is allowed") and not each.met]
    sys.exit(1 if made.settings.get("failed") or any(each not in made.absent for each in wrong) else 0)
