"""Two parties of an intersection in one process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from fedcore.errors import FedcoreError, PeerLost, ProtocolFailed
from fedcore.participant.data.batches import file_data
from fedcore.participant.intersection import ROWS, Side, intersect
from fedcore.peer.memory import MemoryChannel

KEY = ("id",)


def table(folder: Path, name: str, columns: dict[str, Any]) -> Path:
    """A file with these columns; its suffix says which kind."""
    file = folder / name
    data = pa.table(columns)
    if file.suffix == ".csv":
        pc.write_csv(data, file)
    else:
        pq.write_table(data, file)
    return file


class Pair:
    """Two parties with a file each; `run` gives both results, or what each raised."""

    def __init__(self, folder: Path, left: dict[str, Any], right: dict[str, Any]) -> None:
        self.folder = folder
        self.files = (table(folder, "left.parquet", left), table(folder, "right.parquet", right))
        self.out = (folder / "out-left", folder / "out-right")
        self.options: tuple[dict[str, Any], dict[str, Any]] = ({}, {})

    def side(self, number: int, **options: Any) -> Side:
        given = {
            "role": ("receiver", "sender")[number],
            "data": file_data(self.files[number]),
            "key": KEY,
            "session": "a test",
            "protocol": "ecdh",
            **options,
            **self.options[number],
        }
        return Side(**given)

    def told(self, **options: Any) -> list[Any]:
        """Results and errors."""
        ends = MemoryChannel.pair()
        sides = [self.side(number, **options) for number in (0, 1)]

        def party(number: int) -> Any:
            try:
                return intersect(lambda: ends[number], sides[number], self.out[number])
            except FedcoreError as error:
                ends[number].abort()
                return error

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(party, (0, 1)))

    def run(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        left, right = self.told(**options)
        for each in (left, right):
            if isinstance(each, Exception):
                raise each
        return left, right

    def refused(self, **options: Any) -> str:
        """The message of the side that found it; the other says the same, or that it was left alone."""
        told = self.told(**options)
        assert all(isinstance(each, ProtocolFailed | PeerLost) for each in told)
        assert self.nothing_written()
        return str(next(each for each in told if isinstance(each, ProtocolFailed)))

    def nothing_written(self) -> bool:
        return not [file for folder in self.out for file in folder.glob("*")]

    def rows(self, number: int) -> list[tuple[int, int]]:
        """Row and match, as they were written."""
        found = pq.read_table(self.out[number] / ROWS).to_pydict()
        return list(zip(found["row"], found["match"], strict=True))


def matched(pair: Pair, left: list[Any], right: list[Any]) -> None:
    """The rows that were written at both sides are those that Python finds, and belong together."""
    groups: list[dict[int, set[Any]]] = []
    for number, values in ((0, left), (1, right)):
        written = pair.rows(number)
        other = right if number == 0 else left
        shared = {value for value in values if value is not None} & set(other)
        assert sorted(row for row, _ in written) == [
            row for row, value in enumerate(values) if value in shared
        ]
        by_match: dict[int, set[Any]] = {}
        for row, match in written:
            by_match.setdefault(match, set()).add(values[row])
        groups.append(by_match)
    assert groups[0] == groups[1] and all(len(values) == 1 for values in groups[0].values())
