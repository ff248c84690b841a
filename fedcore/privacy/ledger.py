"""The privacy ledger of a data set: every query and every training pays from one budget, before anything is released.

    charge(request, cost)      the cost is on the disk when it returns; a budget that does not reach is refused
    release(request, answer)   the answer's hash is on the disk when it returns; then, and only then, it may leave

What a crash does:

    before `charge` returned      charged or not; asking again with the same request pays once
    between charge and release    stays charged; the request is computed again and pays nothing more
    after `release`               that answer may be sent again; another one to the same request is refused, for two
                                  noisy answers tell more than one

Sums are fractions, without rounding. Writers of several processes take turns by a lock on the file, so that of two that
ask for the last of a budget one is refused. Refused requests leave no entry. A call reads the whole file: about 10 ms at
1,000 entries; charge a training once, not by the round.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, Literal, get_args

from fedcore.errors import BudgetExhausted, DataError, JobError, PolicyRefused, did_you_mean
from fedcore.privacy import ledger_file as chain
from fedcore.privacy.budget import Cost
from fedcore.privacy.exact import exact, shown, text
from fedcore.privacy.sensitivity import Neighbours, neighbours

VERSION = 1
Source = Literal["query", "training", "other"]


@dataclass(frozen=True)
class Charge:
    """One cost that was paid.

    Args:
        request: Its identity, chosen by who asks; one charge each.
        cost: In the ledger's measure.
        what: For people: the query, the training.
        source: Of which kind.
        digest: Hash of the exact request, hex; two that differ are two requests.
        time: When, ISO 8601, UTC.
        answer: Hash of the answer that was released, hex; None where none was.
        again: Whether it had been paid before this call.
    """

    request: str
    cost: Cost
    what: str
    source: Source
    digest: str
    time: str
    answer: str | None = None
    again: bool = False


@dataclass(frozen=True)
class Account:
    """A ledger as it stands.

    Args:
        data: The data set.
        neighbours: Whose presence the budget protects.
        budget: All of it.
        charges: In order.
        last: Hash of the last line, for a second place.
    """

    data: str
    neighbours: Neighbours
    budget: Cost
    charges: tuple[Charge, ...]
    last: str

    @property
    def spent(self) -> Cost:
        """The sum of all charges."""
        measure = self.budget.measure
        return Cost(
            measure,
            sum((each.cost.amount for each in self.charges), Fraction(0)),
            sum((each.cost.delta for each in self.charges), Fraction(0)),
        )

    @property
    def remaining(self) -> Cost:
        """What is left."""
        spent = self.spent
        return Cost(self.budget.measure, self.budget.amount - spent.amount, self.budget.delta - spent.delta)

    def charge_of(self, request: str) -> Charge | None:
        """The charge of a request, if it was paid."""
        return next((each for each in self.charges if each.request == request), None)


@dataclass(frozen=True)
class Ledger:
    """One data set's ledger. Holds no state of its own: every call reads the file.

    Args:
        file: JSON lines.
        anchor: A file in a second place that holds the newest hash; None for none.
        known: A hash (`Account.last`) that was kept in a third, as in the evidence log; None for none. Without either, an
            older copy of the file that is put back is not found out.
    """

    file: Path
    anchor: Path | None = None
    known: str | None = None

    def account(self) -> Account:
        """What was spent and what is left.

        Raises:
            DataError: There is no ledger, it was changed, cut or replaced, or it overdraws its budget.
        """
        with chain.locked(self.file, "read") as log:
            return _account(self._read(log))

    def charge(
        self, request: str, cost: Cost, what: str, *, source: Source = "query", digest: str = ""
    ) -> Charge:
        """Pay for a release before it is made. Asking again for the same request pays nothing more.

        Args:
            request: Its identity: 1 to 200 characters, the same when it is resumed.
            cost: Above zero; one in epsilon is turned into rho where the ledger is in rho.
            what: For people: what is released.
            source: Of which kind.
            digest: Hash of the exact request (query, noise, cohort), hex; a resumed one must have the same.

        Returns:
            The charge; on the disk, and in the anchor.

        Raises:
            BudgetExhausted: The budget does not reach. Nothing was charged.
            PolicyRefused: The request's identity was used for another request or another cost.
            JobError: The cost is zero or in a measure that the ledger cannot take, or a word is not allowed.
            DataError: The ledger is not there, was changed, or cannot be written.
        """
        if not isinstance(request, str) or not 0 < len(request) <= 200:
            raise JobError("a request's identity is empty or too long; allowed: 1 to 200 characters")
        if source not in get_args(Source):
            raise JobError(f'source "{source}"; {did_you_mean(source, get_args(Source))}')
        if cost.amount <= 0:
            raise JobError(
                f"{request} is to cost {cost.told()}; allowed: above 0, for an answer that costs nothing tells nothing"
            )
        with chain.locked(self.file) as log:
            found = self._read(log)
            account = _account(found)
            paid = cost.in_measure(account.budget.measure)
            before = account.charge_of(request)
            if before is not None:
                _same_request(before, paid, digest)
                # A crash may have come between the line and the anchor.
                self._keep(found.last)
                return Charge(**{**vars(before), "again": True})
            _enough(account, paid)
            entry = {
                "kind": "charge",
                "request": request,
                "amount": text(paid.amount),
                "delta": text(paid.delta),
                "what": what,
                "source": source,
                "digest": digest,
            }
            last, time = chain.append(log, found, entry)
            self._keep(last)
        return Charge(request, paid, what, source, digest, time)

    def release(self, request: str, answer: bytes) -> str:
        """Record an answer before it leaves. It is kept by the caller, to be sent again after a crash.

        Args:
            request: That was charged.
            answer: The exact bytes that leave, noise included.

        Returns:
            SHA-256 of the answer, hex; on the disk.

        Raises:
            PolicyRefused: The request was not charged, or another answer was released for it.
            DataError: The ledger is not there, was changed, or cannot be written.
        """
        found_hash = hashlib.sha256(answer).hexdigest()
        with chain.locked(self.file) as log:
            found = self._read(log)
            paid = _account(found).charge_of(request)
            if paid is None:
                raise PolicyRefused(
                    f"{request} was not charged; allowed: to release what was paid for. Cure: charge it first"
                )
            if paid.answer not in (None, found_hash):
                raise PolicyRefused(
                    f"{request} was answered before, with other bytes; allowed: one answer to a charge, for two noisy answers "
                    "tell more than one. Cure: send the first again, or charge a new request"
                )
            last = found.last
            if paid.answer is None:
                last, _ = chain.append(
                    log, found, {"kind": "release", "request": request, "answer": found_hash}
                )
            self._keep(last)
        return found_hash

    def _read(self, log: IO[bytes]) -> chain.Lines:
        found = chain.lines(log, self.file.name)
        chain.check_anchor(found, self.known)
        if self.anchor is not None:
            kept = chain.read_anchor(self.anchor)
            if kept is None:
                raise DataError(
                    f"{self.file.name}: its anchor {self.anchor.name} is not there, so that nobody can tell whether the file "
                    "is whole. Cure: put back the anchor; nothing is released until then"
                )
            chain.check_anchor(found, kept)
        return found

    def _keep(self, last: str) -> None:
        if self.anchor is not None:
            chain.write_anchor(self.anchor, last)


def open_ledger(
    file: Path, data: str, budget: Cost, relation: Neighbours, *, anchor: Path | None = None
) -> Ledger:
    """The ledger of a data set, made on first use.

    Args:
        file: Of the ledger; mode 0600 when made.
        data: The data set's name in the catalogue.
        budget: Above zero; of one that is there, the same.
        relation: Neighbours; of one that is there, the same.
        anchor: A second place for the newest hash; not beside the file, where who replaces one replaces both.

    Raises:
        JobError: The budget is zero, or the ledger that is there is of another data set, budget or relation.
        DataError: The ledger was removed, changed or replaced.
    """
    if budget.amount <= 0:
        raise JobError(f"{data}: a budget of {budget.told()}; allowed: above 0")
    made = Ledger(file, anchor)
    if anchor is not None and not file.exists() and chain.read_anchor(anchor) not in (None, chain.START):
        raise chain.lost(file)
    with chain.locked(file, "make") as log:
        found = chain.lines(log, file.name)
        if not found.entries:
            if anchor is not None:
                if chain.read_anchor(anchor) not in (None, chain.START):
                    raise chain.lost(file)
                # The anchor is there first: from the first line on, one that is missing is a fault.
                chain.write_anchor(anchor, chain.START)
            opening = {
                "kind": "open",
                "ledger": VERSION,
                "data": data,
                "neighbours": relation.word,
                "measure": budget.measure,
                "amount": text(budget.amount),
                "delta": text(budget.delta),
            }
            last, _ = chain.append(log, found, opening)
            chain.sync_folder(file.parent)
            made._keep(last)
            return made
        account = _account(made._read(log))
    asked: Iterable[tuple[str, str, str]] = (
        ("data set", account.data, data),
        ("neighbours", account.neighbours.word, relation.word),
        ("measure", account.budget.measure, budget.measure),
        ("budget", text(account.budget.amount), text(budget.amount)),
        ("delta", text(account.budget.delta), text(budget.delta)),
    )
    for name, there, wanted in asked:
        if there != wanted:
            raise JobError(
                f"{file.name}: the ledger's {name} is {there}, and {wanted} is asked for; allowed: what it was opened with. A "
                "budget is not raised after the fact"
            )
    return made


def _enough(account: Account, asked: Cost) -> None:
    left = account.remaining
    if asked.within(left):
        return
    short = Cost(
        asked.measure,
        max(asked.amount - left.amount, Fraction(0)),
        max(asked.delta - left.delta, Fraction(0)),
    )
    raise BudgetExhausted(
        f"data set {account.data}: requested {asked.told()}, remaining {left.told(up=False)}"
        f"{_delta_left(asked, left)}, difference {short.told()} (budget {account.budget.told(up=False)}, spent in "
        f"{len(account.charges)} charges). Cure: ask for less: more noise, fewer cells, fewer rounds. A budget does not "
        "come back"
    )


def _delta_left(asked: Cost, left: Cost) -> str:
    """A delta of nought, which is said where one is asked for."""
    return ", delta 0" if asked.delta and not left.delta else ""


def _same_request(before: Charge, cost: Cost, digest: str) -> None:
    if (before.cost, before.digest) != (cost, digest):
        raise PolicyRefused(
            f"request {before.request} was charged before for another "
            f"{'request' if before.digest != digest else 'cost'} ({before.cost.told()}, {before.time}); allowed: one request "
            "to an identity. Cure: a new identity, which is charged anew"
        )


def _account(found: chain.Lines) -> Account:
    """The state that the lines lead to."""
    name = found.name
    opening = found.entries[0] if found.entries else {}
    if opening.get("kind") != "open" or opening.get("ledger") != VERSION:
        raise DataError(
            f"{name} is no privacy ledger of version {VERSION}; allowed: a file that open_ledger made"
        )
    charges: dict[str, Charge] = {}
    try:
        measure = opening["measure"]
        budget = Cost(measure, exact(opening["amount"], "budget"), exact(opening["delta"], "delta"))
        relation = neighbours(opening["neighbours"])
        for entry in found.entries[1:]:
            _enter(charges, entry, budget)
    except (KeyError, TypeError, JobError) as error:
        raise DataError(f"{name} holds an entry that cannot be read ({error})") from error
    account = Account(str(opening["data"]), relation, budget, tuple(charges.values()), found.last)
    if not account.spent.within(budget):
        raise DataError(
            f"{name}: charges of {account.spent.told()} stand against a budget of {budget.told()}: it was not written by this "
            f"program. Over by {shown(account.spent.amount - budget.amount, up=True)}"
        )
    return account


def _enter(charges: dict[str, Charge], entry: dict[str, Any], budget: Cost) -> None:
    request = entry["request"]
    if entry["kind"] == "charge":
        if request in charges:
            raise JobError(f"request {request} is charged twice")
        cost = Cost(budget.measure, exact(entry["amount"], "amount"), exact(entry["delta"], "delta"))
        charges[request] = Charge(
            request, cost, entry["what"], entry["source"], entry["digest"], entry["time"]
        )
    elif entry["kind"] == "release":
        charges[request] = Charge(**{**vars(charges[request]), "answer": entry["answer"]})
    else:
        raise JobError(f"an entry of kind {entry['kind']}")
