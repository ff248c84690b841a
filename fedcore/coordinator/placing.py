"""Places the rounds of a job on the compute network: offers, plan, leases, and a repaired plan where one breaks.

Offers are asked for once and again when they end; a plan is made for the first round, and for each later one where fewer
take part than could, so that fairness holds; leases are all-or-nothing, and one that is refused costs its offer only.
A planned participant that is not online is a loss, after which the plan is repaired with the least change.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedcore.coordinator.grids.evidence import EvidenceGrid
from fedcore.coordinator.grids.hierarchy import HierarchyGrid, Region
from fedcore.coordinator.grids.layer import stream
from fedcore.coordinator.prepare import Agreement
from fedcore.coordinator.workflows.settings import Settings
from fedcore.errors import FedcoreError, JobError, did_you_mean
from fedcore.flower import NDArray
from fedcore.jobs.job import TrainJob
from fedcore.jobs.request import NODES
from fedcore.network.acceptance import take_offers
from fedcore.network.acquisition import acquire
from fedcore.network.admission import Rejected
from fedcore.network.descriptor import Descriptor
from fedcore.network.lease import Lease, LeaseRequest, Refusal, new_request
from fedcore.network.offer import Offer
from fedcore.network.place import make_plan
from fedcore.network.plan import Plan, save_plan
from fedcore.network.policy import Policy, load_policy
from fedcore.network.problem import Work
from fedcore.network.repair import Loss, repair
from fedcore.network.signed_offer import SignedOffer, from_json
from fedcore.network.topology import Topology, load_topology
from fedcore.network.work import Request
from fedcore.trust.identity import Identity, load_identity, new_identity

log = logging.getLogger("fedcore.coordinator")

COORDINATOR = "coordinator"
STEP = "placement"
PATIENCE = 60.0
LEASED_SECONDS = 3600
TRIES = 5
"""Plans whose leases are asked for before a round is given up."""
MODEL_FLOP = 6.0
"""Operations for one row and one parameter, forwards and backwards (2 + 4: Kaplan et al. 2020, section 2.1)."""
EFFICIENCY = 0.05
"""Share of the rate of large matrix products that a small model reaches, until its rate is measured."""


class Placing:
    """Plans of one run.

    Args:
        grid: That reaches the participants.
        policy, topology, root: Where and how.
        identity: The coordinator's key, which signs requests for leases.
        members: Node to participant name.
        request: The work of a round, as owners are asked for it.
        pins: Participants' public key lines by name; what they say themselves where there are none, on engines that
            run all of them on one machine.
        folder: Where `plan.json` goes.
        hierarchy: Gets the plan's regions; None for a star.
        aside: Around exchanges, which take place in the middle of a phase.
        patience: Seconds to wait for an answer.
        seed: Of the random placements that scale the terms.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        policy: Policy,
        topology: Topology,
        root: str,
        identity: Identity,
        members: Mapping[int, str],
        request: Request,
        pins: Mapping[str, str],
        folder: Path,
        hierarchy: HierarchyGrid | None = None,
        aside: Callable[[], AbstractContextManager[object]] = nullcontext,
        patience: float = 60.0,
        seed: int = 0,
    ) -> None:
        self._aside = aside
        self._grid, self._policy, self._topology, self._root = grid, policy, topology, root
        self._identity, self._members, self._request = identity, dict(members), request
        self._nodes = {name: node for node, name in members.items()}
        self._pins, self._folder, self._hierarchy = dict(pins), folder, hierarchy
        self._patience, self._seed = patience, seed
        self._offers: tuple[Offer, ...] = ()
        self._known: dict[str, str] = {}
        self._history: list[tuple[str, ...]] = []
        self._number = 0
        self._version = 0
        self.plan: Plan | None = None
        self.rejected: list[Rejected] = []
        self.events: list[dict[str, Any]] = []

    def chosen(self, number: int, online: Collection[int]) -> Sequence[int]:
        """As `Planner.chosen`."""
        here = {self._members[node] for node in online if node in self._members}
        if self.plan is None or number != self._number:
            self._next(number, here)
        missing = [one for one in self._planned.participants if one.owner not in here]
        if missing:
            self._mend(missing, here)
        return [self._nodes[one.owner] for one in self._planned.participants]

    def account(self) -> dict[str, Any]:
        """What is said of the plan of a round in its record."""
        plan = self._planned
        return {
            "version": plan.version,
            "cause": plan.cause,
            "participants": [one.owner for one in plan.participants],
            "aggregators": {one.site: list(plan.children(one.site)) for one in plan.aggregators},
            "predicted": asdict(plan.prediction),
        }

    @property
    def _planned(self) -> Plan:
        if self.plan is None:
            raise RuntimeError("no plan was made yet")
        return self.plan

    # ---- plans ------------------------------------------------------------------------------------------

    def _next(self, number: int, here: Collection[str]) -> None:
        """The plan of a round: the one before it where all take part anyway."""
        if self.plan is not None:
            self._history.append(tuple(one.owner for one in self.plan.participants))
        self._number = number
        if not self._offers:
            self._offers = tuple(self._asked_for_offers())
        everyone = {offer.owner for offer in self._offers if offer.owner in here}
        same = self.plan is not None and {one.owner for one in self.plan.participants} == everyone
        if same:
            return
        self._make(
            [offer for offer in self._offers if offer.owner in everyone],
            "first" if self.plan is None else "next",
        )

    def _make(self, offers: Sequence[Offer], cause: str) -> None:
        for _ in range(TRIES):
            self._version += 1
            plan = make_plan(
                offers,
                self._topology,
                self._policy,
                self._work(),
                self._root,
                job=self._request.job,
                version=self._version,
                seed=self._seed,
                history=self._history,
                cause=cause,
            )
            refused = self._leased(plan)
            if not refused:
                self._use(plan)
                return
            # A refusal is an event: the plan is made again without these offers.
            offers = [offer for offer in offers if offer.id not in refused]
        raise JobError(
            f"owners refused the leases of {TRIES} plans; plan.json and run.log say which",
            party="coordinator",
            step=STEP,
        )

    def _mend(self, missing: Sequence[Any], here: Collection[str]) -> None:
        loss = Loss(nodes=frozenset((one.owner, one.node) for one in missing))
        offers = [offer for offer in self._offers if offer.owner in here]
        log.warning("placement: %s", loss)
        mended = repair(self._planned, [*offers, *self._of(missing)], self._topology, self._policy, loss)
        self._version = max(self._version + 1, mended.plan.version)
        refused = self._leased(mended.plan)
        if refused:
            self._make([offer for offer in offers if offer.id not in refused], str(loss))
        else:
            self._use(mended.plan)

    def _of(self, participants: Sequence[Any]) -> list[Offer]:
        owners = {one.owner for one in participants}
        return [offer for offer in self._offers if offer.owner in owners]

    def _use(self, plan: Plan) -> None:
        self.plan = plan
        save_plan(plan, self._folder / "plan.json")
        self.events.append({"event": "plan", "round": self._number, **self.account()})
        if self._hierarchy is not None:
            self._hierarchy.arrange(self._regions(plan))

    def _regions(self, plan: Plan) -> list[Region]:
        """Of each aggregator's site the participants, and which of them adds up: one at that site, else the first."""
        at = {one.owner: one.site for one in plan.participants}
        regions = []
        for aggregator in plan.aggregators:
            children = plan.children(aggregator.site)
            if aggregator.site == plan.root or len(children) < 2:
                continue
            first = next((owner for owner in children if at[owner] == aggregator.site), children[0])
            regions.append(Region(self._nodes[first], tuple(self._nodes[owner] for owner in children)))
        return regions

    def _work(self) -> Work:
        size = self._request.model_bytes / 1e6
        trips = {"none": 1, "secagg+": 3}.get(self._request.protocol, 2)
        return Work(size, size, trips, self._request.memory_gb)

    # ---- messages ---------------------------------------------------------------------------------------

    def _asked_for_offers(self) -> list[Offer]:
        told = self._exchange("offers", {name: asdict(self._request) for name in self._nodes})
        signed: list[SignedOffer] = []
        descriptors: list[Descriptor] = []
        self._known = pins = dict(self._pins)
        for name, answer in told.items():
            try:
                signed += [from_json(each) for each in answer["offers"]]
                descriptors += [Descriptor.model_validate(each) for each in answer["descriptors"]]
                for node, why in answer["left_out"].items():
                    self.rejected.append(Rejected("offer", str(node), name, str(why)))
                if not self._pins:
                    pins[name] = str(answer["key"])
            except (FedcoreError, ValueError, KeyError, TypeError) as error:
                self.rejected.append(Rejected("offer", "", name, f"its answer cannot be used: {error}"))
        offers, rejected = take_offers(
            signed,
            self._request,
            descriptors,
            pins,
            needed=self._policy.hard.evidence,
            trust={(each.owner, each.node): 1.0 for each in descriptors},
        )
        self.rejected += rejected
        for one in rejected:
            log.warning("placement: offer %s of %s is left out: %s", one.name, one.owner, one.reason)
        if not offers:
            found = [f"{one.owner}: {one.name} {one.reason}".replace("  ", " ") for one in self.rejected]
            why = "; ".join(found) or "nobody has a node"
            raise JobError(
                f"nothing can be placed: no participant offers a node ({why})", party="coordinator", step=STEP
            )
        return offers

    def _leased(self, plan: Plan) -> set[str]:
        """Ask all owners for leases, and bind them when all have granted; ids of offers that were refused."""
        requests = [
            new_request(
                self._identity,
                plan=self._request.id,
                version=plan.version,
                owner=one.owner,
                node=one.node,
                offer=one.offer,
                seconds=LEASED_SECONDS,
            )
            for one in plan.participants
        ]
        told = self._exchange("lease", {one.owner: [asdict(one)] for one in requests})
        back: dict[str, list[str]] = {}
        found = acquire(
            requests,
            lambda one: _answered(one, told.get(one.owner)),
            lambda lease: back.setdefault(lease.owner, []).append(lease.id),
            self._known,
        )
        self._exchange("release", back)
        for each in found.refusals:
            self.rejected.append(
                Rejected("offer", each.offer, each.owner, f"the lease was refused: {each.reason}")
            )
            self.events.append(
                {"event": "refused", "owner": each.owner, "offer": each.offer, "reason": each.reason}
            )
            log.warning("placement: %s refuses a lease: %s", each.owner, each.reason)
        self._exchange("bind", {each.owner: [each.id] for each in found.leases})
        return {each.offer for each in found.refusals}

    def _exchange(self, what: str, bodies: Mapping[str, Any]) -> dict[str, Any]:
        """One question to some participants; what each answers, by name."""
        messages = []
        for name, body in bodies.items():
            about = json.dumps({"what": what, "body": body, "key": self._identity.public_line})
            content = RecordDict({NODES: ConfigRecord({"about": about})})
            messages.append(Message(content, self._nodes[name], "query.nodes"))
        answers: dict[str, Any] = {}
        with self._aside():
            replies = list(stream(self._grid, messages, self._patience)) if messages else []
        for reply in replies:
            name = self._members.get(reply.metadata.src_node_id, "")
            if reply.has_error():
                reason = reply.error.reason or "no reason given"
                self.rejected.append(Rejected("offer", "", name, _plain(reason)))
                log.warning("placement: %s: %s", name, reason)
                continue
            record = reply.content.get(NODES)
            try:
                answers[name] = json.loads(str(record["about"])) if isinstance(record, ConfigRecord) else None
            except (ValueError, KeyError):
                self.rejected.append(Rejected("offer", "", name, "its answer is no JSON"))
        return answers


def placing(
    job: TrainJob,
    settings: Settings,
    grid: Grid,
    evidence: EvidenceGrid,
    hierarchy: HierarchyGrid | None,
    agreement: Agreement,
    arrays: Mapping[str, NDArray],
) -> Placing:
    """Plans for a run of a job.

    Args:
        job: Names its policy.
        settings: Of the run, with the federation's network.
        grid: That reaches the participants.
        evidence: Below it, which records what passes.
        hierarchy: Gets the regions.
        agreement: Who takes part, with how many rows.
        arrays: Of the model.

    Raises:
        JobError: The policy or the map is wrong, or the federation has no network.
    """
    network = settings.network
    if job.placement is None or network is None:
        raise JobError(
            f"the job asks for placement by {job.placement}, and the federation names no network. Cure: network: {{map: "
            "..., root: ...}} in the federation file",
            party="coordinator",
            step=STEP,
        )
    policy, topology = load_policy(job.placement), load_topology(network.map)
    if network.root not in topology.names:
        raise JobError(
            f"network.root: no site is called {network.root!r}; {did_you_mean(network.root, topology.names)}",
            party="coordinator",
            step=STEP,
        )
    key = settings.identity or settings.folder / "coordinator.key"
    identity = load_identity(key, COORDINATOR) if key.exists() else new_identity(key, COORDINATOR)
    rows = agreement.totals.get("train_rows") or sum(
        int(site.get("train_rows", 0)) for site in agreement.sites.values()
    )
    request = request_of(
        job=job.name,
        rows=max(rows, len(agreement.members)),
        members=len(agreement.members),
        epochs=job.local.epochs,
        parameters=sum(value.size for value in arrays.values()),
        model_bytes=sum(value.nbytes for value in arrays.values()),
        protocol=job.protection.secure_aggregation.protocol,
        policy=policy,
    )
    return Placing(
        grid,
        policy=policy,
        topology=topology,
        root=network.root,
        identity=identity,
        members=agreement.members,
        request=request,
        pins=settings.keys,
        folder=settings.folder,
        hierarchy=hierarchy,
        aside=lambda: evidence.aside(STEP),
        patience=min(job.deadline, PATIENCE),
        seed=job.seed,
    )


def request_of(
    *,
    job: str,
    rows: int,
    members: int,
    epochs: int,
    parameters: int,
    model_bytes: int,
    protocol: str,
    policy: Policy,
) -> Request:
    """The work of a round, as owners are asked for it.

    Args:
        job: Its name.
        rows: Over all participants; each is taken to have its share, since none tells its own.
        members: Participants.
        epochs: Of a round.
        parameters, model_bytes: Of the model.
        protocol: Of secure aggregation, or `none`.
        policy: Whose currency counts.
    """
    return Request(
        id=secrets.token_hex(8),
        job=job,
        samples=max(1, math.ceil(rows / members)),
        epochs=epochs,
        model_bytes=max(1, model_bytes),
        protocol=protocol,  # type: ignore[arg-type]
        currency=policy.currency,
        neighbours=members - 1 if protocol == "secagg+" else 0,
        memory_gb=0.1,
        flop_per_sample=MODEL_FLOP * parameters,
        efficiency=EFFICIENCY,
    )


def _answered(request: LeaseRequest, answer: Any) -> Lease | Refusal:
    """What an owner says to a request; silence and nonsense are refusals."""
    try:
        told = dict(answer[0])
        return Lease(**told) if told.pop("granted") else Refusal(**told)
    except (KeyError, IndexError, TypeError, ValueError):
        why = "no answer" if answer is None else "its answer cannot be read"
        return Refusal(request.id, request.owner, request.node, request.offer, why)


def _plain(reason: str) -> str:
    """The message of a participant's error."""
    try:
        told = json.loads(reason)
        return str(told["message"])
    except (ValueError, KeyError, TypeError):
        return reason
