"""Who is paid what: costs reimbursed, and a gain split by contribution, in whole cents that add up exactly.

    pot = what each used at the agreed price + the gain

Amounts are decimals and shares are whole cents: each gets its share rounded down, and the cents that are left go to the
largest remainders, ties by name, so that no cent is made or lost and the order of names does not matter. A contribution
below zero counts as zero and is reported. No owner gets more than the cap's share of the gain; what is above goes to
the others that contributed, in proportion.

Source: largest remainders (Hamilton's method).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from fedcore.errors import DataError
from fedcore.network.usage import UsageRecord

STEP = "bill"


@dataclass(frozen=True)
class Prices:
    """What was agreed with an owner before, as in its offer.

    Args:
        compute: For 1 TFLOP/s.h.
        egress: For 1 GB (10^9 bytes) that left the site.
    """

    compute: Decimal
    egress: Decimal = Decimal(0)


@dataclass(frozen=True)
class Reimbursements:
    """What use costs, exact.

    Args:
        due: Per owner.
        held: Per owner, of records in dispute: not in the pot until that is settled.
        unpriced: Records without a price, per owner.
        currency: Of all; empty where nothing has a price.
    """

    due: dict[str, Decimal]
    held: dict[str, Decimal]
    unpriced: dict[str, int]
    currency: str


@dataclass(frozen=True)
class Share:
    """What one owner gets, in whole cents.

    Args:
        reimbursed, gain: The two parts.
        contribution: That the gain was split by, before clipping.
        capped: Whether the cap cut its part.
    """

    reimbursed: Decimal
    gain: Decimal
    contribution: float = 0.0
    capped: bool = False

    @property
    def total(self) -> Decimal:
        """Both."""
        return self.reimbursed + self.gain


@dataclass(frozen=True)
class Settlement:
    """Who gets what; the shares add up to the pot.

    Args:
        pot: All that is paid.
        shares: Per owner, by name.
        clipped: Contributions below zero, which counted as zero.
        currency: ISO 4217; empty where no record has a price.
    """

    pot: Decimal
    shares: dict[str, Share]
    clipped: dict[str, float]
    currency: str = ""

    def to_json(self) -> dict[str, Any]:
        """JSON values; amounts as decimal text."""
        return {
            "pot": str(self.pot),
            "currency": self.currency,
            "shares": {
                name: {
                    "reimbursed": str(each.reimbursed),
                    "gain": str(each.gain),
                    "total": str(each.total),
                    "contribution": each.contribution,
                    "capped": each.capped,
                }
                for name, each in self.shares.items()
            },
            "clipped": self.clipped,
        }


def reimbursements(
    records: Iterable[UsageRecord], prices: Mapping[str, Prices] | None = None
) -> Reimbursements:
    """What owners are to be paid for what they used.

    Args:
        records: Each counts once.
        prices: Agreed with each owner; what a record asks is taken for an owner without. Those of all are in the currency
            of the records.

    Raises:
        DataError: A record stands there twice, or there are two currencies.
    """
    agreed = prices or {}
    due: dict[str, Decimal] = {}
    held: dict[str, Decimal] = {}
    unpriced: dict[str, int] = {}
    seen: set[str] = set()
    currencies: set[str] = set()
    for record in records:
        owner = record.said.owner
        if record.id in seen:
            raise DataError(
                f"usage record {record.id} counts twice; a record counts once", party=owner, step=STEP
            )
        seen.add(record.id)
        due.setdefault(owner, Decimal(0))
        price = _price(record, agreed.get(owner))
        if record.said.currency is not None:
            currencies.add(record.said.currency)
        if price is None:
            unpriced[owner] = unpriced.get(owner, 0) + 1
        elif record.disputes:
            held[owner] = held.get(owner, Decimal(0)) + price
        else:
            due[owner] += price
    if len(currencies) > 1:
        raise DataError(
            f"prices are in {', '.join(sorted(currencies))}; allowed: one currency in a settlement. Cure: settle the "
            "owners of each currency apart, with --owner",
            step=STEP,
        )
    return Reimbursements(
        dict(sorted(due.items())), dict(sorted(held.items())), unpriced, next(iter(currencies), "")
    )


def _price(record: UsageRecord, agreed: Prices | None) -> Decimal | None:
    said = record.said
    if agreed is None:
        return None if said.price is None else Decimal(said.price)
    if said.tflops_h is None and agreed.compute:
        return None
    work = Fraction(agreed.compute) * Fraction(said.tflops_h or 0.0)
    exact = work + Fraction(agreed.egress) * said.bytes_up / 10**9
    return Decimal(round(exact * 10**12)).scaleb(-12)


def settle(
    due: Mapping[str, Decimal],
    contributions: Mapping[str, float],
    gain: Decimal = Decimal(0),
    *,
    cap: Decimal | None = None,
    places: int = 2,
    currency: str = "",
) -> Settlement:
    """Split the pot.

    Args:
        due: What each is reimbursed, exact, 0 or more.
        contributions: That the gain is split by; a value below zero counts as zero.
        gain: To be split, 0 or more, in whole cents.
        cap: Largest share of the gain that one owner may get, above 0 and at most 1; none when None.
        places: Decimal places of the currency: 2 for CNY, 0 for JPY.
        currency: For the record.

    Raises:
        DataError: An amount is negative or no number, the gain has fractions of cents, nobody contributed to a gain, or the
            cap leaves a part of it to nobody.
    """
    for name, amount in due.items():
        if not amount.is_finite() or amount < 0:
            raise DataError(f"{name} is to be reimbursed {amount}; allowed: 0 or more", party=name, step=STEP)
    for name, value in contributions.items():
        if value != value or value in (float("inf"), float("-inf")):
            raise DataError(
                f"the contribution of {name} is {value}; allowed: a finite number", party=name, step=STEP
            )
    if cap is not None and not (cap.is_finite() and 0 < cap <= 1):
        raise DataError(f"the cap is {cap}; allowed: above 0, at most 1", step=STEP)
    cents = _cents(gain, places)
    names = sorted({*due, *contributions})
    exact = {name: Fraction(due.get(name, Decimal(0))) * 10**places for name in names}
    reimbursed = _whole(round(sum(exact.values())), exact)
    weights = {name: max(Fraction(0), Fraction(contributions.get(name, 0.0))) for name in names}
    parts, capped = _split(cents, weights, cap)
    shares = {
        name: Share(
            _amount(reimbursed[name], places),
            _amount(parts[name], places),
            float(contributions.get(name, 0.0)),
            name in capped,
        )
        for name in names
    }
    clipped = {name: float(contributions[name]) for name in names if contributions.get(name, 0.0) < 0}
    pot = _amount(sum(reimbursed.values()) + cents, places)
    return Settlement(pot, shares, clipped, currency)


def allot(cents: int, weights: Mapping[str, Fraction]) -> dict[str, int]:
    """Whole cents in proportion to weights, by largest remainders; ties by name.

    Args:
        cents: To be split, 0 or more.
        weights: 0 or more; not all 0 where there is a cent.

    Raises:
        DataError: Nobody has a weight.
    """
    whole = sum(weights.values())
    if cents == 0:
        return dict.fromkeys(weights, 0)
    if whole <= 0:
        raise DataError(f"{cents} cents are to be split and nobody has a share in them", step=STEP)
    return _whole(cents, {name: cents * weight / whole for name, weight in weights.items()})


def _whole(cents: int, exact: Mapping[str, Fraction]) -> dict[str, int]:
    """Whole cents of amounts, each rounded down or up, that add up to their rounded sum; by largest remainders, ties by name."""
    found = {name: int(value) for name, value in exact.items()}
    left = cents - sum(found.values())
    for name in sorted(exact, key=lambda each: (found[each] - exact[each], each))[:left]:
        found[name] += 1
    return found


def _split(
    cents: int, weights: Mapping[str, Fraction], cap: Decimal | None
) -> tuple[dict[str, int], set[str]]:
    """The gain by contribution, nobody above the cap; and whom it cut."""
    if cents == 0:
        return dict.fromkeys(weights, 0), set()
    takers = {name: weight for name, weight in weights.items() if weight > 0}
    if not takers:
        raise DataError(
            "there is a gain to split and nobody contributed to it. Cure: split it by usage, or leave it out",
            step=STEP,
        )
    most = cents if cap is None else int(Fraction(cap) * cents)
    if most * len(takers) < cents:
        raise DataError(
            f"the cap of {cap} lets {len(takers)} that contributed take {most * len(takers)} of {cents} cents; allowed: a "
            f"cap of at least {1 / len(takers):.4f} rounded up to a cent",
            step=STEP,
        )
    capped: set[str] = set()
    found = dict.fromkeys(weights, 0)
    left, open_ = cents, dict(takers)
    while left and open_:
        parts = allot(left, open_)
        above = {name for name in open_ if parts[name] > most}
        if not above:
            found.update(parts)
            break
        for name in above:
            found[name] = most
            left -= most
            del open_[name]
        capped |= above
    return found, capped


def _cents(amount: Decimal, places: int) -> int:
    exact = Fraction(amount) * 10**places if amount.is_finite() else Fraction(-1)
    if exact < 0 or exact.denominator != 1:
        raise DataError(
            f"the gain is {amount}; allowed: 0 or more, with at most {places} decimal places", step=STEP
        )
    return int(exact)


def _amount(cents: int, places: int) -> Decimal:
    return Decimal(cents).scaleb(-places)
