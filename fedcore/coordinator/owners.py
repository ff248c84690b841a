"""What a coordinator asks of the owners of nodes: offers for a round, and leases of the nodes that a plan names.

An owner speaks for itself alone: what it says of another's node, offer or lease counts for nothing. What cannot be used
is left out with its reason, and the run goes on with the others; so is an owner who does not answer. Offers hold for a
while and are asked for again when they end.

Leases are all or nothing. They count once their owners have bound them, end by themselves, and are given back when the
plan goes on without them or the run ends.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedcore.coordinator.grids.evidence import explain
from fedcore.coordinator.grids.layer import stream
from fedcore.errors import DataError, FedcoreError
from fedcore.jobs.request import NODES
from fedcore.network.acceptance import take_offers
from fedcore.network.acquisition import acquire
from fedcore.network.admission import Rejected
from fedcore.network.descriptor import Descriptor
from fedcore.network.lease import Lease, LeaseRequest, Refusal, new_request
from fedcore.network.offer import Offer
from fedcore.network.plan import Plan
from fedcore.network.policy import Needed
from fedcore.network.quantity import moment
from fedcore.network.signed_offer import SignedOffer, from_json
from fedcore.network.trust_score import Conduct, scores
from fedcore.network.work import Request
from fedcore.trust.identity import Identity

log = logging.getLogger("fedcore.coordinator")

TYPE = "query.nodes"
AGAIN = timedelta(seconds=900)
"""After which an owner that made no offer is asked again."""
LAST_WORD = 5.0
"""Seconds to wait for owners to take leases back, which end by themselves."""
_TOLD = 300
"""Characters of an owner's reason that are kept."""


class Owners:
    """The owners of nodes, as one run knows them.

    Args:
        grid: That reaches them.
        members: Node to participant name.
        request: The work of a round, as owners are asked for it; each asking has an id of its own.
        identity: The coordinator's key, which signs requests for leases.
        pins: Participants' public key lines by name; what they say themselves where there are none, on engines that
            run all of them on one machine.
        sites: Of the map; an offer from elsewhere is left out.
        needed: What figures must at least rest on.
        plan: Name of the run's plan at owners, the same when the run is resumed.
        lease_s: Seconds that a lease is to hold.
        aside: Around exchanges, which take place in the middle of a phase.
        patience: Seconds to wait for answers.
        clock: The moment, with its time zone.

    Attributes:
        leases: Of the plan that counts, by owner.
        refusals: Of leases, newest last.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        members: Mapping[int, str],
        request: Request,
        identity: Identity,
        pins: Mapping[str, str],
        sites: Collection[str],
        needed: Needed,
        plan: str,
        lease_s: int,
        aside: Callable[[], AbstractContextManager[object]] = nullcontext,
        patience: float = 60.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._grid, self._aside, self._patience, self._clock = grid, aside, patience, clock
        self._names, self._nodes = dict(members), {name: node for node, name in members.items()}
        self._request, self._identity, self._needed = request, identity, needed
        self._pinned, self._keys = bool(pins), dict(pins)
        self._sites, self._plan, self._lease_s = frozenset(sites), plan, lease_s
        self._offers: dict[str, tuple[Offer, ...]] = {}
        self._due: dict[str, datetime] = {}
        self._rejected: dict[str, list[Rejected]] = {}
        self.leases: dict[str, Lease] = {}
        self.refusals: list[Refusal] = []
        self._bound: Counter[str] = Counter()

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        """What was left out when offers were last asked for, and why."""
        return tuple(one for name in sorted(self._rejected) for one in self._rejected[name])

    @property
    def known(self) -> tuple[Offer, ...]:
        """All offers that hold, also of owners who are not online."""
        return tuple(offer for name in sorted(self._offers) for offer in self._offers[name])

    # ---- offers -----------------------------------------------------------------------------------------

    def offers(self, here: Collection[str]) -> tuple[Offer, ...]:
        """The offers of owners who are online; those without one that holds are asked.

        Args:
            here: Who is online.
        """
        now = self._clock()
        for name in set(self._due) - set(here):
            # Whoever comes back may have something to say.
            if not self._offers.get(name):
                del self._due[name]
        ask = sorted(name for name in here if name not in self._due or self._due[name] <= now)
        if ask:
            self._ask(ask, now)
        return tuple(offer for name in sorted(here) for offer in self._offers.get(name, ()))

    def _ask(self, names: Sequence[str], now: datetime) -> None:
        # So that an offer that was made before answers nothing now.
        self._request = replace(self._request, id=secrets.token_hex(8))
        body = asdict(self._request)
        told, silent = self._exchange("offers", dict.fromkeys(names, body), self._patience)
        signed: list[SignedOffer] = []
        descriptors: list[Descriptor] = []
        for name in names:
            self._rejected[name] = [Rejected("owner", name, name, silent[name])] if name in silent else []
            self._offers[name], self._due[name] = (), now + AGAIN
        for name, answer in told.items():
            try:
                made, nodes = self._said(name, answer)
            except (FedcoreError, ValueError, KeyError, TypeError, AttributeError) as error:
                why = error.message if isinstance(error, FedcoreError) else type(error).__name__
                self._reject(Rejected("owner", name, name, f"its answer cannot be used: {why}"))
                continue
            signed += made
            descriptors += nodes
        judged = scores(descriptors, self._keys, self._conduct(), self._clock())
        trust = {node: score.value for node, score in judged.items()}
        offers, rejected = take_offers(
            signed, self._request, descriptors, self._keys, needed=self._needed, trust=trust, at=self._clock()
        )
        ends = {each.offer.id: moment(each.expires) for each in signed}
        for offer in offers:
            self._offers[offer.owner] += (offer,)
            self._due[offer.owner] = min(self._due[offer.owner], ends[offer.id])
        for one in (*rejected, *(each for name in silent for each in self._rejected[name])):
            self._reject(one, known=one not in rejected)

    def _conduct(self) -> dict[str, Conduct]:
        """How owners kept to what was agreed in this run: leases that they bound, and that they refused."""
        refused = Counter(each.owner for each in self.refusals)
        return {name: Conduct(self._bound[name], refused[name]) for name in self._nodes}

    def _said(self, name: str, answer: Any) -> tuple[list[SignedOffer], list[Descriptor]]:
        """What an owner answers, as far as it speaks for itself.

        Raises:
            FedcoreError, ValueError, KeyError, TypeError, AttributeError: It cannot be read.
        """
        made = [from_json(each) for each in answer["offers"]]
        nodes = [Descriptor.model_validate(each) for each in answer["descriptors"]]
        if not self._pinned:
            self._keys[name] = str(answer["key"])
        for node, why in answer["left_out"].items():
            self._reject(Rejected("node", str(node)[:_TOLD], name, str(why)[:_TOLD]))
        if any(node.owner != name for node in nodes):
            raise DataError("it holds descriptors of others")
        kept = []
        for each in made:
            offer = each.offer
            if offer.owner != name or not offer.id.startswith(f"{name}/"):
                reason = f"is {offer.owner}'s; an owner speaks for itself only"
            elif offer.site not in self._sites:
                reason = f"is of site {offer.site!r}, which the map does not have"
            else:
                kept.append(each)
                continue
            self._reject(Rejected("offer", offer.id, name, reason))
        return kept, nodes

    def _reject(self, one: Rejected, *, known: bool = False) -> None:
        if not known:
            self._rejected.setdefault(one.owner, []).append(one)
        log.warning("placement: %s of %s is left out: %s", one.name, one.owner, one.reason)

    # ---- leases -----------------------------------------------------------------------------------------

    def lease(self, plan: Plan, here: Collection[str]) -> frozenset[str]:
        """Lease what a plan names, or nothing.

        Args:
            plan: Its version counts at the owners from then on.
            here: Who is online; others' leases end by themselves.

        Returns:
            Ids of the offers whose owners refused; none when the plan holds.
        """
        requests = [
            new_request(
                self._identity,
                plan=self._plan,
                version=plan.version,
                owner=one.owner,
                node=one.node,
                offer=one.offer,
                seconds=self._lease_s,
                at=self._clock(),
            )
            for one in plan.participants
        ]
        bodies = {one.owner: [asdict(one)] for one in requests}
        told, silent = self._exchange("lease", bodies, self._patience)
        back: list[Lease] = []
        found = acquire(
            requests,
            lambda one: _answered(one, told.get(one.owner), silent.get(one.owner, "no answer")),
            back.append,
            self._keys,
            at=self._clock(),
        )
        self.release(back, here)
        refusals = list(found.refusals) or self._bind(found.leases)
        for each in refusals:
            log.warning("placement: %s refuses a lease: %s", each.owner, each.reason)
        self.refusals += refusals
        if not refusals:
            self._bound.update(each.owner for each in found.leases)
            new = {each.owner: each for each in found.leases}
            # An older version ended where a newer one was bound.
            over = [
                old
                for owner, old in self.leases.items()
                if owner not in new or old.version == new[owner].version
            ]
            self.leases = new
            self.release(over, here)
        return frozenset(each.offer for each in refusals)

    def _bind(self, leases: Sequence[Lease]) -> list[Refusal]:
        told, silent = self._exchange("bind", {each.owner: [each.id] for each in leases}, self._patience)
        refusals = []
        for each in leases:
            answer = told.get(each.owner)
            said = answer.get(each.id) if isinstance(answer, dict) else None
            if isinstance(said, dict) and said.get("bound") is True:
                continue
            why = (
                str(said.get("reason"))[:_TOLD]
                if isinstance(said, dict)
                else silent.get(each.owner, "no answer")
            )
            refusals.append(Refusal(each.id, each.owner, each.node, each.offer, f"it was not bound: {why}"))
        return refusals

    def ends_within(self, seconds: float) -> bool:
        """Whether a lease of the plan that counts is over by then."""
        last = self._clock() + timedelta(seconds=seconds)
        return any(moment(each.expires) <= last for each in self.leases.values())

    def release(self, leases: Sequence[Lease], here: Collection[str]) -> None:
        """Give leases back; who cannot be reached keeps its own until it ends."""
        bodies = {each.owner: [each.id] for each in leases if each.owner in here}
        self._exchange("release", bodies, min(self._patience, LAST_WORD))

    def close(self) -> None:
        """Give back what is held."""
        held, self.leases = list(self.leases.values()), {}
        self.release(held, {each.owner for each in held})

    # ---- messages ---------------------------------------------------------------------------------------

    def _exchange(
        self, what: str, bodies: Mapping[str, Any], patience: float
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """One question to some owners; what each answers, and why some do not."""
        messages = []
        for name, body in bodies.items():
            about = json.dumps({"what": what, "body": body, "key": self._identity.public_line})
            content = RecordDict({NODES: ConfigRecord({"about": about})})
            messages.append(Message(content, self._nodes[name], TYPE))
        answers: dict[str, Any] = {}
        silent = dict.fromkeys(bodies, "no answer")
        if not messages:
            return answers, silent
        with self._aside():
            replies = list(stream(self._grid, messages, patience))
        for reply in replies:
            name = self._names.get(reply.metadata.src_node_id, "")
            if name not in bodies:
                continue
            if reply.has_error():
                silent[name] = explain(reply.error.reason)[1][:_TOLD]
                continue
            record = reply.content.get(NODES)
            try:
                if not isinstance(record, ConfigRecord):
                    raise ValueError("no record")
                answers[name] = json.loads(str(record["about"]))
                del silent[name]
            except (ValueError, KeyError, RecursionError):
                silent[name] = "its answer cannot be read"
        return answers, silent


def _answered(request: LeaseRequest, answer: Any, silence: str) -> Lease | Refusal:
    """What an owner says to a request; silence and nonsense are refusals, and of its own offer only."""
    reason = silence
    if answer is not None:
        try:
            told = dict(answer[0])
            if told.pop("granted") is True:
                return Lease(**told)
            reason = str(told["reason"])[:_TOLD]
        except (KeyError, IndexError, TypeError, ValueError):
            reason = "its answer cannot be read"
    return Refusal(request.id, request.owner, request.node, request.offer, reason)
