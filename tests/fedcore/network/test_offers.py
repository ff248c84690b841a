"""Offers: made by the owner of the node, signed, bound to one request, true to the descriptor."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.errors import DataError, IdentityError
from fedcore.network.acceptance import take_offers
from fedcore.network.node import Attestation, Price, Security
from fedcore.network.offer import MOST_PER_OWNER, Offer, check_offers
from fedcore.network.offers import beats, choose, make_offers
from fedcore.network.policy import Needed
from fedcore.network.quantity import Quantity, measured
from fedcore.network.signed import sign
from fedcore.network.signed_offer import KIND, check_signed_offer, from_json
from fedcore.network.work import predict
from tests.fedcore.network.nodes import ANNA, BERT, NOW, PINS, described, found, later, request

R = request()


def made(nodes=None, asked=R, owner=ANNA, **told):
    return make_offers(asked, nodes or [described()], owner, at=NOW, **told)


def take(signed, asked=R, nodes=None, **told):
    return take_offers(signed, asked, nodes or [described()], PINS, **{"at": later(60)} | told)


def resigned(one, identity=ANNA, **figures):
    """The same offer with other figures, signed again by whoever."""
    changed = replace(one, offer=replace(one.offer, **figures))
    return replace(changed, signature=sign(identity, KIND, changed.payload()))


def reason(signed, **told) -> str:
    kept, rejected = take([signed], **told)
    assert kept == [] and len(rejected) == 1
    return rejected[0].reason


# ---- made --------------------------------------------------------------------------------------------------------


def test_an_offer_is_the_arithmetic_of_its_descriptor() -> None:
    offer = made().offers[0].offer
    # 2000 rows, 3 epochs, 1000 samples/s: 6 s at 150 W and a PUE of 1.25, 500 g/kWh; 0.1 TFLOP/s at 2 CNY an hour of one.
    assert offer.work_s == pytest.approx(6)
    assert offer.kwh == pytest.approx(150 * 6 / 3.6e6 * 1.25)
    assert offer.gco2_location == offer.gco2_market == pytest.approx(offer.kwh * 500)
    assert offer.cost == pytest.approx(2 * 0.1 * 6 / 3600) and offer.egress_price == 0.5
    assert (offer.owner, offer.node, offer.site, offer.security, offer.trust) == (
        "anna",
        "n1",
        "guiyang",
        3,
        0.0,
    )
    assert offer.available == 0.5
    check_offers([offer])


def test_a_machine_that_is_on_anyway_is_charged_what_it_draws_above_idle() -> None:
    assert made(idle_is_shared=True).offers[0].offer.kwh == pytest.approx(
        made().offers[0].offer.kwh * 100 / 150
    )


def test_a_queue_is_part_of_the_time() -> None:
    assert made(queue_s={"n1": 4.0}).offers[0].offer.work_s == pytest.approx(10)


def test_before_the_first_run_the_rate_is_derived_and_the_masks_are_counted() -> None:
    quantities = found()
    del quantities["work.digits"]
    asked = request(flop_per_sample=1e7, efficiency=0.1)
    rate, crypto_s = predict(asked, described(quantities=quantities), "cpu")
    assert rate.value == pytest.approx(100e9 * 0.1 / 1e7) and rate.source == "derived"
    assert crypto_s == pytest.approx(11 * 2 * 400_000 / 10e9 + 10 / 20_000)
    signed = made([described(quantities=quantities)], asked).offers[0]
    assert signed.evidence.compute == "declared" and signed.evidence.gas == "CO2"
    assert (
        predict(
            request(flop_per_sample=1e7, efficiency=0.1, protocol="none"),
            described(quantities=quantities),
            "cpu",
        )[1]
        == 0
    )


@pytest.mark.parametrize(
    ("asked", "without", "said"),
    [
        (R, ("work.digits",), "no rate of digits was measured"),
        (R, ("power.load",), "no power.load"),
        (R, ("gemm.cpu.fp32",), "price is for TFLOP/s hours"),
        (request(currency="EUR"), (), "price is in CNY; EUR is wanted"),
        (request(memory_gb=64), (), "less than the 64 GB"),
        (request(protocol="ckks", flop_per_sample=1e7, efficiency=0.1), ("work.digits",), "what ckks takes"),
    ],
)
def test_a_node_that_cannot_offer_is_left_out_with_its_reason(asked, without, said: str) -> None:
    quantities = {name: each for name, each in found().items() if name not in without}
    answer = made([described(quantities=quantities)], asked)
    assert answer.offers == () and said in answer.left_out["n1"]


@pytest.mark.parametrize("missing", ["pue", "carbon", "line"])
def test_what_the_owner_must_say_is_asked_for(missing: str) -> None:
    answer = made([described(**{missing: None})])
    assert "give" in answer.left_out["n1"]


def test_nobody_offers_another_owners_node() -> None:
    answer = made([described(BERT)])
    assert answer.offers == () and "belongs to bert" in answer.left_out["n1"]


def test_all_nodes_of_an_owner_down_is_an_empty_answer_and_no_error() -> None:
    assert make_offers(R, [], ANNA, at=NOW).offers == ()


def test_an_accelerator_and_a_processor_are_two_offers_before_the_first_run() -> None:
    quantities = found()
    del quantities["work.digits"]
    quantities["gemm.cuda.fp32"] = measured([30_000.0] * 3, "GFLOP/s", "timed")
    quantities["memory.cuda"] = Quantity(80, "GB", "measured", "counted", 0.0)
    answer = made([described(quantities=quantities)], request(flop_per_sample=1e7, efficiency=0.1))
    assert {each.offer.id for each in answer.offers} <= {"anna/n1/cpu", "anna/n1/cuda"}
    assert "anna/n1/cuda" in {each.offer.id for each in answer.offers}


# ---- chosen ------------------------------------------------------------------------------------------------------


def an_offer(number: int, work_s: float, cost: float, grams: float, site: str = "s") -> Offer:
    return Offer(
        f"o{number:03d}",
        "anna",
        f"n{number}",
        site,
        work_s,
        1.0,
        grams,
        grams,
        cost,
        3,
        (),
        0.0,
        0.0,
        10,
        10,
        0,
        "CN",
        8,
        0.9,
    )


figures = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.sampled_from("st"))


@settings(deadline=None)
@given(st.lists(figures, max_size=25), st.randoms())
def test_what_is_chosen_is_beaten_by_nothing_and_beats_all_that_is_left_out(rows, random) -> None:
    offers = [an_offer(i, *row) for i, row in enumerate(rows)]
    chosen = choose(offers)
    assert len(chosen) <= MOST_PER_OWNER and bool(chosen) == bool(offers)
    assert not any(beats(one, other) for one in offers for other in chosen)
    front = choose(offers, most=len(offers) + 1)
    for left in offers:
        assert left in front or any(beats(one, left) for one in front)
    shuffled = list(offers)
    random.shuffle(shuffled)
    assert choose(shuffled) == chosen


def test_of_many_the_best_of_each_figure_stays() -> None:
    offers = [an_offer(i, 1 + i, 1 + (40 - i) ** 1.5, 50) for i in range(40)]
    chosen = choose(offers)
    assert len(chosen) == MOST_PER_OWNER and {offers[0], offers[-1]} <= set(chosen)
    gaps = [b.work_s - a.work_s for a, b in pairwise(chosen)]
    assert max(gaps) <= 12


def test_trust_that_an_owner_writes_makes_no_offer_better() -> None:
    plain = an_offer(1, 1, 1, 1)
    boast = replace(an_offer(2, 1, 1, 1), trust=1.0)
    assert beats(plain, boast) and not beats(boast, plain)


# ---- taken -------------------------------------------------------------------------------------------------------


def test_a_good_offer_is_taken_with_the_coordinators_trust() -> None:
    kept, rejected = take([resigned(made().offers[0], trust=1.0)], trust={("anna", "n1"): 0.4})
    assert rejected == [] and kept[0].trust == 0.4
    assert take([resigned(made().offers[0], trust=1.0)])[0][0].trust == 0.0


def test_an_offer_passes_through_json_unchanged() -> None:
    one = made().offers[0]
    again = from_json(json.loads(json.dumps(one.to_json())))
    assert again == one
    check_signed_offer(again, R, PINS, at=later(60))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(extra=1),
        lambda data: data.pop("expires"),
        lambda data: data["offer"].update(discount=1),
        lambda data: data["offer"].update(attested="tee_quote"),
        lambda data: data["offer"].update(owner=5),
        lambda data: data["evidence"].pop("gas"),
        lambda data: data.update(offer=None),
    ],
)
def test_what_is_no_offer_is_refused(change) -> None:
    data = json.loads(json.dumps(made().offers[0].to_json()))
    change(data)
    with pytest.raises(DataError):
        from_json(data)
    with pytest.raises(DataError):
        from_json([])


@pytest.mark.parametrize(
    "figure", [{"work_s": 5.0}, {"cost": 0.0}, {"gco2_location": 0.0}, {"site": "x"}, {"owner": "bert"}]
)
def test_a_changed_figure_is_a_forgery(figure: dict) -> None:
    one = made().offers[0]
    assert "not signed by" in reason(replace(one, offer=replace(one.offer, **figure)))


def test_another_owner_cannot_offer_for_this_one() -> None:
    assert "bert signed it" in reason(resigned(made().offers[0], BERT))


def test_an_offer_ends_and_answers_one_request_only() -> None:
    one = made(life=900).offers[0]
    assert "expired" in reason(one, at=later(900))
    assert "set the clocks" in reason(one, at=later(-400))
    assert "allowed: 86400 s" in reason(made(life=90_000).offers[0])
    assert "answers another request" in reason(one, asked=request(id="r2"))
    assert "answers another request" in reason(one, asked=request(samples=2001))


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"work_s": -1.0}, "work_s is -1.0"),
        ({"work_s": float("1e12")}, "work_s"),
        ({"cost": -5.0}, "cost is -5.0"),
        ({"security": 9}, "security is 9"),
        ({"security": 5}, "says security level 5, its descriptor says 3"),
        ({"site": "shanghai"}, "says site shanghai"),
        ({"jurisdiction": "US"}, "says jurisdiction US"),
        ({"attested": ("tee_quote",)}, "says tee_quote was attested"),
        ({"memory_gb": 64.0}, "says 64 GB"),
        ({"work_s": 2.0}, "promises the work in 2 s, its descriptor gives 6 s"),
        ({"node": "n9", "id": "anna/n9/cpu"}, "no descriptor of n9"),
    ],
)
def test_what_an_owner_signs_must_still_be_true(figures: dict, said: str) -> None:
    assert said in reason(resigned(made().offers[0], **figures))


def test_an_expired_or_forged_descriptor_takes_its_offers_with_it() -> None:
    one = made().offers[0]
    assert "node descriptor expired" in reason(one, nodes=[described(valid=30.0)])
    assert "not signed by anna" in reason(
        one, nodes=[described().model_copy(update={"site": "guiyang", "tier": "hub"})]
    )


def test_evidence_that_a_policy_asks_for_is_needed() -> None:
    quantities = found()
    del quantities["work.digits"]
    asked = request(flop_per_sample=1e7, efficiency=0.1)
    node = described(quantities=quantities)
    one = made([node], asked).offers[0]
    assert take([one], asked, [node], needed=Needed(compute="declared"))[0]
    kept, rejected = take([one], asked, [node], needed=Needed(compute="measured"))
    assert not kept and rejected[0].reason == "its compute is declared; the policy asks for measured"
    vague = replace(one, evidence=replace(one.evidence, carbon="hoped"))
    vague = replace(vague, signature=sign(ANNA, KIND, vague.payload()))
    assert "no kind of evidence" in take([vague], asked, [node])[1][0].reason


def test_the_same_offer_twice_counts_once_and_a_ninth_not_at_all() -> None:
    one = made().offers[0]
    assert "came already" in take([one, one])[1][0].reason
    many = [resigned(one, id=f"anna/n1/{i}") for i in range(9)]
    kept, rejected = take(many)
    assert len(kept) == 8 and "more than 8" in rejected[0].reason


def test_one_bad_offer_does_not_harm_the_others() -> None:
    theirs = make_offers(R, [described(BERT)], BERT, at=NOW).offers[0]
    forged = replace(made().offers[0], signature="")
    kept, rejected = take([forged, theirs], nodes=[described(), described(BERT)])
    assert [each.owner for each in kept] == ["bert"] and [each.owner for each in rejected] == ["anna"]


def test_unreliable_numbers_are_told_with_the_offer() -> None:
    quantities = found() | {"work.digits": measured([100, 1000, 2000], "samples/s", "a run", at=NOW)}
    assert made([described(quantities=quantities)]).offers[0].evidence.doubts[0].startswith("rate: spread")


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": 0},
        {"epochs": 0},
        {"model_bytes": -1},
        {"protocol": "hope"},
        {"efficiency": 2.0},
        {"memory_gb": 0},
        {"id": ""},
    ],
)
def test_a_request_for_nothing_is_refused_by_name(wrong: dict) -> None:
    with pytest.raises(DataError, match=next(iter(wrong))):
        request(**wrong)


def test_attested_and_priced_nodes_beat_their_like() -> None:
    quote = Attestation(
        kind="svid", digest="ab" * 32, verified_at="2026-02-01T00:00:00+00:00", verifier="lab"
    )
    plain, better = (
        described(node="n1"),
        described(node="n2", security=Security(level=3, attestations=(quote,))),
    )
    cheap = described(node="n3", price=Price(currency="CNY", compute=1.0, egress=0.5))
    assert {each.offer.node for each in made([plain, better, cheap]).offers} == {"n2", "n3"}


def test_an_identity_error_is_one_when_a_single_offer_is_checked() -> None:
    with pytest.raises(IdentityError, match="expired"):
        check_signed_offer(made().offers[0], R, PINS, at=later(10**6))
