"""A partner that serves its part of a model: its rows by key, its policy, and the gRPC port at which it is asked.

Nobody but the model's label holder, with the key that this site's participant file pins, gets past the TLS
handshake. Whether it may have scores is the site's own rule, asked before the port opens: `jobs` with
`vertical`, the data set, its columns, the purpose, the label holder under `peers`, and under `reveal` what
its answers show: `scores`, `splits` for boosted trees, `activations` for a split network. Rows are those of
the start: a service that is to know new ones is started again. Nothing bounds how many customers the label
holder asks for; each request is one line in the site's evidence: who asked, for how many, how many were
unknown.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from crypto.errors import ProtocolError
from crypto.psi.items import ItemError, ItemRules, keys_of
from fedcore.errors import DataError, FedcoreError, IdentityError, JobError, PolicyRefused, did_you_mean
from fedcore.jobs.datasets import DataSet
from fedcore.jobs.participant import Participant, Rule
from fedcore.participant.data.catalogue import read_table
from fedcore.participant.mods.evidence import evidence_file
from fedcore.participant.vertical_data import column_values
from fedcore.peer.grpc_channel import GrpcChannel
from fedcore.peer.link import Settings
from fedcore.peer.listening import Hall
from fedcore.peer.tls import Peer
from fedcore.trust import evidence
from fedcore.trust.identity import Identity
from fedcore.vertical.keyed_rows import Blocks, KeyedRows
from fedcore.vertical.package import About, Package
from fedcore.vertical.scoring import Served, part_of, serve
from fedcore.vertical.table import TRAIN, Table

log = logging.getLogger("fedcore.participant")

_SHOWN = {"scorecard": "scores", "linear": "scores", "boosting": "splits", "split-network": "activations"}
"""What an answer shows, in the words of a policy's `reveal`."""
CALLS = 16
"""Connections of label holders at once."""


def session_of(about: About) -> str:
    """Name of the session in which a model's parties meet for scores."""
    return f"score {about.run} {about.model}"


def check_serving(participant: Participant, about: About) -> Rule:
    """The rule by which the label holder may have scores of this site's rows.

    Raises:
        PolicyRefused: There is none; the message says what the nearest lacks.
    """
    if about.data not in participant.catalogue:
        raise PolicyRefused(
            f"no data set {about.data!r} in the catalogue; {did_you_mean(about.data, participant.catalogue)}"
        )
    reasons = []
    for rule in participant.policy.rules:
        reason = _lacking(rule, about)
        if reason is None:
            return rule
        reasons.append(reason)
    because = "; ".join(dict.fromkeys(reasons)) or "the policy has no rules"
    raise PolicyRefused(
        f"the site's policy does not allow {about.holder} to score with {about.data!r} for {about.purpose}: {because}. "
        "The site's data office can add a rule to policy.rules"
    )


def peer_of(participant: Participant, name: str) -> Peer:
    """Another party with the key that this participant's file pins.

    Raises:
        IdentityError: It pins none.
    """
    pinned = participant.peers.get(name)
    if pinned is None:
        raise IdentityError(
            f"{participant.name} pins no key of {name}; {did_you_mean(name, participant.peers)}. Cure: add {name} with "
            "the line of its .pub file to peers"
        )
    return Peer(name, pinned.public_key)


def read_rows(participant: Participant, about: About, rule: Rule) -> KeyedRows:
    """The site's rows by key, as they are now.

    Raises:
        DataError: They cannot be read, or a column that the part needs is not there.
        PolicyRefused: Fewer rows than the rule asks for.
    """
    data = participant.catalogue[about.data]
    items, rows, table = read_keyed(data, about, memory=participant.resources.memory)
    if len(table) < rule.min_rows:
        raise PolicyRefused(
            f"data set {about.data!r} has fewer rows than the {rule.min_rows} that the site's policy asks for "
            "(policy.rules, min_rows)"
        )
    return KeyedRows(items, rows, table.columns)


def read_keyed(
    data: DataSet, about: About, memory: int | None = None
) -> tuple[Blocks, npt.NDArray[np.int64], Table]:
    """Keys, the rows they are of, and the columns of a data set that a part reads.

    Raises:
        DataError: They cannot be read, or a column is not there or of a type that cannot be used.
    """
    read = read_table(data, [*dict.fromkeys([*about.key, *about.columns])], memory=memory)
    try:
        keys = keys_of([read.column(name) for name in about.key], ItemRules(**about.items))
    except (ItemError, TypeError) as error:
        raise DataError(f"key {', '.join(about.key)}: {error}", step="read") from error
    columns = {name: column_values(read.column(name), name) for name in about.columns}
    return keys.blocks, keys.rows, Table(columns, np.full(read.num_rows, TRAIN, dtype=np.int8))


@dataclass
class Service:
    """A partner's open port; close it, or leave the `with` block, to end it.

    Args:
        participant: The site.
        package: Its part of a model.
        identity: Its key.
        listen: `host:port`; the file's `inbound` address when None.

    Attributes:
        address: With the port that was taken.
        rows: Those served.
        served: What was answered so far.

    Raises:
        PolicyRefused: The site's policy does not let the label holder score.
        IdentityError: The label holder's key is not pinned here.
        JobError: There is no address to listen at, or the part is a label holder's.
        DataError: The rows cannot be read.
    """

    participant: Participant
    package: Package
    identity: Identity
    listen: str | None = None
    address: str = field(default="", init=False)
    served: Served = field(default_factory=Served, init=False)

    def __post_init__(self) -> None:
        about = self.package.about
        if about.party != self.participant.name or about.role != "partner":
            raise JobError(
                f"the model is the part of {about.party} ({about.role}); {self.participant.name} serves its own part as a "
                "partner"
            )
        rule = check_serving(self.participant, about)
        peer = peer_of(self.participant, about.holder)
        inbound = self.participant.inbound
        listen = self.listen or (inbound.bound if inbound else None)
        if listen is None:
            raise JobError(
                f"{self.participant.name} has no address to listen at; set inbound.address in its file, or give --listen"
            )
        self._part = part_of(self.package)
        self.rows = read_rows(self.participant, about, rule)
        self._lock = threading.Lock()
        self._log = evidence_file(self.participant)
        self._hall = Hall(
            listen, identity=self.identity, peers=[peer], settings=Settings(silence=24 * 3600.0), calls=CALLS
        )
        self.address = self._hall.address
        # Between the two: nobody is let in before it is written down, and nothing is where nobody can come.
        self._note("open", durable=True, rows=len(self.rows))
        self._hall.expect(session_of(about), peer, self._arrived)

    def close(self) -> None:
        """Stop serving; requests that are being answered are cut off."""
        self._hall.close()
        self._note("closed", durable=True, requests=self.served.requests)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _arrived(self, channel: GrpcChannel) -> bool:
        threading.Thread(target=self._serve, args=(channel,), daemon=True, name="fedcore-score").start()
        return True

    def _serve(self, channel: GrpcChannel) -> None:
        try:
            with channel:
                serve(channel, self.package, self.rows, self._told, self._part)
        except (FedcoreError, ProtocolError) as error:
            # The label holder sees a lost connection: what is wrong with this site's data is not for it.
            log.warning("scores for %s: %s", channel.peer, error)
        except Exception:
            log.exception("scores for %s", channel.peer)

    def _told(self, rows: int, unknown: int) -> None:
        with self._lock:
            self.served.requests += 1
            self.served.rows += rows
            self.served.unknown += unknown
        self._note("answered", rows=rows, unknown=unknown)

    def _note(self, what: str, *, durable: bool = False, **numbers: int) -> None:
        about = self.package.about
        entry = {
            "event": "score",
            "what": what,
            "run": about.run,
            "model": about.model,
            "peer": about.holder,
            "data": about.data,
            "purpose": about.purpose,
            **numbers,
        }
        evidence.append(self._log, entry, durable=durable)


def _lacking(rule: Rule, about: About) -> str | None:
    if "vertical" not in rule.jobs:
        return f"jobs allowed are {', '.join(rule.jobs)}"
    if rule.data not in ("any", about.data):
        return f"the rule is for data {rule.data!r}"
    if rule.purpose not in ("any", about.purpose):
        return f"the purpose must be {rule.purpose!r}"
    parties = len(about.partners) + 1
    if parties < rule.min_cohort:
        return f"the model has {parties} parties, at least {rule.min_cohort} are required"
    if rule.columns != "all":
        beyond = [name for name in dict.fromkeys([*about.key, *about.columns]) if name not in rule.columns]
        if beyond:
            return f"columns {', '.join(beyond)} may not be read (allowed: {', '.join(rule.columns)})"
    if not _named(about.holder, rule.peers):
        return f"peer {about.holder!r} is not allowed (peers: {_listed(rule.peers)})"
    what = _SHOWN[about.kind]
    shown = getattr(rule.reveal, what)
    if not _named(about.holder, shown):
        return f"{about.holder!r} may not learn the {what} (reveal.{what}: {_listed(shown)})"
    return None


def _named(word: str, allowed: str | tuple[str, ...]) -> bool:
    return allowed == "any" or word in allowed


def _listed(allowed: str | tuple[str, ...]) -> str:
    return allowed if isinstance(allowed, str) else ", ".join(allowed) or "none"
