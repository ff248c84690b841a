"""Run every benchmark and write its tables into docs/benchmarks.md; `--only NAME` for one of them."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.common import ROOT, report_from

PAGE = ROOT / "docs" / "benchmarks.md"
BENCHMARKS = {
    "engines": ["--participants", "100", "--rounds", "10", "--table"],
    "sessions": ["--repeats", "3"],
    "pfl_cifar_shape": [],
    "flower_overhead": [],
    "channel": [],
    "psi": ["--table", "--peer", "spu", "--repeats", "1"],
    "secure_aggregation": ["--participants", "100", "--parameters", "1000000", "--dropout", "0.1"],
    "vertical": ["--repeats", "3"],
    "analytics": ["--sites", "100", "--rows", "1000000"],
    "private_training": [],
    "private_step": ["--opacus", ".fedcore/opacus"],
    "imaging": [],
    "gpu": [],
    "placement": ["--instances", "20", "--largest", "5"],
    "placement_clock": ["--seeds", "20"],
    "placement_prediction": ["--rounds", "8", "--repeats", "3"],
}


def main() -> int:
    """Zero when every benchmark ran; a missed target is no failure, it stands in the page as missed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", choices=sorted(BENCHMARKS), action="append")
    chosen = options.parse_args().only or list(BENCHMARKS)
    failed = False
    for name in chosen:
        command = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), *BENCHMARKS[name], "--json"]
        print(f"{name} ...", file=sys.stderr, flush=True)
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        if ended.returncode != 0:
            print(f"{name} ended with {ended.returncode}", file=sys.stderr)
            failed = True
            continue
        write(PAGE, name, tables(ended.stdout))
    return int(failed)


def tables(printed: str) -> str:
    """A benchmark's tables and settings as Markdown, from the JSON object that it printed."""
    told = json.loads(printed)
    settings = json.dumps(told["settings"], indent=1, ensure_ascii=False)
    return f"{report_from(told).markdown()}\n```json\n{settings}\n```\n"


def write(page: Path, name: str, text: str) -> None:
    """Put text between the page's markers for a benchmark.

    Raises:
        ValueError: The page has no such markers.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    content = page.read_text()
    if begin not in content or end not in content:
        raise ValueError(f"{page.name} has no place for {name}: add the lines {begin} and {end}")
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    page.write_text(pattern.sub(lambda _: f"{begin}\n\n{text}\n{end}", content))


if __name__ == "__main__":
    sys.exit(main())
