"""Offers as their owners would make them, where the descriptors are at hand: for planning before anybody is asked.

An owner whose key is here signs its offers, and they pass the checks of a real request. The offers of the others
are a trial, under a key that lives as long as the call; their figures are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from fedcore.errors import DataError, JobError
from fedcore.network.acceptance import take_offers
from fedcore.network.admission import Rejected
from fedcore.network.descriptor import Descriptor, by_owner, load_descriptor, sign_descriptor
from fedcore.network.files import network_kind
from fedcore.network.offer import Offer
from fedcore.network.offers import make_offers
from fedcore.network.policy import Needed
from fedcore.network.signed_offer import SignedOffer
from fedcore.network.trust_score import scores
from fedcore.network.work import Request
from fedcore.trust.identity import Identity


@dataclass(frozen=True)
class Quotes:
    """What owners would offer.

    Args:
        offers: That may be planned with.
        left_out: Nodes that make no offer, and offers that a coordinator would not take.
        signed: Owners whose key was here.
        trial: The others.
    """

    offers: tuple[Offer, ...]
    left_out: tuple[Rejected, ...]
    signed: tuple[str, ...]
    trial: tuple[str, ...]


def quotes(
    request: Request,
    nodes: Sequence[Descriptor],
    keys: Mapping[str, Identity],
    *,
    needed: Needed | None = None,
) -> Quotes:
    """What the owners of nodes would offer for a round.

    Args:
        request: The work.
        nodes: Of all owners, with their quantities (L0).
        keys: Of owners, by name; those that are here.
        needed: What figures must at least rest on.
    """
    signed: list[SignedOffer] = []
    shown: list[Descriptor] = []
    left_out: list[Rejected] = []
    pins: dict[str, str] = {}
    for owner, own in sorted(by_owner(nodes).items()):
        identity = keys.get(owner) or _for_now(owner)
        pins[owner] = identity.public_line
        made = make_offers(request, own, identity)
        signed += made.offers
        left_out += [Rejected("offer", node, owner, why) for node, why in made.left_out.items()]
        for node in own:
            try:
                kept = node if node.signature and owner in keys else sign_descriptor(node, identity)
            except DataError as error:
                left_out.append(Rejected("offer", node.node, owner, error.message))
                continue
            shown.append(kept)
    trust = {node: score.value for node, score in scores(shown, pins).items()}
    offers, rejected = take_offers(signed, request, shown, pins, needed=needed, trust=trust)
    owners = sorted({node.owner for node in nodes})
    return Quotes(
        tuple(offers),
        (*left_out, *rejected),
        tuple(owner for owner in owners if owner in keys),
        tuple(owner for owner in owners if owner not in keys),
    )


def descriptors_in(paths: Iterable[Path]) -> list[Descriptor]:
    """The descriptors of files and folders; other files of a folder are passed over.

    Raises:
        JobError: A path is not there, a folder has no descriptor, or two describe the same node.
    """
    found: dict[tuple[str, str], Descriptor] = {}
    for path in paths:
        if path.is_dir():
            files = [each for each in sorted(path.iterdir()) if _describes(each)]
            if not files:
                raise JobError(
                    f"{path} holds no descriptor; `fedcore network probe NODE.yaml --key KEY` makes one"
                )
        else:
            files = [path]
        for file in files:
            node = load_descriptor(file)
            if (node.owner, node.node) in found:
                raise JobError(
                    f"{file}: a descriptor of {node.owner}/{node.node} came already; name each node once"
                )
            found[node.owner, node.node] = node
    return list(found.values())


def _describes(file: Path) -> bool:
    from fedcore.jobs.source import read_source

    if file.suffix not in (".json", ".yaml", ".yml") or not file.is_file():
        return False
    return network_kind(read_source(file)[0].data) == "descriptor"


def _for_now(owner: str) -> Identity:
    """A key that is written nowhere."""
    return Identity(owner, Path("trial"), ec.generate_private_key(ec.SECP384R1()))
