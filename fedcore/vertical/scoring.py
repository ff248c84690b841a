"""Scores of new customers from models that stay apart: the label holder asks by key, each partner adds its part.

One channel to each partner, over which any number of requests go, one after another:

    hello                                     both ways        run, model, kind: the parts must belong together
    score.ask     16 n bytes                  holder, partner  keys of n customers; none ends the session
    score.told    8 bytes, or 8 + 8 n bytes   partner, holder  how many of them the partner does not have, and, for
                                                               `scorecard` and `linear`, its part of each score
    boost.sides                               partner, holder  `boosting`: see `fedcore.vertical.boosting.predict`
    hello, split.predict                      both ways        `split-network`: see `fedcore.vertical.split_messages`

    scorecard   a part is the sum of the partner's points; the score is the sum of all parts and of the own points
    linear      a part is what the partner's columns add to the linear predictor: see `fedcore.vertical.linear_part`
    boosting    one bit for each of the partner's splits and row
    split-network   the partner's activations of each row

WHO LEARNS WHAT. A partner learns which customers are asked for and when: a key is a hash of 128 bits, which whoever
has a list of customers, or can try all numbers of a kind, turns back. It learns no score and no column of the label
holder. The label holder learns the partner's part of each score: with `scorecard` a whole number, which few
combinations of bins give and which, with few variables, tells the bins; with `linear` the same at 8 bits after the
point (at 32 with the linear link, which mostly tells all bins, or with one column on values the value itself); with `boosting` the bits; with
`split-network` the activations, from which it may rebuild columns. And it
learns how many of the customers in a request the partner does not have: in a request of one, whether it has that one.
A customer that a partner does not have is scored as if all of its values were missing. Nothing here bounds how many
customers are asked for; the partner's evidence has every request.

ASSUMPTION. Parties that follow the protocol; the channel is authenticated and encrypted. A partner that sends a wrong
part is not noticed.

COST. One round trip per request, whatever its size (`split-network`: two); 24 bytes per customer for `scorecard` and `linear`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from crypto.channel import Channel, array_from, recv_array
from crypto.errors import ProtocolError
from fedcore.errors import DataError, JobError
from fedcore.peer.handshake import Hello, Option, shake_hands
from fedcore.vertical.boosted_part import Boosted
from fedcore.vertical.keyed_rows import Blocks, KeyedRows
from fedcore.vertical.linear_part import LinearPart, mean_of
from fedcore.vertical.network_part import Network
from fedcore.vertical.package import Package
from fedcore.vertical.scorecard import Card
from fedcore.vertical.table import Table

VERSION = 1
ASK, TOLD = "score.ask", "score.told"
MOST = 65536
"""Customers of one request; more are asked for in several."""
_LARGEST = 2**53
"""What no part of a score comes to; sums of hundreds of parties fit 64 bits."""

_CURES = {
    "run": "the parts come from different runs: both parties need those of one run",
    "model": "choose the same model at both",
    "kind": "the parts come from different runs: both parties need those of one run",
    "partner": "connect to the partners in the order of the job",
}


Adds: TypeAlias = Card | LinearPart
"""A part that adds a whole number to each row's score."""
Part: TypeAlias = Adds | Boosted | Network


@dataclass(frozen=True, eq=False)
class Scores:
    """Of some customers.

    Args:
        values: By name, each [n], in the order of the request: `score` (points), `predictor` or `margin`, and `expected`
            (a probability where the label is an event).
        unknown: How many of them each partner does not have, by its name.
    """

    values: dict[str, npt.NDArray[Any]]
    unknown: dict[str, int]


@dataclass
class Served:
    """What a partner answered so far.

    Args:
        requests, rows, unknown: In all.
    """

    requests: int = 0
    rows: int = 0
    unknown: int = 0


@dataclass(frozen=True)
class Latency:
    """Times of requests one after another, in milliseconds.

    Args:
        requests: How many.
        p50, p99: Half of them, and 99 of a hundred, took at most this.
        mean: On average.
    """

    requests: int
    p50: float
    p99: float
    mean: float

    def __str__(self) -> str:
        return f"{self.requests} requests, p50 {self.p50:.2f} ms, p99 {self.p99:.2f} ms"


def part_of(package: Package) -> Part:
    """What a package scores with.

    Raises:
        DataError: Its content is not of its kind.
    """
    about, content = package.about, package.content
    if about.kind == "boosting":
        return Boosted.from_dict(content, holder=about.role == "label holder")
    if about.kind == "split-network":
        return Network.from_parts(content, package.arrays)
    if about.kind == "linear":
        return LinearPart.from_dict(content)
    return Card.from_dict(content)


@dataclass
class Scorer:
    """The label holder's side: asks the partners and puts the scores together.

    Args:
        package: The label holder's part.
        channels: To each partner, by name; nothing was sent over them yet.
        part: That of the package when None.

    Raises:
        JobError: A partner of the model is missing, or the part is a partner's.
        ProtocolError: A partner has another part.
        PeerLost: A partner is gone.
    """

    package: Package
    channels: Mapping[str, Channel]
    part: Part | None = None

    def __post_init__(self) -> None:
        about = self.package.about
        if about.role != "label holder":
            raise JobError(
                f"this is the part of {about.party}, a partner; only {about.holder} puts scores together, with its own"
            )
        if set(self.channels) != set(about.partners):
            raise JobError(
                f"the model's partners are {', '.join(about.partners)}; there are channels to "
                f"{', '.join(self.channels) or 'none'}: say where each partner serves"
            )
        self._part = self.part or part_of(self.package)
        for place, name in enumerate(about.partners):
            _agree(self.channels[name], self.package, "label holder", place)
        self._open = True

    def score(self, items: Blocks, table: Table) -> Scores:
        """Score some customers.

        Args:
            items: Their keys, (n, 2) uint64.
            table: The label holder's columns of them, n rows in the same order.

        Raises:
            DataError: The columns cannot be scored.
            ProtocolError: What a partner sent is not allowed.
            PeerLost: A partner is gone, which includes that it failed; its own log says why.
        """
        if len(items) != len(table):
            raise DataError(f"{len(items)} keys and {len(table)} rows; there must be one key for each row")
        spans = [slice(at, at + MOST) for at in range(0, len(items), MOST)]
        found = [self._some(items[span], rows_of(table, span)) for span in spans]
        if not found:
            raise DataError("there is nobody to score; give one row or more")
        return Scores(
            {name: np.concatenate([each.values[name] for each in found]) for name in found[0].values},
            {name: sum(each.unknown[name] for each in found) for name in self.package.about.partners},
        )

    def close(self) -> None:
        """Tell the partners that no more requests come; the channels are the caller's to close."""
        if self._open:
            self._open = False
            for name in self.package.about.partners:
                self.channels[name].send(ASK, b"")

    def _some(self, items: Blocks, table: Table) -> Scores:
        part, rows = self._part, len(items)
        # Own numbers before anybody is asked: an answer that nobody takes would be taken for the next one.
        if isinstance(part, Adds):
            own = part.score(table)
            answers, unknown = self._ask(items, 1 + rows)
            return Scores(_named(part, summed([own, *(answer[1:] for answer in answers)])), unknown)
        prepared: Any = part.prepared(table)
        _, unknown = self._ask(items, 1)
        return Scores(part.joint([self.channels[name] for name in unknown], prepared), unknown)

    def _ask(self, items: Blocks, width: int) -> tuple[list[npt.NDArray[np.int64]], dict[str, int]]:
        """The partners' numbers, and how many customers each does not have, in the order of the job."""
        names = self.package.about.partners
        asked = np.ascontiguousarray(items, dtype="<u8")
        for name in names:
            self.channels[name].send(ASK, asked)
        answers = [recv_array(self.channels[name], TOLD, "<i8", width) for name in names]
        return answers, {
            name: _count(answer, len(items)) for name, answer in zip(names, answers, strict=True)
        }


def serve(
    channel: Channel,
    package: Package,
    rows: KeyedRows,
    told: Callable[[int, int], None] = lambda rows, unknown: None,
    part: Part | None = None,
) -> Served:
    """The partner's side: answer requests until the label holder ends them.

    Args:
        channel: To the label holder; nothing was sent over it yet.
        package: The partner's part.
        rows: Its rows by key.
        told: Called for each request before its answer leaves, with the customers asked for and those unknown here.
        part: That of the package when None.

    Raises:
        JobError: The part is a label holder's.
        ProtocolError: The label holder has another part, or sent what is not allowed.
        PeerLost: It is gone.
    """
    if package.about.role != "partner":
        raise JobError("this is the label holder's part; a partner serves with its own")
    part = part or part_of(package)
    _agree(channel, package, "partner", package.about.place)
    served = Served()
    while True:
        raw = channel.recv(ASK, limit=16 * MOST)
        if not raw.nbytes:
            return served
        if raw.nbytes % 16:
            raise ProtocolError(f"{raw.nbytes} bytes of keys came; a key has 16", step=ASK)
        items = array_from(raw, ASK, "<u8", raw.nbytes // 16, 2)
        table, unknown = rows.table(items)
        served.requests, served.rows, served.unknown = (
            served.requests + 1,
            served.rows + len(items),
            served.unknown + unknown,
        )
        if isinstance(part, Adds):
            answer = np.concatenate([[unknown], part.score(table)]).astype("<i8")
            told(len(items), unknown)
            channel.send(TOLD, answer)
        else:
            prepared: Any = part.prepared(table)
            told(len(items), unknown)
            channel.send(TOLD, np.array([unknown], dtype="<i8"))
            part.answer(channel, prepared)


def latency(request: Callable[[int], Any], times: int, *, warm: int = 5) -> Latency:
    """How long requests take, one after another.

    Args:
        request: Makes one; told its number.
        times: How many are measured, at least 1.
        warm: How many are made before, with numbers below 0.
    """
    for number in range(-warm, 0):
        request(number)
    taken = []
    for number in range(times):
        begun = time.perf_counter()
        request(number)
        taken.append(1000 * (time.perf_counter() - begun))
    p50, p99 = np.percentile(taken, [50, 99])
    return Latency(times, float(p50), float(p99), float(np.mean(taken)))


def _agree(channel: Channel, package: Package, role: str, place: int) -> None:
    about = package.about
    options: dict[str, Option] = {
        "run": about.run,
        "model": about.model,
        "kind": about.kind,
        "partner": place,
    }
    options |= {f"items {name}": value for name, value in sorted(about.items.items())}
    other = "partner" if role == "label holder" else "label holder"
    mine = Hello("joint scores", VERSION, "none", "score", role, options)
    shake_hands(channel, mine, peer_role=other, cures=_CURES)


def rows_of(table: Table, span: slice) -> Table:
    """Some rows of a table."""
    columns = {name: values[span] for name, values in table.columns.items()}
    return Table(columns, table.part[span])


def _named(part: Adds, total: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
    if isinstance(part, LinearPart):
        predictor, mean = mean_of(total, part.link)
        return {"predictor": predictor, "expected": mean}
    return {"score": total, "expected": 1 / (1 + np.exp(-part.log_odds(total)))}


def summed(parts: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """All parts together; a partner's numbers that would overflow are refused rather than turned round."""
    total = np.zeros(len(parts[0]), dtype=np.int64)
    for part in parts:
        if np.abs(part.astype(np.float64)).max(initial=0.0) >= _LARGEST:
            raise ProtocolError("a part of a score is beyond what any model gives", step=TOLD)
        total += part
    return total


def _count(message: npt.NDArray[np.int64], rows: int) -> int:
    unknown = int(message[0])
    if not 0 <= unknown <= rows:
        raise ProtocolError(f"{unknown} of {rows} customers are said to be unknown", step=TOLD)
    return unknown
