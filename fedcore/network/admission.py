"""Which offers and sites a policy admits at all, and why the others are left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedcore.network.offer import Offer
from fedcore.network.policy import Hard, Policy
from fedcore.network.topology import Topology

_RANKS = {"none": 0, "derived": 1, "declared": 2, "measured": 3, "attested": 4}


@dataclass(frozen=True)
class Rejected:
    """Something that was not chosen.

    Args:
        what: `offer`, `owner` or `site`.
        name: The offer's id, or the name.
        owner: Of an offer; else empty.
        reason: A sentence without the name.
    """

    what: str
    name: str
    owner: str
    reason: str


def evidence_rank(source: str) -> int:
    """How much a figure's source is worth: attested above measured above declared above derived."""
    return _RANKS[source]


def _law(hard: Hard, topology: Topology, root: str) -> frozenset[str] | None:
    """Jurisdictions that are allowed; None for every one."""
    if hard.jurisdiction == "any":
        return None
    if hard.jurisdiction == "root":
        return frozenset({topology.sites[root].jurisdiction})
    return frozenset(hard.jurisdiction)


def _refusals(
    policy: Policy, topology: Topology, root: str
) -> Callable[[str, int, tuple[str, ...]], str | None]:
    """What jurisdiction, level and attestation say about a node or an aggregator."""
    hard = policy.hard
    law, kinds = _law(hard, topology, root), frozenset(hard.attestation_any)

    def refusal(jurisdiction: str, security: int, attested: tuple[str, ...]) -> str | None:
        if law is not None and jurisdiction not in law:
            return f"jurisdiction {jurisdiction} is not allowed"
        if security < hard.security_level:
            return f"security level {security} is below {hard.security_level}"
        if kinds and kinds.isdisjoint(attested):
            return f"none of {', '.join(sorted(kinds))} was verified"
        return None

    return refusal


def admit_offers(
    offers: Sequence[Offer],
    topology: Topology,
    policy: Policy,
    memory_gb: float,
    root: str,
    barred: frozenset[str] = frozenset(),
) -> tuple[list[Offer], list[Rejected]]:
    """The offers that a policy admits, in their order, and the others with a reason."""
    refusal = _refusals(policy, topology, root)
    kept, rejected = [], []
    for offer in offers:
        reason = refusal(offer.jurisdiction, offer.security, offer.attested)
        if reason is None and offer.jurisdiction != topology.sites[offer.site].jurisdiction:
            reason = f"says jurisdiction {offer.jurisdiction}, its site has {topology.sites[offer.site].jurisdiction}"
        if reason is None and offer.trust < policy.hard.trust:
            reason = f"trust {offer.trust:g} is below {policy.hard.trust:g}"
        if reason is None and offer.memory_gb < memory_gb:
            reason = f"{offer.memory_gb:g} GB of memory, the work needs {memory_gb:g}"
        if reason is None and offer.owner in barred:
            reason = "took part as often as fairness allows in this window"
        if reason is None:
            kept.append(offer)
        else:
            rejected.append(Rejected("offer", offer.id, offer.owner, reason))
    return kept, rejected


def admit_sites(topology: Topology, policy: Policy, root: str) -> tuple[tuple[str, ...], list[Rejected]]:
    """The sites that may aggregate, sorted, and the others with a reason."""
    refusal = _refusals(policy, topology, root)
    kept, rejected = [], []
    at_root = topology.index(root)
    for index, name in enumerate(topology.names):
        site = topology.sites[name]
        role = site.aggregator
        if role is None:
            rejected.append(Rejected("site", name, "", "cannot aggregate"))
            continue
        reason = refusal(site.jurisdiction, role.security, role.attested)
        owner = "neutral" if role.owner == "neutral" else "participant"
        if reason is None and owner not in policy.aggregators.owners:
            reason = f"its aggregator belongs to {role.owner}"
        if reason is None and site.carbon_g_per_kwh is None:
            reason = "no carbon factor is known there"
        if reason is None and not (
            topology.mbit_s[at_root, index] > 0 and topology.mbit_s[index, at_root] > 0
        ):
            reason = f"no path to {root}"
        if reason is None:
            kept.append(name)
        else:
            rejected.append(Rejected("site", name, "", reason))
    return tuple(kept), rejected
