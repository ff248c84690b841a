"""Offers: what is plausible, and that a set of them is."""

from dataclasses import replace

import numpy as np
import pytest

from fedcore.errors import DataError
from fedcore.network.offer import MOST_PER_OWNER, check_offer, check_offers, offers_digest
from tests.fedcore.network.placing import offer, random_offers


def test_a_plain_offer_is_plausible():
    assert check_offer(offer(1, "p1", "s0")) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("work_s", 0.0),
        ("work_s", -3.0),
        ("work_s", float("nan")),
        ("kwh", -0.1),
        ("gco2_location", float("inf")),
        ("gco2_market", 1e12),
        ("cost", -1.0),
        ("security", 0),
        ("security", 2.5),
        ("trust", 1.01),
        ("up_mbit_s", 0.0),
        ("down_mbit_s", 1e9),
        ("available", -0.5),
        ("memory_gb", True),
        ("node", ""),
    ],
)
def test_an_impossible_value_is_refused_by_name(field, value):
    bad = replace(offer(1, "p1", "s0"), **{field: value})
    assert any(text.startswith(field) for text in check_offer(bad))
    with pytest.raises(DataError, match=field):
        check_offers([offer(0, "p0", "s0"), bad])


def test_the_quick_check_of_many_finds_what_the_check_of_one_finds():
    many = random_offers(1, 50)
    check_offers(many)
    for place in (0, 17, len(many) - 1):
        spoilt = [*many[:place], replace(many[place], trust=2.0), *many[place + 1 :]]
        with pytest.raises(DataError, match="trust is 2"):
            check_offers(spoilt)


def test_an_id_that_stands_twice_is_refused():
    with pytest.raises(DataError, match="2 times"):
        check_offers([offer(1, "p1", "s0"), offer(1, "p2", "s0")])


def test_an_owner_does_not_send_its_inventory():
    with pytest.raises(DataError, match=str(MOST_PER_OWNER)):
        check_offers([offer(i, "p1", "s0") for i in range(MOST_PER_OWNER + 1)])


def test_the_digest_is_of_the_set_and_sees_every_value():
    many = random_offers(2, 20)
    shuffled = [many[i] for i in np.random.default_rng(0).permutation(len(many))]
    assert offers_digest(shuffled) == offers_digest(many)
    assert offers_digest([replace(many[0], available=0.5), *many[1:]]) != offers_digest(many)
