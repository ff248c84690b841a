"""What an owner writes about a node: who and where it is, what it costs, and how much of it others may see.

    node: train-1
    owner: hospital-1
    site: guiyang-edge
    tier: edge
    jurisdiction: CN
    location: {country: CN, region: Guizhou}
    pue: 1.25
    price: {currency: CNY, compute: 0.9, egress: 0.5}
    security: {level: 3}

What a program can find out is not in it: `fedcore network probe` measures that and puts both into one descriptor.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fedcore.jobs.common import Name, Seconds, Strict
from fedcore.jobs.problems import refuse
from fedcore.jobs.source import read_source
from fedcore.jobs.validation import validate
from fedcore.network.carbon import location_intensity, market_intensity
from fedcore.network.quantity import LIMITS, Quantity, declared

Tier = Literal["end", "edge", "cloud", "hub"]
"""Where a site stands: at the data, near it, in a region's centre, in a national hub."""

Exposure = Literal["L0", "L1", "L2"]
"""How much the owner lets out: quantities with their units, a score for each kind, or one score."""


class Location(Strict):
    """Where the machine's power comes from.

    Args:
        country: ISO 3166-1 code, or the English name.
        region: Province, state or zone; the country's mean when absent.
    """

    country: str
    region: str | None = None


class Carbon(Strict):
    """A carbon factor that the owner gives itself.

    Args:
        value: g/kWh.
        unit: Which gases are counted.
        evidence: What shows it: a grid operator's page, a contract or certificate, by name and digest.
    """

    value: float = Field(ge=0, le=2000)
    unit: Literal["gCO2/kWh", "gCO2e/kWh"] = "gCO2e/kWh"
    evidence: str = Field(min_length=1)


class Price(Strict):
    """What the owner asks.

    Args:
        currency: ISO 4217, as CNY.
        compute: For one TFLOP/s over an hour (3.6e15 operations), at the rate that was measured.
        egress: For 1 GB (10^9 bytes) that leaves the site.
    """

    currency: str = Field(pattern=r"^[A-Z]{3}$")
    compute: float = Field(default=0.0, ge=0, le=1e6)
    egress: float = Field(default=0.0, ge=0, le=1e6)


class Attestation(Strict):
    """Something a third party vouched for.

    Args:
        kind: As policies name it: `tee_quote`, `measured_boot`, `svid`, `image_digest`.
        digest: SHA-256 of the evidence, hex.
        verified_at: When it was verified, UTC in ISO 8601.
        verifier: Who verified it.
    """

    kind: Name
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    verified_at: str
    verifier: str = Field(min_length=1)


class Security(Strict):
    """How well the node is protected.

    Args:
        level: From 1 to 5, as the owner's certificate of its protection class says.
        attestations: What else shows it.
    """

    level: int = Field(default=1, ge=1, le=5)
    attestations: tuple[Attestation, ...] = ()


class Watts(Strict):
    """What the whole machine draws, by the owner's meter.

    Args:
        idle, load: W; doing nothing, and training.
    """

    idle: float = Field(gt=0, le=1e6)
    load: float = Field(gt=0, le=1e6)

    @model_validator(mode="after")
    def _ordered(self) -> Watts:
        if self.idle > self.load:
            raise ValueError(
                f"idle is {self.idle:g} W and load {self.load:g} W; a machine draws more when it works"
            )
        return self


class Line(Strict):
    """The access line, until links were measured.

    Args:
        up, down: Mbit/s, towards the network and from it.
    """

    up: float = Field(gt=0, le=1e7)
    down: float = Field(gt=0, le=1e7)


LONGEST_SECONDS = 31 * 86400.0
"""That a descriptor may hold: what a node can do is no older."""

Pue = Annotated[float, Field(ge=LIMITS["pue"].least, le=LIMITS["pue"].most)]
"""Power of the site over power of the machines in it."""


class NodeFile(Strict):
    """The file.

    Args:
        node: Its name at its owner.
        owner: Participant whose node it is, as in the roster; who signs.
        site: The site of the topology at which it stands.
        tier: Of the site.
        jurisdiction: Whose law holds there, as policies spell it.
        location: Where its power comes from; without it and without `carbon`, its carbon is not known.
        carbon: The grid's factor, where the owner knows better than the tables.
        carbon_market: By contract; reported beside the grid's, never instead of it.
        pue: At the site, from 1 to 3.
        price: What the owner asks; nothing when absent.
        security: How well it is protected.
        power: By the owner's meter; counters or tables otherwise.
        line: The access line.
        exposure: How much others may see.
        valid: How long a descriptor holds; a month at most.
    """

    node: Name
    owner: Name
    site: Name
    tier: Tier = "edge"
    jurisdiction: Name
    location: Location | None = None
    carbon: Carbon | None = None
    carbon_market: Carbon | None = None
    pue: Pue | None = None
    price: Price = Price(currency="XXX")
    security: Security = Security()
    power: Watts | None = None
    line: Line | None = None
    exposure: Exposure = "L0"
    valid: Annotated[Seconds, Field(le=LONGEST_SECONDS)] = 86400.0


def load_node(path: str | Path) -> NodeFile:
    """The node of a file.

    Raises:
        JobError: With all problems of the file.
    """
    source, problems = read_source(Path(path))
    model: Any = None
    if not problems:
        model, problems = validate(source, NodeFile)
    refuse(problems)
    found: NodeFile = model
    return found


def declared_quantities(node: NodeFile) -> dict[str, Quantity]:
    """What an owner's file says, as quantities by name; each is declared, and its method says by whom.

    Raises:
        JobError: The tables have no such place.
    """
    own = f"declared by {node.owner}"
    found: dict[str, Quantity] = {
        "security.level": declared(node.security.level, "level", own),
        "price.compute": declared(node.price.compute, "per TFLOP/s.h", f"{own}, in {node.price.currency}"),
        "price.egress": declared(node.price.egress, "per GB", f"{own}, in {node.price.currency}"),
    }
    if node.pue is not None:
        found["pue"] = declared(node.pue, "ratio", own)
    if node.carbon is not None:
        found["carbon.location"] = declared(
            node.carbon.value, node.carbon.unit, f"{own}: {node.carbon.evidence}"
        )
    elif node.location is not None:
        found["carbon.location"] = location_intensity(node.location.country, node.location.region)
    if node.carbon_market is not None:
        market = node.carbon_market
        found["carbon.market"] = market_intensity(market.value, market.evidence, unit=market.unit)
    if node.power is not None:
        found["power.idle"] = declared(node.power.idle, "W", f"{own}: its meter")
        found["power.load"] = declared(node.power.load, "W", f"{own}: its meter")
    if node.line is not None:
        found["link.up"] = declared(node.line.up, "Mbit/s", own)
        found["link.down"] = declared(node.line.down, "Mbit/s", own)
    return found
