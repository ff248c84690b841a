"""Places the rounds of a job on the compute network: a plan for each round, its leases, and a repaired one where it breaks.

A plan is made for the first round, and for each later one where fewer take part than could or fairness asks for others; it
stays where the next one would be the same, or too little better. A planned participant that is not online and an
aggregator that was lost in a round are losses, after which the plan is repaired with the least change. An owner that
refuses a lease costs its offer for some rounds. The versions of a run's plans rise, also when it is resumed.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fedcore.coordinator.grids.hierarchy import HierarchyGrid, Region
from fedcore.coordinator.owners import Owners
from fedcore.errors import DataError, FedcoreError, JobError, NoPlacement, RunInterrupted
from fedcore.network.admission import Rejected, admit_offers
from fedcore.network.evaluate import evaluate
from fedcore.network.fairness import due_and_barred
from fedcore.network.made_of import save_made_of
from fedcore.network.offer import Offer
from fedcore.network.place import make_plan
from fedcore.network.plan import Plan, load_plan, save_plan
from fedcore.network.policy import Policy
from fedcore.network.problem import Work
from fedcore.network.relax import relaxations
from fedcore.network.repair import Loss, after, repair, worth_changing
from fedcore.network.topology import Topology

log = logging.getLogger("fedcore.coordinator")

COORDINATOR = "coordinator"
STEP = "placement"
PLAN = "plan.json"
TRIES = 5
"""Plans whose leases are asked for before a round is given up."""


class Placing:
    """Plans of one run.

    Args:
        owners: Of the nodes.
        policy, topology, root, work: How, where and what.
        job: Its name.
        nodes: Participant name to node.
        minimum: Participants that the job needs in a round.
        deadline: Seconds that an exchange may take, which a lease must outlive.
        folder: Where `plan.json` goes.
        hierarchy: Gets the plan's regions; None for a star.
        seed: Of the random placements that scale the terms.
        rounds: Records of the rounds so far, of a run that is resumed.

    Attributes:
        plan: That counts now.
    """

    def __init__(
        self,
        owners: Owners,
        *,
        policy: Policy,
        topology: Topology,
        root: str,
        work: Work,
        job: str,
        nodes: Mapping[str, int],
        minimum: int,
        deadline: float,
        folder: Path,
        hierarchy: HierarchyGrid | None = None,
        seed: int = 0,
        rounds: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._owners, self._policy, self._topology, self._root = owners, policy, topology, root
        self._work, self._job, self._minimum, self._deadline = work, job, minimum, deadline
        self._nodes, self._names = dict(nodes), {node: name for name, node in nodes.items()}
        self._folder, self._hierarchy, self._seed = folder, hierarchy, seed
        told = [record["placement"] for record in rounds if record.get("placement")]
        self._history: list[tuple[str, ...]] = [tuple(each["participants"]) for each in told]
        self._version = max([_version_in(folder), *(int(each["version"]) for each in told)])
        self._first = "first" if not self._version else "resumed"
        self._trained: tuple[str, ...] = ()
        self._number = 0
        self._changed = 0
        self._refused: dict[str, int] = {}
        self._lost_sites: dict[str, int] = {}
        self._at: dict[int, str] = {}
        self._events: list[dict[str, Any]] = []
        self.plan: Plan | None = None

    def chosen(self, number: int, online: Collection[int]) -> Sequence[int]:
        """As `Planner.chosen`."""
        here = {self._names[node] for node in online if node in self._names}
        if self.plan is None or number != self._number:
            self._begin(number, here)
        loss = self._loss(here)
        if loss is not None:
            self._mend(loss, here)
        elif self._owners.ends_within(self._deadline):
            self._lease_again(here)
        return [self._nodes[one.owner] for one in self._planned.participants]

    def asked(self, kind: str, nodes: Sequence[int]) -> int | None:
        """As `Planner.asked`."""
        if kind == "train":
            self._trained = tuple(sorted({*self._trained, *(self._names[node] for node in nodes)}))
        return None if self.plan is None else self.plan.version

    def account(self) -> dict[str, Any]:
        """What is said of the plan of a round in its record: of the last one, where it was repaired meanwhile."""
        plan = self._planned
        events, self._events = self._events, []
        return {
            "version": plan.version,
            "cause": plan.cause,
            "participants": list(self._trained) or [one.owner for one in plan.participants],
            "aggregators": self._children(plan),
            "standby": list(plan.standby),
            "predicted": asdict(plan.prediction),
            "left_out": [asdict(one) for one in (*self._owners.rejected, *self._not_admitted())],
            "events": events,
        }

    def _children(self, plan: Plan) -> dict[str, list[str]]:
        """Aggregators' sites to participants; the root alone where rounds do not go through regions."""
        if self._hierarchy is None:
            return {plan.root: [one.owner for one in plan.participants]}
        return {one.site: list(plan.children(one.site)) for one in plan.aggregators}

    def close(self) -> None:
        """Give the nodes back."""
        try:
            self._owners.close()
        except Exception as error:  # noqa: BLE001 - at the end of a run, whose own error is the one to be told
            log.warning("placement: leases were not given back and end by themselves: %s", error)

    @property
    def _planned(self) -> Plan:
        if self.plan is None:
            raise RuntimeError("no plan was made yet")
        return self.plan

    @property
    def _map(self) -> Topology:
        """Without the aggregators that were lost of late."""
        lost = sorted(site for site, until in self._lost_sites.items() if until >= self._number)
        return after(self._topology, Loss(sites=lost)) if lost else self._topology

    # ---- plans ------------------------------------------------------------------------------------------

    def _begin(self, number: int, here: Collection[str]) -> None:
        """The plan of a round: the one before it where all take part anyway."""
        if self._number:
            self._history.append(self._trained)
        self._number, self._trained = number, ()
        offers = self._usable(here)
        plan = self.plan
        if plan is None:
            self._make(offers, here, self._first)
            return
        everyone = {one.owner for one in plan.participants} == {offer.owner for offer in offers}
        if not (everyone and self._policy.fairness.max_rate >= 1 and self._map is self._topology):
            self._make(offers, here, f"round {number}")

    def _usable(self, here: Collection[str]) -> list[Offer]:
        """Of those who are online, without what was refused of late."""
        found = self._owners.offers(here)
        return [offer for offer in found if self._refused.get(offer.id, 0) < self._number]

    def _make(self, offers: Sequence[Offer], here: Collection[str], cause: str) -> None:
        for _ in range(TRIES):
            fresh = self._new(offers, cause)
            if self._stays(fresh, offers):
                return
            refused = self._hold(fresh, offers, self._map, here)
            if not refused:
                return
            # A refusal is an event: the plan is made again without these offers.
            offers = [offer for offer in offers if offer.id not in refused]
            cause = f"{cause}; lease refused by {', '.join(sorted(one.partition('/')[0] for one in refused))}"
        raise self._stuck(f"owners refused the leases of {TRIES} plans", here)

    def _new(self, offers: Sequence[Offer], cause: str) -> Plan:
        running = self.plan
        try:
            plan = make_plan(
                offers,
                self._map,
                self._policy,
                self._work,
                self._root,
                job=self._job,
                version=self._version + 1,
                seed=self._seed,
                history=self._history,
                cause=cause,
                # The same measure, or two plans could not be compared.
                scale=None if running is None else running.scale,
            )
        except (NoPlacement, JobError, DataError) as error:
            raise self._stuck(self._why(error, offers), {offer.owner for offer in offers}) from error
        if len(plan.participants) < self._minimum:
            raise self._stuck(
                f"the plan has {len(plan.participants)} participants, and the job needs {self._minimum}",
                {offer.owner for offer in offers},
            )
        return plan

    def _stays(self, fresh: Plan, offers: Sequence[Offer]) -> bool:
        """Whether the plan that runs may stay, and the fresh one is not worth the change."""
        running = self.plan
        if running is None:
            return False
        if running.placed() == fresh.placed():
            return True
        if not {one.offer for one in running.participants} <= {offer.id for offer in offers}:
            return False
        if len(fresh.participants) > len(running.participants):
            return False
        now = evaluate(
            running.placed(), offers, self._map, self._policy, self._work, self._root, running.scale,
            standby=running.standby, forced=fresh.forced, barred=fresh.barred,
        )  # fmt: skip
        if now.violations:
            return False
        judged = replace(running, quality=replace(running.quality, objective=now.objective))
        return not worth_changing(judged, fresh, self._policy, self._number - self._changed)

    def _loss(self, here: Collection[str]) -> Loss | None:
        """What the plan names and is not there."""
        plan = self._planned
        gone = {one.owner for one in plan.participants if one.owner not in here}
        # All of an owner's nodes: it is the owner who does not answer.
        nodes = {(one.owner, one.node) for one in plan.participants if one.owner in gone}
        sites = set()
        if self._hierarchy is not None:
            failed, self._hierarchy.failed = self._hierarchy.failed, []
            used = {one.site for one in plan.aggregators}
            sites = {self._at[node] for node in failed if self._at.get(node) in used}
            # One that is not online is no loss of its site: another participant adds up there.
            sites -= {self._at[self._nodes[name]] for name in gone if self._nodes[name] in self._at}
        return Loss(nodes=frozenset(nodes), sites=frozenset(sites)) if nodes or sites else None

    def _mend(self, loss: Loss, here: Collection[str]) -> None:
        plan, gone = self._planned, {owner for owner, _ in loss.nodes}
        # Nobody is due who is not there.
        running = replace(plan, forced=tuple(owner for owner in plan.forced if owner not in gone))
        offers = self._usable(here)
        log.warning("placement: %s", loss)
        try:
            mended = repair(running, offers, self._map, self._policy, loss)
        except (NoPlacement, JobError, DataError) as error:
            if not gone:
                # The region of a lost aggregator is asked directly.
                log.warning("placement: the plan stays without it: %s", error.message)
                self._events.append({"event": "lost", "round": self._number, "what": str(loss)})
                return
            raise self._stuck(self._why(error, offers), here) from error
        left = len(mended.plan.participants)
        if left < self._minimum:
            raise self._stuck(f"{left} participants are left, and the job needs {self._minimum}", here)
        until = self._number + max(1, self._policy.replace.cooldown_rounds)
        self._lost_sites.update(dict.fromkeys(loss.sites, until))
        fresh = replace(mended.plan, version=self._version + 1)
        refused = self._hold(fresh, mended.offers, mended.topology, here)
        if refused:
            self._make([offer for offer in offers if offer.id not in refused], here, f"{loss}; lease refused")

    def _lease_again(self, here: Collection[str]) -> None:
        """The plan stays and its leases begin anew."""
        plan = self._planned
        refused = self._owners.lease(plan, here)
        self._note_refusals(refused)
        if refused:
            offers = [offer for offer in self._usable(here) if offer.id not in refused]
            self._make(offers, here, "a lease was not renewed")

    def _hold(
        self, plan: Plan, offers: Sequence[Offer], topology: Topology, here: Collection[str]
    ) -> frozenset[str]:
        """Lease what a plan of these offers names, after which it counts; ids of the offers that were refused."""
        # A version is used once, whatever becomes of it.
        self._version = plan.version
        refused = self._owners.lease(plan, here)
        self._note_refusals(refused)
        if refused:
            return refused
        self.plan, self._changed = plan, self._number
        save_plan(plan, self._folder / PLAN)
        save_made_of(self._folder / PLAN, offers, topology, self._policy)
        self._events.append(
            {"event": "plan", "round": self._number, "version": plan.version, "cause": plan.cause}
        )
        if self._hierarchy is not None:
            self._hierarchy.arrange(self._regions(plan))
        elif any(one.site != plan.root for one in plan.aggregators):
            log.warning(
                "placement: the strategy needs each update, or its protection has no sums of parts: all are sent straight "
                "to %s, which takes longer than the plan says",
                plan.root,
            )
        return refused

    def _note_refusals(self, refused: Collection[str]) -> None:
        until = self._number + self._policy.replace.cooldown_rounds
        for each in self._owners.refusals[-len(refused) :] if refused else ():
            self._refused[each.offer] = until
            self._events.append(
                {
                    "event": "refused",
                    "round": self._number,
                    "owner": each.owner,
                    "offer": each.offer,
                    "reason": each.reason,
                }
            )

    def _regions(self, plan: Plan) -> list[Region]:
        """Of each aggregator's site the participants, and which of them adds up: one at that site, else the first."""
        at = {one.owner: one.site for one in plan.participants}
        regions = []
        self._at = {}
        for aggregator in plan.aggregators:
            children = plan.children(aggregator.site)
            if aggregator.site == plan.root or len(children) < 2:
                continue
            first = next((owner for owner in children if at[owner] == aggregator.site), children[0])
            self._at[self._nodes[first]] = aggregator.site
            regions.append(Region(self._nodes[first], tuple(self._nodes[owner] for owner in children)))
        return regions

    # ---- what is wrong ----------------------------------------------------------------------------------

    def _not_admitted(self) -> list[Rejected]:
        """Offers that the policy does not admit at all."""
        return admit_offers(
            self._owners.known, self._topology, self._policy, self._work.memory_gb, self._root
        )[1]

    def _why(self, error: FedcoreError, offers: Sequence[Offer]) -> str:
        """An error of planning, with the fewest constraints whose relaxing would help."""
        if not offers:
            return "no participant that is online offers a node"
        try:
            places = (self._policy.participants.pick or len({one.owner for one in offers})) - len(
                self._policy.participants.mandatory
            )
            names = {one.owner for one in offers} - set(self._policy.participants.mandatory)
            forced, barred = due_and_barred(self._history, sorted(names), self._policy.fairness, places)
            found = relaxations(
                offers, self._map, self._policy, self._work, self._root, forced=forced, barred=barred
            )
        except FedcoreError as other:
            return error.message if other.message == error.message else f"{error.message}; {other.message}"
        if not found:
            return error.message
        return f"{error.message}. It is enough to relax {', or '.join(str(one) for one in found)}"

    def _stuck(self, why: str, here: Collection[str]) -> FedcoreError:
        """The error that ends the run: to be resumed, where rounds were placed before."""
        left_out = [f"{one.owner}: {one.name} {one.reason}" for one in self._owners.rejected]
        refused = [f"{one.owner}: {one.offer} refused, {one.reason}" for one in self._owners.refusals[-8:]]
        offline = sorted(set(self._nodes) - set(here) - {one.owner for one in self._owners.rejected})
        also = "; ".join([*left_out, *refused])
        told = f"{why}{f' (left out: {also})' if also else ''}"
        if self.plan is None and self._first == "first":
            return JobError(f"nothing can be placed: {told}", party=COORDINATOR, step=STEP)
        who = f"; not online or without an offer: {', '.join(offline)}" if offline else ""
        return RunInterrupted(
            f"round {self._number} cannot be placed: {told}{who}. Bring them back, or change the policy, and resume the run",
            party=COORDINATOR,
            step=STEP,
        )


def _version_in(folder: Path) -> int:
    """Of the plan that a run left, which may be of a round that it did not end; 0 without one."""
    file = folder / PLAN
    try:
        return load_plan(file).version if file.exists() else 0
    except FedcoreError as error:
        log.warning("placement: %s", error)
        return 0
