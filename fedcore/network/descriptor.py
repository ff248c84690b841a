"""A node's descriptor: what it is and can do, signed by its owner, for as long as the owner says.

Who learns what: everybody whom the descriptor is given. So the owner decides how much is in it. At L0 there are
quantities with their units; at L1 a score for each kind of ability, and at L2 one score, as IETF's CATS metrics have
it. Name, owner, site, tier, jurisdiction and level of protection are always there: no placement is lawful without.

A descriptor speaks for its owner alone: one that another enrolled party signed is refused, and so is one that has
expired, was changed, or says what cannot be true.

Source: levels as in IETF draft-ietf-cats-metric-definition; the scores are fedcore's own scale.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fedcore.errors import JobError
from fedcore.jobs.common import Name, Strict
from fedcore.jobs.problems import Problem, hint, refuse
from fedcore.jobs.source import Source, read_source
from fedcore.jobs.validation import validate
from fedcore.network.node import LONGEST_SECONDS, Attestation, Exposure, NodeFile, Tier, declared_quantities
from fedcore.network.quantity import Quantity, check_quantities, derived, iso
from fedcore.network.signed import check_signature, check_time, sign
from fedcore.trust.identity import Identity

KIND = "node descriptor"
MOST_QUANTITIES = 256
"""A descriptor is a page, not a data set."""

_ALWAYS = ("security.level",)
_SCORED: dict[str, tuple[tuple[str, float, float], ...]] = {
    "score.compute": (("gemm.cuda.fp32", 1.0, 1e6), ("gemm.cpu.fp32", 1.0, 1e6)),
    "score.crypto": (("ecc.ristretto", 1e2, 1e5), ("ecc.x25519", 1e2, 1e5)),
    "score.memory": (("memory.cpu", 1.0, 1e4),),
    "score.network": (("link.up", 1.0, 1e5),),
}
"""Score to the quantities it may come from, the first that is there, and what has score 0 and score 10."""


class Descriptor(Strict):
    """The file that travels.

    Args:
        version: Of the format.
        node, owner, site, tier, jurisdiction: As of `NodeFile`.
        currency: Of the prices.
        exposure: How much it shows.
        attestations: What third parties vouched for.
        quantities: By name.
        issued, expires: UTC in ISO 8601.
        signature: The owner's, base64; empty while it is not signed.
    """

    version: Literal[1] = 1
    node: Name
    owner: Name
    site: Name
    tier: Tier
    jurisdiction: Name
    currency: str = Field(pattern=r"^[A-Z]{3}$")
    exposure: Exposure = "L0"
    attestations: tuple[Attestation, ...] = ()
    quantities: dict[str, Quantity] = Field(max_length=MOST_QUANTITIES)
    issued: str
    expires: str
    signature: str = ""

    def get(self, name: str) -> Quantity | None:
        """A quantity; None where the descriptor has none of the name."""
        return self.quantities.get(name)

    @property
    def doubtful(self) -> dict[str, str]:
        """Why, by the name of each quantity that is unreliable."""
        return {name: each.doubt for name, each in self.quantities.items() if each.doubt}


def describe(node: NodeFile, found: Mapping[str, Quantity], *, at: datetime | None = None) -> Descriptor:
    """What an owner says of a node and what a probe found, in one descriptor, not yet signed.

    What was measured takes the place of what is declared; the owner's word that of an estimate.

    Args:
        node: The owner's file.
        found: Of `fedcore.network.probe`, by name.
        at: When it begins to hold; now by default.

    Raises:
        DataError: Something in it cannot be true.
        JobError: The tables of carbon have no such place.
    """
    said = declared_quantities(node)
    kept = {
        name: each
        for name, each in found.items()
        if name not in said or each.source in ("measured", "attested")
    }
    quantities = {**said, **kept}
    check_quantities(quantities, party=node.owner)
    begins = at or datetime.now(UTC)
    whole = Descriptor(
        node=node.node,
        owner=node.owner,
        site=node.site,
        tier=node.tier,
        jurisdiction=node.jurisdiction,
        currency=node.price.currency,
        attestations=node.security.attestations,
        quantities=quantities,
        issued=iso(begins),
        expires=iso(begins + timedelta(seconds=node.valid)),
    )
    return exposed(whole, node.exposure)


def exposed(descriptor: Descriptor, level: Exposure) -> Descriptor:
    """As much of a descriptor as an owner lets out, not signed.

    Args:
        descriptor: With its quantities (L0).
        level: `L0` as it is, `L1` a score from 0 to 10 for each kind of ability, `L2` their mean.

    Raises:
        JobError: It shows less than that already.
    """
    if level < descriptor.exposure:
        raise JobError(
            f"the descriptor of {descriptor.node} shows {descriptor.exposure} and cannot show {level} again; allowed: "
            f"{descriptor.exposure} or less. Cure: make it from the probe"
        )
    if level == descriptor.exposure:
        return descriptor.model_copy(update={"signature": ""})
    kept = {name: each for name, each in descriptor.quantities.items() if name in _ALWAYS}
    if descriptor.exposure == "L0":
        scores = _scores(descriptor.quantities)
    else:
        scores = {name: each for name, each in descriptor.quantities.items() if name.startswith("score.")}
    if level == "L2" and scores:
        mean = sum(each.value for each in scores.values()) / len(scores)
        scores = {"score": derived(mean, "score", "mean of the scores", *scores.values())}
    return descriptor.model_copy(
        update={"quantities": {**kept, **scores}, "exposure": level, "signature": ""}
    )


def sign_descriptor(descriptor: Descriptor, identity: Identity) -> Descriptor:
    """The descriptor with its owner's signature.

    Raises:
        JobError: The key is another party's than the owner's.
        DataError: It says what cannot be true, which nobody should put a name to.
    """
    if identity.name != descriptor.owner:
        raise JobError(
            f"the descriptor is of {descriptor.owner}'s node {descriptor.node} and the key is {identity.name}'s; allowed: "
            f"the owner's key. Cure: --key with the key of {descriptor.owner}, or another owner in the file"
        )
    check_quantities(descriptor.quantities, party=descriptor.owner)
    return descriptor.model_copy(update={"signature": sign(identity, KIND, payload(descriptor))})


def check_descriptor(descriptor: Descriptor, pins: Mapping[str, str], *, at: datetime | None = None) -> None:
    """Refuse a descriptor that is not its owner's, not of now, or not true.

    Args:
        descriptor: As it came.
        pins: Name to public key line of everybody who is enrolled.
        at: The moment of which it is asked; now by default.

    Raises:
        IdentityError: Forged, another party's, not signed, expired, or from the future.
        DataError: It says what cannot be true.
    """
    check_signature(KIND, payload(descriptor), descriptor.signature, descriptor.owner, pins)
    now = at or datetime.now(UTC)
    check_time(KIND, descriptor.issued, descriptor.expires, descriptor.owner, now, longest=LONGEST_SECONDS)
    check_quantities(descriptor.quantities, party=descriptor.owner)


def payload(descriptor: Descriptor) -> dict[str, Any]:
    """What is signed: all but the signature, as JSON values."""
    found: dict[str, Any] = descriptor.model_dump(mode="json", exclude={"signature"})
    return found


def write_descriptor(descriptor: Descriptor, path: Path) -> None:
    """Write a descriptor as JSON, which is YAML too."""
    text = json.dumps(
        {**payload(descriptor), "signature": descriptor.signature}, indent=1, ensure_ascii=False
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


def load_descriptor(path: str | Path) -> Descriptor:
    """The descriptor of a JSON or YAML file; `check_descriptor` says whether it may be believed.

    Raises:
        JobError: With all problems of the file; unknown keys are among them.
    """
    source, problems = read_source(Path(path))
    model: Any = None
    if not problems:
        problems = unknown_keys(source)
    if not problems:
        model, problems = validate(source, Descriptor)
    refuse(problems)
    found: Descriptor = model
    return found


def unknown_keys(source: Source) -> list[Problem]:
    """Keys within quantities that a quantity does not have."""
    quantities = source.value(("quantities",))
    allowed = [each.name for each in fields(Quantity)]
    return [
        source.problem(("quantities", name, key), "unknown key", **hint(key, allowed))
        for name, each in (quantities.items() if isinstance(quantities, dict) else ())
        for key in (each if isinstance(each, dict) else ())
        if key not in allowed
    ]


def _scores(quantities: Mapping[str, Quantity]) -> dict[str, Quantity]:
    """A score for each kind of ability of which anything is known: tenths of the way, on a logarithmic scale."""
    made = {}
    for score, choices in _SCORED.items():
        origin = next(
            ((quantities[name], low, high) for name, low, high in choices if name in quantities), None
        )
        if origin is not None:
            quantity, low, high = origin
            share = math.log(max(quantity.value, low) / low) / math.log(high / low)
            made[score] = derived(round(10 * min(share, 1.0), 1), "score", "logarithmic, 0 to 10", quantity)
    return made


def by_owner(descriptors: Iterable[Descriptor]) -> dict[str, list[Descriptor]]:
    """The nodes of each owner, in the order given."""
    found: dict[str, list[Descriptor]] = {}
    for each in descriptors:
        found.setdefault(each.owner, []).append(each)
    return found
