"""The label holder's side of joint scores: new customers from a file, connections to the partners, scores to a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy.typing as npt
import pyarrow as pa

from fedcore.errors import JobError, did_you_mean
from fedcore.jobs.datasets import CsvData, DataSet, ParquetData
from fedcore.jobs.participant import Participant
from fedcore.participant.data.catalogue import read_table
from fedcore.participant.serving import peer_of, read_keyed, session_of
from fedcore.peer.grpc_channel import GrpcChannel
from fedcore.trust.identity import Identity
from fedcore.vertical.keyed_rows import Blocks, keys_in_order
from fedcore.vertical.package import About, Package
from fedcore.vertical.scorecard import Card
from fedcore.vertical.scoring import Scorer, part_of
from fedcore.vertical.table import Table


@dataclass
class Asking:
    """The label holder's connections to the partners of a model, open for any number of requests.

    Args:
        participant: The label holder.
        package: Its part of a model.
        identity: Its key.
        at: Where each partner serves, `host:port` by name; what the participant's `peers` say where absent.
        deadline: Seconds to connect.

    Raises:
        JobError: A partner has no address.
        IdentityError: A partner's key is not pinned here, or another key answered.
        PeerLost: A partner does not answer.
        ProtocolError: A partner has another part.
    """

    participant: Participant
    package: Package
    identity: Identity
    at: dict[str, str] = field(default_factory=dict)
    deadline: float = 30.0

    def __post_init__(self) -> None:
        about = self.package.about
        if about.party != self.participant.name:
            raise JobError(
                f"the model is the part of {about.party}; {self.participant.name} scores with its own"
            )
        for name in self.at:
            if name not in about.partners:
                raise JobError(
                    f"--at: {name!r} is no partner of the model; {did_you_mean(name, about.partners)}"
                )
        self._channels: dict[str, GrpcChannel] = {}
        try:
            for name in about.partners:
                peer = peer_of(self.participant, name)
                address = self.at.get(name) or self.participant.peers[name].address
                if address is None:
                    raise JobError(f"nobody says where {name} serves; give --at {name}=HOST:PORT")
                self._channels[name] = GrpcChannel.connect(
                    address,
                    identity=self.identity,
                    peer=peer,
                    session=session_of(about),
                    deadline=self.deadline,
                )
            self.scorer = Scorer(self.package, self._channels)
        except BaseException:
            for channel in self._channels.values():
                channel.abort()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.scorer.close()
        for channel in self._channels.values():
            if kind is None:
                channel.close()
            else:
                channel.abort()


def read_new(file: Path, about: About) -> tuple[Blocks, Table, dict[str, list[Any]]]:
    """New customers from a file.

    Args:
        file: `.csv` or `.parquet`, with the label holder's key and the columns of its part.
        about: Of the label holder's part.

    Returns:
        Keys (n, 2) uint64, columns, and the key columns' values for the result.

    Raises:
        DataError: It cannot be read, lacks a column, or a row has no key.
        JobError: It is of another kind.
    """
    if file.suffix == ".parquet":
        data: DataSet = ParquetData(connector="parquet", path=file)
    elif file.suffix in (".csv", ".gz"):
        data = CsvData(connector="csv", path=file)
    else:
        raise JobError(f"--in: {file} is neither .csv nor .parquet; write new customers as one of them")
    blocks, rows, table = read_keyed(data, about)
    shown = read_table(data, list(about.key))
    return (
        keys_in_order(blocks, rows, len(table)),
        table,
        {name: shown.column(name).to_pylist() for name in about.key},
    )


def reasons_of(package: Package, table: Table, most: int) -> list[str]:
    """For each row, the own variables of a scorecard that cost it most points, as one text.

    The partners' variables are not among them: their reasons would tell their bins.

    Raises:
        JobError: The model is no scorecard.
    """
    part = part_of(package)
    if not isinstance(part, Card):
        raise JobError(
            f"--reasons: only a scorecard has reasons; {package.about.model} is {package.about.kind}"
        )
    return [
        "; ".join(f"{each.variable} {each.label} (-{each.lost})" for each in row)
        for row in part.reasons(table, most)
    ]


def write_scores(
    file: Path,
    keys: Mapping[str, list[Any]],
    values: Mapping[str, npt.NDArray[Any]],
    reasons: list[str] | None,
) -> None:
    """Keys and scores as CSV, or as Parquet where the file is called so.

    Raises:
        JobError: It cannot be written.
    """
    columns: dict[str, Any] = {name: pa.array(each) for name, each in keys.items()}
    for name, each in values.items():
        if each.ndim == 2:
            columns |= {f"{name} {place}": pa.array(each[:, place]) for place in range(each.shape[1])}
        else:
            columns[name] = pa.array(each)
    if reasons is not None:
        columns["reasons"] = pa.array(reasons)
    table = pa.table(columns)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".parquet":
            from pyarrow import parquet

            parquet.write_table(table, file)
        else:
            from pyarrow import csv

            csv.write_csv(table, file)
    except OSError as error:
        raise JobError(f"--out: {file} cannot be written ({error}); choose another place") from error
