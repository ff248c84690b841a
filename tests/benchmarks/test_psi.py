"""The benchmark of set intersection: its identifiers, its check, and its measuring of two processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.common import SIDES, shown
from benchmarks.psi_costs import CONNECTING, crossings
from benchmarks.sides.psi_ids import SIDES as PARTIES
from benchmarks.sides.psi_ids import csv_is_exact, file_of, generate, ids, rows_are_exact


def test_identifiers_are_distinct_and_those_of_splitmix64() -> None:
    # The first outputs of the generator whose state begins at 0, from its author's C program.
    step = 0x9E3779B97F4A7C15
    assert int(ids(0, 1)[0]) == 0xE220A8397B1DCDAF
    assert int(ids(step, 1)[0]) == 0x6E789E6AA1B965F4
    assert len(np.unique(ids(0, 10_000))) == 10_000


@pytest.mark.parametrize("count", [10, 11])
def test_both_files_have_the_same_rows_and_the_sides_share_half(count, tmp_path: Path) -> None:
    generate(tmp_path, count, csv=True)
    found = []
    for side in PARTIES:
        rows = pq.read_table(file_of(tmp_path, side, count, "parquet"))["id"].to_pylist()
        assert file_of(tmp_path, side, count, "csv").read_text().split() == ["id", *map(str, rows)]
        found.append(set(rows))
    assert len(found[0]) == len(found[1]) == count
    assert found[0] & found[1] == set(ids(count // 2, count - count // 2).tolist())


@pytest.mark.parametrize(
    ("change", "exact"),
    [
        (lambda rows: rows, True),
        (lambda rows: rows[::-1], True),
        (lambda rows: rows[1:], False),
        (lambda rows: [*rows, rows[0]], False),
        (lambda rows: [rows[1], *rows[1:]], False),
    ],
    ids=["as they are", "another order", "one lacks", "one too many", "one twice for another"],
)
def test_an_intersection_is_exact_only_when_each_row_is_there_once(change, exact, tmp_path: Path) -> None:
    generate(tmp_path, 20, csv=False)
    left, right = (
        pq.read_table(file_of(tmp_path, side, 20, "parquet"))["id"].to_pylist() for side in PARTIES
    )
    rows = change([i for i, one in enumerate(left) if one in right])
    pq.write_table(pa.table({"row": rows}), tmp_path / "rows.parquet")
    (tmp_path / "found.csv").write_text("\n".join(["id", *(str(left[i]) for i in rows)]) + "\n")
    assert rows_are_exact(tmp_path, 20, tmp_path / "rows.parquet") is exact
    assert csv_is_exact(20, tmp_path / "found.csv") is exact


def pair(folder: Path, *programs: str, deadline: float = 60) -> dict:
    plan = {
        "commands": [[sys.executable, "-c", program] for program in programs],
        "logs": [str(folder / "one.log"), str(folder / "two.log")],
        "deadline": deadline,
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    command = [
        sys.executable,
        str(SIDES / "psi_pair.py"),
        str(folder / "plan.json"),
        str(folder / "told.json"),
    ]
    subprocess.run(command, check=True, timeout=60)
    return json.loads((folder / "told.json").read_text())


def test_processor_time_and_memory_are_those_of_each_party_with_its_children(tmp_path: Path) -> None:
    hold = "import time; kept = b'x' * (96 << 20); time.sleep(0.5)"
    work = "import time\nwhile time.process_time() < 0.5: pass"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}])"
    found = pair(tmp_path, hold, child)
    one, other = found["parties"]
    assert one["status"] == other["status"] == 0
    assert one["peak"] > 96 << 20 > other["peak"]
    assert other["cpu"] >= 0.5 > one["cpu"]
    assert found["seconds"] == max(one["seconds"], other["seconds"])


def test_a_party_whose_other_failed_is_ended(tmp_path: Path) -> None:
    found = pair(tmp_path, "raise SystemExit(3)", "import time; time.sleep(60)")
    assert [party["status"] for party in found["parties"]] == [3, -9]


def test_parties_that_are_late_are_ended(tmp_path: Path) -> None:
    sleep = "import time; time.sleep(60)"
    assert [party["status"] for party in pair(tmp_path, sleep, sleep, deadline=0.2)["parties"]] == [-9, -9]


def test_more_items_wait_for_more_messages_only_where_batches_take_turns() -> None:
    assert crossings("vole", 10**8) == crossings("vole", 1) > CONNECTING
    assert crossings("ecdh", 10 * 2**14) == crossings("ecdh", 1) + 18


def test_a_cell_for_two_parties_shows_both() -> None:
    assert shown([1.25, None, 3]) == "1.25 +  + 3"
