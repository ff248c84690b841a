"""Leasing all nodes of a plan or none, at the coordinator. What passes between the parties: `fedcore.network.lease`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from fedcore.errors import IdentityError, PeerLost
from fedcore.network.lease import LEASE, Lease, LeaseRequest, Refusal
from fedcore.network.signed import check_signature, check_time


@dataclass(frozen=True)
class Acquired:
    """What became of a plan's requests.

    Args:
        leases: All of them, or none.
        refusals: None where all were granted.
    """

    leases: tuple[Lease, ...]
    refusals: tuple[Refusal, ...]


def acquire(
    requests: Sequence[LeaseRequest],
    ask: Callable[[LeaseRequest], Lease | Refusal],
    release: Callable[[Lease], object],
    pins: Mapping[str, str],
    *,
    at: datetime | None = None,
) -> Acquired:
    """Lease everything that a plan needs, or nothing.

    All owners are asked, also after a refusal, so that the next plan can leave out every offer that was refused.

    Args:
        requests: One for each node of the plan.
        ask: Puts a request to its owner; may raise `PeerLost`, which counts as a refusal.
        release: Gives a lease back; one that cannot be given back ends by itself.
        pins: Name to public key line of the owners.
        at: The moment of which it is asked; now by default.
    """
    leases: list[Lease] = []
    refusals: list[Refusal] = []
    # The same order at every coordinator, so that two do not each hold what the other waits for.
    for request in sorted(requests, key=lambda each: (each.owner, each.node, each.id)):
        try:
            answer = ask(request)
            if isinstance(answer, Lease):
                _check_lease(answer, request, pins, at or datetime.now(UTC))
        except (PeerLost, IdentityError) as error:
            answer = Refusal(request.id, request.owner, request.node, request.offer, error.message)
        if isinstance(answer, Lease):
            leases.append(answer)
        else:
            refusals.append(answer)
    if not refusals:
        return Acquired(tuple(leases), ())
    give_back(leases, release)
    return Acquired((), tuple(refusals))


def give_back(leases: Iterable[Lease], release: Callable[[Lease], object]) -> None:
    """Give leases back; who cannot be reached keeps its own until it ends."""
    for lease in leases:
        try:
            release(lease)
        except PeerLost:
            continue


def _check_lease(lease: Lease, request: LeaseRequest, pins: Mapping[str, str], now: datetime) -> None:
    check_signature(LEASE, lease.payload(), lease.signature, request.owner, pins)
    names = ("id", "coordinator", "plan", "version", "owner", "node", "offer")
    other = [name for name in names if getattr(lease, name) != getattr(request, name)]
    if other:
        raise IdentityError(
            f"the lease is not for what was asked: {', '.join(other)} differ", party=request.owner, step=LEASE
        )
    check_time(LEASE, request.issued, lease.expires, request.owner, now)
