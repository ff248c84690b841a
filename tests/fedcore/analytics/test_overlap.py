"""Overlapping queries: no difference of what one asker was told isolates fewer rows than the minimum."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.analytics.local import row_sets
from fedcore.analytics.overlap import Told, admit, refuse_isolating, told
from fedcore.analytics.query import Query
from fedcore.analytics.source import Source
from fedcore.errors import DataError, PolicyRefused

START = Query("lung").count()
ROWS = 200
SOURCE = Source(
    "lung",
    pa.table(
        {
            "age": [*range(20, 20 + ROWS)],
            "sex": ["f", "m"] * (ROWS // 2),
            "stage": [at // 50 for at in range(ROWS)],
            "rare": [0] * (ROWS - 2) + [1] * 2,
        }
    ),
)


def ask(file: Path, query: Query, asker: str = "anna") -> None:
    admit(file, asker, query, row_sets(query, SOURCE), minimum=5)


def test_a_difference_with_an_earlier_query_is_refused_and_the_earlier_one_named(tmp_path: Path) -> None:
    file, first = tmp_path / "told.jsonl", START.where("age", "<", 100)
    ask(file, first)
    with pytest.raises(PolicyRefused, match=f"{first.hash[:12]}.*lung where age < 100.*fewer than 5 rows"):
        ask(file, START.where("age", "<", 102))
    with pytest.raises(PolicyRefused, match=r"lung where age < 100"):
        ask(file, START.where("age", "<", 97))
    ask(file, START.where("age", "<", 105))


def test_the_record_outlives_a_restart(tmp_path: Path) -> None:
    # Nothing is kept but the file: each call reads it anew.
    ask(tmp_path / "told.jsonl", START)
    assert [each.text for each in told(tmp_path / "told.jsonl", "anna", "lung")] == ["lung: count(*)"]
    with pytest.raises(PolicyRefused):
        ask(tmp_path / "told.jsonl", START.where("age", ">", 21))


def test_groups_of_one_query_against_the_total_of_another(tmp_path: Path) -> None:
    file = tmp_path / "told.jsonl"
    ask(file, START.group_by("rare"))  # two rows are suppressed
    with pytest.raises(PolicyRefused, match="lung by rare"):
        ask(file, START)
    turned = tmp_path / "turned.jsonl"
    ask(turned, START)
    with pytest.raises(PolicyRefused, match=r"lung: count"):
        ask(turned, START.group_by("rare"))


def test_a_few_rows_of_two_groups_of_an_earlier_query(tmp_path: Path) -> None:
    file = tmp_path / "told.jsonl"
    ask(file, START.group_by("stage"))
    # All of stages 0 and 1 but one row of each: neither row is told by itself, the two together are.
    with pytest.raises(PolicyRefused, match="lung by stage"):
        ask(file, START.where("age", "between", [21, 118]))


def test_three_queries_that_isolate_together_and_not_in_pairs(tmp_path: Path) -> None:
    file = tmp_path / "told.jsonl"
    # (a or b) and (b or c) and (a or c) give each by half the sum: none of them lies within another.
    a, b, c = (("age", "<", 24), ("age", "between", [60, 99]), ("age", "between", [120, 160]))
    sets = [row_sets(START.where(*each), SOURCE)[()] for each in (a, b, c)]
    pairs = [sets[0] | sets[1], sets[1] | sets[2], sets[0] | sets[2]]
    admit(file, "anna", START.where("age", "=", 1), {(): pairs[0]})
    admit(file, "anna", START.where("age", "=", 2), {(): pairs[1]})
    with pytest.raises(PolicyRefused, match="age = 1"):
        admit(file, "anna", START.where("age", "=", 3), {(): pairs[2]})


def test_the_same_query_again_another_asker_and_another_data_set_are_free(tmp_path: Path) -> None:
    file = tmp_path / "told.jsonl"
    ask(file, START.group_by("sex"))
    ask(file, START.group_by("sex"))
    ask(file, START.group_by("stage"))
    ask(file, START.where("age", "<", 217), "bert")
    with pytest.raises(PolicyRefused):
        ask(file, START.where("age", "<", 217))


def test_a_refused_query_is_not_counted_as_told(tmp_path: Path) -> None:
    file = tmp_path / "told.jsonl"
    ask(file, START)
    with pytest.raises(PolicyRefused):
        ask(file, START.where("age", ">", 21))
    assert len(told(file, "anna", "lung")) == 1


def test_of_two_at_a_time_that_isolate_together_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "told.jsonl"

    def one(edge: int) -> bool:
        try:
            ask(file, START.where("age", "<", edge))
        except PolicyRefused:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        answered = list(pool.map(one, [100, 101, 102, 103]))
    assert sum(answered) == 1


def test_a_changed_record_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "told.jsonl"
    ask(file, START)
    ask(file, START.group_by("sex"))
    lines = file.read_text().splitlines()
    entry = json.loads(lines[0]) | {"sets": []}
    file.write_text("\n".join([json.dumps(entry), *lines[1:]]) + "\n")
    with pytest.raises(DataError, match="was changed"):
        ask(file, START.group_by("stage"))


SETS = st.lists(st.sets(st.integers(0, 11), min_size=3), min_size=1, max_size=7)


@settings(deadline=None, max_examples=150)
@given(SETS)
def test_what_is_admitted_never_gives_the_count_of_a_few_like_rows(found: list[set[int]]) -> None:
    before: list[Told] = []
    for at, members in enumerate(found):
        rows = sum(1 << each for each in members)
        try:
            refuse_isolating(before, [rows], 3)
        except PolicyRefused:
            continue
        before.append(Told("", f"{at}", "", (rows,)))
    sets = [each.sets[0] for each in before]
    matrix = np.array([[rows >> at & 1 for at in range(12)] for rows in sets])
    rank = np.linalg.matrix_rank(matrix)
    for atom in {tuple(column) for column in matrix.T if any(column)}:
        unit = np.all(atom == matrix.T, axis=1).astype(int)
        told_exactly = np.linalg.matrix_rank(np.vstack([matrix, unit])) == rank
        assert not told_exactly or unit.sum() >= 3
    for one, other in itertools.permutations(sets, 2):
        assert other & ~one or not 0 < (one & ~other).bit_count() < 3
