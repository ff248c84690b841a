"""Trust: a product whose factors all say why, and a gate that no factor makes up for."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.network.challenge import Verdict
from fedcore.network.node import Attestation, Security
from fedcore.network.trust_score import HALF_LIFE_DAYS, UNATTESTED, Conduct, Factor, trust
from tests.fedcore.network.nodes import NOW, described, later

ENROLLED = {"anna", "bert"}


def attested(at: str = "2026-03-01T12:00:00+00:00"):
    quote = Attestation(kind="tee_quote", digest="ab" * 32, verified_at=at, verifier="lab")
    return described(security=Security(level=3, attestations=(quote,)))


def verdict(residual: float = 0.0, *, outside: bool = False, right: bool = True) -> Verdict:
    return Verdict(right, 1.0, 100.0, 100.0, residual, outside, 1e-19, "a reason")


def score(descriptor=None, **told):
    return trust(descriptor or attested(), **{"enrolled": ENROLLED, "at": NOW} | told)


def factor(found, name: str) -> Factor:
    return next(each for each in found.factors if each.name == name)


def test_the_score_is_the_product_of_its_factors_and_each_says_why() -> None:
    found = score(conduct=Conduct(ok=8, failed=0), verdicts=[verdict()])
    assert [each.name for each in found.factors] == [
        "identity",
        "attestation",
        "agreement",
        "compliance",
        "behaviour",
    ]
    assert found.value == pytest.approx(math.prod(each.value for each in found.factors)) == pytest.approx(0.9)
    assert all(each.why for each in found.factors) and found.explain()[0].startswith(
        "behaviour 0.90: 8 steps"
    )


@pytest.mark.parametrize("told", [{"revoked": {"anna"}}, {"enrolled": {"bert"}}])
def test_without_an_identity_that_counts_nothing_else_does(told: dict) -> None:
    assert score(conduct=Conduct(ok=10**6), verdicts=[verdict()], **told).value == 0


def test_an_attestation_loses_half_its_worth_in_its_half_life_and_never_counts_less_than_none() -> None:
    one = attested()
    fresh, half, old = (
        factor(score(one, at=later(86400 * days)), "attestation").value
        for days in (0, HALF_LIFE_DAYS / 2, 400)
    )
    assert (fresh, half, old) == (1.0, pytest.approx(math.sqrt(0.5)), UNATTESTED)
    assert factor(score(described()), "attestation").value == UNATTESTED


def test_an_attestation_of_the_future_or_of_no_time_counts_nothing() -> None:
    for at in ("2027-01-01T00:00:00+00:00", "soon"):
        assert factor(score(attested(at)), "attestation").value == UNATTESTED


def test_a_residual_out_of_line_lowers_trust_and_a_wrong_product_ends_it() -> None:
    twice_as_slow = score(verdicts=[verdict(), verdict(math.log(2), outside=True)])
    assert factor(twice_as_slow, "agreement").value == pytest.approx(0.5)
    assert factor(score(verdicts=[verdict(-1.0, outside=True)]), "agreement").value == 1.0
    assert score(verdicts=[verdict(math.inf, outside=True, right=False), verdict()]).value == 0
    rounds = score(round_residuals=[(0.0, False)] * 3 + [(1.5, True)])
    assert factor(rounds, "agreement").value == 0.75


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 20))
def test_more_failures_and_breaches_never_raise_it(ok: int, failed: int, broken: int) -> None:
    here = score(conduct=Conduct(ok, failed, broken)).value
    assert 0 <= here <= 1
    assert score(conduct=Conduct(ok, failed + 1, broken)).value < here
    assert score(conduct=Conduct(ok, failed, broken + 1)).value < here or here == 0
    assert score(conduct=Conduct(ok + 1, failed, broken)).value >= here


def test_counts_below_zero_and_factors_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="ok is -1"):
        Conduct(ok=-1)
    with pytest.raises(ValueError, match="from 0 to 1"):
        Factor("identity", 1.5, "x")
